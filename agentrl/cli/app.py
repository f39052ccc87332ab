"""The application: every command group under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from agentrl.cli import (
    compare,
    doctor,
    envs,
    evaluate,
    judge,
    models,
    probe,
    recipes,
    replay,
    report,
    store,
    suites,
    tools,
    train,
    view,
)
from agentrl.cli.output import examples

app = typer.Typer(
    name="agentrl",
    help="Reinforcement learning for tool-using language-model agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=examples("agentrl doctor", "agentrl train --recipe quickstart", "agentrl train --help"),
)


def _version(wanted: bool) -> None:
    if wanted:
        from agentrl import __version__

        typer.echo(f"agentrl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Reinforcement learning for tool-using language-model agents."""


app.command("train", epilog=train.EXAMPLES)(train.train_command)
app.command("eval", epilog=evaluate.EXAMPLES)(evaluate.eval_command)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare_command)
app.command("judge", epilog=judge.EXAMPLES)(judge.judge_command)
app.add_typer(envs.app, name="envs")
app.add_typer(tools.app, name="tools")
app.add_typer(recipes.app, name="recipes")
app.add_typer(suites.app, name="suites")
app.add_typer(models.app, name="models")
app.add_typer(store.app, name="store")
app.command("replay", epilog=replay.EXAMPLES)(replay.replay_command)
app.command("probe", epilog=probe.EXAMPLES)(probe.probe_command)
app.command("report", epilog=report.EXAMPLES)(report.report_command)
app.command("view", epilog=view.EXAMPLES)(view.view_command)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor_command)
