"""`agentrl eval`: a model on an environment's held-out tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentrl.cli.output import Json, console, examples, options_of, print_json
from agentrl.config import RunConfig, load_config
from agentrl.errors import ConfigError

EXAMPLES = examples(
    "agentrl eval runs/quickstart",
    "agentrl eval smollm2-135m-instruct -n 50 --temperature 0 --json",
    "agentrl eval oracle --env agentrl/Arithmetic-v0 'levels=[1, 2, 3, 4]'",
)


def eval_command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Hub id, folder, GGUF file, built-in name, a run's folder, or `oracle`."),
    ],
    options: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Environment options.")] = None,
    env: Annotated[str | None, typer.Option(help="Environment id; default: the run's, else Arithmetic.")] = None,
    split: Annotated[str, typer.Option(help="Task split.")] = "test",
    episodes: Annotated[int, typer.Option("--episodes", "-n", min=1, help="Number of tasks, one episode each.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the samples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Keep the episodes in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model, a checkpoint or the environment's own oracle, with 95 % intervals."""
    from rich.console import Console

    from agentrl.display import make_display
    from agentrl.evaluation import evaluate
    from agentrl.models import kind_of
    from agentrl.report import evaluation_table

    chosen, config = _run_of(model)
    if chosen != "oracle":
        kind_of(chosen)  # a mistyped name is found before anything is loaded
    result = evaluate(
        chosen,
        env,
        env_options=dict(options_of(options or [])) or None,
        split=split,
        episodes=episodes,
        temperature=temperature,
        seed=seed,
        config=config,
        out=out,
        observer=make_display(Console(stderr=True)),
    )
    if as_json:
        print_json(result.to_dict())
    else:
        console().print(evaluation_table({model: result.to_metrics()}))


def _run_of(model: str) -> tuple[str, RunConfig | None]:
    """The policy of a run and the run's configuration, where `model` is a run's folder or the policy in it."""
    path = Path(model)
    folder = path.parent if path.name == "policy" else path
    if not (folder / "config.yaml").is_file() or not (folder / "store.sqlite").is_file():
        return model, None
    if not (folder / "policy").is_dir():
        raise ConfigError(f"{model!r} holds a run without a trained policy; agentrl train --resume {folder}")
    return str(folder / "policy"), load_config(folder / "config.yaml")
