"""Credit from a tree of rollouts: comparison within trees, and values of nodes as means over their leaves (T5).

Trees come from the rollout strategy `branch`; without branches every episode is a tree of one leaf. Invariants: a turn
that several leaves hold has one value; where nothing branches, differences of values are exactly 0.
Sources: Tree-GRPO, arXiv 2509.21240 and AMAP-ML/Tree-GRPO (verified in code); TreeRL, arXiv 2506.11902 (its formula as
a variant in that code, the original from memory).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from math import sqrt
from typing import Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform
from agentrl.advantages.nodes import leaves_of, node_names, shared_share
from agentrl.advantages.statistics import GroupStatistic
from agentrl.components import one_of
from agentrl.registry import advantages


@advantages.register("tree_grpo")
class TreeGRPO(Transform):
    """A_i = z-score of R_i within its tree + z-score within all leaves of the task.

    A tree is what grew from one first turn. A tree of one leaf has no comparison within: 0 (the repository's code gives
    it its reward). Where all leaves are of one tree both z-scores are the same and count once. Every leaf is trained on
    as a whole trajectory. Metrics: `shared_turns`; `lone_trees`, the share of leaves that are alone in their tree.
    """

    stage = Stage.ESTIMATE
    min_group_size = 2
    scales = True

    def __init__(self, *, ddof: Literal[0, 1] = 1, eps: float = 1e-6) -> None:
        """`ddof` and `eps`: of both stds."""
        self.statistic = GroupStatistic(leave_one_out=False, scale=True, ddof=ddof, eps=eps)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        roots = [_roots(credit) for credit in groups]
        lone = [root.count(name) == 1 for root in roots for name in root]
        self.metrics = {"shared_turns": shared_share(groups), "lone_trees": sum(lone) / max(1, len(lone))}
        return [
            replace(credit, trajectory=credit.trajectory + self._estimate(credit.rewards, root))
            for credit, root in zip(groups, roots, strict=True)
        ]

    def _estimate(self, rewards: Array, roots: list[str]) -> Array:
        across = self.statistic.over_trajectories(rewards)
        if len(set(roots)) == 1:
            return across
        return across + self.statistic.over_states([rewards], [roots])[0]


def _roots(credit: Credit) -> list[str]:
    """The tree of each member: its first node; an episode without turns is a tree of its own."""
    return [next(iter(node_names(table, i)), f"empty {i}") for i, table in enumerate(credit.tables)]


class _NodeValues(Transform):
    """Adds a function of V to each turn, V(node) being the mean R_i of the leaves below; V(root): of the group's."""

    stage = Stage.ESTIMATE
    min_group_size = 2

    def __init__(self, shared: str) -> None:
        self.once = one_of("shared", shared, ("once", "every_leaf")) == "once"
        self.statistic = GroupStatistic(leave_one_out=False, scale=False)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        self.metrics = {"shared_turns": shared_share(groups)}
        return [self._estimate(credit) for credit in groups]

    @abstractmethod
    def advantage(self, value: float, parent: float, leaves: int) -> float:
        """A of a node with `leaves` leaves below it, from its V - V(root) and its parent's."""

    def _estimate(self, credit: Credit) -> Credit:
        residuals = self.statistic.over_trajectories(credit.rewards)
        places = leaves_of(credit.tables)
        values = {node: float(residuals[[member for member, _ in held]].mean()) for node, held in places.items()}
        turns = [turns.copy() for turns in credit.turns]
        for member, table in enumerate(credit.tables):
            parent = 0.0
            for turn, node in enumerate(node_names(table, member)):
                turns[member][turn] += self.advantage(values[node], parent, len(places[node]))
                parent = values[node]
        credited = replace(credit, turns=tuple(turns))
        return _each_once(credited) if self.once else credited


def _each_once(credit: Credit) -> Credit:
    """All but the first kept copy of each node carry no loss; the denominators keep them."""
    copies = [np.zeros(table.num_turns, dtype=np.bool_) for table in credit.tables]
    for held in leaves_of(credit.tables).values():
        kept = next((place for place in held if place[0] not in credit.dropped), None)
        for member, turn in held:
            copies[member][turn] = (member, turn) != kept
    for member, copied in enumerate(copies):
        if copied.any():
            credit = credit.with_mask(member, np.repeat(copied, credit.tables[member].lengths))
    return credit


@advantages.register("tree_rl")
class TreeRL(_NodeValues):
    """A(n) = [(V(n) - V(root)) + (V(n) - V(parent))] / sqrt(leaves below n), on the node's own tokens, each node once.

    `shared="every_leaf"` trains a shared turn in each of its leaves instead.
    """

    def __init__(self, *, shared: Literal["once", "every_leaf"] = "once") -> None:
        """`once`: the copies of a shared turn carry no loss, though the denominators count them."""
        super().__init__(shared)

    def advantage(self, value: float, parent: float, leaves: int) -> float:
        return (value + (value - parent)) / sqrt(leaves)


@advantages.register("value_difference")
class ValueDifference(_NodeValues):
    """A(n) = V(n) - V(parent): adds up along a path to R_leaf - V(root), and is 0 below the last branching.

    So it is of use for branched rollouts only: of independent episodes the first turn alone gets credit (`shared_turns`
    is then 0). `shared="every_leaf"` weighs a shared turn by its leaves, as the gradient of the mean reward does.
    """

    def __init__(self, *, shared: Literal["once", "every_leaf"] = "every_leaf") -> None:
        """`once`: the copies of a shared turn carry no loss, though the denominators count them."""
        super().__init__(shared)

    def advantage(self, value: float, parent: float, leaves: int) -> float:
        return value - parent
