"""A database that may hold a store: opening it, transactions, and every failure as one line.

Invariants: a writer's transaction is committed when its block ends and holds the lock from its first statement on; no
message shows the password of a URL; a database that is not a store is left as it was.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, CursorResult, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.sql.schema import Table

from agentrl.errors import StoreError
from agentrl.store.migrate import migrate
from agentrl.store.schema import METADATA, SCHEMA_VERSION, VERSION

BUSY_SECONDS = 60.0  # a writer holds the lock for milliseconds; only a stuck process makes others wait this long
CONNECT_SECONDS = 10
_PREPARING = 0x61676C  # PostgreSQL's advisory lock, held while a schema is made or migrated
_BACKENDS = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A statement in the driver's own words."""

    text: str
    order: tuple[str, ...] | None
    """Names of its parameters where they are told apart by their places."""

    def execute(self, connection: Connection, *rows: Mapping[str, Any]) -> CursorResult[Any]:
        """Run it, once a row."""
        order = self.order
        values: list[Any] = [row if order is None else tuple(row[name] for name in order) for row in rows]
        return connection.exec_driver_sql(self.text, values if len(values) > 1 else values[0])


class Database:
    """An engine with a prepared schema. `RunStore` has the rules for `place`."""

    def __init__(self, place: Path | str) -> None:
        url = _url(place)
        self.place = str(place) if isinstance(place, Path) or "://" not in place else _shown(url)
        """Where the store is; a password in it is hidden."""
        with self._errors("opened"):
            self._engine = _make_engine(url)
            # Writers take the lock at once: a transaction that reads first and then writes cannot wait for it.
            self._writer = self._engine.execution_options(immediate=True)
            # Readers see one moment, however many statements they take.
            snapshot = {"isolation_level": "REPEATABLE READ"} if self._engine.name == "postgresql" else {}
            self._reader = self._engine.execution_options(**snapshot)
        self._insert: Any = postgresql.insert if url.get_backend_name() == "postgresql" else sqlite.insert
        try:
            version = self._present()
            if version != SCHEMA_VERSION:
                action = "made" if version is None else f"brought from schema {version} to {SCHEMA_VERSION}"
                with self._errors(action), self._writer.begin() as connection:
                    self._prepare(connection)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._engine.dispose()

    def _present(self) -> int | None:
        """The version that is there; asked without a lock, so that a busy store opens at once."""
        with self._errors("opened"), self._engine.connect() as connection:
            return self._version(connection)

    def _version(self, connection: Connection) -> int | None:
        """The version of the store in the database, None if that is empty; raises `StoreError` for another's."""
        names = set(inspect(connection).get_table_names())
        if not names:
            return None
        if VERSION.name not in names:
            held = ", ".join(sorted(names)[:8])
            raise StoreError(f"store {self.place!r} is another program's database: it holds {held}")
        version = connection.scalar(select(VERSION.c.version))
        if version is None or version > SCHEMA_VERSION:
            reads = f"this agentrl reads schema {SCHEMA_VERSION}"
            raise StoreError(f"store {self.place!r} has schema {version}; {reads}: update agentrl")
        return int(version)

    def _prepare(self, connection: Connection) -> None:
        """Make the schema in an empty database, or bring an older one up to date; another process may have done it."""
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PREPARING})
        version = self._version(connection)
        if version is None:
            METADATA.create_all(connection, checkfirst=False)
            connection.execute(insert(VERSION).values(version=SCHEMA_VERSION))
        elif version < SCHEMA_VERSION:
            migrate(connection, version, self.place)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._errors("written"), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._errors("read"), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Whatever the database raises becomes one line."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, ImportError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise StoreError(f"store {self.place!r} cannot be {action}: {_line(reason)}") from error

    def _compiled(self, statement: Any, names: Sequence[str]) -> Compiled:
        """A statement with these parameters, for what is executed often: SQLAlchemy's own way takes thrice as long.

        It skips the conversions of types; its values must be what the driver takes as they are.
        """
        dialect = self._engine.dialect
        compiled = statement.compile(dialect=dialect, column_keys=names)
        return Compiled(str(compiled), tuple(compiled.positiontup) if compiled.positional else None)

    def _upsert(self, table: Table, *replaced: str) -> Any:
        """INSERT that replaces these columns where the primary key is there already."""
        statement = self._insert(table)
        values = {name: statement.excluded[name] for name in replaced}
        return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=values)


def _url(place: Path | str) -> URL:
    if isinstance(place, Path) or "://" not in place:
        return _file(Path(place))
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        raise StoreError(f"store {_mask(place)!r} is not a URL such as postgresql://user@host/database") from None
    if url.get_backend_name() == "postgres":  # what many servers print for their address, and SQLAlchemy refuses
        url = url.set(drivername="postgresql")
    if url.get_backend_name() not in _BACKENDS:
        valid = "sqlite:///file and postgresql://user@host/database"
        raise StoreError(f"store {_shown(url)!r}: {url.get_backend_name()!r} is not supported; valid are {valid}")
    if url.get_backend_name() == "postgresql":
        return _postgres(url)
    if url.database in (None, "", ":memory:"):
        raise StoreError(f"store {_shown(url)!r} is in memory, where nothing would survive the run; name a file")
    return url


def _file(file: Path) -> URL:
    """Where the folder may not be written, the write-ahead log's index cannot be made beside the file; without a log
    there is no writer, and the file can be read as it stands."""
    if file.is_file() and not os.access(file.parent, os.W_OK) and not Path(f"{file}-wal").exists():
        query = {"mode": "ro", "immutable": "1", "uri": "true"}
        return URL.create("sqlite", database=f"file:{quote(str(file))}", query=query)
    return URL.create("sqlite", database=str(file))


def has_password(place: str) -> bool:
    """Whether a URL holds a password; raises `StoreError` for what is no URL of a store."""
    if "://" not in place:
        return False
    url = _url(place)
    return url.password is not None or "password" in url.query


def file_of(place: str) -> Path | None:
    """The file of a store that is named as text; None for one on a server, and for what is no URL."""
    if "://" not in place:
        return Path(place)
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        return None
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _postgres(url: URL) -> URL:
    if "+" in url.drivername and url.get_driver_name() != "psycopg":
        raise StoreError(f"store {_shown(url)!r}: only the driver psycopg is supported")
    if not url.database:
        raise StoreError(f"store {_shown(url)!r} names no database")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        missing = "PostgreSQL needs psycopg: pip install 'agentrl[postgres]'"
        raise StoreError(f"store {_shown(url)!r} cannot be opened: {missing}") from None
    return url.set(drivername="postgresql+psycopg")


def _shown(url: URL) -> str:
    if "password" in url.query:
        url = url.update_query_dict({"password": "***"})
    return url.render_as_string(hide_password=True)


def _mask(place: str) -> str:
    """A URL that cannot be read, without what may be a password."""
    return re.sub(r"password=[^&]*", "password=***", re.sub(r"://.*@", "://***@", place))


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        arguments = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_SECONDS}
        return create_engine(url, connect_args=arguments, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver's own transactions begin too late; `_begin` does it
    # Switching to the write-ahead log is the one statement that does not wait for its turn by itself.
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break  # a file system that cannot do it keeps its own mode: slower, equally safe
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _line(error: object) -> str:
    return " ".join(str(error).split())
