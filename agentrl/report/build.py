"""Build `report.html` and `curve.png` in a run's folder.

Invariants: the page is one file that loads nothing; whatever the run's texts hold, they reach the page as visible,
escaped text; each file is put in place whole, so that a reader never meets half of one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from agentrl.report.data import STAGES, Part, RunData, Steps, endings, load_run, open_store, seconds_account
from agentrl.report.episodes import Comparison, compare
from agentrl.report.page import figure, put_files, render_page
from agentrl.report.table import share_names
from agentrl.text import one_line, visible

REPORT_FILE, CURVE_FILE, TEMPLATE_FILE = "report.html", "curve.png", "report.html.j2"
TABLE_ROWS = 200  # a page with more rows is no longer read; metrics.jsonl has them all
SPARK_POINTS = 240  # more than a small chart has pixels for
SHOWN_SECONDS = 0.05  # less would read as 0.0 s
SPARK_WIDTH, SPARK_HEIGHT = 240, 44
_FIRST = ("reward", "accuracy", "loss", "grad_norm", "clip_fraction", "kl", "entropy", "tokens_per_second", "seconds")
_SETTINGS = {
    "model": "model.name",
    "environment": "env.id",
    "recipe": "recipe",
    "objective": "loss.objective",
    "learning rate": "optimiser.lr",
    "seed": "seed",
}


@dataclass(frozen=True)
class Spark:
    """A metric over the steps as a small chart."""

    name: str
    last: str
    low: str
    high: str
    points: str
    """Points of an SVG polyline in a box of SPARK_WIDTH x SPARK_HEIGHT."""


def build_report(run_folder: Path) -> Path:
    """Write the report of the run in `run_folder`; returns the page's path.

    Reads `store.sqlite` and `config.yaml`, which a running process may be writing. Raises `StoreError` if the folder
    holds no run, `ConfigError` if it cannot be written.
    """
    from agentrl.report.curve import curve_png, curve_svg

    with open_store(run_folder) as store:
        data = load_run(run_folder, store)
        page = render(data, compare(data, store), Markup(curve_svg(data)))
    put_files(run_folder, {CURVE_FILE: curve_png(data), REPORT_FILE: page.encode("utf-8", "replace")})
    return run_folder / REPORT_FILE


def render(data: RunData, comparison: Comparison, curve: Markup) -> str:
    """The page. Everything but `curve`, which holds none of the run's texts, is escaped."""
    account = seconds_account(data)
    moving, still = sparks(data.train)
    return render_page(
        "agentrl.report",
        TEMPLATE_FILE,
        data=data,
        status=_status(data),
        settings=_settings(data),
        evaluations=[found for stage in STAGES if (found := data.evaluation(stage))],
        shares=share_names([evaluation.metrics for evaluation in data.evaluations]),
        gain=_gain(data),
        curve=curve,
        account=account,
        total=sum(part.seconds for part in account),
        details=[_details(part) for part in account if part.details],
        endings=endings(data),
        sparks=[spark for spark in moving if "/" not in spark.name],
        more_sparks=[spark for spark in moving if "/" in spark.name],
        constants=still,
        names=_names(data.train),
        rows=_thinned(data.train, TABLE_ROWS),
        comparison=comparison,
        config=visible(data.config_text),
        built=time.strftime("%Y-%m-%d %H:%M"),
    )


def sparks(steps: Steps) -> tuple[list[Spark], list[tuple[str, str]]]:
    """Small charts of the metrics that change, and name and value of those that never do."""
    moving: list[Spark] = []
    still: list[tuple[str, str]] = []
    for name in _names(steps):
        known = [(step, metrics[name]) for step, metrics in steps if math.isfinite(metrics.get(name, math.nan))]
        if not known:
            continue
        values = [value for _, value in known]
        low, high = min(values), max(values)
        if low == high and len(known) == len(steps):
            still.append((one_line(name), figure(low)))
        else:
            points = _points(_thinned(known, SPARK_POINTS), low, high)
            moving.append(Spark(one_line(name), figure(values[-1]), figure(low), figure(high), points))
    return moving, still


def _points(known: list[tuple[int, float]], low: float, high: float) -> str:
    first, last = known[0][0], known[-1][0]
    span = high / 2 - low / 2  # halves, because the difference of two floats may be infinite
    return " ".join(
        f"{SPARK_WIDTH * (step - first) / max(1, last - first):.1f},"
        f"{SPARK_HEIGHT - 3 - (SPARK_HEIGHT - 6) * ((value / 2 - low / 2) / span if span else 0.5):.1f}"
        for step, value in known
    )


def _details(part: Part) -> tuple[str, list[tuple[str, float]]]:
    """A part's name and what lies within it, the largest first."""
    within = sorted(part.details.items(), key=lambda entry: -entry[1])
    return one_line(part.name), [(one_line(name), seconds) for name, seconds in within if seconds >= SHOWN_SECONDS]


def _thinned(items: list[Any], limit: int) -> list[Any]:
    """At most `limit` of the items, evenly spread, first and last among them."""
    if len(items) <= limit:
        return items
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def _names(steps: Steps) -> list[str]:
    found = {name for _, metrics in steps for name in metrics}
    return [name for name in _FIRST if name in found] + sorted(found - set(_FIRST))


def _status(data: RunData) -> str:
    of = "" if data.planned is None else f" of {data.planned}"
    return f"step {data.last_step}{of}"


def _settings(data: RunData) -> list[tuple[str, str]]:
    found = [(label, data.setting(key)) for label, key in _SETTINGS.items()]
    return [(label, one_line(_plain(value))) for label, value in found if value is not None]


def _plain(value: Any) -> str:
    return str(value.get("name", value)) if isinstance(value, dict) else str(value)


def _gain(data: RunData) -> float | None:
    """Points of held-out accuracy that training added to what it started from."""
    trained = data.evaluation("trained")
    start = data.evaluation("warm_start") or data.evaluation("base")
    if trained is None or start is None:
        return None
    gain = 100 * (trained.metrics.get("accuracy", math.nan) - start.metrics.get("accuracy", math.nan))
    return gain if math.isfinite(gain) else None
