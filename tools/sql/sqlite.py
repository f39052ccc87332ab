"""SQLite inside the worker: the authorizer, the limits and the progress handler, on a copy or a read-only file.

SQLite's own parser decides what a statement is, and its authorizer is asked about every table, function and pragma
that it names, so nothing here reads SQL. Invariant: the authorizer allows what stands in a list and nothing else; no
value is longer than the limit, no database grows past `GROWTH`, no memory past `HEAP`; what a single opcode does for
too long ends with the worker.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import OrderedDict
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from .answer import (
    NOTHING,
    ONE_STATEMENT,
    READ_ONLY,
    Answer,
    Limits,
    Refused,
    Schema,
    fetched,
    overtime,
    with_help,
)
from .functions import SQLITE as FUNCTIONS

HEAP = 512 << 20
"""Bytes that SQLite may allocate in a worker, the database in memory included."""
GROWTH = 64 << 20
"""Bytes by which a statement may let a database grow."""
_OPCODES = 2000
"""Opcodes between two looks at the clock: about 20 microseconds."""
_CONNECTIONS = 8
"""Read-only files that a worker keeps open."""
_LIMITS = {
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 500,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_CATALOG = frozenset({"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_sequence", "sqlite_stat1"})
_PRAGMAS = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
    | {"data_version"}  # what a full-text index asks for by itself
)
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE})
_WRITING = frozenset(
    {
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_VIEW,
        sqlite3.SQLITE_DROP_TRIGGER,  # a dropped table's own
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_REINDEX,
        sqlite3.SQLITE_ANALYZE,
    }
)
_NAMES = {
    sqlite3.SQLITE_ATTACH: "ATTACH and VACUUM",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_TRANSACTION: "transactions",
    sqlite3.SQLITE_SAVEPOINT: "savepoints",
    sqlite3.SQLITE_CREATE_VTABLE: "virtual tables",
    sqlite3.SQLITE_DROP_VTABLE: "virtual tables",
    sqlite3.SQLITE_CREATE_TRIGGER: "triggers",
} | {
    getattr(sqlite3, f"SQLITE_{verb}_TEMP_{what}"): "temporary tables, views and triggers"
    for verb in ("CREATE", "DROP")
    for what in ("TABLE", "VIEW", "INDEX", "TRIGGER")
}


def on_copy(database: bytes, query: str, limits: Limits, writable: bool, functions: frozenset[str]) -> Answer:
    """Run `query` on a serialised database; where it was changed the answer brings it back."""
    with closing(_open(":memory:")) as connection:
        if database:
            connection.deserialize(database)
        _bound(connection, len(database), limits)
        before = connection.total_changes, _version(connection)
        answer = _run(connection, query, limits, writable, functions)
        if writable and answer.error is None and (connection.total_changes, _version(connection)) != before:
            answer.database = connection.serialize()
        return answer


def on_file(path: str, query: str, limits: Limits, ours: bool, functions: frozenset[str]) -> Answer:
    """Run a reading `query` on a file; nobody changes it meanwhile if it is `ours`."""
    try:
        connection = _reader(path, ours)
    except sqlite3.Error as error:
        return Answer(error=f"the database cannot be opened: {error}")
    _bound(connection, 0, limits)
    return _run(connection, query, limits, False, functions)


def on_private_file(path: str, query: str, limits: Limits, functions: frozenset[str]) -> Answer:
    """Run `query` on a file that belongs to this episode alone."""
    with closing(_open(f"file:{quote(path)}?mode=rw")) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # a copy that ends with its episode needs no disk's promise
        _bound(connection, os.path.getsize(path), limits)
        return _run(connection, query, limits, True, functions)


def copied(path: str, target: str) -> None:
    """Copy a database file, what stands in its write-ahead log included."""
    uri = f"file:{quote(path)}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


def serialised(path: str) -> bytes:
    """A private file by value, without what a killed statement left half done."""
    with closing(_open(f"file:{quote(path)}?mode=rw")) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes an unfinished change back
        return connection.serialize()


def probe(path: str) -> str | None:
    """What is wrong with a database file, or None."""
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=1.0)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return None


# -- within ------------------------------------------------------------------------------------------------------------


def _run(
    connection: sqlite3.Connection, query: str, limits: Limits, writable: bool, functions: frozenset[str]
) -> Answer:
    """The answer to one statement. The guards are taken off again: help with names asks the catalog itself."""
    deadline = time.monotonic() + limits.seconds
    allowed = FUNCTIONS | functions
    guard = _Guard(writable, allowed)
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPCODES)
    connection.set_authorizer(guard)
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute(query)
            if cursor.description is None:
                return Answer(changed=cursor.rowcount) if guard.asked else Answer(error=NOTHING)
            return fetched((column[0] for column in cursor.description), cursor, limits, deadline)
    except Refused as refusal:
        return Answer(error=str(refusal))
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        if time.monotonic() > deadline and "interrupted" in str(error):
            return overtime(limits.seconds)
        message = guard.refusal or _said(error)
    finally:
        connection.set_authorizer(None)
        connection.set_progress_handler(None, 0)
        if connection.in_transaction:
            connection.rollback()
    return Answer(error=with_help(message, query, lambda: _schema(connection), allowed))


class _Guard:
    """The authorizer of one statement; keeps the reason of its first refusal."""

    def __init__(self, writable: bool, functions: frozenset[str]) -> None:
        self.writable = writable
        self.functions = functions
        self.asked = False
        """Whether there was a statement at all, and not only a comment."""
        self.refusal: str | None = None

    def __call__(self, action: int, first: str | None, second: str | None, *rest: str | None) -> int:
        self.asked = True
        refusal = self._refusal(action, first, second)
        if refusal is None:
            return sqlite3.SQLITE_OK
        self.refusal = self.refusal or refusal
        return sqlite3.SQLITE_DENY

    def _refusal(self, action: int, first: str | None, second: str | None) -> str | None:
        if action in _READING:
            return None
        if action == sqlite3.SQLITE_READ:
            hidden = (first or "").lower().startswith("sqlite_") and first not in _CATALOG
            return f"table {first} may not be read" if hidden or first == "dbstat" else None
        if action == sqlite3.SQLITE_FUNCTION:
            return None if self._callable(second or "") else f"function {second} may not be used"
        if action == sqlite3.SQLITE_PRAGMA:
            return (
                None if first in _PRAGMAS else f"PRAGMA {first} may not be used; allowed: {', '.join(sorted(_PRAGMAS))}"
            )
        if action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":
            return None  # how SQLite declares a virtual table; a statement that says so is refused by its parser
        if action in _WRITING:
            return None if self.writable else READ_ONLY
        return f"{_NAMES[action]} may not be used" if action in _NAMES else "this statement may not be used"

    def _callable(self, function: str) -> bool:
        if function.lower() in self.functions:
            return True
        return self.writable and function.startswith(("sqlite_rename_", "sqlite_drop_"))  # SQLite's own, of ALTER TABLE


def _said(error: Exception) -> str:
    message = str(error)
    if "one statement at a time" in message:
        return ONE_STATEMENT
    if "out of memory" in message:
        return "the query needs too much memory"
    if "database or disk is full" in message:
        return "the database would grow too large"
    return message


_readers: OrderedDict[tuple[object, ...], sqlite3.Connection] = OrderedDict()


def _reader(path: str, ours: bool) -> sqlite3.Connection:
    """A read-only connection, kept while the file stays as it is."""
    status = os.stat(path) if Path(path).exists() else None
    key = (path, ours, status and (status.st_ino, status.st_mtime_ns, status.st_size))
    if key in _readers:
        _readers.move_to_end(key)
        return _readers[key]
    while len(_readers) >= _CONNECTIONS:
        _readers.popitem(last=False)[1].close()
    _readers[key] = _open(f"file:{quote(path)}?mode=ro" + ("&immutable=1" if ours else ""))
    return _readers[key]


def _open(uri: str) -> sqlite3.Connection:
    """A connection without transactions, extensions and statement cache (a cached statement skips the authorizer)."""
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0, timeout=1.0)
    connection.text_factory = _text
    for category, value in _LIMITS.items():
        connection.setlimit(category, value)
    connection.execute(f"PRAGMA hard_heap_limit = {HEAP}")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _bound(connection: sqlite3.Connection, size: int, limits: Limits) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.bytes)
    if size:
        page: int = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {(size + GROWTH) // page}")


def _version(connection: sqlite3.Connection) -> int:
    """Counts changes of the schema, which `total_changes` does not see."""
    version: int = connection.execute("PRAGMA schema_version").fetchone()[0]
    return version


def _schema(connection: sqlite3.Connection) -> Schema:
    listed = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' LIMIT 500"
    return Schema({name: _columns(connection, name) for (name,) in connection.execute(listed).fetchall()})


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    try:
        return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", [table])]
    except sqlite3.Error:
        return []  # a view of a table that is gone


def _text(raw: bytes) -> str:
    """Databases in the wild hold text that is not UTF-8."""
    return raw.decode("utf-8", "replace")
