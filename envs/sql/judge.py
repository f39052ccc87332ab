"""Judging a query by its result, and a change by the state that it leaves.

The functions named in `QUERY` and `CHANGE` run in a worker process that can be killed; nothing here is called on an
agent's SQL in the trainer's own process. A query has to be one statement that reads: SQLite's authorizer allows
selecting, reading and the functions of a list, limits bound text, depth and memory, a progress handler and the worker's
timeout bound time. Invariant: the verdict depends on the database as the task names it, on the answer and on the gold
query, on nothing that an agent could have touched.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from agentrl.errors import EnvError
from agentrl.workers import WorkerDied, WorkerFailed, WorkerTimeout, shared_pool

from .connections import opened

Row = tuple[Any, ...]
Outcome = Literal["right", "wrong", "failed"]
"""`failed`: the answer could not be executed."""

RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Tolerance of floats; an integer equals the float of its value. Texts are equal character for character."""
MAX_QUERY = 20_000
"""Characters of a query."""
MAX_GOLD_ROWS = 100_000
MAX_BYTES = 64 << 20
"""Of a result, roughly."""
_MAX_VALUE = 1_000_000
"""Bytes of one value."""
_MAX_PERMUTATIONS = 5_000
_GRACE = 2.0
"""Seconds beyond the queries' own for loading, comparing and the way to the worker."""
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: _MAX_VALUE,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * MAX_QUERY,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
FUNCTIONS = frozenset(
    """
    -> ->> abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char coalesce concat concat_ws cos cosh count
    cume_dist current_date current_time current_timestamp date datetime degrees dense_rank exp first_value floor format
    glob group_concat hex ifnull iif instr json json_array json_array_length json_each json_extract json_group_array
    json_group_object json_object json_quote json_tree json_type json_valid julianday lag last_value lead length like
    likelihood likely ln log log10 log2 lower ltrim max median min mod nth_value ntile nullif octet_length percent_rank
    percentile percentile_cont percentile_disc pi pow power printf quote radians rank replace round row_number rtrim
    sign sin sinh soundex sqrt strftime string_agg substr substring sum tan tanh time timediff total trim trunc typeof
    unhex unicode unixepoch unlikely upper
    """.split()  # noqa: SIM905 - a list of one a line would be longer than the module
)
"""What a query may call: pure functions of their arguments and the clock."""


class Refused(Exception):
    """The answer cannot be executed; the text says why."""


async def judge_query(
    database: bytes | Path,
    given: str,
    gold: str | list[list[Any]],
    *,
    ordered: bool,
    permute: bool,
    seconds: float,
) -> tuple[Outcome, str]:
    """Whether the query `given` has the result of `gold` (a query or the rows themselves), and why not.

    Raises `EnvError` if the gold query itself fails.
    """
    arguments = (database, given, gold, ordered, permute, seconds)
    try:
        outcome: tuple[Outcome, str] = await shared_pool().run(QUERY, *arguments, timeout=2 * seconds + _GRACE)
    except (WorkerTimeout, WorkerDied) as error:
        return "failed", str(error)
    except WorkerFailed as error:
        raise EnvError(f"the answer cannot be judged: {error}") from error
    return outcome


async def judge_change(database: bytes, after: bytes, statement: str, *, seconds: float) -> bool:
    """Whether the database `after` is what `statement` makes of `database`. Raises `EnvError` if `statement` fails."""
    try:
        return bool(await shared_pool().run(CHANGE, database, after, statement, timeout=seconds + _GRACE))
    except (WorkerTimeout, WorkerDied):
        return False  # the bytes are the agent's: what takes so long to read is not the state asked for
    except WorkerFailed as error:
        raise EnvError(f"the change cannot be judged: {error}") from error


# -- in the worker -----------------------------------------------------------------------------------------------------

QUERY = f"{__name__}:compare_queries"
CHANGE = f"{__name__}:compare_states"


def compare_queries(
    database: bytes | Path,
    given: str,
    gold: str | list[list[Any]],
    ordered: bool,
    permute: bool,
    seconds: float,
) -> tuple[Outcome, str]:
    """See `judge_query`; the gold query runs under the same limits, on a connection of its own."""
    if isinstance(gold, str):
        with opened(database) as connection:
            try:
                wanted = run_query(connection, gold, MAX_GOLD_ROWS, seconds)
            except Refused as refusal:
                raise EnvError(f"the gold query fails: {refusal}") from None
    else:
        wanted = [tuple(row) for row in gold]
    with opened(database) as connection:
        try:
            found = run_query(connection, given, len(wanted) + 1, seconds)
        except Refused as refusal:
            return "failed", str(refusal)
    same = same_results(found, wanted, ordered=ordered, permute=permute)
    return ("right", "") if same else ("wrong", "the result is another")


def compare_states(database: bytes, after: bytes, statement: str) -> bool:
    """See `judge_change`."""
    with opened(database) as wanted:
        wanted.execute(statement)
        expected = {table: list(_content(wanted, table[0])) for table in _tables(wanted)}
    try:
        with opened(after) as found:
            return _tables(found) == list(expected) and all(
                same_results(list(_content(found, name)), rows, ordered=False, permute=False)
                for (name, _), rows in expected.items()
            )
    except (sqlite3.Error, ValueError):
        return False  # the agent's bytes: what cannot be read is not the state asked for


def run_query(connection: sqlite3.Connection, query: str, rows: int, seconds: float) -> list[Row]:
    """At most `rows` rows of one reading statement; raises `Refused`."""
    if len(query) > MAX_QUERY:
        raise Refused(f"the query is longer than {MAX_QUERY} characters")
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    # bytes that are not UTF-8 stand in some public databases
    connection.text_factory = lambda data: data.decode("utf-8", errors="ignore")
    connection.set_authorizer(_authorize)
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        cursor = connection.execute(query)
        if cursor.description is None:
            raise Refused("the answer must be one SELECT statement")
        return list(_bounded(islice(cursor, rows)))
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise Refused(f"not executed within {seconds:g} s" if str(error) == "interrupted" else str(error)) from None


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_OK if (second or "").lower() in FUNCTIONS else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def _bounded(rows: Iterator[Row]) -> Iterator[Row]:
    size = 0
    for row in rows:
        size += 64 + sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
        if size > MAX_BYTES:
            raise Refused("the result is too large")
        yield row


def _tables(connection: sqlite3.Connection) -> list[tuple[str, tuple[str, ...]]]:
    """Name and columns of every real table."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    quoted = [(name, _quoted(name)) for (name,) in sorted(names)]
    return [(name, tuple(row[1] for row in connection.execute(f"PRAGMA table_info({own})"))) for name, own in quoted]


def _content(connection: sqlite3.Connection, table: str) -> Iterator[Row]:
    yield from connection.execute(f"SELECT * FROM {_quoted(table)}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# -- comparing ---------------------------------------------------------------------------------------------------------


def same_results(found: Sequence[Row], wanted: Sequence[Row], *, ordered: bool, permute: bool) -> bool:
    """Whether two results are the same: as lists, or as multisets of rows; `permute` ignores the order of columns."""
    if len(found) != len(wanted):
        return False
    if not wanted:
        return True
    if len(found[0]) != len(wanted[0]):
        return False
    if _same_rows(found, wanted, ordered):
        return True
    return permute and any(
        _same_rows([tuple(row[place] for place in order) for row in found], wanted, ordered)
        for order in islice(_orders(found, wanted), _MAX_PERMUTATIONS)
    )


def same_cell(found: Any, wanted: Any) -> bool:
    """NULL equals NULL; integers, texts and blobs exactly; numbers of which one is a float within the tolerance."""
    if (isinstance(found, float) and isinstance(wanted, int | float)) or (
        isinstance(wanted, float) and isinstance(found, int)
    ):
        return math.isclose(found, wanted, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(found) is type(wanted) and bool(found == wanted)


def _same_row(found: Row, wanted: Row) -> bool:
    return all(map(same_cell, found, wanted))


def _same_rows(found: Sequence[Row], wanted: Sequence[Row], ordered: bool) -> bool:
    if ordered:
        return all(map(_same_row, found, wanted))
    left = Counter(wanted)
    rest = []
    for row in found:
        if left[row]:
            left[row] -= 1
        else:
            rest.append(row)
    # what is not equal to the last bit is looked for among the rows with the same texts
    near: dict[Row, list[Row]] = {}
    for row in left.elements():
        near.setdefault(_without_numbers(row), []).append(row)
    for row in rest:
        candidates = near.get(_without_numbers(row), [])
        match = next((place for place, other in enumerate(candidates) if _same_row(row, other)), None)
        if match is None:
            return False
        candidates.pop(match)
    return True


def _without_numbers(row: Row) -> Row:
    return tuple(0 if isinstance(cell, int | float) else cell for cell in row)


def _orders(found: Sequence[Row], wanted: Sequence[Row]) -> Iterator[tuple[int, ...]]:
    """Orders of the found columns in which each holds the same values as the wanted one at its place."""
    places = range(len(wanted[0]))
    columns = [[[(row[place],) for row in rows] for place in places] for rows in (found, wanted)]
    fits = [[own for own in places if _same_rows(columns[0][own], columns[1][place], False)] for place in places]

    def extend(order: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(order) == len(places):
            yield order
            return
        for own in fits[len(order)]:
            if own not in order:
                yield from extend((*order, own))

    return extend(())
