"""`agentrl report FOLDER`: build the report of a run or an evaluation again, also of one that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentrl.cli.output import console, examples

EXAMPLES = examples("agentrl report runs/quickstart", "agentrl report runs/eval/core-oracle-1a2b3c4d")


def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a training run or of an evaluation.")],
) -> None:
    """Build the report from the store: `report.html`, with `curve.png` for a training run, with `report.json` and
    `episodes.jsonl` for an evaluation."""
    from agentrl.evaluation.report import holds_evaluation, write_evaluation
    from agentrl.report import build_report

    if holds_evaluation(folder):
        write_evaluation(folder)
        page = folder / "report.html"
    else:
        page = build_report(folder)
    console().print(str(page), markup=False)
