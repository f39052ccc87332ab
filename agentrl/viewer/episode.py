"""One episode as its page shows it: messages, calls and results turn by turn, with reward and advantage beside each.

Invariant: texts are excerpts (see `excerpt`), the shorter the more there are, turns are a bounded window, so that the
page stays quick whatever the episode holds; a figure that the record does not have is None, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentrl.account import STAGES
from agentrl.messages import Message, Role
from agentrl.store import EpisodeRecord
from agentrl.trajectory import Trajectory, Turn
from agentrl.viewer.excerpt import LIMIT, SHORTEST, Excerpt, readable

TURNS_SHOWN = 60
PAGE = 2_000_000  # characters of all texts of a page together, about


@dataclass(frozen=True)
class CallView:
    """A tool call that the policy wrote."""

    name: str
    arguments: Excerpt
    error: str | None


@dataclass(frozen=True)
class MessageView:
    """A message of the conversation."""

    role: str
    text: Excerpt
    name: str | None = None
    """The tool that answers."""
    seconds: float | None = None
    queued: float = 0.0
    error: str | None = None
    """Kind of failure of the call that it answers."""


@dataclass(frozen=True)
class AdvantageView:
    """Advantages of a turn's tokens."""

    mean: float
    low: float
    high: float

    @property
    def even(self) -> bool:
        """Every token has the same."""
        return self.low == self.high


@dataclass(frozen=True)
class TurnView:
    """A turn."""

    index: int
    text: Excerpt
    calls: list[CallView]
    observation: list[MessageView]
    reward: float
    advantage: AdvantageView | None
    tokens: int
    context: int
    """Ids that were new in its context."""
    probability: float | None
    """Geometric mean of the sampled tokens' probabilities."""
    flags: list[str]
    seconds: float
    stages: list[tuple[str, float]]
    """Seconds by stage, those that took any."""
    version: str
    weights: str
    state: str | None
    parent: str | None
    copied: bool
    """Sampled by the member that this one branched off from."""
    forked: bool
    """Its context continues no earlier turn."""


@dataclass(frozen=True)
class EpisodeView:
    """The page's content."""

    record: EpisodeRecord
    trajectory: Trajectory
    opening: list[MessageView]
    turns: list[TurnView]
    first: int
    """Index of the first turn that is shown."""
    error: Excerpt | None
    has_tokens: bool
    has_advantages: bool
    largest: float
    """Largest absolute advantage of the whole episode, 0 where there is none: the end of the colour scale."""
    metrics: list[tuple[str, float]] = field(default_factory=list)

    @property
    def total_turns(self) -> int:
        return len(self.trajectory.turns)

    @property
    def last(self) -> int:
        """Index after the last turn that is shown."""
        return self.first + len(self.turns)


def episode_view(record: EpisodeRecord, first: int = 0) -> EpisodeView:
    """The view of an episode's turns from `first` on. Raises `StoreError` if the record is damaged."""
    trajectory = record.trajectory
    advantages = record.advantages
    first = min(first, max(0, len(trajectory.turns) - 1)) // TURNS_SHOWN * TURNS_SHOWN
    shown = range(first, min(first + TURNS_SHOWN, len(trajectory.turns)))
    limit = _room(trajectory, shown)
    return EpisodeView(
        record,
        trajectory,
        [_message(message, f"opening.{index}", limit) for index, message in enumerate(trajectory.opening)],
        [_turn(trajectory, index, advantages[index] if advantages else None, limit) for index in shown],
        first,
        Excerpt.of(trajectory.error, "error") if trajectory.error else None,
        any(turn.sampled_ids for turn in trajectory.turns),
        advantages is not None,
        largest_advantage(advantages),
        sorted(trajectory.metrics.items()),
    )


def largest_advantage(advantages: Sequence[Sequence[float]] | None) -> float:
    """The largest finite absolute value, 0 where there is none."""
    values = (abs(value) for turn in advantages or () for value in turn if math.isfinite(value))
    return max(values, default=0.0)


def _room(trajectory: Trajectory, shown: range) -> int:
    """Characters that each text of the page may have."""
    turns = [trajectory.turns[index] for index in shown]
    each = (1 + len(turn.message.tool_calls) + len(turn.observation) for turn in turns)
    return max(SHORTEST, min(LIMIT, PAGE // max(1, len(trajectory.opening) + sum(each))))


def _turn(trajectory: Trajectory, index: int, advantages: Sequence[float] | None, limit: int) -> TurnView:
    turn = trajectory.turns[index]
    address = f"turn.{index}"
    copied = trajectory.branch is not None and index < trajectory.branch.turns
    return TurnView(
        index=index,
        text=Excerpt.of(turn.message.text, f"{address}.message", limit),
        calls=[
            CallView(call.name, Excerpt.of(readable(call.arguments), f"{address}.arguments.{place}", limit), call.error)
            for place, call in enumerate(turn.message.tool_calls)
        ],
        observation=list(_observations(turn, address, limit)),
        reward=turn.reward,
        advantage=_advantage(advantages),
        tokens=len(turn.sampled_ids),
        context=len(turn.new_ids),
        probability=_mean_probability(turn.logprobs),
        flags=list(_flags(turn)),
        seconds=sum(turn.timings.values()),
        stages=[(stage, turn.timings[stage]) for stage in STAGES if turn.timings.get(stage, 0.0) > 0],
        version=" → ".join(map(str, [turn.policy_version, *(switch.policy_version for switch in turn.switches)])),
        weights=turn.weights_hash,
        state=turn.state_key,
        parent=_node(turn.parent),
        copied=copied,
        forked=index > 0 and turn.prefix_turn is None,
    )


def _observations(turn: Turn, address: str, limit: int) -> Iterator[MessageView]:
    """Tool results with name, time and error of the call that they answer; other observations as they are."""
    answers = iter(turn.tool_calls)
    for place, message in enumerate(turn.observation):
        call = next(answers, None) if message.role is Role.TOOL else None
        text = Excerpt.of(message.text, f"{address}.observation.{place}", limit)
        if call is None:
            yield MessageView(str(message.role), text, message.name)
        else:
            yield MessageView(str(message.role), text, call.name, call.seconds, call.queued_seconds, call.error)


def _message(message: Message, address: str, limit: int) -> MessageView:
    return MessageView(str(message.role), Excerpt.of(message.text, address, limit), message.name)


def _flags(turn: Turn) -> Iterator[str]:
    if turn.parse_error:
        yield "call not understood"
    if turn.tool_error:
        yield "tool error"
    if turn.truncated:
        yield "ran into its token limit"


def _node(parent: str | None) -> str | None:
    """`2.0` for people: turn 1 of member 2; what has another form is left as it is."""
    member, _, turn = (parent or "").partition(".")
    return f"turn {int(turn) + 1} of member {member}" if turn.isascii() and turn.isdigit() and len(turn) < 9 else parent


def _advantage(values: Sequence[float] | None) -> AdvantageView | None:
    finite = [value for value in values or () if math.isfinite(value)]
    return AdvantageView(sum(finite) / len(finite), min(finite), max(finite)) if finite else None


def _mean_probability(logprobs: Sequence[float]) -> float | None:
    finite = [value for value in logprobs if math.isfinite(value)]
    return math.exp(min(0.0, sum(finite) / len(finite))) if finite else None
