"""From credit to what the learner trains on: the members that were kept, their advantages, and columns beside them.

Invariant: a dropped member is in no list, hence in no denominator; a masked token is in all of them, without loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentrl.advantages.base import Array, Credit, TurnTable
from agentrl.advantages.statistics import mean_and_std
from agentrl.trajectory import Trajectory


@dataclass
class CreditedBatch:
    """Parallel lists, an entry a trajectory."""

    trajectories: list[Trajectory] = field(default_factory=list)
    advantages: list[Array] = field(default_factory=list)
    """Shape (L_i,)."""
    columns: list[Mapping[str, Array | float]] = field(default_factory=list)
    """`reward` (R_i after the transforms of rewards), `group`, `group_variance` (population variance of R over all of
    the group, dropped members too; NaN for a group of one), `correct`, and where there are some `masked`, `returns` and
    the scored quantities of tokens: shape (L_i,), or one number for all."""


def credited_batch(credits: Sequence[Credit]) -> CreditedBatch:
    """What is kept of the groups, in order."""
    batch = CreditedBatch()
    masks = any(credit.masked for credit in credits)
    scored = _token_columns(credits)
    for number, credit in enumerate(credits):
        for index, (table, advantages) in enumerate(zip(credit.tables, credit.token_advantages(), strict=True)):
            if index in credit.dropped:
                continue
            assert table.record is not None, "a table without its episode cannot be trained on"
            batch.trajectories.append(table.record)
            batch.advantages.append(advantages)
            columns = _columns(table, number, scored) | {"group_variance": reward_variance(credit.rewards)}
            if masks:
                columns["masked"] = credit.masked.get(index, np.zeros(table.num_tokens)).astype(np.float64)
            if credit.returns is not None:
                columns["returns"] = credit.returns[index]
            batch.columns.append(columns)
    return batch


def reward_variance(rewards: Array) -> float:
    """Population variance of a group's rewards, shape (G,), exactly 0 where they are equal; NaN for a group of one."""
    return mean_and_std(rewards, ddof=0)[1] ** 2 if len(rewards) > 1 else float("nan")


def _token_columns(credits: Sequence[Credit]) -> frozenset[str]:
    """Names of the columns that are a number a token in every table: d numbers of a trajectory may look so in one."""
    tables = [table for credit in credits for table in credit.tables if table.num_tokens]
    shaped = ({name for name, value in t.columns.items() if value.shape == (t.num_tokens,)} for t in tables)
    return frozenset(tables[0].columns).intersection(*shaped) if tables else frozenset()


def _columns(table: TurnTable, group: int, names: frozenset[str]) -> dict[str, Array | float]:
    scored = {name: table.columns[name] for name in names if name in table.columns}
    verdict = float("nan") if table.correct is None else float(table.correct)
    return {"reward": table.total, "group": float(group), "correct": verdict, **scored}
