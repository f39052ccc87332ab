"""What a typed signature says: parameters with types, defaults and descriptions, as a pydantic model.

One reading of signatures serves tools (schema and validation of arguments) and constructors (options from YAML, the
command line and Python). Invariant: every parameter has a type hint that pydantic can check, or the reading fails with
one line that names it.
"""

from __future__ import annotations

import inspect
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from agentrl.errors import ConfigError
from agentrl.registry import nearest

_SECTION = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Return|Yields|Raises|Examples?|Notes?):\s*$")
_ARGUMENT = re.compile(r"^\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
_SHOWN_ERRORS = 3
_SHOWN_INPUT = 60


def parameters_model(what: str, function: Callable[..., Any], descriptions: Mapping[str, str]) -> type[BaseModel]:
    """The parameters of `function` (without `self`) as a model that refuses unknown ones.

    Descriptions come from `Annotated[..., Field(description=...)]`, else from `descriptions`. `what` opens the error
    messages. Raises `ConfigError`.
    """
    fields: dict[str, Any] = {}
    for name, (hint, default) in _parameters(what, function).items():
        if name.startswith("_"):
            raise ConfigError(f"{what}: parameter {name!r} must not start with an underscore")
        described = any(isinstance(item, FieldInfo) and item.description for item in getattr(hint, "__metadata__", ()))
        value = ... if default is inspect.Parameter.empty else default
        if not described and name in descriptions:
            value = Field(value, description=descriptions[name])
        elif default is inspect.Parameter.empty and _has_default(hint):
            fields[name] = hint
            continue
        fields[name] = (hint, value)
    config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*shadows an attribute.*")  # a parameter may be called `json`
            return create_model(_model_name(function), __config__=config, **fields)
    except (PydanticUserError, NameError, TypeError) as error:
        raise ConfigError(f"{what}: a type hint cannot be used: {_first_line(error)}") from error


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema without titles, which only cost a policy tokens."""
    schema = model.model_json_schema()
    schema.pop("additionalProperties", None)
    stripped: dict[str, Any] = without_titles(schema)
    stripped.setdefault("properties", {})
    return stripped


def docstring_parts(docstring: str | None) -> tuple[str, dict[str, str]]:
    """A Google docstring as (text before the first section, description of each argument)."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    start = next((index for index, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    arguments: dict[str, str] = {}
    section, current, depth = "", "", 0
    for line in lines[start:]:
        if heading := _SECTION.match(line):
            section, current = heading[1], ""
            continue
        if section not in ("Args", "Arguments", "Parameters") or not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        depth = indent if not arguments else depth
        if indent <= depth and (found := _ARGUMENT.match(line)):
            current = found[1]
            arguments[current] = found[2].strip()
        elif current:
            arguments[current] = f"{arguments[current]} {line.strip()}".strip()
    return "\n".join(lines[:start]).strip(), arguments


def readable(error: ValidationError) -> str:
    """A validation error in one short line that a language model or a person can act on."""
    shown = []
    for item in error.errors(include_url=False)[:_SHOWN_ERRORS]:
        where = ".".join(map(str, item["loc"]))
        message = item["msg"][:1].lower() + item["msg"][1:]
        given = "" if item["type"] in ("missing", "json_invalid") else f" (got {_short(item['input'])})"
        shown.append(f"{where}: {message}{given}" if where else f"{message}{given}")
    more = error.error_count() - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def checked_options(what: str, cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` checked against the constructor of `cls` and brought to the declared types.

    Follows `**kwargs` up the bases. Raises `ConfigError`: key, value, what is valid.
    """
    parameters = constructor_parameters(what, cls)
    if parameters is None:
        return dict(options)
    for key in options:
        if key not in parameters:
            raise ConfigError(f"{what}: option {key!r} is unknown; {nearest(key, list(parameters))}")
    missing = [name for name, (_, default) in parameters.items() if default is inspect.Parameter.empty]
    for name in missing:
        if name not in options:
            raise ConfigError(f"{what}: option {name!r} must be given")
    fields: dict[str, Any] = {f"f_{key}": (parameters[key][0], Field(alias=key)) for key in options}
    try:
        config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
        checked = create_model("Options", __config__=config, **fields).model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(f"{what}: {readable(error)}") from None
    return {key: getattr(checked, f"f_{key}") for key in options}


def constructor_parameters(what: str, cls: type) -> dict[str, tuple[Any, Any]] | None:
    """Name to (type hint, default) of every option of `cls`; None if its constructor takes anything."""
    found: dict[str, tuple[Any, Any]] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        if base is object:
            return found
        constructor = vars(base)["__init__"]
        for name, parameter in _parameters(what, constructor, untyped=True).items():
            found.setdefault(name, parameter)
        kinds = [parameter.kind for parameter in inspect.signature(constructor).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return found
    return None


def _parameters(what: str, function: Callable[..., Any], untyped: bool = False) -> dict[str, tuple[Any, Any]]:
    """Name to (type hint, default), `self` left out; `untyped` also lets through what only a constructor may have."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise ConfigError(f"{what}: a type hint cannot be resolved: {_first_line(error)}") from error
    found: dict[str, tuple[Any, Any]] = {}
    for index, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
        if index == 0 and name == "self":
            continue
        variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if untyped and (variadic or name not in hints):
            if not variadic:
                found[name] = (Any, parameter.default)
            continue
        if variadic or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ConfigError(f"{what}: parameter {name!r} must be a plain one that can be given by name")
        if name not in hints:
            raise ConfigError(f"{what}: parameter {name!r} has no type hint")
        found[name] = (hints[name], parameter.default)
    return found


def _has_default(hint: Any) -> bool:
    items = getattr(hint, "__metadata__", ())
    return any(isinstance(item, FieldInfo) and not item.is_required() for item in items)


def without_titles(node: Any, names: bool = False) -> Any:
    """A JSON schema without its titles.

    `names`: the keys of this node are parameters' names, of which one may be `title`.
    """
    if isinstance(node, dict):
        return {
            key: without_titles(value, names=not names and key in ("properties", "$defs"))
            for key, value in node.items()
            if names or key != "title"
        }
    return [without_titles(item) for item in node] if isinstance(node, list) else node


def _model_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__).rpartition(">.")[2]


def _short(value: Any) -> str:
    # cut before repr: a hostile argument may be megabytes long
    text = repr(value[:_SHOWN_INPUT] if isinstance(value, str) else value) if not _is_large(value) else "..."
    return text if len(text) <= _SHOWN_INPUT else text[: _SHOWN_INPUT - 3] + "..."


def _is_large(value: Any) -> bool:
    return isinstance(value, list | dict | tuple) and len(value) > _SHOWN_INPUT


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
