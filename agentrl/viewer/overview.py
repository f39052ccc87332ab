"""What the page of a run says before its curves: how its evaluations ended.

Invariant: an accuracy is the one that the run logged, with its interval, where it logged one; else the share of correct
episodes among those with a verdict, and the page says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.viewer.runs import EVALUATIONS, Outcome

ON_THE_WAY = f"{EVALUATIONS}step"
BOUNDS = ("_low", "_high")
"""What the ends of a metric's interval add to its name."""


@dataclass(frozen=True)
class Tile:
    """Accuracy of one evaluation."""

    phase: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def name(self) -> str:
        return "last on the way" if self.phase == ON_THE_WAY else self.phase.removeprefix(EVALUATIONS)


def tiles_of(evaluations: Mapping[str, Mapping[str, float]], outcomes: Mapping[str, Outcome]) -> list[Tile]:
    """A tile for each evaluation that has an accuracy."""
    phases = [phase for phase in dict.fromkeys((*evaluations, *outcomes)) if phase.startswith(EVALUATIONS)]
    found = (_tile(phase, evaluations.get(phase, {}), outcomes.get(phase)) for phase in phases)
    return [tile for tile in found if tile is not None]


def metric_names(evaluations: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Names of what was logged, without the ends of intervals: they stand with what they bound."""
    names = dict.fromkeys(name for metrics in evaluations.values() for name in metrics)
    return [name for name in names if not any(name.endswith(end) and name.removesuffix(end) in names for end in BOUNDS)]


def _tile(phase: str, metrics: Mapping[str, float], outcome: Outcome | None) -> Tile | None:
    value = metrics.get("accuracy")
    if value is not None and 0 <= value <= 1:
        low, high = (metrics.get(f"accuracy{end}") for end in BOUNDS)
        both = low is not None and high is not None and 0 <= low <= high <= 1
        return Tile(phase, value, low, high) if both else Tile(phase, value, note="accuracy")
    if outcome is None or outcome.accuracy is None:
        return None
    judged = outcome.correct + outcome.wrong
    late = f"; {outcome.timed_out:,} timed out" if outcome.timed_out else ""
    return Tile(phase, outcome.accuracy, note=f"{outcome.correct:,} of {judged:,} with a verdict{late}")
