"""Values drawn from JSON schemas are valid, by an independent validator; what cannot be drawn is said."""

from __future__ import annotations

import random
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from agentrl.evaluation.players.schema_values import NoValue, SchemaSampler


class Leaf(BaseModel):
    kind: Literal["a", "b"]
    weight: float = Field(gt=0, lt=1)


class Tree(BaseModel):
    name: str = Field(min_length=12, max_length=14)
    leaves: list[Leaf] = Field(min_length=2)
    pair: tuple[int, str]
    parent: Tree | None = None
    tags: set[Literal["x", "y", "z"]] = Field(default_factory=set)
    count: int | str | None = None


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    Tree.model_json_schema(),
    {"type": "integer", "minimum": 3, "maximum": 3},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "multipleOf": 7, "minimum": 8, "maximum": 20},
    {"type": "integer", "maximum": -1000},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-3},
    {"type": "number", "minimum": 0.25, "maximum": 0.25},
    {"type": ["string", "null"]},
    {"type": "string", "pattern": "^[0-9]+$"},
    {"type": "string", "maxLength": 1},
    {"type": "string", "format": "date", "examples": ["2020-01-02"]},
    {"enum": ["celsius", 4, None]},
    {"const": {"a": 1}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False, "minItems": 1},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "properties": {"a": {"not": {}}, "b": {"type": "null"}}, "required": ["b"]},
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2, "maxProperties": 2},
    {"oneOf": [{"type": "integer", "maximum": 0}, {"type": "string"}]},
    {"anyOf": [{"not": {}}, {"type": "boolean"}]},
    {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"const": 1}}, "required": ["b"]}]},
    {"$ref": "#/$defs/it", "$defs": {"it": {"type": "array", "items": {"$ref": "#/$defs/it"}}}},
    {"properties": {"n": {"minimum": 4}}, "required": ["n"]},
]


def drawn(schema: dict[str, Any], seed: int) -> Any:
    draw = random.Random(seed)
    return SchemaSampler(draw, lambda: draw.choice(["17", "apples", "of", "-3"])).value(schema)


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_what_is_drawn_is_valid(schema: dict[str, Any]) -> None:
    values = []
    for seed in range(60):
        try:
            values.append(drawn(schema, seed))
        except NoValue:
            continue
        jsonschema.validate(values[-1], schema)
    assert len(values) >= 15


def test_a_value_is_determined_by_the_seed() -> None:
    schema = Tree.model_json_schema()
    assert [drawn(schema, seed) for seed in range(9)] == [drawn(schema, seed) for seed in range(9)]
    assert drawn(schema, 1) != drawn(schema, 2)


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"type": "string", "pattern": "^z{40}$"},
        {"type": "string", "format": "uuid"},
        {"type": "object", "required": ["a"]},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "integer", "multipleOf": 0.5},
        {"enum": []},
        {"type": "colour"},
        {"$ref": "other.json#/x"},
        {"$ref": "#/$defs/none"},
        {"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": True},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"$ref": "#/$defs/me", "$defs": {"me": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/me"}}}},
        {"anyOf": [{"not": {}}]},
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_said(schema: dict[str, Any]) -> None:
    for seed in range(5):
        with pytest.raises(NoValue):
            drawn(schema, seed)


def test_recursion_ends() -> None:
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}}
    assert all(isinstance(drawn(schema, seed), dict) for seed in range(200))
