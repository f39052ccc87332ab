"""What the commands print with: people's text to one console, JSON to stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from agentrl.config import parse_overrides

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
"""The `--json` option of every command that lists or shows."""


def console() -> Console:
    """The console for people, on stdout."""
    return Console(highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """`value` as JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table; cells are text, never markup."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    from rich.text import Text

    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def options_of(arguments: Sequence[str]) -> Mapping[str, Any]:
    """`key=value` arguments as a tree of YAML values."""
    return parse_overrides(arguments)
