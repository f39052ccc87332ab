"""Leaving out groups without signal: those whose rewards are all equal, a group of one among them.

Invariant: what is left out is in no denominator of the update, and costs no pass; groups that stay are not changed.
Source: the option "drop degenerate groups" of PACS (arXiv 2509.02522) and ROVER (arXiv 2509.24981); the same criterion
as DAPO's dynamic sampling (arXiv 2503.14476), without sampling others in their place.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agentrl.advantages.base import Credit, Stage, Transform
from agentrl.advantages.statistics import GroupStatistic
from agentrl.registry import advantages


@advantages.register("drop_equal")
class DropEqualGroups(Transform):
    """Drop every member of a group whose total rewards are all equal.

    For objectives that have a gradient where the advantage is 0: a supervised or a regression loss pulls at such a
    group once the policy has moved. Metric: `dropped_groups`, their share.
    """

    stage = Stage.ATTRIBUTE

    def __init__(self) -> None:
        self.statistic = GroupStatistic(leave_one_out=False, scale=False)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        result = [self._drop(credit) for credit in groups]
        emptied = sum(len(credit.dropped) == len(credit.tables) for credit in result)
        self.metrics = {"dropped_groups": emptied / max(1, len(groups))}
        return result

    def _drop(self, credit: Credit) -> Credit:
        if np.any(self.statistic.over_trajectories(credit.rewards)):
            return credit
        return replace(credit, dropped=frozenset(range(len(credit.tables))))
