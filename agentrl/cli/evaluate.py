"""`agentrl eval`: a model on an environment's held-out tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentrl.cli.output import Json, console, options_of, print_json

EXAMPLES = """
Examples:

  agentrl eval runs/quickstart/policy

  agentrl eval smollm2-135m-instruct -n 50 --temperature 0 --json

  agentrl eval oracle --env agentrl/Arithmetic-v0 'levels=[1, 2, 3, 4]'
"""


def eval_command(
    model: Annotated[
        str, typer.Argument(help="Hub id, folder, GGUF file, built-in name, a run's folder, or `oracle`.")
    ],
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Environment options.")] = None,
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

    from agentrl.config import load_config
    from agentrl.display import make_display
    from agentrl.evaluation import evaluate
    from agentrl.report import evaluation_table

    config, chosen = None, model
    for folder in (Path(model), Path(model).parent):
        if (folder / "config.yaml").is_file() and (folder / "policy").is_dir():
            config, chosen = load_config(folder / "config.yaml"), str(folder / "policy")
            break
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
        console().print(evaluation_table({model: result}))
