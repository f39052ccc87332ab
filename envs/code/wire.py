"""Plain data as JSON that keeps Python's types apart, and the comparison of an answer with what was expected.

`runner` writes the same form inside the sandbox. Numbers, text, None, truth values and lists are themselves; the rest
is an object of two keys: `{"t": "tuple", "v": [...]}`, likewise `set`, `frozenset`, `dict` (pairs), `bytes`
(hexadecimal), `int` (hexadecimal, where a JSON number would not be exact for every reader), `float` (`nan`, `inf`,
`-inf`) and `complex` (real, imaginary part).

Invariant: an answer is only ever looked at, never turned into objects: it has no behaviour of its own here. How far it
is looked at is bounded by what was expected.
"""

from __future__ import annotations

import json
import math
from typing import Any

TOLERANCE = 1e-9
"""Floats are equal within this, relative or absolute; elements of sets and keys of dicts must be equal exactly."""
EXACT = 2**53
"""Larger integers travel as hexadecimal text."""
SHOWN = 200
"""Characters of a value in a message."""


class NotPlain(ValueError):
    """A value that is no plain data, or too deeply nested; the text says which."""


def encode(value: Any) -> Any:
    """`value` in JSON's types. Raises `NotPlain`."""
    try:
        return _encode(value)
    except RecursionError:
        raise NotPlain("nested too deeply") from None


def _encode(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if abs(value) < EXACT else {"t": "int", "v": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"t": "float", "v": repr(value)}
    if kind is list:
        return [_encode(item) for item in value]
    if kind in (tuple, set, frozenset):
        return {"t": kind.__name__, "v": [_encode(item) for item in value]}
    if kind is dict:
        return {"t": "dict", "v": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if kind is bytes:
        return {"t": "bytes", "v": value.hex()}
    if kind is complex:
        return {"t": "complex", "v": [_encode(value.real), _encode(value.imag)]}
    raise NotPlain(f"{kind.__name__} is not plain data")


def matches(expected: Any, got: Any) -> bool:
    """Whether the encoded answer `got` is the value `expected`: same types throughout, floats within `TOLERANCE`."""
    try:
        return _matches(expected, got)
    except (RecursionError, ValueError, TypeError, OverflowError):  # a form that `encode` never writes
        return False


def _matches(expected: Any, got: Any) -> bool:
    kind = type(expected)
    if expected is None or kind is bool:
        return got is expected
    if kind is str:
        return type(got) is str and got == expected
    if kind is int:
        return type(got) is type(_encode(expected)) and got == _encode(expected)
    if kind is float:
        return _close(expected, _float(got))
    if kind is list:
        return type(got) is list and _same_items(expected, got)
    if kind is bytes:
        return bool(got == _encode(expected))
    items = _tagged(got, kind.__name__)
    if items is None:
        return False
    if kind is tuple:
        return _same_items(expected, items)
    if kind is complex:
        return _same_items([expected.real, expected.imag], items)
    if len(items) != len(expected):
        return False
    if kind is dict:
        answers = {canonical(key): item for key, item in items}
        wanted = {canonical(_encode(key)): item for key, item in expected.items()}
        return answers.keys() == wanted.keys() and all(_matches(item, answers[key]) for key, item in wanted.items())
    return {canonical(item) for item in items} == {canonical(_encode(item)) for item in expected}


def _same_items(expected: Any, got: Any) -> bool:
    return len(expected) == len(got) and all(map(_matches, expected, got))


def _tagged(got: Any, tag: str) -> list[Any] | None:
    """The items of an object of that tag, else None."""
    if type(got) is dict and got.get("t") == tag and type(got.get("v")) is list:
        items: list[Any] = got["v"]
        return items
    return None


def _float(got: Any) -> float | None:
    if type(got) is float:
        return got
    if type(got) is dict and got.get("t") == "float" and got.get("v") in ("nan", "inf", "-inf"):
        return float(got["v"])
    return None


def _close(expected: float, got: float | None) -> bool:
    if got is None:
        return False
    if math.isnan(expected):
        return math.isnan(got)
    return math.isclose(expected, got, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def canonical(encoded: Any) -> str:
    """The same text for the same value, whatever the order that sets and dicts were written in."""
    if type(encoded) is list:
        return f"[{','.join(map(canonical, encoded))}]"
    if type(encoded) is dict:
        tag, items = encoded.get("t"), encoded.get("v")
        if tag in ("set", "frozenset", "dict") and type(items) is list:
            return f"{tag}({','.join(sorted(map(canonical, items)))})"
        return f"{tag}({canonical(items)})"
    return json.dumps(encoded)


def show(encoded: Any, limit: int = SHOWN) -> str:
    """An encoded value as Python would print it, the end of a long one cut."""
    try:
        text = _show(encoded)
    except (RecursionError, ValueError, TypeError):  # a form that `encode` never writes
        text = "a malformed value"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _show(encoded: Any) -> str:
    if type(encoded) is list:
        return f"[{', '.join(map(_show, encoded))}]"
    if type(encoded) is not dict:
        return repr(encoded)
    tag: Any = encoded.get("t")
    items: Any = encoded.get("v")
    if tag == "int":
        return str(items) if len(items) > SHOWN else str(int(items, 16))
    if tag == "float":
        return str(items)
    if tag == "bytes":
        return repr(bytes.fromhex(items))
    if tag == "complex":
        return f"complex({', '.join(map(_show, items))})"
    if tag == "dict":
        return "{" + ", ".join(f"{_show(key)}: {_show(item)}" for key, item in items) + "}"
    inner = ", ".join(map(_show, items))
    if tag == "tuple":
        return f"({inner},)" if len(items) == 1 else f"({inner})"
    if tag in ("set", "frozenset"):
        plain = f"{{{inner}}}" if items else "set()"
        return plain if tag == "set" else f"frozenset({plain if items else ''})"
    raise ValueError("no such tag")
