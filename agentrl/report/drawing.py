"""How every figure of a report is drawn: one palette, one dress, as a picture or as an element of a page.

Invariant: drawn with matplotlib's objects and no global state, so that any thread of any program may draw; the vector
form has CSS variables for colours and follows the page's scheme.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_DPI = 160
SERIES = 7
"""Series that have a colour of their own."""


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
    s0: str = "#2563c9"
    s1: str = "#d98324"
    s2: str = "#7c8794"
    s3: str = "#0f7b5f"
    s4: str = "#8a5cc2"
    s5: str = "#b3261e"
    s6: str = "#3aa6b9"

    def series(self, index: int) -> str:
        """Colour of the series `index`; after seven they begin again."""
        return str(getattr(self, f"s{index % SERIES}"))


# Colours that nothing else in a drawing has: each is replaced by the page's variable of the same name.
_MARKED = Palette(**{entry.name: f"#f1e2d{index:x}" for index, entry in enumerate(fields(Palette))})


def as_png(draw: Callable[[Palette], Figure]) -> bytes:
    """The figure as a picture on white."""
    buffer = io.BytesIO()
    draw(Palette()).savefig(buffer, format="png", dpi=PNG_DPI)
    return buffer.getvalue()


def as_svg(draw: Callable[[Palette], Figure]) -> str:
    """The figure as an `<svg>` element to stand in a page that defines `--paper`, `--ink` ..."""
    buffer = io.StringIO()
    unsigned = {"Date": None, "Creator": None, "Format": None, "Type": None}
    draw(_MARKED).savefig(buffer, format="svg", metadata=unsigned)
    text = buffer.getvalue()
    for entry in fields(Palette):
        text = text.replace(getattr(_MARKED, entry.name), f"var(--{entry.name})")
    return text[text.index("<svg") :]


def dress(axes: Axes, colours: Palette, grid: str = "y") -> None:
    """Quiet axes: a grid along `grid`, and a line at the bottom only."""
    axes.set_facecolor(colours.paper)
    axes.grid(axis=grid, color=colours.grid, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(colors=colours.muted, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours.grid)


def say(axes: Axes, text: str, colours: Palette) -> None:
    """Words in the place of a drawing that has nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=colours.muted)
