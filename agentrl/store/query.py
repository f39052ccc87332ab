"""An `EpisodeQuery` as statements: which rows, in which order, from which row on.

Invariant: a page goes on by the value and the id of the row before it, so that rows which are added or removed
elsewhere neither shift nor repeat any. An order has up to two parts, rows whose value is a number and rows without
one; each part is one condition and one direction that every database sorts in the same way.

SQLite keeps no statistics and takes an index that gives the order even where it must read every row of the run to find
a few. So a column is named as itself only where its index serves the question, else as `column + 0`, which none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal_column, select, tuple_

from agentrl.errors import StoreError
from agentrl.registry import nearest
from agentrl.store.codec import readable
from agentrl.store.records import EpisodeQuery, Sort
from agentrl.store.schema import EPISODES, ORDERED

SORTS: tuple[str, ...] = get_args(Sort)
HIDDEN = ("run", "rewritten")
SUMMARY = [column for column in EPISODES.c if column.name not in HIDDEN]
_NULLABLE = ("reward", "seconds")
_EQUAL = ("step", "group", "level", "stop_reason", "phase")
_READABLE = ("env_id", "task_id")
_FILTERS = (*_EQUAL, *_READABLE, "correct", "min_reward", "max_reward", "min_turns", "errors", "text")
_UNINDEXED = frozenset({"level", "stop_reason", "env_id", "min_turns", "errors"})
_AS_THEY_LIE = EPISODES.c.id >= 0  # always true: it leads through the rows of a run as they lie on the disk


@dataclass(frozen=True)
class _Cursor:
    value: float | None
    id: int


def page(connection: Connection, query: EpisodeQuery, *, backwards: bool = False) -> Sequence[Row[Any]]:
    """The rows of a page; `backwards` goes from the cursor to the beginning of the order."""
    rows: list[Row[Any]] = []
    skip = query.offset
    for part in _parts(query, connection.dialect.name, backwards):
        wanted = query.limit - len(rows)
        if wanted <= 0:
            break
        found = connection.execute(part.limit(wanted).offset(skip)).all()
        rows += found
        if found:
            skip = 0
        elif skip:
            skip = max(0, skip - _size(connection, part))
    return rows


def count(connection: Connection, query: EpisodeQuery) -> int:
    """All rows that the query asks for, whatever its page."""
    filters = _filters(query, connection.dialect.name, EPISODES.c.reward)
    if connection.dialect.name == "sqlite" and _given(query) & _UNINDEXED and not _given(query) & {"phase", "task_id"}:
        filters.append(_AS_THEY_LIE)
    return int(connection.scalar(select(func.count()).select_from(EPISODES).where(*filters)) or 0)


def _size(connection: Connection, part: Select[Any]) -> int:
    return int(connection.scalar(select(func.count()).select_from(part.order_by(None).subquery())) or 0)


def _parts(query: EpisodeQuery, dialect: str, backwards: bool) -> list[Select[Any]]:
    """The statements whose rows, one after another, are the order from the cursor on."""
    if query.sort not in SORTS:
        raise StoreError(f"sort={query.sort!r} is no order of episodes; {nearest(str(query.sort), list(SORTS))}")
    descending = query.descending != backwards
    column: ColumnElement[Any] = EPISODES.c[query.sort]
    identity: ColumnElement[Any] = EPISODES.c.id
    reward: ColumnElement[Any] = EPISODES.c.reward
    hidden = dialect == "sqlite" and not _served(query)
    if hidden:
        column, identity = _hide(column), _hide(identity)
    if dialect == "sqlite":
        reward = column if query.sort == "reward" else _hide(reward)
    base = select(*SUMMARY).where(*_filters(query, dialect, reward))
    if hidden and not _narrow(query):
        base = base.where(_AS_THEY_LIE)
    valued = (column, identity) if query.sort != "id" else (identity,)
    parts: list[tuple[Select[Any], tuple[ColumnElement[Any], ...]]] = [(base, valued)]
    if query.sort in _NULLABLE:
        parts = [(base.where(column.is_not(None)), valued), (base.where(column.is_(None)), (identity,))]
    first = 0
    if query.after is not None:
        cursor = _parse(query.after, query.sort)
        first = 1 if cursor.value is None else 0
        statement, order = parts[first]
        start = (cursor.value, cursor.id) if len(order) > 1 else (cursor.id,)
        key = tuple_(*order)
        parts[first] = (statement.where(key < start if descending else key > start), order)
        parts = parts[: first + 1] if backwards else parts[first:]
    if backwards:
        parts.reverse()
    return [part.order_by(*(key.desc() if descending else key for key in order)) for part, order in parts]


def _served(query: EpisodeQuery) -> bool:
    """Whether an index gives the order, and tells the rows that do not fit without reading them."""
    given = _given(query)
    if given >= {"phase", "step", "group"}:
        return False
    if query.sort in ("id", "step"):
        return query.sort == "id" or "phase" in given
    told = {"phase", "correct"} | ({"min_reward", "max_reward"} if query.sort == "reward" else set())
    return query.sort in ORDERED and given <= told


def _given(query: EpisodeQuery) -> set[str]:
    """Names of the filters that are set."""
    return {name for name in _FILTERS if getattr(query, name) not in (None, "")}


def _narrow(query: EpisodeQuery) -> bool:
    """Whether another index leads to few rows, which are sorted quickly."""
    return query.task_id is not None or (query.phase is not None and query.step is not None)


def _hide(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return column + literal_column("0")


def _parse(after: str, sort: str) -> _Cursor:
    value, _, identity = after.rpartition(",")
    try:
        if sort not in _NULLABLE:
            return _Cursor(_whole(value), _whole(identity))
        found = float(value)
        return _Cursor(None if found != found else found, _whole(identity))
    except ValueError:
        raise StoreError(f"after={after!r} is no cursor of the order {sort!r}") from None


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) >= 1 << 63:
        raise ValueError("more than 64 bits")
    return number


def _filters(query: EpisodeQuery, dialect: str, reward: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    columns = EPISODES.c
    filters = [columns.run == query.run]
    filters += [columns[name] == getattr(query, name) for name in _EQUAL if getattr(query, name) is not None]
    wanted = {name: getattr(query, name) for name in _READABLE}
    filters += [columns[name] == readable(value) for name, value in wanted.items() if value is not None]
    if query.correct is not None:
        filters.append(columns.correct.is_(None) if query.correct == "none" else columns.correct == query.correct)
    if query.min_reward is not None:
        filters.append(reward >= query.min_reward)
    if query.max_reward is not None:
        filters.append(reward <= query.max_reward)
    if query.min_turns is not None:
        filters.append(columns.turns >= query.min_turns)
    if query.errors is not None:
        filters.append(columns.tool_errors > 0 if query.errors else columns.tool_errors == 0)
    if query.text:
        place = func.strpos if dialect == "postgresql" else func.instr
        filters.append(place(columns.task_id, readable(query.text)) > 0)
    return filters


def cursor_of(query: EpisodeQuery, row: Row[Any]) -> str:
    """As `EpisodeQuery.cursor`, of a row of the database."""
    value = row._mapping[query.sort]
    return f"{'nan' if value is None else repr(value)},{row.id}"
