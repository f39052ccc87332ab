"""The tree of a group's episodes: which turns are one node, which leaves are below it.

A node is a turn that was sampled once; branches that copied it hold it too. Invariant: a leaf is an episode, so the
leaves below a node are the members whose way leads through it; nodes are told by their names, never by their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.advantages.base import Credit, TurnTable

Place = tuple[int, int]
"""(member, turn)."""


def node_names(table: TurnTable, member: int) -> tuple[str, ...]:
    """Nodes of a member's turns; of its own where the table names none."""
    return table.nodes or tuple(f"unnamed {member}.{turn}" for turn in range(table.num_turns))


def leaves_of(tables: Sequence[TurnTable]) -> dict[str, list[Place]]:
    """Node -> where the members hold it, in order of the members: a place for each leaf below the node."""
    places: dict[str, list[Place]] = {}
    for member, table in enumerate(tables):
        for turn, node in enumerate(node_names(table, member)):
            places.setdefault(node, []).append((member, turn))
    return places


def shared_share(groups: Sequence[Credit]) -> float:
    """Share of turns that several leaves hold; 0 without turns."""
    sizes = [len(places) for credit in groups for places in leaves_of(credit.tables).values()]
    return sum(size for size in sizes if size > 1) / max(1, sum(sizes))
