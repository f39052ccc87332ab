"""`agentrl recipes list | show NAME`."""

from __future__ import annotations

from typing import Annotated

import typer

from agentrl.cli.output import Json, console, examples, print_json, print_table
from agentrl.recipes import ABOUT, describe_recipe, load_recipe, recipe_names

app = typer.Typer(help="Named compositions of all slots, with the papers' defaults.", no_args_is_help=True)


@app.command("list", epilog=examples("agentrl recipes list --json"))
def list_command(as_json: Json = False) -> None:
    """List the recipes."""
    about = [{"name": name, **_about(name)} for name in recipe_names()]
    if as_json:
        print_json(about)
    else:
        keys = ("name", "section", "description", "paper")
        print_table(["name", "method", "what", "source"], [[recipe[key] for key in keys] for recipe in about])


@app.command("show", epilog=examples("agentrl recipes show grpo"))
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe's name, or a YAML file.")],
    as_json: Json = False,
) -> None:
    """Show a recipe: its source, what its slots hold, what it needs, and the configuration that it resolves to."""
    from agentrl.config import validate
    from agentrl.recipes.summary import needs, slots

    about = _about(name)
    config = validate({**load_recipe(name), "recipe": name})
    if as_json:
        content = {"name": name, **about, "slots": slots(config), "needs": needs(config)}
        print_json({**content, "config": config.model_dump(mode="json")})
        return
    out = console()
    method = f" (method {about['section']})" if about["section"] else ""
    out.print(f"{name}{method}: {about['description']}\nsource: {about['paper']}", markup=False)
    if about["confidence"]:
        out.print(f"formulas: {about['confidence']}", markup=False)
    for slot, text in slots(config).items():
        out.print(f"{slot:<13} {text}", markup=False)
    out.print(f"{'needs':<13} {', '.join(needs(config)) or 'nothing more'}\n", markup=False)
    out.print(config.to_yaml(), markup=False)


def _about(name: str) -> dict[str, str]:
    """What a recipe's file says for people; a recipe of one's own may leave it out."""
    recipe = describe_recipe(name)
    return {key: str(recipe.get(key, "")) for key in ABOUT}
