"""Functions as task files declare them: their types, and their schemas in the OpenAI form.

The leaderboard names types as Python does (`dict`, `float`, `tuple`, `any`), which JSON Schema does not know.
Invariant: a `Function` that was read has a name that endpoints take, and every parameter a type that the judge knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.tool import TOOL_NAME

KINDS: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
    **{"number": float, "double": float, "bool": bool, "list": list, "object": dict},
}
"""The Python type of a JSON value for each type name; `any` counts as text, as on the leaderboard."""
_SCHEMA_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the judge needs to know of a parameter."""

    kind: type
    inner: type | None
    """Of the entries of a list; None where they are not declared."""

    def __str__(self) -> str:
        return self.kind.__name__ if self.inner is None else f"{self.kind.__name__}[{self.inner.__name__}]"


@dataclass(frozen=True, slots=True)
class Function:
    """A function on offer."""

    name: str
    """As the file has it."""
    parameters: Mapping[str, Parameter]
    required: tuple[str, ...]
    tool: dict[str, Any]
    """Its schema in the OpenAI form."""

    @property
    def offered(self) -> str:
        """The name that the policy calls it by."""
        return offered_name(self.name)


def offered_name(name: str) -> str:
    """Endpoints take no dots: they become underscores, as the leaderboard has it."""
    return name.replace(".", "_")


def read_functions(declared: Any, where: str) -> tuple[Function, ...]:
    """The functions of a task. Raises `ConfigError`, which begins with `where`."""
    if isinstance(declared, dict):
        declared = [declared]
    if not isinstance(declared, list) or not all(isinstance(item, dict) for item in declared):
        raise ConfigError(f"{where}: 'function' must be a list of objects")
    functions: dict[str, Function] = {}
    for item in declared:
        function = _function(item, where)
        if function.offered in functions:
            raise ConfigError(f"{where}: two functions are called {function.offered!r}")
        functions[function.offered] = function
    return tuple(functions.values())


def _function(declared: dict[str, Any], where: str) -> Function:
    name = declared.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(offered_name(name)):
        raise ConfigError(f"{where}: function name {name!r} must be 1 to 64 letters, digits, '_', '-' or '.'")
    where = f"{where}, function {name!r}"
    parameters = declared.get("parameters") or {}
    properties = parameters.get("properties", {}) if isinstance(parameters, dict) else None
    if not isinstance(properties, dict):
        raise ConfigError(f"{where}: 'parameters' must be an object with the object 'properties'")
    required = parameters.get("required", [])
    if not isinstance(required, list) or not all(isinstance(item, str) for item in required):
        raise ConfigError(f"{where}: 'required' must be a list of names")
    read = {key: _parameter(schema, f"{where}, parameter {key!r}") for key, schema in properties.items()}
    schema = {
        "type": "object",
        "properties": {key: _schema(value, where) for key, value in properties.items()},
        "required": required,
    }
    shown = {"name": offered_name(name), "description": str(declared.get("description", "")), "parameters": schema}
    return Function(name, read, tuple(required), {"type": "function", "function": shown})


def _parameter(schema: Any, where: str) -> Parameter:
    kind = _kind(schema, where)
    items = schema.get("items") if kind is list else None
    return Parameter(kind, None if items is None else _kind(items, f"{where}, items"))


def _kind(schema: Any, where: str) -> type:
    name = schema.get("type") if isinstance(schema, dict) else None
    if not isinstance(name, str):
        raise ConfigError(f"{where}: there is no 'type'")
    if name not in KINDS:
        raise ConfigError(f"{where}: the type {name!r} is unknown; {nearest(name, list(KINDS))}")
    return KINDS[name]


def _schema(declared: Any, where: str) -> dict[str, Any]:
    """A parameter's declaration as JSON Schema."""
    kind = _kind(declared, where)
    schema = {key: value for key, value in declared.items() if key not in ("optional", "required")}
    schema["type"] = _SCHEMA_TYPES[kind]
    if isinstance(declared.get("required"), list):
        schema["required"] = declared["required"]
    if "items" in declared:
        schema["items"] = _schema(declared["items"], where)
    if isinstance(declared.get("properties"), dict):
        schema["properties"] = {key: _schema(value, where) for key, value in declared["properties"].items()}
    return schema
