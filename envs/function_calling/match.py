"""Does a call match a possible answer? The published rules of the leaderboard's check of calls, for Python's types.

A possible answer names one function and lists, for each parameter, the values that count; the value `""` among them
says that the parameter may be left out. Types are exact: a boolean is no integer, an integer is a float only as a
parameter's own value, not within a list. Strings are compared without case, spaces and the punctuation `,./-_*^`.
Where the listed values are of another type than the declared one, they stand for something that cannot be written as a
value (a variable's name), and only equality counts.

Invariant: pure and total: whatever a policy sends, the verdict is a boolean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .functions import Function, Parameter

Answer = Mapping[str, Mapping[str, Sequence[Any]]]
"""{function: {parameter: values that count}}, one function."""
Call = tuple[str, Mapping[str, Any]]
"""(name as offered, arguments)."""

OMITTED = ""
_IGNORED = re.compile(r"[ ,./\-_*^]")


def calls_match(functions: Sequence[Function], answers: Sequence[Answer], calls: Sequence[Call]) -> bool:
    """As many calls as answers, each answer met by a call of its own, in any order.

    An answer takes the first call that meets it, answers in their order, as published: no search for another pairing.
    """
    if len(calls) != len(answers):
        return False
    declared = {function.name: function for function in functions}
    left = list(calls)
    for answer in answers:
        ((name, values),) = answer.items()
        met = next((index for index, call in enumerate(left) if _call_matches(declared[name], values, call)), None)
        if met is None:
            return False
        del left[met]
    return True


def _call_matches(function: Function, values: Mapping[str, Sequence[Any]], call: Call) -> bool:
    name, given = call
    if name != function.offered or not given.keys() >= set(function.required):
        return False
    if not given.keys() <= function.parameters.keys() & values.keys():
        return False
    if any(OMITTED not in values[key] for key in values.keys() - given.keys()):
        return False
    return all(_value_matches(function.parameters[key], values[key], value) for key, value in given.items())


def _value_matches(parameter: Parameter, options: Sequence[Any], value: Any) -> bool:
    if parameter.kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            return False
    if not _typed(parameter.kind, parameter.inner, options, value):
        return False
    if _first_type(options) not in (None, parameter.kind):
        return value in options
    if parameter.kind is dict:
        return any(_dict_matches(option, value) for option in options)
    if parameter.kind is list and parameter.inner is dict:
        return any(_dicts_match(option, value) for option in options)
    if parameter.kind is list:
        lists = [[] if option == OMITTED else option for option in options]
        return _texts_plain(value) in [_texts_plain(option) for option in lists if isinstance(option, list)]
    return _plain(value) in map(_plain, options)


def _typed(kind: type, inner: type | None, options: Sequence[Any], value: Any) -> bool:
    """Whether the value has the declared type, or that of the values that are listed."""
    own = type(value)
    if own is not kind:
        return own is _first_type(options)
    if inner is None:
        return True
    return any(
        not isinstance(option, list) or all(_typed(inner, None, option, entry) for entry in value) for option in options
    )


def _first_type(options: Sequence[Any]) -> type | None:
    """Of the values that count; None if the parameter can only be left out."""
    return next((type(option) for option in options if option != OMITTED), None)


def _dict_matches(option: Any, value: Any) -> bool:
    """`option` lists the values that count for each key."""
    if not isinstance(option, dict) or not isinstance(value, dict) or not value.keys() <= option.keys():
        return False
    if any(OMITTED not in _listed(option[key]) for key in option.keys() - value.keys()):
        return False
    return all(_plain(entry) in map(_plain, _listed(option[key])) for key, entry in value.items())


def _dicts_match(option: Any, value: Sequence[Any]) -> bool:
    """Entry by entry, in order; `""` counts for the empty list."""
    if not isinstance(option, list | str) or len(option) != len(value):
        return False
    return all(_dict_matches(wanted, entry) for wanted, entry in zip(option, value, strict=True))


def _texts_plain(values: Sequence[Any]) -> list[Any]:
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """A string without what is not compared; anything else as it is."""
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _listed(options: Any) -> Sequence[Any]:
    return options if isinstance(options, list) else [options]
