"""What every file of settings shares: pydantic sections, YAML, dotted overrides, and errors of one line.

A run's configuration and an evaluation suite are both read through here. Invariant: a key that no section has is
refused with the nearest valid one, whatever file or command line it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from agentrl.errors import ConfigError
from agentrl.registry import nearest

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A part of a file of settings: unknown keys are refused, assignments are checked."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_assignment=True)


def validated(kind: type[S], tree: dict[str, Any], where: str = "") -> S:
    """The settings that `tree` describes; raises `ConfigError` with one line, which begins with `where`."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(where + one_line(error, kind)) from None


def parse_overrides(overrides: Sequence[str], tree: dict[str, Any] | None = None) -> dict[str, Any]:
    """Set every `dotted.key=value` in `tree` (a new one by default) and return it; values are YAML."""
    tree = {} if tree is None else tree
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"{override!r} is not of the form key=value, as in optimiser.lr=1e-5")
        assign(tree, key.strip(), _parse_value(key, text))
    return tree


def read_yaml(file: Path, what: str) -> dict[str, Any]:
    """The keys and values of a YAML file; raises `ConfigError`, one line, that calls the file `what`."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{what} {str(file)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {str(file)!r} is not valid YAML: {error}") from None
    return parse_yaml(text, f"{what} {str(file)!r}")


def parse_yaml(text: str, what: str) -> dict[str, Any]:
    """The keys and values of a YAML text; raises `ConfigError`, one line, that begins with `what`."""
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{what} must hold keys and values, it holds a {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: the plain loader drops the first one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def merge(tree: dict[str, Any], other: dict[str, Any]) -> None:
    """Put `other` over `tree`, section by section."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value


def assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one key, its sections made where there are none."""
    *sections, leaf = dotted.split(".")
    for section in sections:
        child = tree.setdefault(section, {})
        if child is None:
            child = tree[section] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{dotted}: {section!r} holds {child!r}, which has no keys")
        tree = child
    tree[leaf] = value


def one_line(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first problem with key, value and, for a key that `kind` does not have, the nearest valid ones."""
    problems = error.errors(include_url=False)
    first = problems[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        text = f"{location}: unknown key; {nearest(str(first['loc'][-1]), _keys_at(kind, first['loc'][:-1]))}"
    elif first["type"] == "missing":
        text = f"{location}: is missing"
    else:
        shown = repr(first["input"])
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        of_section = first["type"] == "value_error" and isinstance(first["input"], dict)
        value = "" if of_section else f"={shown if len(shown) < 80 else shown[:77] + '...'}"
        text = f"{location}{value}: {message}"
    more = len(problems) - 1
    return text + (f" (and {more} more)" if more else "")


def _keys_at(kind: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Valid keys of the section at `location`."""
    annotation: Any = kind
    for part in location:
        section = _section_in(annotation)
        # in a mapping of sections the part is a name that the user chose
        annotation = get_args(annotation)[-1] if section is None else section.model_fields[str(part)].annotation
    section = _section_in(annotation)
    return [] if section is None else list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that `annotation` is, alone or beside None; None for a mapping of sections."""
    candidates = () if get_origin(annotation) is dict else (annotation, *get_args(annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _parse_value(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{key}={text}: the value is not valid YAML") from None
    # YAML 1.1 reads 1e-5 as text; people write learning rates so.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
