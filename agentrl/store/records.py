"""What a store gives back: runs, phases, tasks, episodes, judgements; and the question for episodes.

Invariant: plain values, complete when they are returned; nothing here reaches back into the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from agentrl.messages import Message
from agentrl.store.codec import EpisodeData, decode, decode_advantages
from agentrl.trajectory import StopReason, Trajectory

RunKind = Literal["train", "eval", "import"]
RunStatus = Literal["running", "finished", "failed", "interrupted"]
Sort = Literal["id", "step", "reward", "turns", "tokens", "seconds", "tool_calls"]


@dataclass(frozen=True)
class RunRecord:
    """A run in the store."""

    id: int
    name: str
    config: str
    """The resolved configuration, YAML."""
    created: float
    """Seconds since the epoch."""
    kind: RunKind = "train"
    status: RunStatus = "running"
    """What the run said last; one that was killed still says `running`, and `updated` tells its last sign of life."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able facts that the writer added."""
    updated: float = 0.0
    """When it began, was updated, logged a step or added an episode last; seconds since the epoch."""


@dataclass(frozen=True)
class PhaseRecord:
    """What a run holds of one phase."""

    phase: str
    steps: int
    """Steps that have metrics or episodes."""
    last_step: int
    episodes: int


@dataclass(frozen=True)
class TaskRecord:
    """A task as it was posed, and what its judge knows."""

    id: str
    split: str = ""
    level: int | None = None
    opening: Sequence[Message] = ()
    gold: Any = None
    """JSON-able."""


@dataclass(frozen=True)
class JudgementRecord:
    """What a judge said of an episode."""

    episode: int
    """Id of the episode."""
    phase: str
    step: int
    group: str
    member: int
    task_id: str
    judge: str
    number: int
    """Place among several judgements of the same judge."""
    verdict: bool | None
    """None where the judge's words hold no verdict."""
    text: str
    created: float


@dataclass(frozen=True)
class EpisodeSummary:
    """An episode as one lists and filters it.

    Texts are for reading: NUL and lone surrogates stand as U+FFFD, answer and error are cut at `codec.SHOWN`
    characters. `EpisodeRecord.trajectory` has them exactly.
    """

    id: int
    phase: str
    step: int
    group: str
    member: int
    task_id: str
    env_id: str
    level: int | None
    reward: float
    correct: bool | None
    """None where the episode has no verdict (aborted), or an environment reports none."""
    turns: int
    tokens: int
    """Tokens that the policy sampled; where only an endpoint counted them, its count."""
    prompt_tokens: int
    """Tokens of context, all turns together; where only an endpoint counted them, its count."""
    tool_calls: int
    tool_errors: int
    """Calls that were answered by an error, ill-formed ones included."""
    tool_seconds: float
    seconds: float
    stop_reason: StopReason
    answer: str | None
    error: str | None
    created: float
    """When it was written, seconds since the epoch."""


@dataclass(frozen=True)
class EpisodeRecord(EpisodeSummary):
    """An episode in full."""

    data: EpisodeData = field(repr=False)
    """As it is stored; `trajectory` and `advantages` read it."""

    @cached_property
    def trajectory(self) -> Trajectory:
        """The episode, bit for bit; read on first use. Raises `StoreError` if the record is damaged."""
        return decode(self.data, f"{self.phase} step {self.step} group {self.group} member {self.member}")

    @cached_property
    def advantages(self) -> list[list[float]] | None:
        """A list a turn, a number a sampled token (rounded to float32); None where none were set."""
        return decode_advantages(self.data)


@dataclass(frozen=True)
class EpisodeQuery:
    """Which episodes of a run, in which order, and which page of them. None: any."""

    run: int
    phase: str | None = None
    step: int | None = None
    env_id: str | None = None
    task_id: str | None = None
    group: str | None = None
    level: int | None = None
    correct: bool | Literal["none"] | None = None
    """`"none"`: those without a verdict."""
    stop_reason: str | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    min_turns: int | None = None
    errors: bool | None = None
    """True: with tool errors; False: without."""
    text: str | None = None
    """A piece of the task's id, upper and lower case as they stand."""
    sort: Sort = "id"
    descending: bool = False
    """Episodes whose value is not a number come last in both directions; equal ones stand by id."""
    limit: int = 50
    after: str | None = None
    """Go on after this row: its `cursor`."""
    offset: int = 0
    """Skip that many; a page by `after` stays in step while episodes are added, one by `offset` need not."""

    def cursor(self, row: EpisodeSummary) -> str:
        """Where `row` stands in this order, for `after`."""
        return f"{getattr(row, self.sort)!r},{row.id}"
