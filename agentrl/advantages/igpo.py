"""IGPO: a turn is worth how much it raised the policy's own probability of the right answer (T6).

p_{i,t} is the probability of the gold answer where turn t begins, scored by the learner and never trained on (need
`answer_probability`). A turn's gain is p after what the environment answered to it minus p before; the last turn has
the outcome instead. Invariant: gains of a trajectory add up to its last p minus its first; a group in which every
outcome and every gain is the same gets exactly 0.
Bias: the mean of the pool includes the value itself, and sums of z-scores are of different length for trajectories of
different length: with one pool whose mean is above 0 a turn without gain is charged.

Source: arXiv 2510.14967 (formulas as quoted in a review) and GuoqingWang1/IGPO `info_gain.py` for the gain; the pooled,
discounted advantage from text and memory. (The repository's baseline at equal token indices is not followed.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from agentrl import needs
from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.advantages.statistics import GroupStatistic
from agentrl.advantages.turn_returns import discounted_returns
from agentrl.components import one_of
from agentrl.errors import ConfigError, TrainingError
from agentrl.registry import advantages


@advantages.register("igpo")
class IGPO(Transform):
    """A_{i,t} = sum_{s >= t} gamma^(s-t) z_{i,s}; z: r_{i,s} in units of the pool of all turns of the group.

    r_{i,t} is the turn's own reward plus its gain p_{i,t+1} - p_{i,t}, and in the last turn its reward alone. Needs
    tasks with a gold answer (`gold` of the environment). Metrics: `gain`, the mean gain; `answer_probability`, the mean
    p where the first turn begins.
    """

    stage = Stage.ESTIMATE
    min_group_size = 2
    scales = True

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        pool: Literal["all", "gains"] = "all",
        closing: str = "<answer>",
        eps: float = 1e-6,
    ) -> None:
        """Options.

        `pool`: one mean and std for `all` r of the group, or one for the `gains` and one for the outcomes, whose scales
        differ. `closing`: what the policy would write between the beginning of a turn and the answer: it closes the
        thinking, if there is any, and opens the answer as the environment's answer format asks.
        """
        if not 0.0 <= gamma <= 1.0:
            raise ConfigError(f"gamma is {gamma!r}; it must lie between 0 and 1")
        self.gamma = gamma
        self.separate = one_of("pool", pool, ("all", "gains")) == "gains"
        self.statistic = GroupStatistic(leave_one_out=False, scale=True, eps=eps)
        self.need = needs.need("answer_probability", closing=closing)
        self.needs = frozenset({self.need})

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        probabilities = [[self._probabilities(table) for table in credit.tables] for credit in groups]
        each = [p for group in probabilities for p in group if len(p)]
        gains = np.concatenate([np.zeros(0), *(np.diff(p) for p in each)])
        self.metrics = {
            "gain": float(gains.mean()) if len(gains) else 0.0,
            "answer_probability": float(np.mean([p[0] for p in each])) if each else 0.0,
        }
        return [self._estimate(credit, group) for credit, group in zip(groups, probabilities, strict=True)]

    def _estimate(self, credit: Credit, probabilities: list[Array]) -> Credit:
        if len(credit.tables) == 1:  # a group of one has no peers: its own turns are none
            return credit
        pairs = zip(credit.tables, probabilities, strict=True)
        scores = self._scores([table.turn_rewards + _gains(p) for table, p in pairs])
        turns = tuple(
            old + discounted_returns(score, self.gamma) for old, score in zip(credit.turns, scores, strict=True)
        )
        return replace(credit, turns=turns)

    def _scores(self, rewards: list[Array]) -> list[Array]:
        """z of every turn, G arrays of shape (T_i,)."""
        if not self.separate:
            return self.statistic.over_pool(rewards)
        gains = self.statistic.over_pool([own[:-1] for own in rewards])
        outcomes = self.statistic.over_pool([own[-1:] for own in rewards])
        return [np.concatenate(both) for both in zip(gains, outcomes, strict=True)]

    def _probabilities(self, table: TurnTable) -> Array:
        """p where each turn begins, shape (T_i,)."""
        column = table.column(self.need).reshape(-1)
        if len(column) != table.num_turns:
            raise TrainingError(
                f"task {table.task_id!r}: {len(column)} probabilities of the answer for {table.num_turns} turns"
            )
        return column


def _gains(probabilities: Array) -> Array:
    """What each turn added to p, shape (T_i,); 0 for the last one."""
    return np.append(np.diff(probabilities), 0.0) if len(probabilities) else probabilities
