"""`agentrl train`: resolve a configuration, run it, print what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agentrl.cli import EXIT_INTERRUPTED
from agentrl.cli.output import console, examples
from agentrl.config import RunConfig, load_config
from agentrl.errors import CheckpointError, ConfigError

EXAMPLES = examples(
    "agentrl train --recipe quickstart",
    "agentrl train my.yaml seed=1 optimiser.lr=1e-5",
    "agentrl train --recipe tiny 'env.options={levels: [1, 2]}' --dry-run",
    "agentrl train --resume runs/quickstart",
)


def train_command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG|KEY=VALUE", help="A YAML file; overrides such as optimiser.lr=1e-5."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Start from a recipe; see `agentrl recipes list`.")] = None,
    env: Annotated[str | None, typer.Option(help="Environment id; see `agentrl envs list`.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder, GGUF file or built-in name.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run's folder.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, run nothing.")] = False,
) -> None:
    """Train an agent: sample episodes, attribute credit, update, repeat."""
    given = arguments or []
    values = {key: value for key, value in {"env__id": env, "model__name": model, "name": name}.items() if value}
    if resume is not None:
        config = _resumed(resume, given, bool(recipe or values))
    else:
        config = _fresh(given, recipe, values)
        if name is None and not any(item.startswith("name=") for item in given):
            config = config.model_copy(update={"name": _free_name(config)})
    if dry_run:
        _print_plan(config)
    else:
        _run(config, resume is not None)


def _fresh(given: list[str], recipe: str | None, values: dict[str, str]) -> RunConfig:
    files = [item for item in given if "=" not in item]
    if len(files) > 1:
        raise ConfigError(f"more than one config file: {', '.join(files)}; overrides have the form key=value")
    file = Path(files[0]) if files else None
    chosen: dict[str, Any] = dict(values)
    if "env__id" in values and load_config(file, recipe=recipe).env.id != values["env__id"]:
        chosen["env__options"] = {}  # those of a recipe are another environment's
    return load_config(file, recipe=recipe, overrides=[item for item in given if "=" in item], **chosen)


def _resumed(folder: Path, given: list[str], other: bool) -> RunConfig:
    """The run's own configuration; only the number of steps may be raised."""
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(f"--resume {str(folder)!r}: there is no run in that folder (no config.yaml)")
    if other or any(not item.startswith("steps=") for item in given):
        raise ConfigError("--resume takes the run's own configuration; only steps=N may be given with it")
    config = load_config(folder / "config.yaml", overrides=given)
    folder = folder if folder.name.strip(".") else folder.resolve()
    return config.model_copy(update={"out": folder.parent, "name": folder.name})


def _free_name(config: RunConfig) -> str:
    """The configured name, or the first of name-2, name-3 ... that no run has."""
    name, number = config.name, 1
    while (config.out / name).exists():
        number += 1
        name = f"{config.name}-{number}"
    return name


def _print_plan(config: RunConfig) -> None:
    from agentrl.assembly import check

    out = console()
    for line in check(config):
        out.print(line, markup=False)
    out.print()
    out.print(config.to_yaml(), markup=False)


def _run(config: RunConfig, resume: bool) -> None:
    from agentrl.assembly import check
    from agentrl.display import make_display
    from agentrl.models import resolve as resolve_model

    out = console()
    for line in check(config):
        out.print(line, markup=False)
    resolve_model(config.model.name)  # a download shows a bar of its own, before the live display begins
    observer = make_display()
    try:
        from agentrl.trainer import train

        result = train(config, resume=resume, observer=observer)
    except KeyboardInterrupt:
        out.print(f"interrupted; go on with: agentrl train --resume {config.folder}", markup=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    from agentrl.report import evaluation_table

    if result.evaluations:
        out.print(evaluation_table({stage: done.to_metrics() for stage, done in result.evaluations.items()}))
    out.print(f"run     {result.folder}", markup=False)
    out.print(f"policy  {result.folder / 'policy'}", markup=False)
    out.print(f"report  {result.report}", markup=False)
