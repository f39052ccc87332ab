"""`agentrl models list | fetch NAME`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from agentrl.cli.output import Json, console, examples, print_json, print_table
from agentrl.models import fetch, list_models

app = typer.Typer(help="Models by name: built-in ones, and what the cache holds.", no_args_is_help=True)


@app.command("list", epilog=examples("agentrl models list --json"))
def list_command(as_json: Json = False) -> None:
    """List the built-in and the cached models. A hub id, a folder or a GGUF file works as well."""
    models = list_models()
    if as_json:
        print_json([{**asdict(model), "present": model.present} for model in models])
        return
    rows = [
        [
            model.name,
            str(model.kind),
            f"{model.size / 1e6:.0f} MB" if model.present else "not fetched",
            model.description,
        ]
        for model in models
    ]
    print_table(["name", "kind", "on disk", "what"], rows)


@app.command("fetch", epilog=examples("agentrl models fetch smollm2-135m-instruct"))
def fetch_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Hub id, folder, GGUF file or built-in name.")],
    as_json: Json = False,
) -> None:
    """Bring a model onto this disk: download, check by hash, convert."""
    info = fetch(name)
    if as_json:
        print_json({**asdict(info), "present": info.present})
    else:
        console().print(f"{info.name}: {info.path}", markup=False)
