"""The rollout contract: tasks in, finished groups out, in order of completion.

The kernel defines the contract; the pack `agentrl.rollouts` keeps the asyncio manager and the strategies. A strategy
only decides what to sample next; deadlines, limits, cancellation and records are the manager's.

Invariant: every requested episode comes out exactly once, finished or aborted, in exactly one group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from agentrl.chat import ChatRenderer
from agentrl.engines.base import Engine
from agentrl.env import Env
from agentrl.trajectory import Group, Trajectory


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """`size` episodes of one task."""

    group_id: str
    task_id: str
    size: int
    seed: int
    """Member j is sampled with a seed derived from (seed, j): the same request gives the same episodes."""


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """Bounds of every episode and of the manager. All of them are honoured by every strategy."""

    max_turns: int = 8
    max_turn_tokens: int = 256
    """Tokens sampled in one turn."""
    max_context: int = 4096
    """Context + completion, tokens; the engine's own limit applies too."""
    temperature: float = 1.0
    concurrency: int = 64
    """Episodes in flight."""
    episode_seconds: float = 600.0
    """Hard outer deadline of one episode, teardown included."""
    step_seconds: float = 120.0
    """Deadline of one environment step (reset, step, close)."""
    engine_retries: int = 2
    """Retries of a generation that failed, with exponential back-off."""


@dataclass(slots=True)
class RolloutContext:
    """What a rollout works with."""

    engine: Engine
    renderer: ChatRenderer
    make_env: Callable[[], Env]
    """Makes one environment; it is reset for episode after episode and closed at the end."""
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    on_episode: Callable[[GroupRequest, Trajectory], None] | None = None
    """Called with each episode as it finishes (store, live display), on the event loop: it must be quick."""


class Rollout(ABC):
    """A rollout strategy over the manager. Constructed as `Strategy(context, **options)`."""

    def __init__(self, context: RolloutContext, **options: Any) -> None:
        self.context = context

    @abstractmethod
    def run(self, requests: Iterable[GroupRequest]) -> AsyncIterator[Group]:
        """Yield finished groups in order of completion. Closing the iterator cancels what is in flight."""
