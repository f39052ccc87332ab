"""Turn, Trajectory, Group: the record of what was sampled, and the rows that the learner trains on.

Token ids are the record; text is a view. A turn keeps the ids that the policy sampled and the ids of its context.
Contexts are stored as differences: `prefix_turn` names the earlier turn whose context and sampled ids together are a
prefix of this turn's context, `new_ids` is what came after it (observations, template tokens). Where no earlier turn
is a prefix (the template rewrote history) `prefix_turn` is None and the row forks.

Invariants: `context_ids(t) + sampled_ids` is exactly what the engine saw and produced in turn t; over all rows of a
trajectory each sampled token carries loss exactly once; a record serialises and comes back bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import to_json

from agentrl.messages import Message


class StopReason(StrEnum):
    """Why an episode ended. Closed: every episode has exactly one, and `meaning` explains it to people."""

    TERMINATED = "terminated"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    TOKEN_BUDGET = "token_budget"
    CALL_BUDGET = "call_budget"
    INVALID_CALLS = "invalid_calls"
    TIMEOUT = "timeout"
    ENV_ERROR = "env_error"
    ENGINE_ERROR = "engine_error"
    CANCELLED = "cancelled"
    NO_SIGNAL = "no_signal"
    STALE = "stale"

    @property
    def meaning(self) -> str:
        """The reason in words."""
        return _MEANING[self]

    @property
    def aborted(self) -> bool:
        """True if the episode has no verdict: it is kept as data and leaves every statistic (field rulings, B1)."""
        return self in _ABORTED

    @property
    def cut(self) -> bool:
        """True if a limit ended it and not the environment: truncated, not terminated."""
        return self in _CUT


_MEANING = {
    StopReason.TERMINATED: "the environment ended the episode with a verdict",
    StopReason.MAX_TURNS: "the turn limit was reached; the environment judged what there was",
    StopReason.MAX_TOKENS: "the context limit was reached; the environment judged what there was",
    StopReason.TOKEN_BUDGET: "all tokens of the episode were sampled; the environment judged what there was",
    StopReason.CALL_BUDGET: "a message called more tools than were left; the environment judged what there was",
    StopReason.INVALID_CALLS: "too many malformed tool calls in a row; the environment judged what there was",
    StopReason.TIMEOUT: "a deadline passed; aborted",
    StopReason.ENV_ERROR: "the environment raised; aborted",
    StopReason.ENGINE_ERROR: "the engine failed for good; aborted",
    StopReason.CANCELLED: "the run was told to stop; aborted",
    StopReason.NO_SIGNAL: "its group could carry no signal any more and was stopped early; aborted",
    StopReason.STALE: "it was under way, or sampled by too old weights, when the weights were replaced; aborted",
}
_CUT = frozenset(
    {StopReason.MAX_TURNS, StopReason.MAX_TOKENS, StopReason.TOKEN_BUDGET, StopReason.CALL_BUDGET}
)  # fmt: skip
_ABORTED = frozenset(
    {
        *(StopReason.TIMEOUT, StopReason.ENV_ERROR, StopReason.ENGINE_ERROR),
        *(StopReason.CANCELLED, StopReason.NO_SIGNAL, StopReason.STALE),
    }
)


OWN_INFO = frozenset({"answer", "tools", "usage", "token_entropy"})
"""Keys of `Trajectory.info` that are ours: an environment's record of its task has none of them (its `answer` would be
read as the policy's)."""


@dataclass(frozen=True, slots=True)
class Switch:
    """New weights in mid-turn: the engine went on under them."""

    index: int
    """First sampled id of the turn that they produced."""
    policy_version: int
    weights_hash: str


@dataclass(frozen=True, slots=True)
class Branch:
    """Where an episode left another one of its group: both have the first `turns` turns in common."""

    parent: int
    """Member of the group that it was copied from."""
    turns: int
    """Turns that were copied, at least 1; the episode's own turns begin with this index."""


@dataclass(slots=True)
class ToolCallRecord:
    """One tool call as it was executed."""

    name: str
    arguments: str
    result: str
    error: str | None = None
    """Kind of failure (`unknown_tool`, `invalid_arguments`, `timeout`, `failed`, `parse`) or None."""
    seconds: float = 0.0
    queued_seconds: float = 0.0
    """Wait for the tool's concurrency limit."""


@dataclass(slots=True)
class Turn:
    """One policy generation and what the environment answered (the turn record of T1)."""

    new_ids: list[int]
    """Context ids after the prefix turn's ids; the whole context where `prefix_turn` is None."""
    prefix_turn: int | None
    """Index of the turn whose context + sampled ids this turn's context starts with."""
    sampled_ids: list[int]
    """Ids that the policy sampled, end-of-turn token included; possibly empty."""
    logprobs: list[float]
    """Behaviour log-probability of each sampled id at the sampling temperature, nats."""
    message: Message
    """The assistant's message as parsed from the sampled ids."""
    observation: list[Message] = field(default_factory=list)
    reward: float = 0.0
    tool_calls: list[ToolCallRecord] = field(default_factory=list)
    policy_version: int = 0
    weights_hash: str = ""
    """Hash of the weights that the engine served, as it reported it; empty where the engine has no weights."""
    switches: list[Switch] = field(default_factory=list)
    """Where other weights than these took over, in order; `versions` has the version of each token."""
    tool_error: bool = False
    parse_error: bool = False
    truncated: bool = False
    """The generation ran into its token limit."""
    state_key: str | None = None
    """Hashable name of the environment state before the action (anchor states, T3)."""
    parent: str | None = None
    """Node id (`member.turn`, from 0) of another episode's turn that this one follows; of no other turn."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, see `agentrl.account.STAGES`; of a copied turn of a branch: none."""

    @property
    def versions(self) -> list[int]:
        """The policy version that sampled each id, shape (len(sampled_ids),) (B11: stamped on every token)."""
        versions = [self.policy_version] * len(self.sampled_ids)
        for switch in self.switches:
            versions[switch.index :] = [switch.policy_version] * (len(versions) - switch.index)
        return versions

    @property
    def hashes(self) -> set[str]:
        """Hashes of all weights that sampled the turn."""
        return {self.weights_hash, *(switch.weights_hash for switch in self.switches)}


@dataclass(frozen=True, slots=True)
class Row:
    """One training row: a maximal chain of turns whose contexts extend one another. All lists have length T."""

    ids: list[int]
    turn_ids: list[int]
    """1-based turn of each policy token that carries loss in this row, 0 elsewhere (T1)."""
    logprobs: list[float]
    """Behaviour log-probability on policy tokens, 0.0 elsewhere."""


@dataclass(slots=True)
class Trajectory:
    """One episode of one task."""

    task_id: str
    env_id: str = ""
    member: int = 0
    """Place in its group, from 0."""
    seed: int = 0
    opening: list[Message] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    stop_reason: StopReason = StopReason.TERMINATED
    error: str | None = None
    """What was raised, for aborted episodes."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the environment's verdict reports beside the reward (for example `correct`: 0.0 or 1.0)."""
    seconds: float = 0.0
    """Wall clock from the request for a place to the end of the teardown."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by stage that belong to no turn (reset, last judgement, teardown); `agentrl.account` sums all of them."""
    branch: Branch | None = None
    info: dict[str, Any] = field(default_factory=dict)
    """JSON-able extras: the environment's own record of the task (level, gold answer); `tools`, schemas of the tools of
    this episode where its task has its own; `answer`, the final answer's
    text where the environment knows it; `usage`, tokens as an endpoint counts them; `token_entropy`, the mean over each
    turn's tokens where the engine records it (nats, None for a turn without tokens)."""

    @property
    def reward(self) -> float:
        """Total undiscounted reward R_i."""
        return sum(turn.reward for turn in self.turns)

    @property
    def aborted(self) -> bool:
        return self.stop_reason.aborted

    @property
    def oldest_version(self) -> int | None:
        """The policy version that its first sampled token came from, None without a turn: what staleness counts."""
        return min((turn.policy_version for turn in self.turns), default=None)

    @property
    def num_policy_tokens(self) -> int:
        """L_i: tokens that the policy sampled, over all turns."""
        return sum(len(turn.sampled_ids) for turn in self.turns)

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens that the policy read, all contexts of all turns added up; None where nobody counted."""
        return self._counted("prompt_tokens", sum(self.context_lengths()))

    @property
    def completion_tokens(self) -> int | None:
        """Tokens that the policy sampled, by their ids or as an endpoint counts them; None where nobody counted."""
        return self._counted("completion_tokens", self.num_policy_tokens)

    def _counted(self, key: str, by_ids: int) -> int | None:
        """An endpoint's count, else that of the ids; an episode without a turn has cost nothing."""
        if "usage" in self.info:
            return int(self.info["usage"][key])
        return by_ids if by_ids or not self.turns else None

    def context_lengths(self) -> list[int]:
        """Length of the context of each turn, tokens."""
        lengths: list[int] = []
        for turn in self.turns:
            before = 0
            if turn.prefix_turn is not None:
                before = lengths[turn.prefix_turn] + len(self.turns[turn.prefix_turn].sampled_ids)
            lengths.append(before + len(turn.new_ids))
        return lengths

    @property
    def num_forks(self) -> int:
        """Turns after the first whose context no earlier turn is a prefix of."""
        return sum(turn.prefix_turn is None for turn in self.turns[1:])

    @property
    def messages(self) -> list[Message]:
        """The conversation as text: opening, then each turn's message and observation."""
        conversation = list(self.opening)
        for turn in self.turns:
            conversation += [turn.message, *turn.observation]
        return conversation

    def full_ids(self, index: int) -> list[int]:
        """Context and sampled ids of turn `index`."""
        return self.context_ids(index) + self.turns[index].sampled_ids

    def context_ids(self, index: int) -> list[int]:
        """Exactly the ids that the engine was given in turn `index`."""
        pieces: list[list[int]] = [self.turns[index].new_ids]
        parent = self.turns[index].prefix_turn
        while parent is not None:
            turn = self.turns[parent]
            pieces += [turn.sampled_ids, turn.new_ids]
            parent = turn.prefix_turn
        ids: list[int] = []
        for piece in reversed(pieces):
            ids += piece
        return ids

    def locate(self, context: list[int]) -> tuple[int | None, list[int]]:
        """Split a new turn's context into `(prefix_turn, new_ids)`, the latest turn that is a prefix of it first."""
        for index in reversed(range(len(self.turns))):
            prefix = self.full_ids(index)
            if len(prefix) <= len(context) and context[: len(prefix)] == prefix:
                return index, context[len(prefix) :]
        return None, list(context)

    def rows(self) -> list[Row]:
        """The fewest training rows whose prefixes cover every turn; each sampled token carries loss exactly once.

        A turn that two later turns continue (a tree, a history that was rewritten and restored) stands in both rows;
        the first row trains it, the others only attend to it.
        """
        parents = {turn.prefix_turn for turn in self.turns if turn.prefix_turn is not None}
        leaves = [index for index in range(len(self.turns)) if index not in parents]
        trained: set[int] = set()
        rows: list[Row] = []
        for leaf in leaves:
            chain: list[int] = []
            node: int | None = leaf
            while node is not None:
                chain.append(node)
                node = self.turns[node].prefix_turn
            rows.append(self._row(list(reversed(chain)), trained))
            trained.update(chain)
        return rows

    def _row(self, chain: list[int], trained: set[int]) -> Row:
        ids: list[int] = []
        turn_ids: list[int] = []
        logprobs: list[float] = []
        for index in chain:
            turn = self.turns[index]
            ids += turn.new_ids + turn.sampled_ids
            own = 0 if index in trained else index + 1
            turn_ids += [0] * len(turn.new_ids) + [own] * len(turn.sampled_ids)
            logprobs += [0.0] * len(turn.new_ids) + (turn.logprobs if own else [0.0] * len(turn.sampled_ids))
        return Row(ids, turn_ids, logprobs)

    def to_json(self) -> str:
        """The record as JSON; floats keep every bit, not-a-number and infinities included."""
        text = _TRAJECTORY.dump_json(self, exclude={"info"})[:-1] + b',"info":'
        text += to_json(self.info, inf_nan_mode="constants") + b"}"  # dump_json makes null of a NaN in Any
        return text.decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Trajectory:
        """Read a record back; raises `pydantic.ValidationError` if it is not one."""
        return _TRAJECTORY.validate_json(text)


@dataclass(slots=True)
class Group:
    """Episodes that share a baseline: usually G samples of one task.

    `group_id` is not the task id: a task may be sampled in several rounds.
    """

    group_id: str
    trajectories: list[Trajectory] = field(default_factory=list)

    @property
    def members(self) -> list[Trajectory]:
        """The trajectories with a verdict: aborted ones leave every statistic and the loss."""
        return [trajectory for trajectory in self.trajectories if not trajectory.aborted]


Trajectory.__pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")  # type: ignore[attr-defined]
_TRAJECTORY: TypeAdapter[Trajectory] = TypeAdapter(Trajectory)
