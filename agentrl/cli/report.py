"""`agentrl report RUN`: build a run's report again, also of a run that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentrl.cli.output import console, examples
from agentrl.errors import ConfigError

EXAMPLES = examples("agentrl report runs/quickstart")


def report_command(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Build `report.html` and `curve.png` of a run from its store."""
    if not (run / "store.sqlite").is_file():
        raise ConfigError(f"{str(run)!r} holds no run (no store.sqlite)")
    from agentrl.report import build_report

    console().print(str(build_report(run)), markup=False)
