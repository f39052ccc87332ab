"""`agentrl replay RUN`: step recorded episodes again and compare what their environments answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentrl.cli import EXIT_FAILURE
from agentrl.cli.output import Json, console, examples, print_json

if TYPE_CHECKING:
    from agentrl.replay import ReplayResult

EXAMPLES = examples("agentrl replay runs/quickstart", "agentrl replay runs/quickstart --phase train --limit 100")


def replay_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one of `agentrl eval --out`.")],
    phase: Annotated[str | None, typer.Option(help="Only episodes of this phase, such as train.")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Only episodes of this step.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="This many episodes, evenly spread.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Episodes at one time.")] = 8,
    as_json: Json = False,
) -> None:
    """Step recorded episodes again; exit code 1 if an environment answers otherwise than it did."""
    from rich.console import Console

    from agentrl.display import make_display
    from agentrl.replay import replay_run

    observer = make_display(Console(stderr=True))
    try:
        result = replay_run(run, phase=phase, step=step, limit=limit, workers=workers, observer=observer)
    finally:
        observer.close()
    if as_json:
        print_json(
            {
                "episodes": result.episodes,
                "equal": result.equal,
                "different": len(result.differences),
                "skipped": {str(reason): count for reason, count in sorted(result.skipped.items())},
                "differences": [difference._asdict() for difference in result.differences],
            }
        )
    else:
        _print(result)
    if result.differences:
        raise typer.Exit(EXIT_FAILURE)


def _print(result: ReplayResult) -> None:
    out = console()
    for phase, step, group, member, task_id, found in result.differences:
        out.print(f"{phase} step {step}, group {group}, member {member}, task {task_id}: {found}", markup=False)
    out.print(
        f"{result.episodes} episodes played again: {result.equal} equal, {len(result.differences)} different; "
        f"{result.skipped.total()} skipped",
        markup=False,
    )
    for reason, count in sorted(result.skipped.items()):
        out.print(f"  skipped {count}: {reason}, {reason.meaning}", markup=False)
