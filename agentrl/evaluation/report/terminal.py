"""An evaluation in a terminal: a row an entry and a total, and what a reader must know beside it.

Invariant: an accuracy or a difference never stands without its interval; what does not fit the width goes below the
names instead of being cut. Names come from outside and are shown as text, never as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentrl.evaluation.report.comparison_schema import ComparisonReport, Flip, PairedFigures
from agentrl.evaluation.report.schema import Estimate, EvaluationReport, Figures
from agentrl.report.page import DASH, count, figure, percent, seconds
from agentrl.text import one_line
from agentrl.trajectory import StopReason

NAME_WIDTH = 28  # a longer name goes on in the next line
FLIP_WIDTH = 60  # characters of an entry and a task id
SHOWN_FLIPS = 6  # tasks that a line names; the page and the JSON have all
NOTE = 1000  # characters of a note
_USUAL = frozenset({str(StopReason.TERMINATED), str(StopReason.MAX_TURNS)})


def evaluation_summary(report: EvaluationReport) -> RenderableType:
    """The table of an evaluation, one row an entry and one for all of them; adapts to the console's width."""
    rows = report.rows
    title = Text.assemble(
        (one_line(report.suite.name), "bold"), " · ", (one_line(report.model.name), "bold"), f" · {facts(report)}"
    )
    notes = [Text(one_line(note, NOTE), style="yellow") for note in [*report.notes, *_endings(report.total)]]
    return Group(title, Rows([figures.name for figures in rows], columns_of(rows, report.headline_k)), *notes)


def comparison_summary(report: ComparisonReport) -> RenderableType:
    """Two evaluations in a terminal: differences with intervals and tests, then the boundary between them."""
    rows = report.rows
    found = [row.accuracy for row in rows]
    shown: Callable[[float | None], str] = percent
    unit, change, said = " %", _points, ", differences in points"
    if not any(found) and any(row.reward for row in rows):  # environments without a verdict
        found = [row.reward for row in rows]
        shown, unit, change, said = figure, " reward", _signed, ""
    title = Text.assemble(
        "A ", (one_line(report.a.model.name), "bold"), ", B ", (one_line(report.b.model.name), "bold"),
        f" · {one_line(report.a.suite.name)} · paired by {report.unit}{said}",
    )  # fmt: skip
    columns = [
        Column(f"A{unit}", [shown(paired.mean_a) if paired else DASH for paired in found]),
        Column(f"B{unit}", [shown(paired.mean_b) if paired else DASH for paired in found]),
        Column("B - A [95 %]", [_change(paired, change) for paired in found]),
        Column("p", [p_value(paired.p) if paired else DASH for paired in found]),
        Column("pairs", [count(paired.pairs) if paired else DASH for paired in found]),
        Column("A only", [count(paired.only_a) if paired else DASH for paired in found]),
        Column("B only", [count(paired.only_b) if paired else DASH for paired in found]),
    ]
    lines = [Text(line) for line in _boundary_lines(report)]
    notes = [Text(one_line(note, NOTE), style="yellow") for note in report.notes]
    return Group(title, Rows([row.name for row in rows], columns), *lines, *notes)


def p_value(value: float | None) -> str:
    """`0.031`, or that it is below 0.001."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _change(paired: PairedFigures | None, shown: Callable[[float | None], str]) -> str:
    if paired is None:
        return DASH
    value, low, high = (
        shown(bound) for bound in (paired.difference.value, paired.difference.low, paired.difference.high)
    )
    return value if DASH in (low, high) else f"{value} [{low}, {high}]"


def _points(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:+.1f}"


def _signed(value: float | None) -> str:
    return figure(value) if value is None or value < 0 else f"+{figure(value)}"


def _boundary_lines(report: ComparisonReport) -> list[str]:
    border = report.boundary
    if border is None:
        return []
    first, last, support = border.difference[0], border.difference[-1], border.support
    crossed = f"crossover at k={border.crossover}" if border.crossover else "no crossover"
    at_last = f", {_points(last.value)} at k={last.k}; {crossed}" if last.k > first.k else ""
    ratios = {"SRR": support.srr, "NDR": support.ndr, "SDS": support.sds, "NSCR": support.nscr}
    gap = f"; pass@{border.gap_k} of A - pass@1 of B {_points(border.sampling_gap)} points" if border.gap_k > 1 else ""
    lines = [
        f"pass@k: B - A {_points(first.value)} points at k={first.k}{at_last}{gap}",
        f"Tasks solved{f' within {support.k}' if support.k else ''}: {support.preserved} by both, "
        f"{support.shrunk} by A alone, {support.expanded} by B alone, {support.outside} by neither "
        f"({', '.join(f'{name} {figure(value)}' for name, value in ratios.items())})",
    ]
    return lines + _flip_lines("A", report.only_a) + _flip_lines("B", report.only_b)


def _flip_lines(name: str, flips: Sequence[Flip]) -> list[str]:
    """The first tasks that one side alone solves."""
    if not flips:
        return []
    names = ", ".join(one_line(f"{flip.entry}/{flip.task_id}", FLIP_WIDTH) for flip in flips[:SHOWN_FLIPS])
    more = f" and {len(flips) - SHOWN_FLIPS:,} more" if len(flips) > SHOWN_FLIPS else ""
    return [f"{name} alone solves {names}{more}"]


def facts(report: EvaluationReport) -> str:
    """Size, seed and time of an evaluation in a few words."""
    words = [f"{report.total.tasks:,} tasks", f"{report.total.judged:,} of {report.total.planned:,} episodes judged"]
    if report.seed is not None:
        words.append(f"seed {report.seed}")
    if report.seconds is not None:
        words.append(seconds(report.seconds))
    if report.total.cost is not None:
        words.append(f"$ {report.total.cost:,.4g}")
    return ", ".join(words)


@dataclass(frozen=True)
class Column:
    """A column of figures: its head and one cell a row."""

    head: str
    cells: Sequence[str]
    brief: Sequence[str] | None = None
    """Cells without their intervals, for where the whole ones find no room and another column has an interval."""

    @property
    def width(self) -> int:
        return max(len(self.head), *map(len, self.cells), 0)


@dataclass(frozen=True)
class Rows:
    """Named rows of figures; where the width does not hold all columns, each name stands above its own figures."""

    names: Sequence[str]
    columns: Sequence[Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = [Text(one_line(name)) for name in self.names]
        brief = [Column(column.head, column.brief or column.cells) for column in self.columns]
        tables = ((self.columns, 2), (self.columns, 1), (brief, 1))
        fitting = (found for found in tables if self._width(names, *found) <= options.max_width)
        found = next(fitting, None)
        chosen = self._blocks(names) if found is None else self._table(names, *found)
        # A console that leaves wrapping to the terminal would cut what is too long.
        yield from console.render(chosen, options.update(no_wrap=False, overflow="fold"))

    def _width(self, names: list[Text], columns: Sequence[Column], gap: int) -> int:
        first = min(NAME_WIDTH, max([len("entry"), *(name.cell_len for name in names)]))
        return first + sum(gap + column.width for column in columns)

    def _table(self, names: list[Text], columns: Sequence[Column], gap: int) -> Table:
        table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("entry", max_width=NAME_WIDTH, overflow="fold")
        for column in columns:
            table.add_column(column.head, justify="right", no_wrap=True)
        for index, name in enumerate(names):
            table.add_row(name, *(Text(column.cells[index]) for column in columns))
        return table

    def _blocks(self, names: list[Text]) -> Group:
        blocks: list[RenderableType] = []
        for index, name in enumerate(names):
            known = [(column.head, column.cells[index]) for column in self.columns]
            said = " · ".join(f"{head} {cell}" for head, cell in known if cell != DASH)
            blocks += [Text(name.plain, style="bold", overflow="fold"), Padding(Text(said), (0, 0, 0, 2))]
        return Group(*blocks)


def interval(estimate: Estimate) -> str:
    """`59.0 [52.1, 65.6]` in per cent, or as much of it as there is."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def columns_of(rows: Sequence[Figures], k: int) -> list[Column]:
    """The columns that any of the rows has something to say in; pass@k at `k`."""
    found = [
        Column("tasks", [count(row.tasks) + (f" x {row.samples}" if row.samples else "") for row in rows]),
        Column("accuracy % [95 %]", [interval(row.accuracy) for row in rows]),
    ]
    if k > 1:  # pass@1 is the accuracy
        points = [row.pass_at_k[k - 1] if row.pass_at_k else Estimate() for row in rows]
        whole = [interval(point) + _over(row, k, " tasks") for point, row in zip(points, rows, strict=True)]
        values = [percent(point.value) + _over(row, k) for point, row in zip(points, rows, strict=True)]
        found.append(Column(f"pass@{k} %", whole, values))
    if any(row.reward.value != row.accuracy.value for row in rows):
        found.append(Column("reward", [figure(_rounded(row.reward.value)) for row in rows]))
    found += [
        Column("calls", [figure(_rounded(row.tools.calls_per_episode)) for row in rows]),
        Column("errors", [_share(row.tools.error_share) for row in rows]),
        Column("tokens", [count(row.tokens) for row in rows]),
        Column("s/episode", [_seconds(row.seconds) for row in rows]),
    ]
    return [column for column in found if any(cell != DASH for cell in column.cells)]


def _over(row: Figures, k: int, word: str = "") -> str:
    """How many tasks a row's pass@k is over, where that is not all of them."""
    tasks = row.pass_at_k[k - 1].tasks if row.pass_at_k else row.tasks
    return "" if tasks == row.tasks else f" ({count(tasks)} of {count(row.tasks)}{word})"


def _endings(figures: Figures) -> list[str]:
    """Endings that a reader should know of: all but a verdict and the turn limit."""
    unusual = [
        f"{name.replace('_', ' ')} {number}" for name, number in figures.stop_reasons.items() if name not in _USUAL
    ]
    return [f"Episodes that ended otherwise: {', '.join(unusual)}."] if unusual else []


def _share(value: float | None) -> str:
    return DASH if value is None else f"{percent(value)} %"


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}" if value >= 0.1 else f"{value:.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
