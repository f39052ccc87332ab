"""What docs/credit.md prints, row by row, so that tests can hold it against what they enumerate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from agentrl.advantages import Array

PAGE = Path(__file__).parents[2] / "docs" / "credit.md"


def printed(labels: Iterable[str], skip: int = 1) -> dict[str, list[str]]:
    """First cell -> the cells after the first `skip`, of every row of a table that begins with one of `labels`."""
    wanted = set(labels)
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in PAGE.read_text().splitlines()]
    return {row[0]: row[skip:] for row in rows if row[0] in wanted}


def cell(gradient: Array, digits: int = 3) -> str:
    """A gradient as the page prints it."""
    return ", ".join(f"{value + 0.0:.{digits}f}" for value in np.round(gradient, digits))
