"""How a slow step (download, conversion) is shown: a bar on a terminal, one line a stage elsewhere.

Invariant: nothing is shown before the first report, so a model that is already cached stays silent; everything goes to
the standard error, never between the lines of a program's output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn


class Report(Protocol):
    """Receives the state of a slow step; pass one's own to show it elsewhere."""

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """`stage` names the step; `done` of `total` units (bytes as a rule), `total` 0 where it is unknown."""


class _Lines:
    """One line for each new stage: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        if stage != self._stage:
            self._stage = stage
            self._console.print(stage, highlight=False, markup=False, soft_wrap=True)


class _Bar:
    """A bar that is replaced when the stage changes; it pulses while the total is unknown."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console)
        self._stage = ""
        self._task: TaskID | None = None

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        self._progress.start()
        if self._task is None or stage != self._stage:
            self._finish()
            self._stage, self._task = stage, self._progress.add_task(stage, total=None)
        self._progress.update(self._task, completed=done, total=total or None)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1, completed=1)

    def close(self, finished: bool) -> None:
        if finished:
            self._finish()
        self._progress.stop()


@contextmanager
def reporting(report: Report | None = None) -> Iterator[Report]:
    """Yield `report`, or the default one for this process's standard error."""
    if report is not None:
        yield report
        return
    # The console keeps today's stream: third-party bars are muted later by swapping sys.stderr.
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _Lines(console)
        return
    bar = _Bar(console)
    finished = False
    try:
        yield bar
        finished = True
    finally:
        bar.close(finished)
