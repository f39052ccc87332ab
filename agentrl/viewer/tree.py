"""The tree of a group whose members branched off one another, as a drawing: a line a member, a dot a turn.

Invariant: a member stands below its parent and begins at the turn after which it branched off; a parent that is not in
the store leaves its children at the left edge of their own turns, joined to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.store import EpisodeRecord
from agentrl.trajectory import Branch

STEP, ROW, LEFT, TOP = 44, 34, 74, 26  # units of the drawing: between turns, between members, margins
MOST_TURNS = 400


@dataclass(frozen=True, slots=True)
class Dot:
    """A turn of a member's own."""

    turn: int
    x: int


@dataclass(frozen=True, slots=True)
class Branchlet:
    """A member of the group on its line."""

    id: int
    member: int
    y: int
    start: int
    """Where its own turns begin, drawing units."""
    end: int
    join: int | None
    """Height of its parent's line; None for a root."""
    dots: list[Dot]
    verdict: str
    reward: float
    chosen: bool


@dataclass(frozen=True)
class Tree:
    """The drawing."""

    width: int
    height: int
    members: list[Branchlet]
    columns: list[Dot]
    """Numbers of turns over the drawing."""


def tree_of(records: Sequence[EpisodeRecord], chosen: int) -> Tree | None:
    """The tree of a group; None where nobody branched off anybody."""
    by_member = {record.member: record for record in records}
    children: dict[int | None, list[int]] = {}
    for member, record in sorted(by_member.items()):
        branch = record.trajectory.branch
        parent = branch.parent if branch is not None and branch.parent in by_member else None
        children.setdefault(parent, []).append(member)
    if not any(record.trajectory.branch for record in records):
        return None
    lines: list[Branchlet] = []
    heights: dict[int, int] = {}
    waiting = list(reversed(children.get(None, [])))
    while waiting:
        member = waiting.pop()
        heights[member] = TOP + ROW * len(lines) + ROW // 2
        lines.append(_line(by_member[member], heights, by_member, chosen))
        waiting += reversed(children.get(member, []))
    turns = min(MOST_TURNS, max((record.turns for record in records), default=0))
    columns = [Dot(turn, _x(turn)) for turn in range(turns)]
    return Tree(LEFT + STEP * max(1, turns) + 90, TOP + ROW * len(lines) + 6, lines, columns)


def _owner(member: int, turn: int, by_member: dict[int, EpisodeRecord]) -> int:
    """The member whose own turn that is: a branch of a branch may have left before its parent's own turns begin."""
    seen: set[int] = set()
    while member not in seen:
        seen.add(member)
        branch = by_member[member].trajectory.branch
        if branch is None or turn >= branch.turns or branch.parent not in by_member:
            break
        member = branch.parent
    return member


def _line(
    record: EpisodeRecord, heights: dict[int, int], by_member: dict[int, EpisodeRecord], chosen: int
) -> Branchlet:
    branch = record.trajectory.branch
    first = branch.turns if branch is not None else 0
    last = min(record.turns, MOST_TURNS)
    return Branchlet(
        id=record.id,
        member=record.member,
        y=heights[record.member],
        start=_x(first - 1) if branch is not None else _x(0),
        end=_x(max(first, last - 1)),
        join=_join(branch, heights, by_member),
        dots=[Dot(turn, _x(turn)) for turn in range(first, last)],
        verdict="none" if record.correct is None else "correct" if record.correct else "wrong",
        reward=record.reward,
        chosen=record.id == chosen,
    )


def _join(branch: Branch | None, heights: dict[int, int], by_member: dict[int, EpisodeRecord]) -> int | None:
    if branch is None or branch.parent not in by_member:
        return None
    return heights.get(_owner(branch.parent, branch.turns - 1, by_member))


def _x(turn: int) -> int:
    return LEFT + STEP * turn + STEP // 2
