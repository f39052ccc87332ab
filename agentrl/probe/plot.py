"""What changed at which depth, as one figure of four panels.

Invariant: drawn with matplotlib's objects and no global state; no text from a checkpoint enters the figure.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from agentrl.probe.layers import LAYER_TYPES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from agentrl.probe.measure import ProbeReport

SIZE_INCHES = (10.0, 7.0)
PNG_DPI = 150
INK, MUTED, GRID = "#1f2328", "#656d76", "#e4e7eb"
COLOURS = ("#2563c9", "#b45309", "#0f7b5f", "#a3195b", "#6d4bc3", "#4d7c0f", "#0e7490", "#656d76")
MARKERS_UP_TO = 40  # layers; more of them would touch


def write_plots(report: ProbeReport, folder: Path) -> list[Path]:
    """Write `probe.png` and `probe.svg`; returns their paths."""
    figure = draw(report)
    paths = [folder / "probe.png", folder / "probe.svg"]
    figure.savefig(paths[0], dpi=PNG_DPI)
    figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def draw(report: ProbeReport) -> Figure:
    """The figure: sparsity by layer type, drift, rotation, overlaps, each over depth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2)
    depths = report.depths()
    by_depth = [report.total(*LAYER_TYPES, depth=depth).figures() for depth in depths]

    def series(name: str) -> list[float]:
        return [_number(item[name]) for item in by_depth]

    titles = ("unchanged in bfloat16", "drift, relative", "largest rotation, degrees", "updates inside masks of W0")
    for axes, title in zip(panels.flat, titles, strict=True):
        _dress(axes, title)
    for kind, colour in zip(LAYER_TYPES, COLOURS, strict=True):
        chosen = [report.total(kind, depth=depth).figures()["sparsity_bf16"] for depth in depths]
        _line(panels[0, 0], depths, [_number(value) for value in chosen], colour, kind)
    _line(panels[0, 1], depths, series("frobenius_ratio"), COLOURS[0], "|W+ - W0| / |W0|")
    _line(panels[0, 1], depths, series("nss"), COLOURS[1], "NSS (spectrum)")
    _line(panels[1, 0], depths, series("angle_u_max"), COLOURS[0], "U, outputs")
    _line(panels[1, 0], depths, series("angle_v_max"), COLOURS[1], "V, inputs", dashed=True)
    for target, colour in zip(("principal", "low"), COLOURS, strict=False):
        _line(panels[1, 1], depths, series(f"overlap_{target}"), colour, target)
    _line(panels[1, 1], depths, series("chance_low"), MUTED, "chance", dashed=True)
    if panels[0, 1].lines and all(value > 0 for line in panels[0, 1].lines for value in line.get_ydata()):
        panels[0, 1].set_yscale("log")  # the spectrum moves by orders of magnitude less than the matrix
    for axes in panels.flat:
        _finish(axes)
    return figure


def _number(value: float | int | None) -> float:
    return math.nan if value is None else float(value)


def _line(axes: Axes, depths: list[int], values: list[float], colour: str, label: str, *, dashed: bool = False) -> None:
    points = [(depth, value) for depth, value in zip(depths, values, strict=True) if math.isfinite(value)]
    if not points:
        return
    marker = "o" if len(points) <= MARKERS_UP_TO and not dashed else None
    style = "--" if dashed else "-"
    axes.plot(
        *zip(*points, strict=True), style, color=colour, linewidth=1.5, marker=marker, markersize=3.5, label=label
    )


def _dress(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("layer", color=MUTED, fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)


def _finish(axes: Axes) -> None:
    if axes.lines:
        axes.legend(loc="best", frameon=False, fontsize=8, labelcolor=INK, ncols=2)
        axes.margins(y=0.15)
    else:
        axes.text(0.5, 0.5, "not defined here", transform=axes.transAxes, ha="center", va="center", color=MUTED)
