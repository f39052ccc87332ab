"""What becomes of trajectories that are too long: a soft penalty on the reward, or no loss at all (DAPO, B7).

Length counts the policy tokens of all turns, never observations (a rule of our own: the paper has one turn). The two
are alternatives; the best run of the paper used the penalty.
Source: DAPO, arXiv 2503.14476, section 3.4; verl `workers/reward_manager/dapo.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agentrl.advantages.base import Credit, Stage, Transform, TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import advantages
from agentrl.trajectory import StopReason


@advantages.register("overlong")
class OverlongPenalty(Transform):
    """Takes up to `factor` from the reward of a trajectory of n policy tokens, on its last turn.

    With S = max_length - cache: nothing up to n = S, then (S - n) / cache, and -1 above max_length (verl goes on
    below), times `factor`. Metrics: `overlong` (share of trajectories with a penalty), `overlong_penalty` (its mean).
    """

    stage = Stage.REWARD

    def __init__(self, *, max_length: int, cache: int, factor: float = 1.0) -> None:
        if not 0 < cache <= max_length:
            raise ConfigError(f"overlong: cache={cache!r} must be above 0 and at most max_length={max_length!r}")
        if not factor >= 0:
            raise ConfigError(f"overlong: factor is {factor!r}; it must not be negative")
        self.max_length, self.cache, self.factor = max_length, cache, factor

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        penalties = [[self._penalty(table) for table in credit.tables] for credit in groups]
        if flat := [penalty for group in penalties for penalty in group]:
            self.metrics = {"overlong": float(np.mean(np.array(flat) < 0)), "overlong_penalty": float(np.mean(flat))}
        return [
            replace(credit, tables=tuple(map(_penalised, credit.tables, group)))
            for credit, group in zip(groups, penalties, strict=True)
        ]

    def _penalty(self, table: TurnTable) -> float:
        above = table.num_tokens - (self.max_length - self.cache)
        return -self.factor * min(max(above / self.cache, 0.0), 1.0)


def _penalised(table: TurnTable, penalty: float) -> TurnTable:
    if not penalty:
        return table
    rewards = table.rewards.copy()
    rewards[-1] += penalty  # there is a turn, since there are tokens
    return replace(table, rewards=rewards)


@advantages.register("mask_truncated")
class MaskTruncated(Transform):
    """Trajectories that were cut off carry no loss; their rewards stay in the group's statistics.

    Cut off is a trajectory with a generation that ran into its token limit, or that ended at the context limit. Its
    tokens stay in the denominators. Metric: `truncated` (share of trajectories).
    """

    stage = Stage.ATTRIBUTE

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        cut = [[_is_cut_off(table) for table in credit.tables] for credit in groups]
        if flat := [flag for group in cut for flag in group]:
            self.metrics = {"truncated": float(np.mean(flat))}
        return [_masked(credit, flags) for credit, flags in zip(groups, cut, strict=True)]


def _is_cut_off(table: TurnTable) -> bool:
    limits = (StopReason.MAX_TOKENS, StopReason.TOKEN_BUDGET)
    at_limit = table.record is not None and table.record.stop_reason in limits
    return at_limit or any(table.truncated)


def _masked(credit: Credit, flags: list[bool]) -> Credit:
    for index in np.flatnonzero(flags):
        credit = credit.with_mask(int(index), np.ones(credit.tables[index].num_tokens, dtype=np.bool_))
    return credit
