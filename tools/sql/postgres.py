"""PostgreSQL inside the worker: one checked statement in a transaction of its own, cancelled from outside in time.

The server is reached through SQLAlchemy and psycopg. Invariant: what runs is written from checked tokens, prepared by
the server as one statement, inside a transaction that is read-only unless the episode owns the database; rows are
streamed, so that a large result costs what is kept of it. The session is discarded after every statement.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Any, cast

import psycopg
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .answer import Answer, Limits, Refused, Schema, fetched, overtime, with_help
from .functions import POSTGRES as FUNCTIONS
from .functions import POSTGRES_CATALOG
from .statement import Checked, Rules, checked
from .watchdog import watchdog

_ENGINES = 4
"""Databases to which a worker keeps a connection."""
_CONNECT_SECONDS = 10
_CANCEL_SECONDS = 0.2
"""Beyond the statement's own timeout, before it is cancelled from outside."""
_CONNECTION = {
    "autocommit": True,
    "connect_timeout": _CONNECT_SECONDS,
    "application_name": "agentrl",
    "prepare_threshold": None,  # DISCARD ALL would remove what psycopg believes to be prepared
}
_SETTINGS = {
    "standard_conforming_strings": "on",  # what the tokens were written for
    "work_mem": "16MB",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "lock_timeout": "2s",
}
_WATCH = 140000
"""Server version from which a backend notices during a statement that its client is gone."""
_GROUPS = ("pg_read_server_files", "pg_write_server_files", "pg_execute_server_program")
_COLUMNS = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY table_name, ordinal_position LIMIT 5000
"""
_DISCARD = """
    ROLLBACK; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; CLOSE ALL; UNLISTEN *;
    SELECT pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP
"""
"""DISCARD ALL in one message with the end of the transaction, where it may not stand itself."""
_MAINTENANCE = "postgres"
"""The database that every server has for statements about databases."""
# a template may have no connections, and workers may keep some of this role's
_RELEASE = """
    SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity
    WHERE datname = {} AND usename = current_user AND application_name = 'agentrl' AND state = 'idle'
"""
_ATTRIBUTES = """
    SELECT DISTINCT proname FROM pg_proc
    WHERE pronargs >= 1 AND pronargs - pronargdefaults <= 1 AND provolatile <> 'i'
"""
"""What `(x).f` could call and is not a function of its argument alone."""
_COLUMN_NAMES = frozenset({"format", "money", "numeric", "system", "xml"})
"""Harmless ones of these that a column may well be named like."""
_attributes: dict[str, frozenset[str]] = {}
_engines: OrderedDict[str, Engine] = OrderedDict()


def on_server(url: str, query: str, limits: Limits, writable: bool, functions: frozenset[str]) -> Answer:
    """The answer to one statement; a writable database belongs to this episode alone."""
    try:
        statement = checked(query, Rules("postgres", FUNCTIONS | functions, POSTGRES_CATALOG), writable=writable)
    except Refused as refusal:
        return Answer(error=str(refusal))
    try:
        with _transaction(url, limits.seconds, writable) as connection:
            if refused := statement.dotted & _calling(url, connection) - FUNCTIONS - functions:
                return Answer(error=f"function {min(refused)} may not be used")
            return _run(connection, statement, limits, writable)
    except psycopg.Error as error:
        return Answer(error=f"the database cannot be reached: {_said(error)}")


def probe(url: str) -> str | None:
    """Why the database cannot be used, or None."""
    try:
        with _transaction(url, _CONNECT_SECONDS, False) as connection:
            role, is_super = _row(
                connection, "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
            )
            held = [group for group in _GROUPS if _row(connection, f"SELECT pg_has_role('{group}', 'member')")[0]]
    except psycopg.Error as error:
        return _said(error)
    if is_super or held:
        power = "a superuser" if is_super else f"a member of {held[0]}"
        return f"role {role!r} is {power}: SQL could reach the server's files; use a role that may only SELECT"
    return None


def create(url: str) -> tuple[str | None, str]:
    """Copy the database of `url` on its server: the copy's URL, or None and the reason why not."""
    template = make_url(url)
    copy = template.set(database=f"agentrl_{token_hex(8)}")
    assert template.database and copy.database
    if reason := probe(_rendered(template.set(database=_MAINTENANCE))):
        return None, reason
    names = sql.Identifier(copy.database), sql.Identifier(template.database)
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names)
    try:
        _administer(url, sql.SQL(_RELEASE).format(sql.Literal(template.database)))
        _administer(url, statement)
    except psycopg.Error as error:
        return None, _said(error)
    return _rendered(copy), ""


def drop(url: str) -> None:
    """Remove a copy, and end who is still connected to it."""
    if url in _engines:
        _attributes.pop(url, None)
        _engines.pop(url).dispose()
    database = make_url(url).database
    assert database
    _administer(url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


# -- within ------------------------------------------------------------------------------------------------------------


def _run(connection: psycopg.Connection[Any], statement: Checked, limits: Limits, writable: bool) -> Answer:
    deadline = time.monotonic() + limits.seconds
    try:
        if statement.rows:
            answer = _streamed(connection, statement.text, limits, deadline)
        else:
            answer = Answer(changed=connection.execute(statement.text, binary=True).rowcount)
        if writable:
            connection.execute("COMMIT")
    except Refused as refusal:
        return Answer(error=str(refusal))
    except psycopg.errors.QueryCanceled:
        return overtime(limits.seconds)
    except psycopg.Error as error:
        if connection.closed:
            return Answer(error="the query ended its connection to the server")
        connection.execute("ROLLBACK")
        if error.diag.message_hint:
            return Answer(error=_said(error))
        return Answer(error=with_help(_said(error), statement.text, lambda: _schema(connection)))
    except UnicodeDecodeError:
        return Answer(error="a value of the result is not text in the database's encoding")
    return answer


def _streamed(connection: psycopg.Connection[Any], statement: str, limits: Limits, deadline: float) -> Answer:
    """Row by row."""
    cursor = connection.cursor()
    rows = cast(Generator[tuple[Any, ...]], cursor.stream(statement))
    first = next(rows, None)
    if first is None:
        return Answer(_columns(connection, statement))
    names = tuple(column.name for column in cursor.description or ())

    def every() -> Iterator[tuple[Any, ...]]:
        yield first
        yield from rows

    try:
        return fetched(names, every(), limits, deadline)
    finally:
        rows.close()


def _columns(connection: psycopg.Connection[Any], statement: str) -> tuple[str, ...]:
    """Names of the columns of a result without rows, which streaming does not tell."""
    described = connection.pgconn.prepare(b"agentrl", statement.encode())
    del described
    result = connection.pgconn.describe_prepared(b"agentrl")
    return tuple((result.fname(index) or b"?").decode() for index in range(result.nfields))


@contextmanager
def _transaction(url: str, seconds: float, writable: bool) -> Iterator[psycopg.Connection[Any]]:
    """A connection inside a transaction that is cancelled after `seconds`, whatever the session says of timeouts."""
    pooled, connection = _begun(url, _opening(seconds, writable))

    def cancel() -> None:
        with suppress(psycopg.Error):  # the connection has ended by itself
            connection.cancel_safe(timeout=2.0)

    try:
        with watchdog.within(seconds + _CANCEL_SECONDS, cancel):
            yield connection
    finally:
        _discard(pooled, connection)


def _discard(pooled: Any, connection: psycopg.Connection[Any]) -> None:
    """Give the connection back without anything that belongs to its session."""
    try:
        connection.execute(_DISCARD)
    except psycopg.Error:
        pooled.invalidate()
    else:
        pooled.close()


def _opening(seconds: float, writable: bool) -> str:
    settings = dict(_SETTINGS, statement_timeout=f"{max(1, round(seconds * 1000))}")
    local = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in settings.items())
    return f"BEGIN {'READ WRITE' if writable else 'READ ONLY'}{local}"


def _begun(url: str, opening: str) -> tuple[Any, psycopg.Connection[Any]]:
    """A pooled connection and its driver's, after `opening`; a kept connection that has died is replaced once."""
    for attempt in (1, 2):
        pooled = _raw(_engine(url))
        connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
        watch = connection.info.server_version >= _WATCH
        try:
            connection.execute(opening + ("; SET LOCAL client_connection_check_interval = '1s'" if watch else ""))
        except psycopg.OperationalError:
            pooled.invalidate()
            if attempt == 2:
                raise
        else:
            return pooled, connection
    raise AssertionError("unreachable")


def _engine(url: str) -> Engine:
    """The engine of a database, with one connection that is kept."""
    if url in _engines:
        _engines.move_to_end(url)
        return _engines[url]
    while len(_engines) >= _ENGINES:
        evicted, engine = _engines.popitem(last=False)
        _attributes.pop(evicted, None)
        engine.dispose()
    _engines[url] = create_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_reset_on_return=None,
        connect_args=_CONNECTION,
    )
    return _engines[url]


def _raw(engine: Engine) -> Any:
    """A pooled connection of the driver's; raises the driver's error."""
    try:
        return engine.raw_connection()
    except DBAPIError as error:
        raise (error.orig or error) from None


def _administer(url: str, statement: sql.Composed) -> None:
    """Run a statement about databases, none of which this is connected to."""
    engine = create_engine(
        make_url(url).set(database=_MAINTENANCE),
        poolclass=NullPool,
        connect_args=_CONNECTION,
    )
    pooled = _raw(engine)
    try:
        cast("psycopg.Connection[Any]", pooled.driver_connection).execute(statement)
    finally:
        pooled.close()


def _calling(url: str, connection: psycopg.Connection[Any]) -> frozenset[str]:
    """Names that after a dot may be calls with effects; asked for once as long as the engine is kept."""
    if url not in _attributes:
        _attributes[url] = frozenset(name for (name,) in connection.execute(_ATTRIBUTES)) - _COLUMN_NAMES
    return _attributes[url]


def _schema(connection: psycopg.Connection[Any]) -> Schema:
    tables: dict[str, list[str]] = {}
    for table, column in connection.execute(_COLUMNS):
        tables.setdefault(table, []).append(column)
    return Schema(tables)


def _row(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return cast(tuple[Any, ...], row)


def _said(error: psycopg.Error) -> str:
    """The server's message and hint on one line."""
    message = error.diag.message_primary or str(error)
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    return " ".join(f"{message}{hint}".split())[:1000]


def _rendered(url: URL) -> str:
    return url.render_as_string(hide_password=False)
