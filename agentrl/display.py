"""What a person sees while a run goes on: a live display in a terminal, plain lines in a log.

Invariants: a display only shows what the trainer told it, and never raises for what it was told; text that a policy
or a tool wrote cannot steer the terminal; however the process leaves Python, the terminal is left as it was found.
"""

from __future__ import annotations

import atexit
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from threading import RLock

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agentrl.observe import Observer
from agentrl.text import one_line

Clock = Callable[[], float]

SHOWN_STEPS = 8
SPARKLINE_STEPS = 60
REFRESHES_PER_SECOND = 4
SPEED_WINDOW = 16  # finished units that speed is reckoned from at least: the latest ones, as speed changes
SPEED_SECONDS = 30.0  # and all of this time: quick units come in bursts
SPEED_MARKS = 4096
LOG_SECONDS = 30.0  # between two lines of a log about one phase
_RATES = ((1, "s"), (60, "min"), (3600, "h"))
_UNITS = {"rollout": "episodes", "update": "micro-batches"}
_PARTS = ("rollout", "update", "other")
_BLOCKS = "▁▂▃▄▅▆▇█"


def make_display(console: Console | None = None) -> Observer:
    """The live display where `console` (standard output) is a terminal that can redraw, else plain lines."""
    console = console or Console()
    redraws = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
    return LiveDisplay(console) if redraws else LogDisplay(console)


class PhaseProgress:
    """How far the present phase is, and how long it will take. Clock passed in; no terminal in sight."""

    def __init__(self, name: str, total: int | None, clock: Clock) -> None:
        self.name, self.total, self.done = name, total, 0
        self.values: dict[str, float] = {}
        self._clock = clock
        self.began = clock()
        self._marks: deque[tuple[float, int]] = deque([(self.began, 0)], maxlen=SPEED_MARKS)

    def advance(self, count: int, values: Mapping[str, float]) -> None:
        """`count` units more are done. Several at once were done by an earlier process: they say nothing of speed."""
        self.done += count
        self.values |= values
        if count != 1:
            self._marks.clear()
        now = self._clock()
        self._marks.append((now, self.done))
        while len(self._marks) > SPEED_WINDOW + 1 and self._marks[1][0] <= now - SPEED_SECONDS:
            self._marks.popleft()

    @property
    def elapsed(self) -> float:
        """Seconds since the phase began."""
        return self._clock() - self.began

    @property
    def rate(self) -> float | None:
        """Units a second, of the latest ones; None where nothing can be said yet."""
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if last > first and end > start else None

    @property
    def remaining(self) -> float | None:
        """Seconds until the phase ends at the speed of its latest units; None where nothing can be said yet."""
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        if self.total is None or last <= first:
            return None
        each = (end - start) / (last - first)
        left = max(0, self.total - self.done)
        under_way = min(each, self._clock() - end)  # a unit that takes longer than usual is reckoned as nearly done
        return max(0.0, each * left - under_way)


class LiveDisplay(Observer):
    """Phase, progress with remaining time, present activity and the latest steps, redrawn in place."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = RLock()  # the display is redrawn by a thread of its own
        self._began = clock()
        self._phase: PhaseProgress | None = None
        self._activity: tuple[str, int, int] | None = None
        self._steps: deque[tuple[int, dict[str, float]]] = deque(maxlen=SHOWN_STEPS)
        self._accuracies: deque[float] = deque(maxlen=SPARKLINE_STEPS)
        self._live = Live(self, console=console, refresh_per_second=REFRESHES_PER_SECOND)
        self._live.start()
        atexit.register(self.close)  # an exception that nobody caught must not leave the cursor hidden

    def phase(self, name: str, total: int | None = None) -> None:
        with self._lock:
            self._phase, self._activity = PhaseProgress(name, total, self._clock), None

    def advance(self, count: int = 1, **values: float) -> None:
        with self._lock:
            if self._phase:
                self._phase.advance(count, values)
            self._activity = None

    def activity(self, name: str, done: int, total: int) -> None:
        with self._lock:
            self._activity = (name, done, total)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._lock:
            self._steps.append((step, dict(metrics)))
            self._accuracies.append(metrics.get("accuracy", math.nan))

    def note(self, text: str) -> None:
        self._live.console.print(Text(one_line(text, 1000)), highlight=False)

    def close(self) -> None:
        """Give the terminal back. Idempotent."""
        self._live.stop()
        atexit.unregister(self.close)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            parts: list[RenderableType] = []
            if self._steps:
                parts += [self._table(), ""]
            if any(map(math.isfinite, self._accuracies)):
                parts += [_accuracy_line(list(self._accuracies)[-max(1, options.max_width - 30) :])]
            parts += [self._progress(), self._status()]
        yield Group(*parts)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("step", "reward", "accuracy", "tokens/s", "seconds", *_PARTS, "x bound"):
            table.add_column(name, justify="right", no_wrap=True)
        for step, metrics in self._steps:
            table.add_row(
                str(step),
                _number(metrics.get("reward"), "{:.3f}"),
                _number(metrics.get("accuracy"), "{:.1%}"),
                _number(metrics.get("tokens_per_second"), "{:,.0f}"),
                _number(metrics.get("seconds"), "{:.1f}"),
                *(Text(_number(metrics.get(f"seconds/{part}"), "{:.1f}"), style="dim") for part in _PARTS),
                Text(_number(metrics.get("makespan_over_bound"), "{:.2f}"), style="dim"),
            )
        return table

    def _progress(self) -> RenderableType:
        phase = self._phase
        if phase is None:
            return Text("starting", style="dim")
        row = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [Text(one_line(phase.name), style="bold")]
        if phase.total:
            left = "?" if phase.remaining is None else duration(phase.remaining)
            cells.append(ProgressBar(total=phase.total, completed=min(phase.done, phase.total), width=30))
            cells.append(Text(f"{phase.done}/{phase.total}"))
            cells.append(Text(f"{left} left", style="cyan"))
            if phase.rate:
                cells.append(Text(_rate(phase.rate), style="dim"))
        cells.append(Text(_values(phase.values), style="dim"))
        row.add_row(*cells)
        return row

    def _status(self) -> Text:
        status = Text(f"{duration(self._clock() - self._began)} elapsed", style="dim")
        if self._activity:
            name, done, total = self._activity
            unit = f" {_UNITS[name]}" if name in _UNITS else ""
            status.append(f"   {one_line(name)} {done}/{total}{unit}")
        return status


class LogDisplay(Observer):
    """One plain line when a phase begins, one a step; of a phase that has no steps one a while, and its last values."""

    def __init__(self, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        self._file = console.file if console else sys.stdout
        self._clock = clock
        self._phase: PhaseProgress | None = None
        self._stepped = False
        self._told = 0.0

    def phase(self, name: str, total: int | None = None) -> None:
        self._end_phase()
        self._phase, self._stepped = PhaseProgress(name, total, self._clock), False
        self._told = self._clock()
        self._write(f"{name} ({total})" if total else name)

    def advance(self, count: int = 1, **values: float) -> None:
        phase = self._phase
        if phase is None:
            return
        phase.advance(count, values)
        if not self._stepped and phase.total and phase.remaining and self._clock() - self._told >= LOG_SECONDS:
            self._told = self._clock()
            speed = f"{_rate(phase.rate or 0.0)}, {duration(phase.remaining)} left"
            self._write(
                ", ".join(filter(None, (f"{phase.name}: {phase.done} of {phase.total}", speed, _values(phase.values))))
            )

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._stepped = True
        seconds = {part: metrics.get(f"seconds/{part}") for part in _PARTS}
        parts = ", ".join(f"{part} {_number(value, '{:.1f}')}" for part, value in seconds.items() if value is not None)
        self._write(
            f"step {step}: reward {_number(metrics.get('reward'), '{:.3f}')}, "
            f"accuracy {_number(metrics.get('accuracy'), '{:.1%}')}, "
            f"{_number(metrics.get('tokens_per_second'), '{:,.0f}')} tokens/s, "
            f"{_number(metrics.get('seconds'), '{:.1f}')} s"
            + (f" ({parts})" if parts else "")
            + f", rollout {_number(metrics.get('makespan_over_bound'), '{:.2f}')} x its lower bound"
        )

    def note(self, text: str) -> None:
        self._write(text)

    def close(self) -> None:
        """Finish the present phase's lines. Idempotent."""
        self._end_phase()

    def _end_phase(self) -> None:
        phase, self._phase = self._phase, None
        if phase and phase.values and not self._stepped:
            of = f" of {phase.total}" if phase.total else ""
            self._write(f"{phase.name}: {phase.done}{of} in {duration(phase.elapsed)}, {_values(phase.values)}")

    def _write(self, line: str) -> None:
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        self._file.write(one_line(line, 1000).encode(encoding, "replace").decode(encoding) + "\n")
        self._file.flush()


def _rate(rate: float) -> str:
    """Units a second, a minute or an hour, whichever is a number to read."""
    scale, unit = next(((scale, unit) for scale, unit in _RATES if rate * scale >= 1), _RATES[-1])
    return f"{rate * scale:.3g}/{unit}"


def duration(seconds: float) -> str:
    """`45s`, `3m 20s`, `2h 05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _accuracy_line(accuracies: list[float]) -> Text:
    """Accuracies in [0, 1] as a row of blocks, with the first and the latest in figures."""
    known = [value for value in accuracies if math.isfinite(value)]
    top = len(_BLOCKS) - 1
    drawn = "".join(
        _BLOCKS[round(min(1.0, max(0.0, value)) * top)] if math.isfinite(value) else " " for value in accuracies
    )
    return Text.assemble(("accuracy ", "dim"), f"{known[0]:.0%} ", (drawn, "green"), f" {known[-1]:.0%}")


def _values(values: Mapping[str, float]) -> str:
    return ", ".join(
        f"{one_line(name)} {_number(value, '{:.1%}' if name.endswith('accuracy') else '{:.4g}')}"
        for name, value in values.items()
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else form.format(value)
