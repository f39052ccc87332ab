"""Weighted GRPO's credit: group z-scores of signed rewards, in which the rare event carries the large weight.

With one success in G a z-score gives it sqrt(G - 1), with one failure -sqrt(G - 1): beside the sampler `pair`, which
offers exactly such tasks, the two groups push in opposite directions with the same force. Invariant: the statistics of
a group are its own; two groups of a pair are never pooled.

Source: "Beyond Variance: Prompt-Efficient RLVR via Rare-Event Amplification and Bidirectional Pairing", arXiv
2602.03452; the reward map is read in a digest, `normaliser` beyond the z-score is inferred.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform
from agentrl.advantages.statistics import GroupStatistic
from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.registry import advantages

Normaliser = Literal["zscore", "mean_only", "post_scale"]


@advantages.register("wgrpo")
class WeightedGRPO(Transform):
    """S_i = 1 for a correct episode, -`penalty` for a wrong one, then a statistic of the group.

    **A z-score is invariant under affine maps, so under `normaliser="zscore"` (the paper's) the penalty changes
    nothing** and one other than 1 is refused. `mean_only` leaves the std out, `post_scale` multiplies negative z-scores
    by the penalty.
    """

    stage = Stage.ESTIMATE
    min_group_size = 2

    def __init__(
        self, *, penalty: float = 1.0, normaliser: Normaliser = "zscore", ddof: Literal[0, 1] = 1, eps: float = 1e-6
    ) -> None:
        self.normaliser = one_of("normaliser", normaliser, ("zscore", "mean_only", "post_scale"))
        if not penalty > 0:
            raise ConfigError(f"penalty is {penalty!r}; it must be positive")
        if self.normaliser == "zscore" and penalty != 1.0:
            raise ConfigError(
                f"penalty={penalty:g} has no effect on a z-score; choose normaliser mean_only or post_scale"
            )
        self.penalty = penalty
        self.scales = self.normaliser != "mean_only"
        self.statistic = GroupStatistic(leave_one_out=False, scale=self.scales, ddof=ddof, eps=eps)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return [replace(credit, trajectory=credit.trajectory + self._estimate(credit)) for credit in groups]

    def _estimate(self, credit: Credit) -> Array:
        correct = np.array([table.verdict("wgrpo") for table in credit.tables])
        scores = self.statistic.over_trajectories(np.where(correct, 1.0, -self.penalty))
        return np.where(scores < 0, self.penalty * scores, scores) if self.normaliser == "post_scale" else scores
