"""The learning curve: accuracy and reward by step, held-out evaluations with their intervals.

Invariant: drawn with matplotlib's objects and no global state, so that any thread of any program may draw one; no text
of the run's enters the figure. The vector form has CSS variables for colours and follows the page's scheme.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from agentrl.report.data import Evaluation, RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (8.6, 5.0)
PNG_DPI = 160
MARKERS_UP_TO = 40  # steps; more of them would touch
_LABELS = {"base": "base", "warm_start": "warm start", "trained": "trained", "step": "held out"}
_SHAPES = {"base": "o", "warm_start": "s", "trained": "D", "step": "o"}


@dataclass(frozen=True)
class Palette:
    """Colours of a figure, `#rrggbb`."""

    paper: str = "#ffffff"
    ink: str = "#1f2328"
    muted: str = "#656d76"
    grid: str = "#e4e7eb"
    accuracy: str = "#2563c9"
    reward: str = "#b45309"
    held: str = "#0f7b5f"


# Colours that nothing else in a drawing has: each is replaced by the page's variable of the same name.
_MARKED = Palette(**{entry.name: f"#f1e2d{index}" for index, entry in enumerate(fields(Palette))})


def curve_png(data: RunData) -> bytes:
    """The curve as a picture on white."""
    buffer = io.BytesIO()
    draw(data, Palette()).savefig(buffer, format="png", dpi=PNG_DPI)
    return buffer.getvalue()


def curve_svg(data: RunData) -> str:
    """The curve as an `<svg>` element to stand in a page that defines `--paper`, `--ink` ..."""
    buffer = io.StringIO()
    unsigned = {"Date": None, "Creator": None, "Format": None, "Type": None}
    draw(data, _MARKED).savefig(buffer, format="svg", metadata=unsigned)
    text = buffer.getvalue()
    for entry in fields(Palette):
        text = text.replace(getattr(_MARKED, entry.name), f"var(--{entry.name})")
    return text[text.index("<svg") :]


def draw(data: RunData, colours: Palette) -> Figure:
    """The figure in the given colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained", facecolor=colours.paper)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes in (upper, lower):
        _dress(axes, colours)
    _draw_accuracy(upper, data, colours)
    rewards = _series(data, "reward")
    _draw_line(lower, rewards, colours.reward, "reward, training")
    lower.set_ylabel("reward", color=colours.muted)
    lower.set_xlabel("training step", color=colours.muted)
    if not rewards:
        _say(lower, "no training step yet", colours)
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
        _say(axes, "no accuracy recorded", colours)


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


def _dress(axes: Axes, colours: Palette) -> None:
    axes.set_facecolor(colours.paper)
    axes.grid(axis="y", color=colours.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colours.muted, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours.grid)


def _say(axes: Axes, text: str, colours: Palette) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=colours.muted)
