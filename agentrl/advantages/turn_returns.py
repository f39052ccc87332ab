"""Turn-level credit: the discounted return of each turn minus the mean return of the other members at that turn (T7).

Every policy token of a turn gets the turn's number. Invariant: the baseline of (i, t) does not depend on trajectory i,
so the policy gradient is unbiased under every peer rule; a turn without a contributing peer has baseline 0.
Source: ROLL `compute_discounted_returns`, `step_reinforce`; peer rules: methods specification, T1.4 and T7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform
from agentrl.advantages.statistics import GroupStatistic, PeerRule, Singleton, is_equal
from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.registry import advantages


def discounted_returns(rewards: Array, gamma: float) -> Array:
    """G_t = sum_{s >= t} gamma^(s-t) r_s of one trajectory, shape (T,); gamma discounts a turn, not a token."""
    returns = np.zeros(len(rewards))
    following = 0.0
    for turn in reversed(range(len(rewards))):
        following = float(rewards[turn]) + gamma * following
        returns[turn] = following
    return returns


@advantages.register("turn_loo")
class TurnLeaveOneOut(Transform):
    """A_{i,t} = G_{i,t} - mean over j != i of what peer j contributes at turn t.

    A trajectory that stopped early still is a peer at later turns by `peers`. With negative rewards a step and
    `peers="alive"` early stopping becomes attractive: check the optimum of the shaped reward.
    """

    stage = Stage.ESTIMATE

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        peers: PeerRule | str = PeerRule.PAD_FINAL,
        batch_std: bool = False,
        eps: float = 1e-6,
        singleton: Singleton = "zero",
    ) -> None:
        """Options.

        `peers`: alive, pad_zero, pad_final, episode (a peer's return from its first turn) or none (no baseline).
        `batch_std`: divide by one number for the whole batch, the std (ddof 1) of all turns' advantages plus `eps`.
        `singleton`: what a group of one gets, 0 or its returns; `peers="none"` compares with nobody and is exempt.
        """
        self.scales = batch_std
        if not 0.0 <= gamma <= 1.0:
            raise ConfigError(f"gamma is {gamma!r}; it must lie between 0 and 1")
        self.gamma = gamma
        self.peers = PeerRule(one_of("peers", str(peers), [rule.value for rule in PeerRule]))
        self.batch_std = batch_std
        # Within a larger group a turn without a contributing peer has baseline 0 and keeps its return: "raw".
        self.statistic = GroupStatistic(leave_one_out=True, scale=False, eps=eps, singleton="raw")
        lone = one_of("singleton", singleton, ("zero", "raw"))
        self.keeps_lone_group = lone == "raw" or self.peers is PeerRule.NONE
        self.min_group_size = 1 if self.keeps_lone_group else 2

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        estimates = [self._estimate(credit) for credit in groups]
        scale = self._scale(estimates) if self.batch_std else 1.0
        return [
            replace(credit, turns=tuple(old + new / scale for old, new in zip(credit.turns, estimate, strict=True)))
            for credit, estimate in zip(groups, estimates, strict=True)
        ]

    def _estimate(self, credit: Credit) -> list[Array]:
        returns = [discounted_returns(table.turn_rewards, self.gamma) for table in credit.tables]
        if len(returns) == 1 and not self.keeps_lone_group:
            return [np.zeros_like(member) for member in returns]
        return self.statistic.over_turns(returns, self.peers)

    def _scale(self, estimates: Sequence[Sequence[Array]]) -> float:
        """Std + eps over every turn of the batch; 1 if they are all equal, where a std would only magnify noise."""
        pooled = np.concatenate([turns for estimate in estimates for turns in estimate] or [np.zeros(0)])
        if len(pooled) < 2 or is_equal(pooled.mean(), std := pooled.std(ddof=1)):
            return 1.0
        return float(std) + self.statistic.eps
