"""The boundary between the manager and what it drives: bounded waits, and what becomes data.

Every call of an environment or an engine runs as a task of its own under `bounded`, so that a deadline holds whatever
the call does with its cancellation. `as_data` is the one place that decides which failures are recorded in a
trajectory; all others are mistakes of a program or of the user and are raised.

Invariant: no wait is longer than it was given; a task that ignores its cancellation is kept by a strong reference
until it ends, logged, and what it held is released then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from agentrl.errors import AgentRLError, ConfigError, EngineError
from agentrl.rollout import RolloutLimits
from agentrl.trajectory import StopReason

T = TypeVar("T")

_log = logging.getLogger(__name__)
_keepers: set[asyncio.Task[None]] = set()
"""Tasks that wait for abandoned calls to end; the event loop alone would let them be collected."""

TEARDOWN_SHARE = 0.1
"""Part of an episode's deadline that is kept for its teardown ..."""
TEARDOWN_SECONDS = 30.0
"""... and the most that this may be: a container that has not died by then will not."""
NEGLIGIBLE = 1e-3
"""Seconds of credit that are not worth another wait."""
WAIT_SHARE = 1 / 3
"""One wait of a teardown takes at most this part of what is left, so that any number of waits fit into it."""


class Stage(StrEnum):
    """What the manager asks of an environment or an engine."""

    MAKE = "make"
    RESET = "reset"
    STEP = "step"
    ORACLE = "oracle"
    FINISH = "finish"
    SNAPSHOT = "snapshot"
    RESTORE = "restore"
    CLOSE = "close"
    GENERATE = "generate"


class Overdue(Exception):
    """A bounded call did not end in time."""


class Aborted(Exception):
    """The episode ends here without a verdict; the text says why."""

    def __init__(self, reason: StopReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def as_data(stage: Stage, error: Exception) -> Aborted:
    """What a failed call means for its episode; raises `error` where it is not the episode's but a program's fault.

    An environment is foreign code: whatever it raises is data, except that a user's mistake (`ConfigError`: a task
    that does not exist) would only repeat itself. An engine's contract is to raise `EngineError`.
    """
    if isinstance(error, ConfigError):
        raise error
    if isinstance(error, Overdue):
        return Aborted(StopReason.TIMEOUT, f"{stage}: {error}")
    if stage is not Stage.GENERATE:
        return Aborted(StopReason.ENV_ERROR, f"{stage}: {type(error).__name__}: {error}")
    if isinstance(error, EngineError):
        return Aborted(StopReason.ENGINE_ERROR, f"{stage}: {error}")
    raise error


@dataclass(slots=True)
class Health:
    """Whether something that every episode needs works at all: successes and failures over all episodes of a run."""

    stage: Stage
    raises: type[AgentRLError]
    patience: int
    """Failures in a row after which it counts as out of reach."""
    worked: bool = False
    strikes: int = 0
    last: str = ""
    cause: Exception | None = None

    def success(self) -> None:
        self.worked, self.strikes = True, 0

    def failure(self, cause: Exception, text: str) -> None:
        self.strikes += 1
        self.cause, self.last = cause, text

    def verdict(self, at_end: bool) -> AgentRLError | None:
        """The error that ends the run, None while there is hope. At the end of a run, one success is hope enough."""
        if self.strikes == 0 or (self.worked if at_end else self.strikes < self.patience):
            return None
        error = self.raises(f"{self.stage} failed {self.strikes} times in a row; last: {self.last}")
        error.__cause__ = self.cause
        return error


class Limit(NamedTuple):
    """How long a call may take, and which setting says so."""

    seconds: float
    setting: str


@dataclass(frozen=True, slots=True)
class StageLimits:
    """How long each call may take at most."""

    reset: Limit
    step: Limit
    generate: Limit | None

    @classmethod
    def of(cls, limits: RolloutLimits) -> StageLimits:
        def named(key: str) -> Limit | None:
            seconds: float | None = getattr(limits, key)
            return None if seconds is None else Limit(seconds, f"{key}={seconds:g}")

        step = Limit(limits.step_seconds, f"step_seconds={limits.step_seconds:g}")
        return cls(named("reset_seconds") or step, step, named("generate_seconds"))


class Deadline:
    """When an episode must be over: play until `play`, everything until `end` (event loop's clock, seconds)."""

    def __init__(self, seconds: float) -> None:
        self._time = asyncio.get_running_loop().time
        self.seconds = seconds
        self.teardown = min(TEARDOWN_SHARE * seconds, TEARDOWN_SECONDS)
        self.end = self._time() + seconds
        self.play = self.end - self.teardown

    def begin_teardown(self) -> None:
        """The episode is cut short: from now on there is only the time that a teardown may take."""
        self.end = min(self.end, self._time() + self.teardown)
        self.play = min(self.play, self._time())

    def play_left(self) -> float:
        """Seconds that the episode may still play."""
        return max(0.0, self.play - self._time())

    def limit(self, stage: Limit | None = None) -> Limit:
        """What a call within the play may take: its stage's limit, if the episode's is not shorter."""
        if stage is not None and stage.seconds <= self.play_left():
            return stage
        return Limit(self.play_left(), f"episode_seconds={self.seconds:g}")

    def teardown_limit(self, stage: Limit) -> Limit:
        """What closing may take: all that is left but for its cancellation."""
        seconds = self.left() - self.grace()
        return stage if stage.seconds <= seconds else Limit(seconds, "teardown")

    def left(self) -> float:
        """Seconds until everything must be over."""
        return max(0.0, self.end - self._time())

    def grace(self) -> float:
        """Seconds that a cancelled call, or one piece of a teardown, may take from now."""
        return WAIT_SHARE * min(self.left(), self.teardown)


async def bounded(
    call: Coroutine[Any, Any, T],
    limit: Limit,
    grace: Callable[[], float],
    abandoned: Callable[[asyncio.Task[T]], object],
    credit: Callable[[], float] = float,
) -> T:
    """Await `call` for at most `limit`, plus `grace()` for its cancellation if it is overdue or the caller cancelled.

    `credit()` is how many seconds so far do not count (the call waited for others). A call that has not ended by then
    goes to `abandoned`. Raises what the call raises, or `Overdue`.
    """
    task = asyncio.ensure_future(call)
    credited = 0.0
    try:
        await asyncio.wait({task}, timeout=limit.seconds)
        while not task.done() and (more := credit() - credited) > NEGLIGIBLE:
            credited += more
            await asyncio.wait({task}, timeout=more)
        if task.cancelled():
            raise RuntimeError("the call cancelled itself")
        if task.done():
            return task.result()
        raise Overdue(f"not done within {limit.setting}")
    finally:
        await _put_down(task, grace, abandoned)


async def _put_down(
    task: asyncio.Task[T], grace: Callable[[], float], abandoned: Callable[[asyncio.Task[T]], object]
) -> None:
    if not task.done():
        task.cancel()
        try:
            await asyncio.wait({task}, timeout=grace())
        finally:
            if not task.done():
                abandoned(task)
    if task.done() and not task.cancelled():
        task.exception()  # retrieved, or asyncio would report it as lost


def abandon(
    task: asyncio.Task[T], what: str, afterwards: Callable[[asyncio.Task[T]], Awaitable[None]] | None = None
) -> asyncio.Task[None]:
    """Keep `task` until it ends by itself, then do `afterwards`; returns the keeper."""

    async def keep() -> None:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        if afterwards is not None:
            try:
                await afterwards(task)
            except Exception:  # nobody waits for it any more
                _log.warning("%s, abandoned earlier, could not be released", what, exc_info=True)

    keeper = asyncio.ensure_future(keep())
    _keepers.add(keeper)
    keeper.add_done_callback(_keepers.discard)
    return keeper
