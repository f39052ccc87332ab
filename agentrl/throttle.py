"""Throttle: the limits that all episodes of a rollout share beyond its engine, on tool calls and on sandboxes.

Context variables carry them, so tools and environments know neither the manager nor one another: the manager plays an
episode inside `Throttle.episode()`, `call_tool` asks for a `tool_slot`, whoever opens a sandbox for a `sandbox_ticket`
(kept until the episode ends) or a `sandbox_slot` (for one block). Tasks, threads (`bridge.in_thread`) and blocking
calls of coroutines (`bridge.run_sync`) begin with a copy of the context, so the limits hold there, too. Outside of a
rollout, and for what an episode has left behind after its end, there is no limit.

Invariants: places are handed out in the order in which they were asked for, over all threads and event loops; whoever
waits for a sandbox holds no slot of a tool, or those who have the sandboxes could not go on; sessions beyond the first
cost an episode nothing, so that two stateful tools of it cannot wait for each other; whatever is cancelled, no place
is lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar

from agentrl.errors import ConfigError


class Places:
    """A number of places, each held by an object, first come, first served. Safe to share between event loops."""

    def __init__(self, number: int | None) -> None:
        """`number` of places; None: everybody has one at once."""
        self._number = number
        self._lock = threading.Lock()
        self._held: set[object] = set()
        self._queue: dict[object, list[asyncio.Future[None]]] = {}
        """Who waits, in order; one holder may wait in several tasks."""

    def holds(self, holder: object) -> bool:
        return holder in self._held

    def try_take(self, holder: object) -> bool:
        """Whether `holder` has a place, perhaps by this call; False where it would have to wait."""
        with self._lock:
            return self._try(holder)

    def _try(self, holder: object) -> bool:
        if self._number is None or holder in self._held:
            return True
        if len(self._held) >= self._number:  # always so while somebody waits
            return False
        self._held.add(holder)
        return True

    async def take(self, holder: object) -> None:
        """Wait until `holder` has a place; returns at once if it has. Ends, too, when another task gives it back.

        Whoever is cancelled in it must `give_back`, unless another task of the same holder goes on.
        """
        with self._lock:
            if self._try(holder):
                return
            turn = asyncio.get_running_loop().create_future()
            self._queue.setdefault(holder, []).append(turn)
        await turn

    def give_back(self, holder: object) -> None:
        """Free the place of `holder`, or its place in the queue. Idempotent."""
        with self._lock:
            self._held.discard(holder)
            ready = self._queue.pop(holder, []) + self._admit()
        for turn in ready:
            _wake(turn)

    def _admit(self) -> list[asyncio.Future[None]]:
        """Give what is free to the first in the queue."""
        ready: list[asyncio.Future[None]] = []
        while self._number is not None and self._queue and len(self._held) < self._number:
            holder = next(iter(self._queue))
            turns = [turn for turn in self._queue.pop(holder) if not turn.get_loop().is_closed()]
            if turns:
                self._held.add(holder)
                ready += turns
        return ready


def _wake(turn: asyncio.Future[None]) -> None:
    def resolve() -> None:
        if not turn.done():
            turn.set_result(None)

    if turn.get_loop() is _running_loop():
        resolve()
    else:
        turn.get_loop().call_soon_threadsafe(resolve)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Waits:
    """Seconds (of the event loop's clock) in which at least one of several overlapping waits was under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._since = 0.0
        self._seconds = 0.0

    @property
    def under_way(self) -> bool:
        return self._open > 0

    def seconds(self) -> float:
        """So far, the present wait included."""
        with self._lock:
            return self._seconds + (asyncio.get_running_loop().time() - self._since if self._open else 0.0)

    @contextmanager
    def one(self) -> Iterator[None]:
        """The time of a block counts."""
        time = asyncio.get_running_loop().time
        with self._lock:
            if self._open == 0:
                self._since = time()
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                if self._open == 0:
                    self._seconds += time() - self._since


class Throttle:
    """The limits of one rollout."""

    def __init__(self, tools: int | None = None, sandboxes: int | None = None) -> None:
        """None is no limit. Raises `ConfigError`.

        Args:
            tools: tool calls at one time, of all tools together.
            sandboxes: episodes at one time that hold sessions of a sandbox.
        """
        for key, number in (("tools", tools), ("sandboxes", sandboxes)):
            if number is not None and number < 1:
                raise ConfigError(f"rollout.{key}={number!r} must be at least 1, or null for no limit")
        self.tools = Places(tools)
        self.sandboxes = Places(sandboxes)

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[EpisodeTickets]:
        """What runs in the block, and in tasks and threads that it starts, is one episode of the rollout.

        At the end its sandbox goes to the next episode, also where a call that ignores its cancellation still runs.
        """
        tickets = EpisodeTickets(self)
        before = _episode.set(tickets)
        try:
            yield tickets
        finally:
            _episode.reset(before)
            tickets.end()


class EpisodeTickets:
    """What one episode holds of a rollout's limits."""

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle
        self.waits = Waits()
        """For slots of tools and for a sandbox; calls of one message wait together."""
        self.ended = False
        self._uses = 0
        """Reasons to hold, or to wait for, the sandbox place: it goes back with the last; one that keeps it stays."""

    def end(self) -> None:
        """Give everything back. Idempotent."""
        self.ended = True
        self.throttle.sandboxes.give_back(self)

    @asynccontextmanager
    async def sandbox_block(self) -> AsyncIterator[None]:
        """A sandbox place for the time of a block; the running tool call holds no slot while it waits for that."""
        self._uses += 1
        try:
            await _take_aside(self.throttle.sandboxes, self)
            yield
        finally:
            self._free_use()

    async def keep_sandbox(self) -> None:
        """A sandbox place until the end."""
        self._uses += 1
        try:
            await _take_aside(self.throttle.sandboxes, self)
        except BaseException:
            self._free_use()
            raise

    def _free_use(self) -> None:
        self._uses -= 1
        if self._uses == 0:
            self.throttle.sandboxes.give_back(self)


class CallSlot:
    """What one tool call holds: a place within its tool's own limit, and one within the rollout's."""

    def __init__(self, places: tuple[Places, ...], outer: CallSlot | None) -> None:
        self._places = places
        self.outer = outer
        """The call that this one is made in."""
        self.waits = Waits()
        self.ended = False

    async def take(self) -> None:
        """Wait for what it lacks. The time counts, for the call and for its episode, unless nothing is lacking."""
        for places in self._places:
            if not places.try_take(self):
                with _waiting(self):
                    await places.take(self)
        if self.ended:  # a task that the call left behind came back to it
            self.give_back()

    def give_back(self) -> None:
        for places in self._places:
            places.give_back(self)


_episode: ContextVar[EpisodeTickets | None] = ContextVar("agentrl_episode", default=None)
_call: ContextVar[CallSlot | None] = ContextVar("agentrl_call", default=None)


def current_episode() -> EpisodeTickets | None:
    """The tickets of the episode that the caller belongs to, None outside of a rollout."""
    tickets = _episode.get()
    return None if tickets is None or tickets.ended else tickets


def waited() -> float:
    """Seconds that the caller's episode has waited for its rollout's limits so far; 0.0 outside of a rollout."""
    tickets = current_episode()
    return 0.0 if tickets is None else tickets.waits.seconds()


@asynccontextmanager
async def tool_slot(own: Places | None = None) -> AsyncIterator[CallSlot]:
    """A slot for the time of one call: of the tool's `own` limit, then of the rollout's; `waits` has the queueing.

    A call that is made within a call is part of it for the rollout's limit.
    """
    tickets, outer = current_episode(), _running_call()
    shared = () if tickets is None or outer is not None else (tickets.throttle.tools,)
    slot = CallSlot((*(() if own is None else (own,)), *shared), outer)
    before = _call.set(slot)
    try:
        await slot.take()
        yield slot
    finally:
        _call.reset(before)
        slot.ended = True
        slot.give_back()


async def sandbox_ticket() -> None:
    """Wait for the sandbox place of the running episode, which keeps it until it ends.

    For sessions that outlive the call. Calls of an episode that share a session wait for one another by `in_turn`: one
    that kept its slot while it waits for a lock could keep it from the call that has the lock.
    """
    if (tickets := current_episode()) is not None:
        await tickets.keep_sandbox()


@asynccontextmanager
async def sandbox_slot() -> AsyncIterator[None]:
    """The sandbox place of the running episode for the time of a block, for a session that ends with it."""
    tickets = current_episode()
    if tickets is None:
        yield
        return
    async with tickets.sandbox_block():
        yield


@asynccontextmanager
async def in_turn(places: Places) -> AsyncIterator[None]:
    """One of `places` for the time of a block, for what calls of one episode share; a call waits without its slots."""
    holder = object()
    try:
        await _take_aside(places, holder)
        yield
    finally:
        places.give_back(holder)


async def _take_aside(places: Places, holder: object) -> None:
    """Wait for a place; the running call gives its slots back meanwhile and takes them again, unless cancelled."""
    if places.try_take(holder):
        return
    calls = list(_nested(_running_call()))
    with _waiting(_running_call()):
        for call in calls:
            call.give_back()
        await places.take(holder)
        for call in reversed(calls):
            await call.take()


def _running_call() -> CallSlot | None:
    slot = _call.get()
    return None if slot is None or slot.ended else slot


def _nested(slot: CallSlot | None) -> Iterator[CallSlot]:
    """The call, and those that it is made in."""
    while slot is not None:
        yield slot
        slot = slot.outer


@contextmanager
def _waiting(slot: CallSlot | None) -> Iterator[None]:
    """The block is a wait of the call, of those around it and of the running episode."""
    tickets = current_episode()
    with ExitStack() as stack:
        for waits in [*(call.waits for call in _nested(slot)), *([] if tickets is None else [tickets.waits])]:
            stack.enter_context(waits.one())
        yield
