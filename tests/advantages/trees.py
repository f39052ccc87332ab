"""Exact expectations for branched rollouts: every forest whose trees share their first turn, with its probability.

A tree is one first turn and `leaves` independent ways to go on from there; where the first turn ended the episode, the
tree is that one episode. Invariant: members of a tree name the shared turn by one node, so a transform sees what
`tables_of` would show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from agentrl.advantages import Transform, TurnTable, attribute
from tests.advantages.processes import Episode, Moments, Process, Weigh, estimate, sequence_mean

Tree = tuple[Episode, ...]


def trees(process: Process, leaves: int) -> list[tuple[float, Tree]]:
    """Every tree of up to `leaves` episodes and its probability; the order of the leaves counts."""
    shared: dict[object, list[Episode]] = defaultdict(list)
    for episode in process.episodes:
        shared[episode.path[: episode.table.lengths[0]]].append(episode)
    result: list[tuple[float, Tree]] = []
    for members in shared.values():
        start = sum(episode.probability for episode in members)
        for chosen in product(members, repeat=1 if members[0].table.num_turns == 1 else leaves):
            result.append((start * prod(episode.probability / start for episode in chosen), chosen))
    return result


def tables(forest: Sequence[Tree]) -> list[TurnTable]:
    """The members' tables, tree by tree: turn 0 of a tree is its node `<tree>`, later turns are each leaf's own."""
    members = []
    for number, tree in enumerate(forest):
        for leaf, episode in enumerate(tree):
            own = tuple(f"{number}.{leaf}.{turn}" for turn in range(1, episode.table.num_turns))
            members.append(replace(episode.table, nodes=(str(number), *own)))
    return members


def forests(process: Process, roots: int, leaves: int) -> Iterator[tuple[float, tuple[Tree, ...]]]:
    """Every group of `roots` trees and its probability."""
    for chosen in product(trees(process, leaves), repeat=roots):
        yield prod(weight for weight, _ in chosen), tuple(tree for _, tree in chosen)


def tree_moments(
    process: Process,
    transforms: Sequence[Transform],
    roots: int,
    leaves: int,
    *,
    weigh: Weigh = sequence_mean,
) -> Moments:
    """Mean and variance of the gradient estimate in which every leaf is trained on as a whole episode."""
    result = Moments(len(process.parameters))
    for weight, forest in forests(process, roots, leaves):
        credits = attribute(transforms, [tables(forest)])
        result.add(weight, estimate([[episode for tree in forest for episode in tree]], credits, weigh))
    return result
