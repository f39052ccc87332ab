"""An `EpisodeQuery` as statements: which rows, in which order, from which row on.

Invariant: a page goes on by the value and the id of the row before it, so that rows which are added or removed
elsewhere neither shift nor repeat any. An order has up to two parts, rows whose value is a number and rows without
one; each part is one condition and one direction that every database sorts in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, tuple_

from agentrl.errors import StoreError
from agentrl.registry import nearest
from agentrl.store.codec import readable
from agentrl.store.records import EpisodeQuery, Sort
from agentrl.store.schema import EPISODES

SORTS: tuple[str, ...] = get_args(Sort)
HIDDEN = ("run", "rewritten")
SUMMARY = [column for column in EPISODES.c if column.name not in HIDDEN]
_NULLABLE = ("reward", "seconds")
_EQUAL = ("step", "group", "level", "stop_reason", "phase")
_READABLE = ("env_id", "task_id")


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
    filters = _filters(query, connection.dialect.name)
    return int(connection.scalar(select(func.count()).select_from(EPISODES).where(*filters)) or 0)


def _size(connection: Connection, part: Select[Any]) -> int:
    return int(connection.scalar(select(func.count()).select_from(part.order_by(None).subquery())) or 0)


def _parts(query: EpisodeQuery, dialect: str, backwards: bool) -> list[Select[Any]]:
    """The statements whose rows, one after another, are the order from the cursor on."""
    if query.sort not in SORTS:
        raise StoreError(f"sort={query.sort!r} is no order of episodes; {nearest(str(query.sort), list(SORTS))}")
    column, descending = EPISODES.c[query.sort], query.descending != backwards
    base = select(*SUMMARY).where(*_filters(query, dialect))
    valued = (column, EPISODES.c.id) if query.sort != "id" else (EPISODES.c.id,)
    parts: list[tuple[Select[Any], tuple[ColumnElement[Any], ...]]] = [(base, valued)]
    if query.sort in _NULLABLE:
        parts = [(base.where(column.is_not(None)), valued), (base.where(column.is_(None)), (EPISODES.c.id,))]
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


def _parse(after: str, sort: str) -> _Cursor:
    value, _, identity = after.rpartition(",")
    try:
        if sort not in _NULLABLE:
            return _Cursor(int(value), int(identity))
        found = float(value)
        return _Cursor(None if found != found else found, int(identity))
    except ValueError:
        raise StoreError(f"after={after!r} is no cursor of the order {sort!r}") from None


def _filters(query: EpisodeQuery, dialect: str) -> list[ColumnElement[bool]]:
    columns = EPISODES.c
    filters = [columns.run == query.run]
    filters += [columns[name] == getattr(query, name) for name in _EQUAL if getattr(query, name) is not None]
    wanted = {name: getattr(query, name) for name in _READABLE}
    filters += [columns[name] == readable(value) for name, value in wanted.items() if value is not None]
    if query.correct is not None:
        filters.append(columns.correct.is_(None) if query.correct == "none" else columns.correct == query.correct)
    if query.min_reward is not None:
        filters.append(columns.reward >= query.min_reward)
    if query.max_reward is not None:
        filters.append(columns.reward <= query.max_reward)
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
