"""The credit contract (T1): advantages as a list of small pure transforms over groups.

A transform reads the groups and the credit so far and returns new credit. Credit has three layers per trajectory: one
number (`trajectory`), one number a turn (`turns`), one number a policy token (`tokens`). The final advantage of token k
in turn t of trajectory i is `trajectory[i] + turns[i][t] + tokens[i][k]`.

Invariants: transforms are pure and deterministic; aborted trajectories are not seen; every statistic names its unit,
peer rule, leave-one-out, ddof and what a single member gets; an order that cannot be right is an error at start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import ConfigError
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
    """What estimators may know of one trajectory (the turn record of T1); lengths are per turn, T_i entries."""

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

    @property
    def total(self) -> float:
        """R_i: undiscounted sum of the rewards."""
        return float(self.rewards.sum())

    @property
    def num_turns(self) -> int:
        return len(self.rewards)

    @classmethod
    def of(cls, trajectory: Trajectory) -> TurnTable:
        """The turn table of a recorded trajectory."""
        turns = trajectory.turns
        return cls(
            rewards=np.array([turn.reward for turn in turns], dtype=np.float64),
            lengths=np.array([len(turn.sampled_ids) for turn in turns], dtype=np.int64),
            state_keys=tuple(turn.state_key for turn in turns),
            parents=tuple(turn.parent for turn in turns),
            tool_called=tuple(bool(turn.tool_calls) for turn in turns),
            tool_error=tuple(turn.tool_error for turn in turns),
            parse_error=tuple(turn.parse_error for turn in turns),
            truncated=tuple(turn.truncated for turn in turns),
        )


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

    @classmethod
    def zeros(cls, tables: Sequence[TurnTable]) -> Credit:
        """No credit yet."""
        return cls(
            tables=tuple(tables),
            trajectory=np.zeros(len(tables)),
            turns=tuple(np.zeros(table.num_turns) for table in tables),
            tokens=tuple(np.zeros(int(table.lengths.sum())) for table in tables),
        )

    def token_advantages(self) -> list[Array]:
        """A_{i,k} of every policy token, G arrays of shape (L_i,)."""
        return [
            self.trajectory[i] + np.repeat(self.turns[i], table.lengths) + self.tokens[i]
            for i, table in enumerate(self.tables)
        ]


class Transform(ABC):
    """One step of credit assignment. Options are constructor keywords; subclasses are registered by name."""

    stage: ClassVar[Stage]
    min_group_size: int = 1
    """Group estimators need peers: a smaller configured group is an error at start. Options may lower it."""

    @abstractmethod
    def __call__(self, groups: list[Credit]) -> list[Credit]:
        """New credit for every group of the batch; must not change its argument."""


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
    for transform in transforms:
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
