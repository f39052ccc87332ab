"""The figures of an evaluation's page: curves over k, accuracy by level, histograms of two models.

Invariant: no text of the run's enters a figure; a series is known by its place, which the page's key names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from agentrl.evaluation.report.schema import CurvePoint, Stratum
from agentrl.report.drawing import SERIES, Palette, as_svg, dress, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (8.6, 3.6)
MARKERS_UP_TO = 32  # points; more of them would touch
BARS_UP_TO = 3  # of more series the intervals stand in the table alone
BANDS_UP_TO = 3  # more of them hide one another: then the last curve alone, which is the total, has one
_STYLES = ("-", "--", ":", "-.")


def curves_svg(curves: Sequence[Sequence[CurvePoint]], *, total: bool = False, crossover: int | None = None) -> str:
    """Curves over k with their bands, as an `<svg>` element; a line at the crossover where there is one.

    With `total` the last curve is that of all the others together and drawn in the colour of text.
    """
    return as_svg(partial(_draw_curves, curves, total, crossover))


def levels_svg(strata: Sequence[Sequence[Stratum]]) -> str:
    """Accuracy by level, one series an entry, as an `<svg>` element."""
    return as_svg(partial(_draw_levels, strata))


def histogram_svg(counts: Sequence[Sequence[int]]) -> str:
    """Tasks by their share of right samples, one series a model, as an `<svg>` element."""
    return as_svg(partial(_draw_histogram, counts))


def _draw_curves(
    curves: Sequence[Sequence[CurvePoint]], total: bool, crossover: int | None, colours: Palette
) -> Figure:
    figure, axes = _figure(colours)
    for index, curve in enumerate(curves):
        points = [point for point in curve if point.value is not None]
        ks, values = [point.k for point in points], [float(point.value or 0.0) for point in points]
        marker = "o" if len(points) <= MARKERS_UP_TO else None
        last = total and index == len(curves) - 1
        colour, style = (colours.ink, "-") if last else (colours.series(index), _style(index))
        axes.plot(ks, values, color=colour, linestyle=style, marker=marker, markersize=4, linewidth=1.8)
        band = [
            (point.k, point.low, point.high) for point in points if point.low is not None and point.high is not None
        ]
        if band and (len(curves) <= BANDS_UP_TO or index == len(curves) - 1):
            places, lows, highs = zip(*band, strict=True)
            axes.fill_between(places, lows, highs, color=colour, alpha=0.14, linewidth=0)
    most = max((point.k for curve in curves for point in curve), default=1)
    if crossover is not None:
        axes.axvline(crossover, color=colours.muted, linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(most.bit_length())]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.93, max(1.07, most * 1.07))
    axes.set_xlabel("k", color=colours.muted)
    if not any(curves):
        say(axes, "no verdict recorded", colours)
    return figure


def _draw_levels(strata: Sequence[Sequence[Stratum]], colours: Palette) -> Figure:
    figure, axes = _figure(colours)
    levels = sorted({stratum.level for series in strata for stratum in series if stratum.level is not None})
    series_shown = [(index, series) for index, series in enumerate(strata) if series]
    for place, (index, series) in enumerate(series_shown):
        known = [stratum for stratum in series if stratum.level is not None and stratum.accuracy.value is not None]
        shift = 0.5 * ((place + 0.5) / len(series_shown) - 0.5)  # side by side, so that no interval hides another
        places = [levels.index(stratum.level) + shift for stratum in known if stratum.level is not None]
        _points(axes, places, known, colours.series(index), _style(index), bars=len(series_shown) <= BARS_UP_TO)
    axes.set_xticks(range(len(levels)), [str(level) for level in levels])
    axes.set_xlim(-0.5, max(1, len(levels)) - 0.5)
    axes.set_xlabel("level", color=colours.muted)
    if not levels:
        say(axes, "no level recorded", colours)
    return figure


def _points(axes: Axes, places: list[float], known: list[Stratum], colour: str, style: str, *, bars: bool) -> None:
    values = [float(stratum.accuracy.value or 0.0) for stratum in known]
    below = [max(0.0, value - _or(stratum.accuracy.low, value)) for value, stratum in zip(values, known, strict=True)]
    above = [max(0.0, _or(stratum.accuracy.high, value) - value) for value, stratum in zip(values, known, strict=True)]
    axes.errorbar(
        places, values, yerr=[below, above] if bars else None, color=colour, linestyle=style, fmt="o", markersize=5,
        capsize=3, linewidth=1.4, clip_on=False,
    )  # fmt: skip


def _draw_histogram(counts: Sequence[Sequence[int]], colours: Palette) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(colours, share=False)
    bins = max((len(series) for series in counts), default=0)
    width = 0.84 / max(1, len(counts))
    for index, series in enumerate(counts):
        places = [bin_ + width * (index - (len(counts) - 1) / 2) for bin_ in range(len(series))]
        axes.bar(places, series, width=width, color=colours.series(index))
    axes.set_xticks(range(bins), [f"{100 * bin_ // bins}\N{EN DASH}{100 * (bin_ + 1) // bins}" for bin_ in range(bins)])
    axes.set_xlabel("share of a task's samples that are right, %", color=colours.muted)
    axes.set_ylabel("tasks", color=colours.muted)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _figure(colours: Palette, share: bool = True) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained", facecolor=colours.paper)
    axes = figure.subplots()
    dress(axes, colours)
    if share:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure, axes


def _style(index: int) -> str:
    """Solid, dashed and so on: after seven colours the next seven series have another line."""
    return _STYLES[index // SERIES % len(_STYLES)]


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
