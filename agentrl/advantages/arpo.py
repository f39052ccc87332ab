"""ARPO's attribution over branched rollouts: GRPO over the leaves, with shared turns soft or hard (T4, 56).

Turns that branches have in common are one node (`TurnTable.nodes`, by which leaf was copied from which, never by equal
tokens). A copied turn stands in every leaf that holds it and is trained on in each of them. Invariant: with equal
weights a token (`token_mean`, sums) and no active clip, hard and soft give the same gradient; they differ where the
clip acts (soft clips members of both signs apart) or a reduction divides by a trajectory's length.

Source: arXiv 2507.19849; soft is what dongguanting/ARPO runs (`adv_estimator=grpo`), hard is from the paper's text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from agentrl.advantages.base import Credit, Stage, Transform
from agentrl.advantages.nodes import leaves_of, shared_share
from agentrl.advantages.statistics import GroupStatistic
from agentrl.components import one_of
from agentrl.registry import advantages


@advantages.register("arpo")
class ARPO(Transform):
    """A_i = (R_i - mean) / (std + eps) over the leaves of a task.

    `soft`: every leaf is an ordinary trajectory. `hard`: a turn that the leaves S share gets the mean of their A_i, a
    turn of one leaf its A_i. Metrics: `shared_turns`, the share of turns that several leaves hold.
    """

    stage = Stage.ESTIMATE
    min_group_size = 2
    scales = True

    def __init__(
        self, *, attribution: Literal["soft", "hard"] = "soft", ddof: Literal[0, 1] = 1, eps: float = 1e-6
    ) -> None:
        """`ddof` and `eps`: of the group's std."""
        self.hard = one_of("attribution", attribution, ("soft", "hard")) == "hard"
        self.statistic = GroupStatistic(leave_one_out=False, scale=True, ddof=ddof, eps=eps)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        self.metrics = {"shared_turns": shared_share(groups)}
        return [self._estimate(credit) for credit in groups]

    def _estimate(self, credit: Credit) -> Credit:
        scores = self.statistic.over_trajectories(credit.rewards)
        if not self.hard:
            return replace(credit, trajectory=credit.trajectory + scores)
        turns = [turns.copy() for turns in credit.turns]
        for places in leaves_of(credit.tables).values():
            mean = scores[[member for member, _ in places]].mean()
            for member, turn in places:
                turns[member][turn] += mean
        return replace(credit, turns=tuple(turns))
