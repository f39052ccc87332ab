"""GiGPO: the episode's advantage, and beside it that of a turn among the turns that began in the same state (T3).

Turns of one group with equal state keys form an anchor group; their discounted returns are compared with one another,
so that a detour and the short way from one state are told apart even if both episodes succeed. Invariant: turns of two
groups are never compared; a state that was visited once adds exactly 0.
Bias: both baselines include the value itself, and one trajectory may stand in an anchor group several times.

Source: arXiv 2505.10978, verl-agent `core_gigpo.py`; ROLL `pipeline/agentic/utils.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.advantages.statistics import GroupStatistic
from agentrl.advantages.turn_returns import discounted_returns
from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.registry import advantages

ALARM = 1.2
"""Mean size of an anchor group below which the keys are too fine to be of use."""

_log = logging.getLogger(__name__)


@advantages.register("gigpo")
class GiGPO(Transform):
    """A_{i,t} = A^E_i + omega A^S_{i,t}.

    A^E: R_i (the undiscounted total) minus the group's mean. A^S: the return G_{i,t}, discounted by `gamma` a turn,
    minus the mean of its anchor group. Needs environments that give a state key: the observation before the action,
    without a step counter or the history (bundled tool environments: the task and all tool results so far).
    Metrics: `cluster_size`, the mean size of an anchor group; below 1.2 it is said in the log.
    """

    stage = Stage.ESTIMATE
    min_group_size = 2

    def __init__(
        self,
        *,
        omega: float = 1.0,
        gamma: float = 0.95,
        std: bool = False,
        unit: Literal["trajectory", "turn"] = "trajectory",
        similarity: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        """Options.

        `std`: divide both parts by the std + `eps` of what they are compared with (two values then differ by a fixed
        amount, however small their difference). `unit`: what counts once in the mean of A^E; `turn` is the public
        code's, where an episode of T turns counts T times. `similarity`: state keys are texts of which one belongs to
        the first cluster whose first key is so similar to it (`difflib` ratio, 0 to 1); None: equal keys only. The
        bundled environments' keys are digests, among which similarity says nothing.
        """
        if not 0.0 <= gamma <= 1.0:
            raise ConfigError(f"gamma is {gamma!r}; it must lie between 0 and 1")
        if similarity is not None and not 0.0 < similarity <= 1.0:
            raise ConfigError(f"similarity is {similarity!r}; it must lie above 0 and be at most 1")
        self.omega, self.gamma, self.similarity = omega, gamma, similarity
        self.unit = one_of("unit", unit, ("trajectory", "turn"))
        self.scales = std
        self.statistic = GroupStatistic(leave_one_out=False, scale=std, eps=eps)
        self._warned = False

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        clusters = [self._clusters(credit.tables) for credit in groups]
        self._measure(clusters)
        return [self._estimate(credit, keys) for credit, keys in zip(groups, clusters, strict=True)]

    def _estimate(self, credit: Credit, keys: list[list[Hashable | None]]) -> Credit:
        if len(credit.tables) == 1:  # a group of one has no peers: its own other visits are none
            return credit
        returns = [discounted_returns(table.turn_rewards, self.gamma) for table in credit.tables]
        anchored = self.statistic.over_states(returns, keys)
        return replace(
            credit,
            trajectory=credit.trajectory + self._episodes(credit),
            turns=tuple(old + self.omega * new for old, new in zip(credit.turns, anchored, strict=True)),
        )

    def _episodes(self, credit: Credit) -> Array:
        """A^E, shape (G,)."""
        if self.unit == "trajectory":
            return self.statistic.over_trajectories(credit.rewards)
        rows = [np.full(table.num_turns, table.total) for table in credit.tables]
        return np.array([row[0] if len(row) else 0.0 for row in self.statistic.over_pool(rows)])

    def _clusters(self, tables: Sequence[TurnTable]) -> list[list[Hashable | None]]:
        """The cluster of each turn, None where there is no state key: G lists of T_i."""
        keys = [table.state_keys or (None,) * table.num_turns for table in tables]
        if self.similarity is None:
            return [list(member) for member in keys]
        firsts: list[str] = []
        return [[None if key is None else self._cluster(key, firsts) for key in member] for member in keys]

    def _cluster(self, key: str, firsts: list[str]) -> int:
        """Index of the first cluster that `key` is similar enough to, a new one if there is none."""
        assert self.similarity is not None
        for index, first in enumerate(firsts):
            matcher = SequenceMatcher(None, key, first)
            if key == first or (matcher.quick_ratio() >= self.similarity and matcher.ratio() >= self.similarity):
                return index
        firsts.append(key)
        return len(firsts) - 1

    def _measure(self, clusters: Sequence[list[list[Hashable | None]]]) -> None:
        turns = sum(len(member) for group in clusters for member in group)
        anchors = sum(_number_of_clusters(group) for group in clusters)
        size = turns / anchors if anchors else 0.0
        self.metrics = {"cluster_size": size}
        if 0 < size < ALARM and not self._warned:
            self._warned = True
            _log.warning(
                "gigpo: anchor groups have %.2f turns in the mean, so nearly every state is unique: the environment "
                "gives no state keys, or keys with a step counter, a clock or the history",
                size,
            )


def _number_of_clusters(group: Sequence[Sequence[Hashable | None]]) -> int:
    keys = [key for member in group for key in member]
    return len({key for key in keys if key is not None}) + sum(key is None for key in keys)
