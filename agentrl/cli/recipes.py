"""`agentrl recipes list | show NAME`."""

from __future__ import annotations

from typing import Annotated

import typer

from agentrl.cli.output import Json, console, print_json, print_table
from agentrl.recipes import describe_recipe, load_recipe, recipe_names

app = typer.Typer(help="Named compositions of all slots, with the papers' defaults.", no_args_is_help=True)


@app.command("list", epilog="Example:  agentrl recipes list --json")
def list_command(as_json: Json = False) -> None:
    """List the recipes."""
    about = [{"name": name, **describe_recipe(name)} for name in recipe_names()]
    if as_json:
        print_json([{key: recipe[key] for key in ("name", "description", "paper")} for recipe in about])
    else:
        print_table(
            ["name", "what", "paper"],
            [[name, r["description"], r["paper"]] for name, r in zip(recipe_names(), about, strict=True)],
        )


@app.command("show", epilog="Example:  agentrl recipes show grpo")
def show_command(name: Annotated[str, typer.Argument(help="A recipe's name.")], as_json: Json = False) -> None:
    """Show a recipe: its description, its source and the configuration that it resolves to."""
    from agentrl.config import validate

    about = describe_recipe(name)
    config = validate({**load_recipe(name), "recipe": name})
    if as_json:
        print_json(
            {
                "name": name,
                **{key: about[key] for key in ("description", "paper")},
                "config": config.model_dump(mode="json"),
            }
        )
        return
    out = console()
    out.print(f"{name}: {about['description']}\nsource: {about['paper']}\n", markup=False)
    out.print(config.to_yaml(), markup=False)
