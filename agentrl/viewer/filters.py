"""The table of episodes as an address: what is chosen, how it is ordered, which page.

Invariant: `Filters.read(params)` and `Filters.link()` are inverses, so that every view of the table can be kept, sent
and gone back to. A value that cannot be read is an error that names the field, never silently ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.store import EpisodeQuery
from agentrl.store.records import Sort
from agentrl.trajectory import StopReason

SORTS: tuple[str, ...] = get_args(Sort)
PAGE_SIZES = (25, 50, 100, 200)
MOST_PAGES = 10**6
Reader = Callable[[str, str], object]
"""From a parameter's name and text to its value; raises `ConfigError`."""
_VERDICTS: Mapping[str, bool | Literal["none"]] = {"yes": True, "no": False, "none": "none"}


@dataclass(frozen=True, slots=True)
class Filters:
    """What the address of the table says; None: not said."""

    phase: str | None = None
    step: int | None = None
    env: str | None = None
    task: str | None = None
    group: str | None = None
    level: int | None = None
    correct: str | None = None
    """`yes`, `no`, or `none` for no verdict."""
    stop: str | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    min_turns: int | None = None
    errors: bool = False
    """Only episodes with tool errors."""
    q: str | None = None
    """Part of a task id."""
    sort: str = "id"
    down: bool = False
    page: int = 1
    size: int = 50

    @classmethod
    def read(cls, params: Mapping[str, str]) -> Filters:
        """Raises `ConfigError` for a value that is none of its field's; fields of other pages are left alone."""
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            text = params.get(name, "")
            if text:
                values[name] = _READERS.get(name, _text)(name, text)
        return cls(**values)

    def pairs(self) -> list[tuple[str, str]]:
        """Query parameters of what differs from a bare table."""
        bare = type(self)()
        said = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, _written(value)) for name, value in said if value != getattr(bare, name)]

    def link(self, **changes: Any) -> str:
        """`?...` for these filters with changes; any change but of the page goes back to the first page."""
        page = changes.pop("page", 1)
        pairs = replace(self, page=page, **changes).pairs()
        return f"?{urlencode(pairs)}" if pairs else "?"

    def sorted_by(self, column: str) -> str:
        """The link of a column's head: the largest first, then the smallest first."""
        first = column not in ("id", "step")
        return self.link(sort=column, down=first if self.sort != column else not self.down)

    @property
    def chosen(self) -> list[tuple[str, str, str]]:
        """`(label, value, link without it)` of each filter that is set."""
        bare = type(self)()
        return [
            (_LABELS[name], _SAID.get((name, value), value), self.link(**{name: getattr(bare, name)}))
            for name, value in self.pairs()
            if name in _LABELS
        ]

    def query(self, run: int) -> EpisodeQuery:
        """What the store is asked."""
        return EpisodeQuery(
            run,
            phase=self.phase,
            step=self.step,
            env_id=self.env,
            task_id=self.task,
            group=self.group,
            level=self.level,
            correct=None if self.correct is None else _VERDICTS[self.correct],
            stop_reason=self.stop,
            min_reward=self.min_reward,
            max_reward=self.max_reward,
            min_turns=self.min_turns,
            errors=True if self.errors else None,
            text=self.q,
            sort=cast(Sort, self.sort),
            descending=self.down,
            limit=self.size,
            offset=(self.page - 1) * self.size,
        )


_LABELS = {
    "phase": "phase",
    "step": "step",
    "env": "environment",
    "task": "task",
    "group": "group",
    "level": "level",
    "correct": "verdict",
    "stop": "ending",
    "min_reward": "reward at least",
    "max_reward": "reward at most",
    "min_turns": "turns at least",
    "errors": "tool errors",
    "q": "task contains",
}
_SAID = {("correct", "yes"): "correct", ("correct", "no"): "wrong", ("correct", "none"): "none", ("errors", "1"): "yes"}


def _text(name: str, text: str) -> str:
    return text


def _integer(low: int, high: int = 2**62) -> Reader:
    def read(name: str, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ConfigError(f"{name}={text!r} is no whole number from {low} on")
        return number

    return read


def _real(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ConfigError(f"{name}={text!r} is no number")
    return number


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise ConfigError(f"{name}={text!r}; give 1 or leave it out")
    return text == "1"


def _one_of(*names: str) -> Reader:
    def read(name: str, text: str) -> str:
        if text not in names:
            raise ConfigError(f"{name}={text!r} is unknown; {nearest(text, list(names))}")
        return text

    return read


def _size(name: str, text: str) -> int:
    return int(str(_one_of(*map(str, PAGE_SIZES))(name, text)))


_READERS: Mapping[str, Reader] = {
    "step": _integer(0),
    "level": _integer(-(2**31)),
    "min_turns": _integer(0),
    "page": _integer(1, MOST_PAGES),
    "min_reward": _real,
    "max_reward": _real,
    "errors": _flag,
    "down": _flag,
    "correct": _one_of(*_VERDICTS),
    "stop": _one_of(*StopReason),
    "sort": _one_of(*SORTS),
    "size": _size,
}


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
