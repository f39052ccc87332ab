"""DuckDB inside the worker: locked configuration, memory and time limits, statements of few kinds.

DuckDB itself keeps a statement from files, network and extensions once `enable_external_access` is off and the
configuration locked; its own parser says how many statements there are and of which kind. Invariant: a connection
serves one statement, so that nothing of a session is left to the next; a read-only file is opened as such.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import duckdb

from .answer import NOTHING, ONE_STATEMENT, READ_ONLY, Answer, Limits, Refused, fetched, overtime
from .functions import DUCKDB as FUNCTIONS
from .statement import Rules, rewritten
from .watchdog import watchdog

_CONFIGURATION: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",  # else a table's name is looked up among Python's variables
    "memory_limit": "256MB",
    "threads": "1",
    "temp_directory": "",
    "max_temp_directory_size": "0KB",
    "lock_configuration": "true",
}
_DATABASES = 4
"""Read-only files that a worker keeps open."""
_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
_WRITES = {
    duckdb.StatementType.INSERT,
    duckdb.StatementType.UPDATE,
    duckdb.StatementType.DELETE,
    duckdb.StatementType.CREATE,
    duckdb.StatementType.DROP,
    duckdb.StatementType.ALTER,
}
_databases: OrderedDict[tuple[object, ...], duckdb.DuckDBPyConnection] = OrderedDict()


def on_file(path: str, query: str, limits: Limits, writable: bool, functions: frozenset[str]) -> Answer:
    """The answer to one statement; a writable file belongs to this episode alone."""
    try:
        if not writable:
            with closing(_database(path).cursor()) as connection:
                return _run(connection, query, limits, writable, functions)
        with closing(duckdb.connect(path, config=_CONFIGURATION)) as connection:
            return _run(connection, query, limits, writable, functions)
    except duckdb.Error as error:
        return Answer(error=f"the database cannot be opened: {_said(error)}")


def settle(path: str) -> None:
    """Bring what stands in the log of a private file into the file itself."""
    duckdb.connect(path, config=_CONFIGURATION).close()


def probe(path: str) -> str | None:
    """What is wrong with a database file, or None."""
    try:
        _database(path)
    except duckdb.Error as error:
        return _said(error)
    return None


def _run(
    connection: duckdb.DuckDBPyConnection, query: str, limits: Limits, writable: bool, functions: frozenset[str]
) -> Answer:
    deadline = time.monotonic() + limits.seconds
    try:
        with watchdog.within(limits.seconds, connection.interrupt):
            statement = _statement(connection, query, writable, functions)
            result = connection.execute(statement)
            if statement.type in _WRITES and "RETURNING" not in query.upper():
                return Answer(changed=_changed(result, statement.type))
            return fetched((column[0] for column in result.description or ()), _rows(result), limits, deadline)
    except Refused as refusal:
        return Answer(error=str(refusal))
    except duckdb.InterruptException:
        return overtime(limits.seconds)
    except duckdb.OutOfMemoryException:
        return Answer(error="the query needs too much memory")
    except (duckdb.Error, RecursionError, UnicodeDecodeError) as error:
        return Answer(error=_said(error))


def _statement(connection: duckdb.DuckDBPyConnection, query: str, writable: bool, functions: frozenset[str]) -> Any:
    text = rewritten(query, Rules("duckdb", FUNCTIONS | functions, methods=True))
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        raise Refused(ONE_STATEMENT if statements else NOTHING)
    kind = statements[0].type
    if kind not in _READS and not (writable and kind in _WRITES):
        raise Refused("this statement may not be used" if writable else READ_ONLY)
    return statements[0]


def _rows(result: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := result.fetchmany(256):
        yield from rows


def _changed(result: duckdb.DuckDBPyConnection, kind: duckdb.StatementType) -> int:
    row = result.fetchone()
    counted = kind in (duckdb.StatementType.INSERT, duckdb.StatementType.UPDATE, duckdb.StatementType.DELETE)
    return row[0] if counted and row else -1


def _database(path: str) -> duckdb.DuckDBPyConnection:
    """A read-only database, kept while the file stays as it is."""
    status = os.stat(path) if os.path.exists(path) else None
    key = (path, status and (status.st_ino, status.st_mtime_ns, status.st_size))
    if key in _databases:
        _databases.move_to_end(key)
        return _databases[key]
    while len(_databases) >= _DATABASES:
        _databases.popitem(last=False)[1].close()
    _databases[key] = duckdb.connect(path, read_only=True, config=_CONFIGURATION)
    return _databases[key]


def _said(error: Exception) -> str:
    """The engine's message without the drawing of where it stands."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())[:1000]
