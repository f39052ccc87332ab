"""What every engine shares inside the worker: limits, the answer, fetching within bounds, and help with names.

Invariant: an `Answer` is small whatever the statement was: rows and their sizes are bounded while they are fetched, not
afterwards. What goes wrong in a statement is an answer, too; an exception is a fault of this package.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

COUNTED = 10_000
"""Rows beyond those fetched that are counted before the answer says "more than"."""
_LISTED = 30
"""Names that one line of help lists."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one statement may take."""

    seconds: float = 5.0
    rows: int = 1000
    """Rows that are fetched; further ones are counted."""
    bytes: int = 1_000_000
    """Size of one value, and of all values fetched."""


@dataclass(slots=True)
class Answer:
    """What a statement gave."""

    columns: tuple[str, ...] = ()
    """Empty where the statement has no result."""
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    more: int = 0
    """Rows that were not fetched."""
    exact: bool = True
    """Whether `more` is all of them."""
    changed: int = -1
    """Rows that a statement without a result changed; -1 where that says nothing."""
    error: str | None = None
    """What the policy reads instead of a result."""
    kind: str = "failed"
    """Kind of the error."""
    database: bytes | None = None
    """The changed database, where it travels with the call."""


class Refused(Exception):
    """The statement may not run; the text says why, for the policy to read."""


class Overtime(Exception):
    """The time is over."""


class Schema(NamedTuple):
    """What there is, for help with names: columns by table."""

    tables: Mapping[str, Sequence[str]]


NOTHING = "the query contains no statement"
ONE_STATEMENT = "only one statement a call: make one call for each"
READ_ONLY = "the database is read-only: only SELECT statements may be run"


def overtime(seconds: float) -> Answer:
    return Answer(error=f"the query did not finish within {seconds:g} seconds", kind="timeout")


def fetched(columns: Iterable[str], rows: Iterable[tuple[Any, ...]], limits: Limits, deadline: float) -> Answer:
    """The answer of these rows within the limits. `deadline` is a time of `time.monotonic`; raises what `rows` raises.

    A result whose rows cannot all be counted in time is an answer all the same.
    """
    answer = Answer(tuple(columns))
    size, full = 0, False
    for row in rows:
        full = full or len(answer.rows) >= limits.rows
        if not full:
            size += sum(map(_size, row))
            full = size > limits.bytes
        if not full:
            answer.rows.append(tuple(row))
            continue
        answer.more += 1
        if answer.more >= COUNTED or size > limits.bytes or time.monotonic() > deadline:
            answer.exact = False
            break
    if not answer.rows and answer.more:
        raise Refused(f"one row of the result is larger than {limits.bytes} bytes: select fewer or shorter columns")
    return answer


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return len(str(value)) if isinstance(value, list | dict | tuple | set) else 8


# -- help with names ---------------------------------------------------------------------------------------------------

_TABLE = (
    re.compile(r"no such table: (?:main\.)?(?P<name>\S+)"),
    re.compile(r'relation "(?P<name>[^"]+)" does not exist'),
    re.compile(r"Table with name (?P<name>\S+) does not exist"),
)
_COLUMN = (
    re.compile(r"no such column: (?P<name>.+)"),
    re.compile(r"has no column named (?P<name>.+)"),
    re.compile(r'column "?(?P<name>[^"]+?)"? does not exist'),
    re.compile(r'Referenced column "(?P<name>[^"]+)" not found'),
)
_FUNCTION = re.compile(r"no such function: (?P<name>\S+)")


def with_help(message: str, query: str, schema: Callable[[], Schema], functions: Iterable[str] = ()) -> str:
    """The engine's message with the nearest names that exist; unchanged where it is about no name."""
    if found := _first(_TABLE, message):
        return f"{message}; {_nearest(found, list(schema().tables), 'tables')}"
    if found := _first(_COLUMN, message):
        tables = schema().tables
        name = found.rpartition(".")[2].strip('"`[]')
        mentioned = [table for table in tables if re.search(rf"\b{re.escape(table)}\b", query, re.IGNORECASE)]
        near = dict.fromkeys(column for table in mentioned for column in tables[table])
        every = dict.fromkeys(column for columns in tables.values() for column in columns)
        return (
            f"{message}; {_nearest(name, list(near) or list(every), 'columns of ' + (', '.join(mentioned) or 'all'))}"
        )
    if match := _FUNCTION.search(message):
        close = get_close_matches(match["name"].lower(), list(functions), n=2, cutoff=0.6)
        return message + (f"; did you mean {' or '.join(close)}?" if close else "")
    return message


def _first(patterns: Sequence[re.Pattern[str]], message: str) -> str | None:
    return next((match["name"] for pattern in patterns if (match := pattern.search(message))), None)


def _nearest(name: str, valid: list[str], what: str) -> str:
    lowered = {other.lower(): other for other in valid}
    close = get_close_matches(name[:100].lower(), list(lowered), n=2, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(lowered[match] for match in close)}?"
    if not valid:
        return "there are none" if what == "tables" else f"{what}: none"
    return f"{what}: {', '.join(valid[:_LISTED])}" + (", ..." if len(valid) > _LISTED else "")
