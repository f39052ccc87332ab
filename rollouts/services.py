"""What all iterators of a manager share: limits, gates and doors, policies, forecasts, the account.

Invariant: the decoding gate holds as many generations as `limits.decoding` says, those with the most turns to come
first; with `auto` its limit follows the engine's load.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentrl.account import BatchAccount
from agentrl.components import construct
from agentrl.errors import ConfigError
from agentrl.rollout import RolloutContext, RolloutLimits, RolloutPolicies
from agentrl.throttle import Throttle
from agentrl.trajectory import Trajectory

from .boundary import StageLimits
from .concurrency import AdaptiveConcurrency
from .doorway import Doorway
from .failures import FailurePolicy, failure_policies
from .forecast import Forecast
from .gates import PriorityGate
from .staleness import StalenessAdmission
from .watchdog import LagWatchdog

if TYPE_CHECKING:
    from .branching import Brancher
    from .stream import Stream

MOST_TOKENISING = 4
OBSERVE_SECONDS = 0.05
"""Between two looks at the engine's load: requests that end together are one observation."""

Sleep = Callable[[float], Awaitable[object]]


class Book(BatchAccount):
    """The account that is being kept."""

    def __init__(self, slots: float, workers: float) -> None:
        super().__init__(slots=slots, workers=workers)
        self._first: float | None = None

    def add(self, trajectory: Trajectory) -> None:
        """Count an episode that ends now."""
        super().add(trajectory)
        now = asyncio.get_running_loop().time()
        began = now - trajectory.seconds
        self._first = began if self._first is None else min(self._first, began)
        self.makespan = now - self._first


class Services:
    """One for a manager."""

    def __init__(self, context: RolloutContext, sleep: Sleep, brancher: Brancher | None) -> None:
        """Raises `ConfigError` for limits and policies that cannot be kept, alone or with this engine."""
        _check_limits(context.limits)
        _check_policies(context.policies)
        _check_engine(context)
        self.context = context
        self.sleep = sleep
        self.brancher = brancher
        self.limits = limits = context.limits
        self.stages = StageLimits.of(limits)
        self.throttle = Throttle(tools=limits.tools, sandboxes=limits.sandboxes)
        self.forecast = Forecast(limits.max_turns)
        self.failures: FailurePolicy = construct(failure_policies, context.policies.on_failure)
        self.episodes = Doorway()
        self.generations = Doorway()
        self.tokenising = PriorityGate(min(MOST_TOKENISING, max(1, (os.cpu_count() or 2) // 2)))
        """Threads for long texts: each takes the interpreter's lock from the event loop for milliseconds at a time."""
        self.updating = asyncio.Lock()
        self.discarding = False
        """An update stops the episodes under way; what has not begun goes back to the queue."""
        self.version = context.version
        bound = context.policies.max_staleness
        self.admission = (
            None if bound is None else StalenessAdmission(bound, context.policies.groups_per_version, context.version)
        )
        self.streams: set[Stream] = set()
        self.adaptive: AdaptiveConcurrency | None = None
        if limits.decoding == "auto":
            self.adaptive = AdaptiveConcurrency(ceiling=limits.concurrency)
            self.decoding = PriorityGate(self.adaptive.limit)
        else:
            self.decoding = PriorityGate(limits.decoding)
        self._observed = -math.inf
        self.book = self._new_book()

    def _new_book(self) -> Book:
        decoding = self.limits.decoding
        slots = float(decoding if isinstance(decoding, int) else self.limits.concurrency)
        return Book(slots, float(self.limits.tools or "inf"))

    def take_account(self) -> BatchAccount:
        """The account so far; a new one begins."""
        for stream in self.streams:
            self.see_lag(stream.watchdog)
            stream.watchdog.reset()
        book, self.book = self.book, self._new_book()
        return book

    def see_lag(self, watchdog: LagWatchdog) -> None:
        """Take over what a stream measured."""
        if watchdog.worst > self.book.worst_lag:
            self.book.worst_lag = watchdog.worst
        self.book.mean_lag = max(self.book.mean_lag, watchdog.mean)

    def see_version(self, version: int) -> None:
        """The engine serves other weights from now on."""
        self.version = version
        if self.admission is not None:
            self.admission.version = version

    @asynccontextmanager
    async def generation(self, priority: float) -> AsyncIterator[None]:
        """A place for one generation, after the door and the gate."""
        async with self.decoding.enter(priority):
            await self.generations.enter()
            self._adapt()  # here the engine's queue shows, and at the end its room
            try:
                yield
            finally:
                self.generations.leave()
                self._adapt()

    def _adapt(self) -> None:
        if self.adaptive is None:
            return
        now = asyncio.get_running_loop().time()
        if now - self._observed >= OBSERVE_SECONDS and (load := self.context.engine.load()) is not None:
            self._observed = now
            self.decoding.limit = self.adaptive.observe(load, self.decoding.running)


def _check_limits(limits: RolloutLimits) -> None:
    counts = ("max_turns", "max_turn_tokens", "max_tokens", "max_context", "concurrency", "decoding", "tools")
    for key in (*counts, "sandboxes"):
        value = getattr(limits, key)
        if value is not None and value != "auto" and value < 1:
            raise ConfigError(f"rollout.{key}={value!r} must be at least 1")
    if limits.tool_calls is not None and limits.tool_calls < 0:
        raise ConfigError(f"rollout.tool_calls={limits.tool_calls!r} must be 0 or more")
    if not 0 < limits.top_p <= 1:
        raise ConfigError(f"rollout.top_p={limits.top_p!r} must be above 0 and at most 1")
    for key in ("episode_seconds", "step_seconds", "reset_seconds", "generate_seconds"):
        value = getattr(limits, key)
        if value is not None and not value > 0:
            raise ConfigError(f"rollout.{key}={value!r} must be above 0")


def _check_policies(policies: RolloutPolicies) -> None:
    if policies.stop_after is not None:
        if not policies.drop_without_signal:
            raise ConfigError(f"stop_after={policies.stop_after!r} needs drop_without_signal=true")
        if policies.stop_after < 2:
            raise ConfigError(f"stop_after={policies.stop_after!r} must be at least 2: one reward says nothing")
    if not policies.refill >= 0:
        raise ConfigError(f"refill={policies.refill!r} must be 0 or more")


def _check_engine(context: RolloutContext) -> None:
    limits, can = context.limits, context.engine.capabilities
    for key in ("decoding", "sandboxes"):
        value = getattr(limits, key)
        if can.lockstep and value is not None:
            raise ConfigError(
                f"rollout.{key}={value!r}: the engine decodes in lockstep, so it would wait for the episodes that wait "
                "for this limit; switch lockstep off (engine.options.deterministic=false)"
            )
    if limits.top_p < 1 and not can.top_p:
        raise ConfigError(f"top_p={limits.top_p:g}: engine {type(context.engine).__name__} cannot sample a nucleus")
    sources = [context.source(name) for name in ("", *context.envs)]
    if can.tokens and any(source.renderer is None for source in sources):
        raise ConfigError(f"engine {type(context.engine).__name__} takes token ids: every environment needs a renderer")
    if limits.decoding == "auto" and context.engine.load() is None:
        raise ConfigError("rollout.decoding='auto': the engine does not report its load; give a number")
