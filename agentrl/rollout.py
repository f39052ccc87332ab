"""The rollout contract: tasks in, finished groups out, in order of completion.

The kernel defines the contract; the pack `agentrl.rollouts` keeps the asyncio manager and the strategies. A strategy
only decides what to sample next; deadlines, limits, cancellation and records are the manager's.

Invariant: every requested episode comes out exactly once, finished or aborted, in exactly one group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from agentrl.account import BatchAccount
from agentrl.chat import ChatRenderer
from agentrl.components import Spec
from agentrl.engines.base import Engine
from agentrl.env import Env
from agentrl.errors import UnknownNameError
from agentrl.registry import nearest
from agentrl.trajectory import Group, Trajectory


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """`size` episodes of one task."""

    group_id: str
    task_id: str
    size: int
    seed: int
    """Member j is sampled with a seed derived from (seed, j): the same request gives the same episodes."""
    env: str = ""
    """Which of the context's environments the task belongs to; empty for the context's own."""


class InFlight(StrEnum):
    """What becomes of the episodes under way when the weights are replaced."""

    FINISH = "finish"
    """They end under the old weights; until then no episode begins and the new weights wait."""
    CONTINUE = "continue"
    """They go on under the new weights: in mid-turn where the engine can, else from their next turn on."""
    DISCARD = "discard"
    """They are stopped (`StopReason.STALE`) and their members are played anew under the new weights."""


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """Bounds of every episode and of the manager. All of them are honoured by every strategy."""

    max_turns: int = 8
    max_turn_tokens: int = 256
    """Tokens sampled in one turn."""
    max_tokens: int | None = None
    """Tokens sampled in the whole episode; at an endpoint without token ids, as it counts them."""
    max_context: int = 4096
    """Context + completion, tokens; the engine's own limit applies too. Without token ids: of what was counted so far,
    so that an observation can still exceed it."""
    tool_calls: int | None = None
    """Tool calls executed in the whole episode; calls that are malformed or name no tool are not. A message that calls
    more tools than are left ends the episode: its first calls are executed, the others not, and the environment judges
    what there is. A policy that has used them up may therefore still answer."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Mass of the nucleus that is sampled from (`Sampling.top_p`). Not for training: the importance ratios of a
    truncated distribution are biased, so `RolloutConfig` has no such key."""
    concurrency: int = 64
    """Episodes in flight."""
    decoding: int | Literal["auto"] | None = None
    """Generations at one time; those with the most turns to come go first. `auto` follows the engine's load."""
    tools: int | None = None
    """Tool calls at one time, of all tools together."""
    sandboxes: int | None = None
    """Episodes at one time that hold sessions of a sandbox."""
    episode_seconds: float = 600.0
    """Hard outer deadline of one episode, teardown included."""
    step_seconds: float = 120.0
    """Deadline of one call of the environment: make, step, final judgement, close."""
    reset_seconds: float | None = None
    """Deadline of one reset; None: `step_seconds`."""
    generate_seconds: float | None = None
    """Deadline of one generation, retries not included; None: what is left of the episode."""
    engine_retries: int = 2
    """Retries of a generation that failed, with exponential back-off."""


@dataclass(frozen=True, slots=True)
class RolloutPolicies:
    """What becomes of groups and episodes that do not go the usual way."""

    on_failure: Spec = "minimum_group"
    """A failure policy: `fail_fast`, `retry` (`times`), `minimum_group` (`members`), or one's own."""
    drop_without_signal: bool = False
    """Groups whose outcomes are all equal are not yielded (dynamic sampling): the verdicts `correct` of the judged
    members where each has one, else their rewards."""
    stop_after: int | None = None
    """Equal outcomes after which the members of a group that still play are stopped; needs `drop_without_signal`."""
    refill: float = 4.0
    """Most groups that are dropped for each one that is `wanted`; after that the iterator ends with fewer."""
    in_flight: InFlight = InFlight.FINISH
    """What a weight update does to the episodes under way."""
    max_staleness: int | None = None
    """Most versions that a group's oldest sample may lie behind the weights when it is yielded; None: no bound.
    Groups begin only as far as that allows (B11) ..."""
    groups_per_version: int = 1
    """... with so many groups trained on in each version."""


@dataclass(frozen=True, slots=True)
class EnvSource:
    """An environment among several, and how its conversations become tokens."""

    make_env: Callable[[], Env]
    """Makes one environment; it is reset for episode after episode and closed at the end."""
    renderer: ChatRenderer | None
    """None only for an engine without token ids (`Capabilities.tokens`)."""


@dataclass(slots=True)
class RolloutContext:
    """What a rollout works with."""

    engine: Engine
    renderer: ChatRenderer | None
    """None only for an engine without token ids (`Capabilities.tokens`)."""
    make_env: Callable[[], Env]
    """Makes one environment; it is reset for episode after episode and closed at the end."""
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    on_episode: Callable[[GroupRequest, Trajectory], None] | None = None
    """Called with each episode as it finishes (store, live display), on the event loop: it must be quick."""
    policies: RolloutPolicies = field(default_factory=RolloutPolicies)
    version: int = 0
    """Version of the weights that the engine serves at the start; staleness is counted from it."""
    envs: Mapping[str, EnvSource] = field(default_factory=dict)
    """Further environments by the names that requests use."""

    def source(self, name: str) -> EnvSource:
        """The environment of that name; raises `UnknownNameError`."""
        if not name:
            return EnvSource(self.make_env, self.renderer)
        if name not in self.envs:
            raise UnknownNameError(f"env={name!r} is no environment of this rollout; {nearest(name, list(self.envs))}")
        return self.envs[name]


class Rollout(ABC):
    """A rollout strategy over the manager. Constructed as `Strategy(context, **options)`."""

    def __init__(self, context: RolloutContext, **options: Any) -> None:
        self.context = context

    @abstractmethod
    def run(self, requests: Iterable[GroupRequest], *, wanted: int | None = None) -> AsyncIterator[Group]:
        """Yield finished groups in order of completion. Closing the iterator cancels what is in flight.

        `wanted`: how many groups to yield; `requests` is then a supply, of which only as many are begun as are still
        wanted, so that a group that is dropped (no signal, too many failures) is replaced by the next request.
        """

    @abstractmethod
    async def update(self, publish: Callable[[], Awaitable[str]], version: int) -> str:
        """Replace the engine's weights by `publish` while iterators may be open; returns what it returns.

        `version` is what it publishes: staleness is counted from it. What becomes of the episodes under way says
        `RolloutPolicies.in_flight`.
        """

    @abstractmethod
    def account(self) -> BatchAccount:
        """Where the time of the groups went that were yielded since the last call, and starts a new account."""
