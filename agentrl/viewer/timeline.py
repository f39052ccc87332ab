"""Where the seconds of one episode went, turn after turn, as a strip of coloured stretches.

Invariant: the stretches sum to the episode's seconds. The record has seconds by stage and turn, not instants: within a
turn the stretches stand in the order of `agentrl.account.STAGES`, which is roughly that in which they happen; what
belongs to no turn stands at the end, and what no stage claims is idle.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.account import MEANING, STAGES
from agentrl.trajectory import Trajectory

WIDTH = 1000.0  # units of the drawing
THINNEST = 0.4  # units; thinner stretches are not drawn (they still count in the table)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Seconds of one stage in one turn (None: of no turn), placed on the strip."""

    turn: int | None
    stage: str
    seconds: float
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Lap:
    """All of a turn."""

    turn: int
    seconds: float
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class StageSum:
    """A stage over the whole episode."""

    stage: str
    seconds: float
    share: float
    meaning: str


@dataclass(frozen=True)
class Timeline:
    """The strip and its table."""

    seconds: float
    stretches: list[Stretch]
    laps: list[Lap]
    sums: list[StageSum]


def timeline_of(trajectory: Trajectory) -> Timeline | None:
    """None where the episode took no time or none was recorded."""
    parts = [(index, turn.timings) for index, turn in enumerate(trajectory.turns)]
    rows: list[tuple[int | None, str, float]] = [
        (index, stage, timings[stage])
        for index, timings in [*parts, (None, trajectory.timings)]
        for stage in STAGES
        if timings.get(stage, 0.0) > 0
    ]
    claimed = sum(seconds for _, _, seconds in rows)
    total = trajectory.seconds
    if not total > 0 or total == float("inf"):
        return None
    scale = min(1.0, total / claimed) if claimed else 1.0
    rows = [(index, stage, seconds * scale) for index, stage, seconds in rows]
    rows.append((None, "idle", max(0.0, total - claimed * scale)))
    return _placed(rows, total)


def _placed(rows: list[tuple[int | None, str, float]], total: float) -> Timeline:
    stretches: list[Stretch] = []
    spans: dict[int, list[float]] = {}
    sums = dict.fromkeys(STAGES, 0.0)
    at = 0.0
    for turn, stage, seconds in rows:
        x, width = WIDTH * at / total, WIDTH * seconds / total
        if width >= THINNEST:
            stretches.append(Stretch(turn, stage, seconds, round(x, 2), round(width, 2)))
        if turn is not None:
            spans.setdefault(turn, [at, 0.0])[1] += seconds
        sums[stage] += seconds
        at += seconds
    laps = [
        Lap(turn, seconds, round(WIDTH * begin / total, 2), round(WIDTH * seconds / total, 2))
        for turn, (begin, seconds) in spans.items()
    ]
    shown = [
        StageSum(stage, seconds, seconds / total, MEANING[stage]) for stage, seconds in sums.items() if seconds > 0
    ]
    return Timeline(total, stretches, laps, sorted(shown, key=lambda entry: -entry.seconds))
