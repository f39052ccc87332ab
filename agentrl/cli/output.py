"""What the commands print with: people's text to one console, JSON to stdout.

Invariant: nothing that comes from outside (a description, a cell, a policy's text) is read as markup, and what people
may copy (names, paths) is never cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from pydantic_core import to_json
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agentrl.settings import parse_overrides

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
"""The `--json` option of every command that lists or shows."""


def console() -> Console:
    """The console for people, on stdout."""
    return Console(highlight=False, soft_wrap=True)


def examples(*lines: str) -> str:
    """The epilog of a command's help: one example a line."""
    return escape("\n".join(["Example:" if len(lines) == 1 else "Examples:", *lines]))


def print_json(value: Any) -> None:
    """`value` as JSON on stdout; JSON has no infinities, so that an unbounded or missing number is null."""
    typer.echo(to_json(value, indent=2, inf_nan_mode="null", fallback=str).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table. Columns of prose wrap; a column of names stays whole unless it takes half of the width."""
    out = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        names = not any(" " in cell for cell in cells) and max(map(len, cells), default=0) <= out.width // 2
        table.add_column(column, overflow="fold", no_wrap=names)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def first_line(text: str) -> str:
    """The first line of a description, for lists."""
    return text.strip().partition("\n")[0]


def options_of(arguments: Sequence[str]) -> Mapping[str, Any]:
    """`key=value` arguments as a tree of YAML values."""
    return parse_overrides(arguments)
