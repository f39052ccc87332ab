"""Calls that are right: what the oracle says.

Invariant: what may be left out is left out, except where only a value can be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .files import Problem
from .functions import Function, Parameter
from .match import OMITTED, Call

_SAMPLES: Mapping[str, Any] = {
    "string": "example",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "array": [],
    "object": {},
}


def gold_calls(problem: Problem) -> list[Call]:
    """Calls that the judge accepts, by the first values that count; for `relevance` a call of the first function.

    A few answers of published files cannot be met by any call; theirs are no exception.
    """
    if problem.kind == "relevance":
        return [_any_call(problem.functions[0])]
    declared = {function.name: function for function in problem.functions}
    return [_call(declared[name], values) for answer in problem.answers for name, values in answer.items()]


def _call(function: Function, values: Mapping[str, Sequence[Any]]) -> Call:
    given = {}
    for key, options in values.items():
        if key not in function.required and OMITTED in options:
            continue
        if options and key in function.parameters:
            given[key] = _value(function.parameters[key], options)
    return function.offered, given


def _value(parameter: Parameter, options: Sequence[Any]) -> Any:
    value = _first(options)
    if parameter.kind is dict and isinstance(value, dict):
        return _dict(value)
    if parameter.inner is dict and isinstance(value, list):
        return [_dict(entry) for entry in value]
    return value


def _dict(listed: Any) -> Any:
    """A dictionary of which each key has a list of values that count."""
    if not isinstance(listed, dict):
        return listed
    options = {key: values if isinstance(values, list) else [values] for key, values in listed.items()}
    return {key: _first(values) for key, values in options.items() if OMITTED not in values}


def _first(options: Sequence[Any]) -> Any:
    return next((option for option in options if option != OMITTED), OMITTED)


def _any_call(function: Function) -> Call:
    properties = function.tool["function"]["parameters"]["properties"]
    return function.offered, {key: _sample(properties.get(key, {})) for key in function.required}


def _sample(schema: Mapping[str, Any]) -> Any:
    listed = schema.get("enum")
    return listed[0] if isinstance(listed, list) and listed else _SAMPLES.get(str(schema.get("type")))
