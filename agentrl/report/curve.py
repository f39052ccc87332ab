"""The learning curve: accuracy and reward by step, held-out evaluations with their intervals.

Invariant: no text of the run's enters the figure.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from agentrl.report.data import Evaluation, RunData
from agentrl.report.drawing import Palette, as_png, as_svg, dress, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (8.6, 5.0)
MARKERS_UP_TO = 40  # steps; more of them would touch
_LABELS = {"base": "base", "warm_start": "warm start", "trained": "trained", "step": "held out"}
_SHAPES = {"base": "o", "warm_start": "s", "trained": "D", "step": "o"}


def curve_png(data: RunData) -> bytes:
    """The curve as a picture on white."""
    return as_png(partial(draw, data))


def curve_svg(data: RunData) -> str:
    """The curve as an `<svg>` element, see `as_svg`."""
    return as_svg(partial(draw, data))


def draw(data: RunData, colours: Palette) -> Figure:
    """The figure in the given colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained", facecolor=colours.paper)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes in (upper, lower):
        dress(axes, colours)
    _draw_accuracy(upper, data, colours)
    rewards = _series(data, "reward")
    _draw_line(lower, rewards, colours.reward, "reward, training")
    lower.set_ylabel("reward", color=colours.muted)
    lower.set_xlabel("training step", color=colours.muted)
    if not rewards:
        say(lower, "no training step yet", colours)
    last = max([step for step, _ in rewards] + [1])
    lower.set_xlim(-0.03 * last, 1.03 * last)
    lower.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _draw_accuracy(axes: Axes, data: RunData, colours: Palette) -> None:
    accuracies = _series(data, "accuracy")
    _draw_line(axes, accuracies, colours.accuracy, "training")
    _draw_held_out(axes, data.evaluations + data.on_the_way, colours)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy", color=colours.muted)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=colours.ink)
    else:
        say(axes, "no accuracy recorded", colours)


def _draw_held_out(axes: Axes, evaluations: list[Evaluation], colours: Palette) -> None:
    labelled: set[str] = set()
    for evaluation in evaluations:
        value = evaluation.metrics.get("accuracy", math.nan)
        if not math.isfinite(value):
            continue
        low, high = (evaluation.metrics.get(f"accuracy_{end}", value) for end in ("low", "high"))
        label = _LABELS[evaluation.stage]
        axes.errorbar(
            [evaluation.step],
            [value],
            yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
            fmt=_SHAPES[evaluation.stage],
            color=colours.held,
            markerfacecolor=colours.held if evaluation.stage == "trained" else colours.paper,
            markersize=7,
            capsize=4,
            zorder=3,
            clip_on=False,
            label=None if label in labelled else f"{label}, held out" if label != "held out" else label,
        )
        labelled.add(label)


def _draw_line(axes: Axes, points: list[tuple[int, float]], colour: str, label: str) -> None:
    if not points:
        return
    steps, values = zip(*points, strict=True)
    marker = "o" if len(points) <= MARKERS_UP_TO else None
    axes.plot(steps, values, color=colour, linewidth=1.8, marker=marker, markersize=4, label=label)


def _series(data: RunData, name: str) -> list[tuple[int, float]]:
    found = [(step, metrics.get(name, math.nan)) for step, metrics in data.train]
    return [(step, value) for step, value in found if math.isfinite(value)]
