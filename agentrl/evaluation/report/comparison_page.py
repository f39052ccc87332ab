"""The page of a comparison: two evaluations side by side, one file that loads nothing.

Invariant: as for an evaluation's page, episodes come through `agentrl.report.episodes` and everything is escaped; which
tasks are shown follows from the comparison alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from markupsafe import Markup

from agentrl.errors import ConfigError
from agentrl.evaluation.report.comparison import comparison_of
from agentrl.evaluation.report.comparison_schema import ComparedEntry, ComparisonReport, Flip
from agentrl.evaluation.report.plots import curves_svg, histogram_svg
from agentrl.evaluation.report.schema import Figures
from agentrl.evaluation.report.shown import episode_shown, read_episodes
from agentrl.evaluation.report.sides import Loaded, opened
from agentrl.evaluation.samples import Sample, TaskKey, judged
from agentrl.report.episodes import EpisodeView, MessageView, opening_views
from agentrl.report.page import put_files, render_page
from agentrl.text import one_line

TEMPLATE = "comparison.html.j2"
EACH = 3  # episodes of tasks that one side alone solves
LISTED = 200  # tasks; the JSON has all of them


@dataclass(frozen=True)
class FlipView:
    """A task that one side alone solves, and an episode of each."""

    task_id: str
    entry: str
    level: int | None
    opening: list[MessageView]
    a: EpisodeView
    b: EpisodeView


def write_comparison(
    a: Path, b: Path, page: Path, *, store: str | None = None, other_sampling: bool = False
) -> ComparisonReport:
    """Compare two evaluations as `compare` does, and write the page to `page`. Raises `ConfigError` or `StoreError`."""
    if not page.name:
        raise ConfigError("the page needs a name, such as compared.html")
    with opened("A", a, store) as first, opened("B", b, store) as second:
        report = comparison_of(first, second, other_sampling=other_sampling)
        text = comparison_page(report, first, second)
    put_files(page.parent, {page.name: text.encode("utf-8", "replace")})
    return report


def comparison_page(report: ComparisonReport, a: Loaded, b: Loaded) -> str:
    """The page; episodes are shown where both sides have a store."""
    rows = report.rows
    border = report.boundary
    figures = [{figures.name: figures for figures in _all(side)} for side in (a, b)]
    return render_page(
        "agentrl.evaluation.report",
        TEMPLATE,
        report=report,
        rows=rows,
        sides=[(row, figures[0][row.name], figures[1][row.name]) for row in rows],
        labels=[f"A: {report.a.model.name}", f"B: {report.b.model.name}"],
        reach=_reach(rows),
        border=border,
        curves=Markup(curves_svg([border.curve_a, border.curve_b], crossover=border.crossover)) if border else None,
        histogram=Markup(histogram_svg([border.histogram_a, border.histogram_b])) if border else None,
        flips=[
            ("A alone solves", report.only_a[:LISTED], len(report.only_a)),
            ("B alone solves", report.only_b[:LISTED], len(report.only_b)),
        ],
        shown=[
            (title, views)
            for title, flips in (("A alone solves", report.only_a), ("B alone solves", report.only_b))
            if (views := _views(spread(flips)[:EACH], a, b))
        ],
        each=EACH,
    )


def _all(side: Loaded) -> list[Figures]:
    return [*side.report.entries, side.report.total]


def _reach(rows: Iterable[ComparedEntry]) -> float:
    """Half of the width of the scale of differences: the next tenth that holds every bound."""
    bounds = [
        abs(bound)
        for row in rows
        if row.accuracy
        for bound in (row.accuracy.difference.low, row.accuracy.difference.high, row.accuracy.difference.value)
        if bound is not None
    ]
    return min(1.0, max(0.1, ceil(10 * max(bounds, default=1.0)) / 10))


def spread(flips: Sequence[Flip]) -> list[Flip]:
    """The first task of every entry, then the second of every entry, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for flip in flips:
        ranked.append((seen[flip.entry], flip))
        seen[flip.entry] += 1
    return [flip for _, flip in sorted(ranked, key=lambda item: item[0])]


def _views(flips: Sequence[Flip], a: Loaded, b: Loaded) -> list[FlipView]:
    return [view for flip in flips if (view := _view(flip, a, b)) is not None]


def _view(flip: Flip, a: Loaded, b: Loaded) -> FlipView | None:
    """The first sample that the solving side got right, and the other's judged one of that number, else its first."""
    if a.store is None or b.store is None or a.run is None or b.run is None:
        return None
    of_a, of_b = _by_number(flip, a), _by_number(flip, b)
    solving = of_a if flip.right_a else of_b
    number = min(number for number, sample in solving.items() if sample.correct)
    views = []
    opening: list[MessageView] = []
    for store, run, samples in ((a.store, a.run, of_a), (b.store, b.run, of_b)):
        sample = samples.get(number, samples[min(samples)])
        record = read_episodes(store, run, [sample])[sample.key]
        opening = opening_views(record.trajectory)
        views.append(episode_shown(record, sample))
    return FlipView(one_line(flip.task_id), one_line(flip.entry), flip.level, opening, *views)


def _by_number(flip: Flip, side: Loaded) -> dict[int, Sample]:
    """The judged samples of the task; both sides have some, and no other says anything of who solves it."""
    task = TaskKey(flip.entry, flip.task_id)
    found = (sample for sample in judged(side.samples) if sample.task == task)
    return {sample.sample: sample for sample in found}
