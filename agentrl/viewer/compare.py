"""Several runs beside one another: the last value of every metric, and where their configurations differ.

Invariant: runs stand in the order in which they were chosen, everywhere on the page; a key that a configuration does
not have is shown as absent, which is not the same as empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.viewer.overview import BOUNDS
from agentrl.viewer.runs import Runs, RunView

MOST_RUNS = 10  # more colours than that nobody tells apart
_NAMES = frozenset({"name", "out"})  # every run has its own; they explain nothing


@dataclass(frozen=True)
class MetricRow:
    """A metric's last value in each run, None where a run has none."""

    phase: str
    name: str
    values: list[float | None]


@dataclass(frozen=True)
class SettingRow:
    """A key whose value is not the same everywhere; None where a run has no such key."""

    key: str
    values: list[str | None]


def metric_rows(runs: Runs, views: Sequence[RunView]) -> list[MetricRow]:
    """Every metric of every phase that any of the runs has, without the ends of intervals."""
    last = [_last(runs, view) for view in views]
    keys = dict.fromkeys(key for found in last for key in found)
    bounds = {(phase, f"{name}{end}") for phase, name in keys for end in BOUNDS}
    shown = [key for key in keys if key not in bounds]
    return [MetricRow(phase, name, [found.get((phase, name)) for found in last]) for phase, name in shown]


def _last(runs: Runs, view: RunView) -> dict[tuple[str, str], float]:
    """Last metrics by phase and name; of a phase without any, the share of correct episodes."""
    found: dict[tuple[str, str], float] = {}
    outcomes = runs.outcomes(view) if view.run.kind != "train" else {}
    for phase in view.phases:
        steps, outcome = runs.metrics(view, phase), outcomes.get(phase.phase)
        if steps:
            found |= {(phase.phase, name): value for name, value in steps[-1][1].items()}
        elif outcome is not None and outcome.accuracy is not None:
            found[phase.phase, "correct"] = outcome.accuracy
    return found


def setting_rows(views: Sequence[RunView]) -> list[SettingRow]:
    """Configuration keys that differ, in the order in which they stand; an evaluation's model, which no suite names."""
    flat = [_settings(view) for view in views]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = [SettingRow(key, [settings.get(key) for settings in flat]) for key in keys if key not in _NAMES]
    return [row for row in rows if len(set(row.values)) > 1]


def _settings(view: RunView) -> dict[str, str]:
    played = {"model": json.dumps(view.model, ensure_ascii=False)} if view.run.kind == "eval" and view.model else {}
    return played | dict(flattened(view.config))


def flattened(tree: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """`(dotted key, value as JSON)` of every leaf; lists are leaves."""
    for key, value in tree.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{name}.")
        else:
            yield name, json.dumps(value, ensure_ascii=False, default=str)
