"""Fault injection: environments, tools and an engine that go wrong at every stage, seeded, with books of what was done.

A `Faults` says how often what goes wrong at which stage and counts it; everything that misbehaves asks it:

    faults = Faults({"reset.raise": 0.01, "step.stubborn": 0.01, "generate.die": 0.001}, seed=7)
    books = Books()
    context_of(..., engine=FaultyEngine(inner, faults), make_env=lambda: FaultyEnv(faults, books))
    ...
    faults.release()   # at the end of a test: lets go of what swallows cancellation

A key is `stage.kind`; stages are `STAGES`, kinds those of `Kind`. After a run `books.open`, `books.sessions` and
`engine.sessions` must be empty, and `books.made == books.closed`, once what was stuck has been released.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from agentrl.engines.base import Completion, Engine, EngineLoad, Sampling
from agentrl.env import AsyncEnv, Env, Step, Verdict
from agentrl.errors import EngineError
from agentrl.messages import Message, user
from agentrl.task import Episode, GeneratedTasks, Task, TaskSet
from agentrl.tool import Tool
from agentrl.trajectory import StopReason

STAGES = ("make", "reset", "step", "finish", "close", "snapshot", "restore", "open", "call", "generate", "end_session")
"""Of environments; `open` and `call` of tools; `generate` and `end_session` of engines."""


class Kind(StrEnum):
    """How something goes wrong."""

    RAISE = "raise"
    """`OSError`; of an engine `EngineError`."""
    SLOW = "slow"
    """It takes `slow_seconds` longer, and works."""
    HANG = "hang"
    """It never ends, but for a cancellation."""
    STUBBORN = "stubborn"
    """It never ends and swallows cancellations, until `Faults.release`. What blocks a thread hangs like this, too.

    It looks every 10 ms, so under a virtual clock that nothing else moves it never lets the loop rest.
    """
    DIE = "die"
    """Of an engine: everything in flight fails, and so does what comes in `down_seconds`."""


class Faults:
    """The plan of what goes wrong, and the count of what did."""

    def __init__(
        self,
        rates: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        slow_seconds: float = 0.05,
        quiet_until: int = 0,
    ) -> None:
        """`rates`: probability by `stage.kind`. Each stage's first `quiet_until` passes go well.

        Which pass of a stage fails depends on `seed` and the number of the pass alone.
        """
        self.rates: dict[str, dict[Kind, float]] = {stage: {} for stage in STAGES}
        for key, rate in (rates or {}).items():
            stage, _, kind = key.partition(".")
            self.rates[stage][Kind(kind)] = rate
        self.seed = seed
        self.slow_seconds = slow_seconds
        self.quiet_until = quiet_until
        self.passes: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        """How often what went wrong, by `stage.kind`."""
        self._released = threading.Event()
        self._lock = threading.Lock()

    def draw(self, stage: str) -> Kind | None:
        """What goes wrong in this pass of a stage."""
        with self._lock:
            number = self.passes[stage]
            self.passes[stage] += 1
            if number < self.quiet_until:
                return None
            left = np.random.default_rng([self.seed, STAGES.index(stage), number]).random()
            for kind, rate in self.rates[stage].items():
                left -= rate
                if left < 0:
                    self.done[f"{stage}.{kind}"] += 1
                    return kind
            return None

    async def at(self, stage: str) -> Kind | None:
        """Pass a stage on the event loop. `DIE` is only returned: the engine does it."""
        kind = self.draw(stage)
        if kind is Kind.RAISE:
            raise OSError(f"injected at {stage}")
        if kind is Kind.SLOW:
            await asyncio.sleep(self.slow_seconds)
        elif kind is Kind.HANG:
            await asyncio.get_running_loop().create_future()
        elif kind is Kind.STUBBORN:
            await self._resist()
            raise OSError(f"released at {stage}")
        return kind

    def block(self, stage: str) -> None:
        """Pass a stage in a thread, where nothing can be cancelled."""
        kind = self.draw(stage)
        if kind is Kind.RAISE:
            raise OSError(f"injected at {stage}")
        if kind is Kind.SLOW:
            time.sleep(self.slow_seconds)
        elif kind is not None:
            self._released.wait()
            raise OSError(f"released at {stage}")

    def release(self) -> None:
        """Everything stubborn ends (within 10 ms) and raises `OSError`; later ones end at once."""
        self._released.set()

    async def _resist(self) -> None:
        while not self._released.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.done["swallowed"] += 1


@dataclass
class Books:
    """What the environments of one test did; shared by all of them."""

    made: int = 0
    closed: int = 0
    """Environments whose close was begun, once each."""
    open: set[int] = field(default_factory=set)
    """Numbers of the environments not closed."""
    episodes: int = 0
    """Resets that came through, restores included."""
    sessions: set[int] = field(default_factory=set)
    """Numbers of the environments with an episode under way that holds a session."""
    most_sessions: int = 0
    overlaps: int = 0
    """Calls of an environment that began while another one of it ran; a stuck one that was abandoned counts, too."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self) -> int:
        with self.lock:
            self.made += 1
            self.open.add(self.made)
            return self.made

    def begin(self, number: int) -> None:
        with self.lock:
            self.episodes += 1
            self.sessions.add(number)
            self.most_sessions = max(self.most_sessions, len(self.sessions))

    def end(self, number: int) -> None:
        with self.lock:
            self.sessions.discard(number)

    def leave(self, number: int) -> None:
        with self.lock:
            self.sessions.discard(number)
            if number in self.open:
                self.open.remove(number)
                self.closed += 1


class _Script:
    """The episode of both environments: a few turns, a number of turns that depends on the seed, reward 1 at the end.

    Its state is plain data, so a snapshot is a copy.
    """

    tasks_per_split = 1000

    def __init__(self, faults: Faults, books: Books, turns: int) -> None:
        self.faults, self.books, self.turns = faults, books, turns
        self.number = books.enter()
        self.state: dict[str, Any] = {}
        self.busy = False

    def tasks(self, split: str) -> TaskSet:
        make = lambda index: Task(f"{split}:{index}", split, (user(f"task {index}"),))  # noqa: E731
        return GeneratedTasks(split, self.tasks_per_split, make)

    def begin(self, task: Task, seed: int | None) -> tuple[tuple[Message, ...], dict[str, Any]]:
        self.state = {"task": task.id, "left": 1 + (seed or 0) % self.turns, "turn": 0}
        self.books.begin(self.number)
        return task.messages, {"task": {"id": task.id}, "state_key": f"{task.id}/0"}

    def step(self, message: Any) -> Step:
        self.state["left"] -= 1
        self.state["turn"] += 1
        over = self.state["left"] <= 0
        info = {
            "tool_calls": [],
            "parse_error": False,
            "metrics": {"correct": 1.0} if over else {},
            "state_key": f"{self.state['task']}/{self.state['turn']}",
            "stop_reason": "terminated" if over else None,
        }
        if over:
            self.books.end(self.number)
        return Step(() if over else (user(f"turn {self.state['turn']}"),), float(over), over, False, info)

    def finish(self) -> Verdict:
        self.books.end(self.number)
        return Verdict(0.25, {"correct": 0.0})

    def restore(self, state: dict[str, Any]) -> None:
        self.state = dict(state)
        self.books.begin(self.number)


class FaultyEnv(AsyncEnv):
    """An environment of coroutines that goes wrong as planned; episodes have 1 to `turns` turns, by the seed."""

    def __init__(self, faults: Faults, books: Books, turns: int = 4) -> None:
        super().__init__()
        faults.block("make")
        self.script = _Script(faults, books, turns)

    def tasks(self, split: str) -> TaskSet:
        return self.script.tasks(split)

    @asynccontextmanager
    async def _at(self, stage: str) -> AsyncIterator[_Script]:
        script = self.script
        script.books.overlaps += script.busy
        script.busy = True
        try:
            await script.faults.at(stage)
            yield script
        finally:
            script.busy = False

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Sequence[Message], dict[str, Any]]:
        task = self.choose_task(seed, options)
        async with self._at("reset") as script:
            return script.begin(task, seed)

    async def astep(self, action: Any) -> Step:
        async with self._at("step") as script:
            return script.step(action)

    async def afinish(self, reason: StopReason) -> Verdict:
        async with self._at("finish") as script:
            return script.finish()

    async def aclose(self) -> None:
        self.script.books.leave(self.script.number)
        await self.script.faults.at("close")

    async def asnapshot(self) -> Any:
        async with self._at("snapshot") as script:
            return dict(script.state)

    async def arestore(self, state: Any) -> None:
        async with self._at("restore") as script:
            script.restore(state)


class FaultyBlockingEnv(Env):
    """The same as an environment that blocks: what hangs there keeps its thread until `Faults.release`."""

    def __init__(self, faults: Faults, books: Books, turns: int = 4) -> None:
        super().__init__()
        faults.block("make")
        self.script = _Script(faults, books, turns)

    def tasks(self, split: str) -> TaskSet:
        return self.script.tasks(split)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Sequence[Message], dict[str, Any]]:
        task = self.choose_task(seed, options)
        self.script.faults.block("reset")
        return self.script.begin(task, seed)

    def step(self, action: Any) -> Step:
        self.script.faults.block("step")
        return self.script.step(action)

    def finish(self, reason: StopReason) -> Verdict:
        self.script.faults.block("finish")
        return self.script.finish()

    def close(self) -> None:
        self.script.books.leave(self.script.number)
        self.script.faults.block("close")

    def snapshot(self) -> Any:
        self.script.faults.block("snapshot")
        return dict(self.script.state)

    def restore(self, state: Any) -> None:
        self.script.faults.block("restore")
        self.script.restore(state)


class FaultyTool(Tool):
    """Goes wrong at `open` and `call` as planned: `Faults({"call.stubborn": 0.1})`. Give an instance to a ToolEnv."""

    name = "faulty"
    timeout = 0.1

    def __init__(self, faults: Faults, timeout: float = 0.1) -> None:
        self.faults = faults
        self.timeout = timeout

    async def open(self, episode: Episode) -> None:
        await self.faults.at("open")

    async def call(self, text: str = "") -> str:
        await self.faults.at("call")
        return text.upper()


class FaultyEngine(Engine):
    """Any engine, with faults at `generate` and `end_session`, and a death in mid-decode, planned or by `kill`."""

    def __init__(self, inner: Engine, faults: Faults, down_seconds: float = 0.05) -> None:
        self.inner, self.faults, self.down_seconds = inner, faults, down_seconds
        self.capabilities, self.stop_ids = inner.capabilities, inner.stop_ids
        self.sessions: set[str] = set()
        """Sessions that generated, failed ones included, and were not ended."""
        self.deaths = 0
        self.lost = 0
        """Generations that a death took along."""
        self._flying: set[asyncio.Task[Completion]] = set()
        self._up_again = 0.0

    async def start(self) -> None:
        await self.inner.start()

    async def close(self) -> None:
        await self.inner.close()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        if session is not None:
            self.sessions.add(session)
        if asyncio.get_running_loop().time() < self._up_again:
            raise EngineError("the engine is being restarted")
        try:
            kind = await self.faults.at("generate")
        except OSError as error:
            raise EngineError(str(error)) from error
        deaths = self.deaths
        task = asyncio.ensure_future(self.inner.generate(prompt_ids, sampling, session=session))
        self._flying.add(task)
        try:
            if kind is Kind.DIE:
                await asyncio.sleep(0)  # it has begun
                self.kill()
            return await task
        except asyncio.CancelledError:
            if self.deaths == deaths or not task.cancelled() or _being_cancelled():
                raise
            raise EngineError("the engine died") from None
        finally:
            task.cancel()
            self._flying.discard(task)

    def kill(self, down_seconds: float | None = None) -> None:
        """Everything in flight fails now, and everything asked for until it is up again."""
        self.deaths += 1
        self.lost += len(self._flying)
        down = self.down_seconds if down_seconds is None else down_seconds
        self._up_again = asyncio.get_running_loop().time() + down
        for task in self._flying:
            task.cancel()

    async def end_session(self, session: str) -> None:
        self.sessions.discard(session)
        await self.inner.end_session(session)
        try:
            await self.faults.at("end_session")
        except OSError as error:
            raise EngineError(str(error)) from error

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        async with self.inner.client():
            yield

    def load(self) -> EngineLoad | None:
        return self.inner.load()

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        return await self.inner.publish(weights, version)


def _being_cancelled() -> bool:
    """Whether the caller's own task was cancelled, beside what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
