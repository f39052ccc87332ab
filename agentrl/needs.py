"""What a component asks the scoring pass for: a quantity's name, with its options where it has some.

A need is text in one canonical form, `name` or `name(option=value, ...)` with sorted options, a value being a number or
text in double quotes (as JSON writes it), so that two components that ask for the same thing share it, and people read
it in `agentrl recipes show`. Invariant: `split(need(...))` gives back what went in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from agentrl.errors import ConfigError

_FORM = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(\((?P<options>.*)\))?", re.DOTALL)
_OPTION = re.compile(r'\s*(?P<key>[^=,"\s]+)\s*=\s*(?P<value>"(?:[^"\\]|\\.)*"|[^,"()]*)(?:,|$)', re.DOTALL)


def need(name: str, **options: float | str) -> str:
    """The need for quantity `name` with these numbers and texts as options."""
    if not options:
        return name
    return f"{name}({', '.join(f'{key}={_written(value)}' for key, value in sorted(options.items()))})"


def split(text: str) -> tuple[str, dict[str, float | str]]:
    """Name and options of a need; raises `ConfigError` if it is none."""
    match = _FORM.fullmatch(text)
    rest = "" if match is None else (match["options"] or "").strip()
    options: dict[str, float | str] = {}
    while rest:
        option = _OPTION.match(rest)
        if option is None:
            match = None
            break
        options[option["key"]] = _read(text, option["key"], option["value"].strip())
        rest = rest[option.end() :]
    if match is None:
        raise ConfigError(f'{text!r} is no quantity; write a name, or name(option=number), or name(option="text")')
    return match["name"], options


def union(needs: Iterable[Iterable[str]]) -> frozenset[str]:
    """Everything that several components need."""
    return frozenset(item for each in needs for item in each)


def _written(value: float | str) -> str:
    return json.dumps(value) if isinstance(value, str) else f"{value:g}"


def _read(text: str, key: str, value: str) -> float | str:
    try:
        return str(json.loads(value)) if value.startswith('"') else float(value)
    except ValueError:
        raise ConfigError(f"{text!r}: option {key!r} is {value!r}, which is no number") from None
