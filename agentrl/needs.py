"""What a component asks the scoring pass for: a quantity's name, with its options where it has some.

A need is text in one canonical form, `name` or `name(option=value, ...)` with sorted options, so that two components
that ask for the same thing share it, and people read it in `agentrl recipes show`. Invariant: `split(need(...))` gives
back what went in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agentrl.errors import ConfigError

_FORM = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(\((?P<options>[^()]*)\))?")


def need(name: str, **options: float) -> str:
    """The need for quantity `name` with these numbers as options."""
    if not options:
        return name
    return f"{name}({', '.join(f'{key}={value:g}' for key, value in sorted(options.items()))})"


def split(text: str) -> tuple[str, dict[str, float]]:
    """Name and options of a need; raises `ConfigError` if it is none."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is no quantity; write a name, or name(option=number)")
    options: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in (match["options"] or "").split(","))):
        key, _, value = item.partition("=")
        try:
            options[key.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"{text!r}: option {key.strip()!r} is {value!r}, which is no number") from None
    return match["name"], options


def union(needs: Iterable[Iterable[str]]) -> frozenset[str]:
    """Everything that several components need."""
    return frozenset(item for each in needs for item in each)
