"""Values drawn at random that are valid under a JSON schema, for tool arguments.

Covers what schemas of tools are made of: types, enum and const, bounds of numbers, lengths, items, properties, `anyOf`,
`oneOf`, `allOf` of objects, and references within the schema. Invariant: what is returned is valid, or `NoValue` is
raised; keywords that restrict a value in a way that is not known here (`not`, `if` ...) raise it, too.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

MOST_ITEMS = 3
"""Items of an array beyond its least number."""
DEEPEST = 6
"""Levels of nesting from which on nothing optional is drawn."""
SPREAD = 100
"""Width of the range of a number that is bounded on one side, or on none."""
TRIES = 20

_UNKNOWN = frozenset({
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "contains", "patternProperties",
    "propertyNames", "unevaluatedProperties", "unevaluatedItems",
})  # fmt: skip


class NoValue(Exception):
    """No valid value could be drawn."""


class SchemaSampler:
    """Draws values; strings come from `text`."""

    def __init__(self, draw: random.Random, text: Callable[[], str]) -> None:
        self._draw = draw
        self._text = text
        self._root: Mapping[str, Any] = {}

    def value(self, schema: Mapping[str, Any]) -> Any:
        """A value that is valid under `schema`; raises `NoValue`."""
        self._root = schema
        return self._value(schema, 0)

    def _value(self, schema: Any, depth: int) -> Any:
        if schema is True:
            return self._text()
        if not isinstance(schema, Mapping) or depth > 3 * DEEPEST:
            raise NoValue
        if unknown := _UNKNOWN & schema.keys():
            raise NoValue(min(unknown))
        if "$ref" in schema:
            return self._value(self._referred(schema["$ref"]) | _rest(schema, "$ref"), depth + 1)
        if "allOf" in schema:
            return self._value(self._merged(schema), depth + 1)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._alternative(schema, key, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._draw.choice(list(schema["enum"]) or _no_value())
        kinds = schema.get("type", _implied(schema))
        kind = kinds if isinstance(kinds, str) else self._draw.choice(list(kinds) or _no_value())
        return self._of_type(kind, schema, depth)

    def _of_type(self, kind: str, schema: Mapping[str, Any], depth: int) -> Any:
        match kind:
            case "string":
                return self._string(schema)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._draw.random() < 0.5
            case "null":
                return None
            case "array":
                return self._array(schema, depth)
            case "object":
                return self._object(schema, depth)
        raise NoValue(kind)

    # -- composed ------------------------------------------------------------------------------------------------------

    def _referred(self, pointer: Any) -> dict[str, Any]:
        """What a reference within the schema points to (RFC 6901)."""
        found: Any = self._root
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise NoValue("$ref")
        for part in pointer[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise NoValue("$ref")
            found = found[name]
        return dict(found) if isinstance(found, Mapping) else _no_value()

    def _merged(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """`allOf` as one schema, where no two parts say different things of the same keyword."""
        merged = _rest(schema, "allOf")
        for part in schema["allOf"]:
            resolved = self._referred(part["$ref"]) | _rest(part, "$ref") if "$ref" in part else dict(part)
            for key, said in resolved.items():
                if key == "properties":
                    said = {**merged.get(key, {}), **said}
                elif key == "required":
                    said = sorted({*merged.get(key, ()), *said})
                elif merged.get(key, said) != said and key not in ("title", "description"):
                    raise NoValue("allOf")
                merged[key] = said
        return merged

    def _alternative(self, schema: Mapping[str, Any], key: str, depth: int) -> Any:
        """A value of one of the alternatives, in a random order until one can be drawn."""
        shared = _rest(schema, key)
        for choice in self._draw.sample(list(schema[key]), len(schema[key])):
            try:
                return self._value({**shared, **choice} if isinstance(choice, Mapping) else choice, depth + 1)
            except NoValue:
                continue
        raise NoValue(key)

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least = int(schema.get("minItems", 0))
        most = min(int(schema.get("maxItems", least + MOST_ITEMS)), least + MOST_ITEMS)
        first = list(schema.get("prefixItems", ()))
        wanted = least if depth >= DEEPEST else self._draw.randint(min(max(least, 1), most), most)
        items: list[Any] = []
        for _ in range(TRIES * max(wanted, 1)):
            if len(items) >= max(wanted, least):
                return items
            rule = first[len(items)] if len(items) < len(first) else schema.get("items", {"type": "string"})
            if rule is False:
                break
            item = self._value(rule, depth + 1)
            if not (schema.get("uniqueItems") and item in items):
                items.append(item)
        return items if len(items) >= least else _no_value()

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required, properties = set(schema.get("required", ())), dict(schema.get("properties", {}))
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        if required - properties.keys() or len(required) > most:
            raise NoValue("required")
        value = {name: self._value(properties[name], depth + 1) for name in properties if name in required}
        optional = [name for name in properties if name not in required]
        for name in self._draw.sample(optional, len(optional)):
            wanted = len(value) < least or (depth < DEEPEST and len(value) < most and self._draw.random() < 0.5)
            if wanted:
                with suppress(NoValue):
                    value[name] = self._value(properties[name], depth + 1)
        return {name: value[name] for name in properties if name in value} if len(value) >= least else _no_value()

    # -- plain ---------------------------------------------------------------------------------------------------------

    def _string(self, schema: Mapping[str, Any]) -> str:
        """A piece of text within the lengths that fits the pattern; of a `format` only the schema's own examples."""
        least, most, pattern = schema.get("minLength", 0), schema.get("maxLength", math.inf), schema.get("pattern")
        given = [text for text in (*schema.get("examples", ()), schema.get("default")) if isinstance(text, str)]
        if "format" in schema and not given:
            raise NoValue("format")
        for _ in range(TRIES):
            text = self._draw.choice(given) if "format" in schema else self._text()
            if len(text) < least and not pattern:
                text += "a" * (least - len(text))
            text = text if len(text) <= most else text[: int(most)]
            if len(text) >= least and (pattern is None or re.search(pattern, text)):
                return text
        fitting = [text for text in given if least <= len(text) <= most and (not pattern or re.search(pattern, text))]
        if not fitting:
            raise NoValue("pattern")
        return self._draw.choice(fitting)

    def _integer(self, schema: Mapping[str, Any]) -> int:
        step = schema.get("multipleOf", 1)
        low, high = _bounds(schema)
        if not float(step).is_integer():
            raise NoValue("multipleOf")
        step = int(step)
        first, last = math.ceil(low / step), math.floor(high / step)
        if "exclusiveMinimum" in schema and first * step <= schema["exclusiveMinimum"]:
            first += 1
        if "exclusiveMaximum" in schema and last * step >= schema["exclusiveMaximum"]:
            last -= 1
        return step * self._draw.randint(first, last) if first <= last else _no_value()

    def _number(self, schema: Mapping[str, Any]) -> float:
        low, high = _bounds(schema)
        if "multipleOf" in schema or low == high or self._draw.random() < 0.5:
            try:
                return self._integer({"multipleOf": 1, **schema})
            except NoValue:
                if "multipleOf" in schema:
                    raise
        for digits in (2, 6, 15):
            value = round(self._draw.uniform(low, high), digits)
            above = low <= value and value > schema.get("exclusiveMinimum", -math.inf)
            if above and value <= high and value < schema.get("exclusiveMaximum", math.inf):
                return value
        raise NoValue("number")


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float]:
    """A range within the bounds; where they leave it open, `SPREAD` wide."""
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    if low == -math.inf and high == math.inf:
        return 0, SPREAD
    if low == -math.inf:
        return high - SPREAD, high
    return low, low + SPREAD if high == math.inf else high


def _implied(schema: Mapping[str, Any]) -> str:
    """The type that a schema without one is about."""
    if schema.keys() & {"properties", "required"}:
        return "object"
    if schema.keys() & {"items", "prefixItems"}:
        return "array"
    if schema.keys() & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}:
        return "number"
    return "string"


def _rest(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: said for name, said in schema.items() if name not in (key, "default", "examples")}


def _no_value() -> Any:
    raise NoValue
