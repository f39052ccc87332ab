"""Values that stand in a text without quotes, read by the JSON schema of the argument that they are for.

`<parameter=k>3</parameter>` is a number for one tool and a string for another. Invariant: with a schema, a text is read
as a type that the schema allows, and stays a string where only strings are allowed; a text that fits no type stays a
string, which the tool's validation then names. Without a schema (None) a text is what JSON makes of it, but a number
only in JSON's own spelling: `1.10`, `007` and `NaN` stay strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentrl.chat.json_calls import dump
from agentrl.chat.python_calls import literal

Schema = Mapping[str, Any]

_KINDS: Mapping[type, str] = {
    dict: "object",
    list: "array",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    type(None): "null",
}
_ALL = frozenset(_KINDS.values())
_PYTHON = {"True": True, "False": False, "None": None}
_DEPTH = 8
"""Of alternatives and references in each other; more are not followed."""


def property_schema(parameters: Schema | None, name: str) -> Schema | None:
    """The schema of the argument `name`, its reference resolved; None if there is none."""
    properties = (parameters or {}).get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    if not isinstance(found, Mapping) or parameters is None:
        return None
    return {**found, "$defs": parameters.get("$defs") or {}}


def read_value(text: str, schema: Schema | None) -> Any:
    """The value that `text` stands for."""
    kinds = _ALL if schema is None else kinds_of(schema, schema.get("$defs") or {})
    if kinds == {"string"}:
        return text
    try:
        value = json.loads(text, parse_constant=_refuse)
        if _kind(value) in kinds - {"string"} and not (schema is None and _respelled(text, value)):
            return value
    except (ValueError, RecursionError):
        pass  # it is no JSON: Python's spelling is tried next, and it stays text if it is not that either
    return text if schema is None or "string" in kinds else _python_value(text, kinds)


def spells(text: str, value: Any, schema: Schema | None) -> bool:
    """True if `text` is read as `value`."""
    return dump(read_value(text, schema)) == dump(value)


def kinds_of(schema: Schema, definitions: Schema, depth: int = _DEPTH) -> frozenset[str]:
    """The JSON types that a schema allows, integers being numbers; all of them where it does not say."""
    if depth == 0:
        return _ALL
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = definitions.get(reference.rpartition("/")[2])
        return kinds_of(target, definitions, depth - 1) if isinstance(target, Mapping) else _ALL
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return frozenset(_kind(value) for value in values)
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        chosen = [kinds_of(option, definitions, depth - 1) for option in options if isinstance(option, Mapping)]
        return frozenset().union(*chosen) or _ALL
    types = schema.get("type")
    named = [types] if isinstance(types, str) else types if isinstance(types, list) else []
    return frozenset("number" if kind == "integer" else str(kind) for kind in named) or _ALL


def _python_value(text: str, kinds: frozenset[str]) -> Any:
    if text.strip() in _PYTHON:
        value = _PYTHON[text.strip()]
    else:
        try:
            value = literal(text)
            dump(value)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return text
    return value if _kind(value) in kinds else text


def _kind(value: Any) -> str:
    return _KINDS[type(value)]


def _respelled(text: str, value: Any) -> bool:
    return _kind(value) == "number" and json.dumps(value) != text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
