"""`agentrl compare A B`: two evaluations of the same tasks, pair by pair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentrl.cli.output import Json, examples, print_json

EXAMPLES = examples(
    "agentrl compare runs/eval/core-base-1a2b3c4d runs/eval/core-policy-5e6f7a8b",
    "agentrl compare before/report.json after/report.json --json",
    "agentrl compare base trained --store runs/all.sqlite --out compared.html",
)


def compare_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="An evaluation's folder or report.json; a run with --store.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Likewise; differences are B minus A.")],
    store: Annotated[
        str | None, typer.Option(help="Store (file, folder or URL) in which A and B are names of runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page with plots and episodes.")] = None,
    other_sampling: Annotated[
        bool, typer.Option("--other-sampling", help="Compare although sampling or limits differ.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two evaluations of the same tasks: differences with intervals and tests, pass@k, support, tasks that
    one side alone solves."""
    from rich.console import Console

    from agentrl.evaluation.report import compare, comparison_summary, write_comparison

    if out is None:
        found = compare(a, b, store=store, other_sampling=other_sampling)
    else:
        found = write_comparison(a, b, out, store=store, other_sampling=other_sampling)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    console = Console(highlight=False)
    console.print(comparison_summary(found))
    if out is not None:
        console.print(str(out), markup=False, soft_wrap=True)
