"""Recipes: named compositions of all slots, one YAML file each, with the paper's defaults.

A recipe's keys are those of `RunConfig`, and `ABOUT` for people. Invariant: every bundled
recipe resolves to a valid configuration. A path to a YAML file is a recipe too.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from agentrl.errors import ConfigError, UnknownNameError
from agentrl.registry import nearest

ABOUT = ("description", "paper", "section", "confidence")
"""Keys for people: one line each. `section` names the method; `confidence`: how sure its formulas are."""


def recipe_names() -> list[str]:
    """Names of the bundled recipes, sorted."""
    return sorted(Path(entry.name).stem for entry in files(__name__).iterdir() if entry.name.endswith(".yaml"))


def describe_recipe(name: str) -> dict[str, Any]:
    """The recipe's file as it stands, `description` and `paper` included."""
    text = _read(name)
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name!r} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe {name!r} must hold keys and values")
    return tree


def load_recipe(name: str) -> dict[str, Any]:
    """The configuration keys of recipe `name`; raises `UnknownNameError` with the nearest names."""
    return {key: value for key, value in describe_recipe(name).items() if key not in ABOUT}


def _read(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"recipe file {name!r} does not exist")
        return path.read_text(encoding="utf-8")
    if name not in recipe_names():
        raise UnknownNameError(f"recipe {name!r} is unknown; {nearest(name, recipe_names())}")
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
