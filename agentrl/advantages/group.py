"""Estimators over a group's total rewards: GRPO, Dr. GRPO, RLOO. One number a trajectory, for all its policy tokens.

R_i is the undiscounted total of a trajectory; unit: trajectory; peers: every member with a verdict, also one without
policy tokens. Invariant: a group whose rewards are all equal gets exactly 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from agentrl.advantages.base import Array, Credit, Stage, Transform
from agentrl.advantages.statistics import GroupStatistic, Singleton
from agentrl.registry import advantages


class _GroupEstimator(Transform):
    """Adds a statistic of the total rewards to the trajectory layer."""

    stage = Stage.ESTIMATE

    def __init__(self, statistic: GroupStatistic) -> None:
        self.scales = statistic.scale
        self.statistic = statistic
        self.min_group_size = 1 if statistic.singleton == "raw" else 2

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return [replace(credit, trajectory=credit.trajectory + self._estimate(credit)) for credit in groups]

    def _estimate(self, credit: Credit) -> Array:
        return self.statistic.over_trajectories(credit.rewards)


@advantages.register("grpo")
class GRPO(_GroupEstimator):
    """A_i = (R_i - mean) / (std + eps) over the group.

    The mean includes R_i, so the expected gradient is (G-1)/G of the true one, apart from the division by the std.
    Source: DeepSeekMath, arXiv 2402.03300, outcome supervision; ddof and eps as in verl.
    """

    def __init__(self, *, ddof: Literal[0, 1] = 1, eps: float = 1e-6, singleton: Singleton = "zero") -> None:
        """`singleton="raw"` gives a group of one its reward (verl)."""
        super().__init__(GroupStatistic(leave_one_out=False, scale=True, ddof=ddof, eps=eps, singleton=singleton))


@advantages.register("dr_grpo")
class DrGRPO(_GroupEstimator):
    """A_i = R_i - mean over the group: no std, which over-weights nearly solved and nearly hopeless tasks.

    The other half of the method is the reduction `seq_mean_token_sum_norm` with C = the most policy tokens that a
    trajectory may have over all its turns. Source: arXiv 2503.20783.
    """

    def __init__(self, *, singleton: Singleton = "zero") -> None:
        """`singleton="raw"` gives a group of one its reward."""
        super().__init__(GroupStatistic(leave_one_out=False, scale=False, singleton=singleton))


@advantages.register("rloo")
class RLOO(_GroupEstimator):
    """A_i = R_i - mean of the other members' R: unbiased, since the baseline does not depend on trajectory i.

    G is the number of members that have a verdict, not the configured one. Source: arXiv 2402.14740.
    """

    def __init__(self, *, singleton: Singleton = "zero") -> None:
        """`singleton="raw"` gives a group of one its reward (plain REINFORCE)."""
        super().__init__(GroupStatistic(leave_one_out=True, scale=False, singleton=singleton))
