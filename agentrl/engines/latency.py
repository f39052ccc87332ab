"""Latency models: how long an engine that computes nothing would have taken, and what waits for what.

A `Latency` says what one completion costs an engine that has nothing else to do; a `Batch` lets completions share an
engine: at most `slots` run and the others queue, and where more than `capacity` run all of them slow down alike
(processor sharing). Time passes by the event loop's clock, so on a loop with virtual time it takes none.

Invariants: what a completion costs is a function of its prompt, its ids and its seed alone; the three times of a job
add up to the time from its submission to its end; a job that is given up makes room at once.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from agentrl.errors import ConfigError, EngineError

_SAME_TIME = 1e-9
"""Seconds that rounding may lose: below the resolution of any clock, above that of a day in floating point."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one completion costs an engine that has nothing else to do, seconds."""

    prefill: float
    decode: float


class Latency(ABC):
    """The cost of one completion."""

    @abstractmethod
    def work(self, prompt: Sequence[int], ids: Sequence[int], seed: int | None) -> Work:
        """Cost of sampling `ids` after `prompt` for a request with that seed. A pure function."""


@dataclass(frozen=True, slots=True)
class Constant(Latency):
    """The same decoding time for every completion."""

    seconds: float

    def __post_init__(self) -> None:
        _check("seconds", self.seconds, least=0.0)

    def work(self, prompt: Sequence[int], ids: Sequence[int], seed: int | None) -> Work:
        """See `Latency.work`."""
        return Work(0.0, self.seconds)


@dataclass(frozen=True, slots=True)
class LogNormal(Latency):
    """Decoding times with a heavy tail: log-normal with the given mean (seconds) and sigma (of the logarithm).

    Each is drawn from the model's seed, the request's seed and the prompt's length and end.
    """

    mean: float
    sigma: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check("mean", self.mean)
        _check("sigma", self.sigma, least=0.0)

    def work(self, prompt: Sequence[int], ids: Sequence[int], seed: int | None) -> Work:
        """See `Latency.work`."""
        draw = random.Random(f"{self.seed}/{seed}/{len(prompt)}/{list(prompt[-8:])}")
        return Work(0.0, draw.lognormvariate(math.log(self.mean) - self.sigma**2 / 2, self.sigma))


@dataclass(frozen=True, slots=True)
class PerToken(Latency):
    """Reading and sampling at fixed rates, tokens per second."""

    prefill_rate: float
    decode_rate: float

    def __post_init__(self) -> None:
        _check("prefill_rate", self.prefill_rate)
        _check("decode_rate", self.decode_rate)

    def work(self, prompt: Sequence[int], ids: Sequence[int], seed: int | None) -> Work:
        """See `Latency.work`."""
        return Work(len(prompt) / self.prefill_rate, len(ids) / self.decode_rate)


@dataclass(frozen=True, slots=True)
class Given(Latency):
    """Decoding time (seconds) by a function of prompt and ids."""

    function: Callable[[Sequence[int], Sequence[int]], float]

    def work(self, prompt: Sequence[int], ids: Sequence[int], seed: int | None) -> Work:
        """See `Latency.work`."""
        return Work(0.0, self.function(prompt, ids))


@dataclass(eq=False, slots=True)
class Job:
    """One completion on its way through a `Batch`; times are the batch's clock, seconds."""

    work: Work
    tokens: int
    arrived: float
    done: asyncio.Future[None]
    began: float | None = None
    decoding: float | None = None
    ended: float | None = None
    base: float = 0.0
    """What every running job had attained when this one began, seconds of work."""

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Seconds queued, reading and sampling, of a job that has ended."""
        if self.began is None or self.decoding is None or self.ended is None:
            raise ValueError("the job has not ended")
        return self.began - self.arrived, self.decoding - self.began, self.ended - self.decoding


@dataclass(order=True, slots=True)
class _Event:
    at: float
    """Attained work, not time: what all running jobs have in common whatever the speed."""
    order: int
    job: Job = field(compare=False)


class Batch:
    """Completions that share an engine.

    All running jobs progress at the same speed, so the work that each has attained since a fixed moment is one number;
    an event of a job is a value of that number, and a heap of them gives the next one whatever the speed did before.
    """

    def __init__(
        self,
        latency: Latency,
        *,
        slots: int | None = None,
        capacity: float | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """At most `slots` jobs run (None: any number); with n of them each has the speed min(1, capacity / n).

        `clock` is the running event loop's unless given, and must agree with `sleep`.
        """
        if slots is not None and slots < 1:
            raise ConfigError(f"slots={slots!r} must be at least 1")
        if capacity is not None:
            _check("capacity", capacity)
        self.latency = latency
        self.slots = slots
        self.capacity = capacity
        self.clock = clock or (lambda: asyncio.get_running_loop().time())
        self.sleep = sleep
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._running: set[Job] = set()
        self._events: list[_Event] = []
        self._order = count()
        self._attained = 0.0
        self._seen = 0.0
        """When `_attained` was brought up to date."""
        self._driver: asyncio.Task[None] | None = None
        self._changed: asyncio.Future[None] | None = None

    @property
    def running(self) -> int:
        """Jobs that are read or sampled."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Jobs that queue for a slot."""
        return len(self._waiting)

    def submit(self, prompt: Sequence[int], ids: Sequence[int], seed: int | None) -> Job:
        """Line up for sampling `ids` after `prompt`; every job must be awaited by `finish`."""
        work = self.latency.work(prompt, ids, seed)
        job = Job(work, len(ids), self.clock(), asyncio.get_running_loop().create_future())
        self._waiting[job] = None
        self._admit()
        return job

    async def finish(self, job: Job) -> None:
        """Wait for the job's end; whoever is cancelled here gives it up. Raises `EngineError` after `fail`."""
        try:
            await job.done
        finally:
            if job.ended is None:
                self._drop(job)

    def decoded(self, job: Job) -> int:
        """How many of the job's tokens have been sampled by now."""
        if job.ended is not None:
            return job.tokens
        if job.decoding is None:
            return 0
        self._advance()
        spent = self._attained - job.base - job.work.prefill
        part = spent / job.work.decode if job.work.decode > 0 else 1.0
        return min(job.tokens, max(0, math.floor(part * job.tokens + _SAME_TIME)))

    def fail(self, message: str) -> None:
        """Every job fails with an `EngineError`."""
        for job in (*self._running, *self._waiting):
            if not job.done.done():
                job.done.set_exception(EngineError(message))

    # -- the shared clock ----------------------------------------------------------------------------------------------

    @property
    def _speed(self) -> float:
        return 1.0 if self.capacity is None else min(1.0, self.capacity / max(1, len(self._running)))

    def _advance(self) -> None:
        now = self.clock()
        if self._running:
            self._attained += (now - self._seen) * self._speed
        self._seen = now

    def _admit(self) -> None:
        """Let jobs begin while there is room."""
        head = self._events[0] if self._events else None
        self._advance()
        while self._waiting and (self.slots is None or len(self._running) < self.slots):
            job, _ = self._waiting.popitem(last=False)
            job.began, job.base = self._seen, self._attained
            self._running.add(job)
            heapq.heappush(self._events, _Event(job.base + job.work.prefill, next(self._order), job))
        if self._running and (self.capacity is not None or self._events[0] is not head or not self._driven):
            self._wake()

    def _drop(self, job: Job) -> None:
        self._waiting.pop(job, None)
        if job in self._running:
            self._advance()
            self._running.discard(job)
            self._admit()
            if not self._running:
                self._events.clear()
                self._wake()

    def _fire(self) -> None:
        """All events that are due, in order."""
        while self._events and self._events[0].at <= self._attained + _SAME_TIME:
            job = heapq.heappop(self._events).job
            if job not in self._running:  # given up
                continue
            if job.decoding is None:
                job.decoding = self._seen
                end = job.base + job.work.prefill + job.work.decode
                heapq.heappush(self._events, _Event(end, next(self._order), job))
                continue
            job.ended = self._seen
            self._running.discard(job)
            if not job.done.done():
                job.done.set_result(None)
        if not self._running:
            self._events.clear()

    async def _drive(self) -> None:
        """Runs while jobs do."""
        try:
            while self._running:
                self._advance()
                self._fire()
                self._admit()
                if self._running:
                    await self._pause((self._events[0].at - self._attained) / self._speed)
        except Exception as error:  # of the sleep that was given: every job must hear of it
            self.fail(f"time stopped passing: {type(error).__name__}: {error}")
        finally:
            if self._running:
                self.fail("the latency model was stopped")

    async def _pause(self, seconds: float) -> None:
        """Until `seconds` have passed or the next event or the speed is another."""
        self._changed = asyncio.get_running_loop().create_future()
        timer = asyncio.ensure_future(self.sleep(max(0.0, seconds)))
        try:
            await asyncio.wait({timer, self._changed}, return_when=asyncio.FIRST_COMPLETED)
            if timer.done():
                timer.result()
        finally:
            timer.cancel()

    @property
    def _driven(self) -> bool:
        driver = self._driver
        return driver is not None and not driver.done() and driver.get_loop() is asyncio.get_running_loop()

    def _wake(self) -> None:
        """Let the driver look again, or end if nothing runs."""
        if not self._driven:
            if self._running:
                self._driver = asyncio.get_running_loop().create_task(self._drive(), name="agentrl-latency")
        elif self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


def _check(key: str, value: float, least: float | None = None) -> None:
    if not math.isfinite(value) or (value <= 0 if least is None else value < least):
        bound = "positive" if least is None else f"at least {least:g}"
        raise ConfigError(f"{key}={value!r} must be {bound}")
