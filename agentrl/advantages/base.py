"""The credit contract (T1): advantages as a list of small pure transforms over groups.

A transform reads the groups and the credit so far and returns new credit. Credit has three layers per trajectory: one
number (`trajectory`), one number a turn (`turns`), one number a policy token (`tokens`). The final advantage of token k
in turn t of trajectory i is `trajectory[i] + turns[i][t] + tokens[i][k]`.

Invariants: transforms are deterministic and change no argument, and what one remembers between batches is in its
`state_dict`; aborted trajectories are not seen; every statistic names its unit,
peer rule, leave-one-out, ddof and what a single member gets; an order that cannot be right is an error at start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import ConfigError, TrainingError
from agentrl.trajectory import Trajectory

Array = NDArray[np.float64]


class Stage(IntEnum):
    """Where in the list a transform may stand: stages never decrease along the list."""

    REWARD = 0
    """Changes rewards (penalties, shaping): must stand before any statistic is taken."""
    ESTIMATE = 1
    """Computes trajectory or turn credit from rewards."""
    ATTRIBUTE = 2
    """Moves or adds credit between trajectory, turns and tokens."""
    NORMALISE = 3
    """Whitens final credit over a batch."""
    CLIP = 4
    """Bounds final credit."""


@dataclass(frozen=True)
class TurnTable:
    """What transforms may know of one trajectory (the turn record of T1); T_i turns, L_i policy tokens."""

    rewards: Array
    """r_{i,t}, shape (T_i,); the outcome reward sits on the last turn."""
    lengths: NDArray[np.int64]
    """L_{i,t}: policy tokens of each turn, shape (T_i,); zero for an immediate stop."""
    state_keys: tuple[str | None, ...] = ()
    parents: tuple[str | None, ...] = ()
    tool_called: tuple[bool, ...] = ()
    tool_error: tuple[bool, ...] = ()
    parse_error: tuple[bool, ...] = ()
    truncated: tuple[bool, ...] = ()
    nodes: tuple[str, ...] = ()
    """Node of each turn in the group's tree: turns that branches have in common are one node."""
    correct: bool | None = None
    """The verifier's verdict (metric `correct`, at least 0.5); None where the environment gives none."""
    task_id: str = ""
    token_rewards: Array | None = None
    """Reward of single policy tokens beside the turns' (a KL penalty), shape (L_i,)."""
    columns: Mapping[str, Array] = field(default_factory=dict)
    """What the scoring pass computed, by need: shape (L_i,) for a number a policy token, else of the trajectory."""
    record: Trajectory | None = None
    """The whole episode, for transforms that read messages or calls."""

    @property
    def total(self) -> float:
        """R_i: undiscounted sum of all rewards."""
        return float(self.rewards.sum()) + (0.0 if self.token_rewards is None else float(self.token_rewards.sum()))

    @property
    def turn_rewards(self) -> Array:
        """r_{i,t} with the rewards of the turn's tokens, shape (T_i,)."""
        if self.token_rewards is None:
            return self.rewards
        return self.rewards + np.bincount(self.turn_of_token, self.token_rewards, minlength=self.num_turns)

    @property
    def num_turns(self) -> int:
        return len(self.rewards)

    @property
    def num_tokens(self) -> int:
        """L_i."""
        return int(self.lengths.sum())

    @property
    def turn_of_token(self) -> NDArray[np.int64]:
        """Turn (from 0) of each policy token, shape (L_i,)."""
        return np.repeat(np.arange(self.num_turns), self.lengths)

    @property
    def ends(self) -> NDArray[np.int64]:
        """e_t: index among the policy tokens of each turn's last one, shape (T_i,); -1 for a turn without any."""
        return np.where(self.lengths > 0, np.cumsum(self.lengths) - 1, -1)

    def rewards_of_tokens(self) -> Array:
        """r_k of every policy token, shape (L_i,): its own and, at the last token of a turn, the turn's.

        The reward of a turn without tokens moves to the policy token before it, else to the first one after it.
        """
        tokens = np.zeros(self.num_tokens) if self.token_rewards is None else self.token_rewards.astype(np.float64)
        if len(tokens):
            places = np.maximum(np.cumsum(self.lengths) - 1, 0)
            np.add.at(tokens, places, self.rewards)
        return tokens

    def column(self, name: str) -> Array:
        """A scored quantity; raises `TrainingError` if nobody asked for it."""
        try:
            return self.columns[name]
        except KeyError:
            raise TrainingError(f"the table has no column {name!r}; the transform must name it in `needs`") from None

    def verdict(self, who: str) -> bool:
        """`correct`; raises `TrainingError` in the name of `who` where the environment gives no verdict."""
        if self.correct is None:
            raise TrainingError(
                f"{who} needs a verdict, but the environment's metrics have no 'correct' (task {self.task_id!r})"
            )
        return self.correct

    @classmethod
    def of(cls, trajectory: Trajectory, columns: Mapping[str, Array] | None = None) -> TurnTable:
        """The turn table of a recorded trajectory; its nodes are its own (`tables_of` knows the others')."""
        turns = trajectory.turns
        verdict = trajectory.metrics.get("correct")
        return cls(
            rewards=np.array([turn.reward for turn in turns], dtype=np.float64),
            lengths=np.array([len(turn.sampled_ids) for turn in turns], dtype=np.int64),
            state_keys=tuple(turn.state_key for turn in turns),
            parents=tuple(turn.parent for turn in turns),
            tool_called=tuple(bool(turn.tool_calls) for turn in turns),
            tool_error=tuple(turn.tool_error for turn in turns),
            parse_error=tuple(turn.parse_error for turn in turns),
            truncated=tuple(turn.truncated for turn in turns),
            nodes=tuple(f"{trajectory.member}.{index}" for index in range(len(turns))),
            correct=None if verdict is None else verdict >= 0.5,
            task_id=trajectory.task_id,
            columns=columns or {},
            record=trajectory,
        )


def tables_of(members: Sequence[Trajectory], columns: Sequence[Mapping[str, Array]] | None = None) -> list[TurnTable]:
    """The turn tables of a group's members; turns that a branch copied are the nodes of the member it left."""
    tables = [TurnTable.of(member, None if columns is None else columns[i]) for i, member in enumerate(members)]
    nodes = {member.member: table.nodes for member, table in zip(members, tables, strict=True)}
    result = []
    for member, table in sorted(zip(members, tables, strict=True), key=lambda pair: pair[0].member):
        if member.branch is not None:
            parent, count = member.branch.parent, member.branch.turns
            # An aborted parent is no member, but what was copied from it is still one node for all that left it.
            shared = nodes.get(parent, tuple(f"{parent}.{index}" for index in range(count)))[:count]
            table = replace(table, nodes=shared + table.nodes[len(shared) :])
            nodes[member.member] = table.nodes
        result.append((member.member, table))
    by_member = dict(result)
    return [by_member[member.member] for member in members]


@dataclass(frozen=True)
class Credit:
    """Advantages of one group's members, in three layers; see the module's docstring for how they add up."""

    tables: tuple[TurnTable, ...]
    trajectory: Array
    """A_traj, shape (G,)."""
    turns: tuple[Array, ...]
    """A_turn, G arrays of shape (T_i,)."""
    tokens: tuple[Array, ...]
    """A_tok, G arrays of shape (L_i,): policy tokens of all turns in order."""
    dropped: frozenset[int] = frozenset()
    """Members that leave the batch and every denominator, once all statistics are taken."""
    masked: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)
    """Member -> its policy tokens that carry no loss, shape (L_i,); the denominators keep them."""
    returns: tuple[Array, ...] | None = None
    """What a critic is to predict at each policy token, G arrays of shape (L_i,); NaN: nothing there."""

    @classmethod
    def zeros(cls, tables: Sequence[TurnTable]) -> Credit:
        """No credit yet."""
        return cls(
            tables=tuple(tables),
            trajectory=np.zeros(len(tables)),
            turns=tuple(np.zeros(table.num_turns) for table in tables),
            tokens=tuple(np.zeros(table.num_tokens) for table in tables),
        )

    @property
    def rewards(self) -> Array:
        """R_i, shape (G,)."""
        return np.array([table.total for table in self.tables], dtype=np.float64)

    def token_advantages(self) -> list[Array]:
        """A_{i,k} of every policy token, G arrays of shape (L_i,)."""
        return [
            self.trajectory[i] + np.repeat(self.turns[i], table.lengths) + self.tokens[i]
            for i, table in enumerate(self.tables)
        ]

    def with_token_advantages(self, advantages: Sequence[Array]) -> Credit:
        """The same group with these A_{i,k}, G arrays of shape (L_i,); all of it then stands in the token layer."""
        return replace(
            self,
            trajectory=np.zeros(len(self.tables)),
            turns=tuple(np.zeros(table.num_turns) for table in self.tables),
            tokens=tuple(advantages),
        )

    def with_mask(self, member: int, masked: NDArray[np.bool_]) -> Credit:
        """The same group with further tokens of `member` masked, shape (L_i,)."""
        before = self.masked.get(member)
        return replace(self, masked={**self.masked, member: masked if before is None else before | masked})


class Transform(ABC):
    """One step of credit assignment. Options are constructor keywords; subclasses are registered by name."""

    stage: ClassVar[Stage]
    min_group_size: int = 1
    """Group estimators need peers: a smaller configured group is an error at start. Options may lower it."""
    needs: frozenset[str] = frozenset()
    """Columns that the scoring pass must fill under the weights that sampled (`agentrl.needs`)."""
    writes: frozenset[str] = frozenset()
    """Columns of the tables, shape (L_i,), that it makes for the loss (`Component.reads`)."""
    scales: bool = False
    """Divides by a spread of the present group or batch: whatever a transform before it scaled or shifted is undone."""
    undone_by_scaling: bool = False
    """Means nothing if a later transform `scales`: such a list is an error at start."""

    metrics: Mapping[str, float] = MappingProxyType({})
    """Numbers about the latest call, for the log; never read by the mathematics."""

    @abstractmethod
    def __call__(self, groups: list[Credit]) -> list[Credit]:
        """New credit for every group of the batch; must not change its argument."""

    def state_dict(self) -> dict[str, Any]:
        """What the transform remembers between batches, as JSON-able values; goes into checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most remember nothing
        """Restore what `state_dict` gave."""


def check_order(transforms: Sequence[Transform], group_size: int) -> None:
    """Raise `ConfigError` for a list of transforms that cannot be right."""
    if not any(transform.stage is Stage.ESTIMATE for transform in transforms):
        raise ConfigError("advantages: the list has no estimator; begin with one such as grpo, rloo or turn_loo")
    for earlier, later in pairwise(transforms):
        if later.stage < earlier.stage:
            raise ConfigError(
                f"advantages: {type(later).__name__} ({later.stage.name.lower()}) must stand before "
                f"{type(earlier).__name__} ({earlier.stage.name.lower()})"
            )
    for index, transform in enumerate(transforms):
        scaling = next((later for later in transforms[index + 1 :] if later.scales), None)
        if transform.undone_by_scaling and scaling is not None:
            raise ConfigError(
                f"advantages: {type(scaling).__name__} divides by a spread, which undoes {type(transform).__name__}; "
                "leave it out"
            )
        if group_size < transform.min_group_size:
            raise ConfigError(
                f"advantages: {type(transform).__name__} needs groups of at least {transform.min_group_size}, "
                f"rollout.group_size is {group_size}"
            )


def attribute(transforms: Sequence[Transform], batch: Sequence[Sequence[TurnTable]]) -> list[Credit]:
    """Run the transforms over a batch of groups and return the final credit, group by group."""
    credits = [Credit.zeros(tables) for tables in batch]
    for transform in transforms:
        credits = transform(credits)
    return credits
