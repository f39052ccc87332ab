"""A database that may hold a store: opening it, transactions, and every failure as one line.

Invariants: a writer's transaction is committed when its block ends and holds the lock from its first statement on; no
message shows the password of a URL; a database that is not a store is left as it was.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout
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
    """An engine with a prepared schema. `RunStore` has the rules for `place` and `make`."""

    def __init__(self, place: Path | str, *, make: bool = True) -> None:
        url = _url(place)
        self.place = str(place) if isinstance(place, Path) or "://" not in place else _shown(url)
        """Where the store is; a password in it is hidden."""
        with self._errors("opened"):
            self._engine = _make_engine(url, make)
            # Writers take the lock at once: a transaction that reads first and then writes cannot wait for it.
            self._writer = self._engine.execution_options(immediate=True)
            # Readers see one moment, however many statements they take.
            snapshot = {"isolation_level": "REPEATABLE READ"} if self._engine.name == "postgresql" else {}
            self._reader = self._engine.execution_options(**snapshot)
        self._insert: Any = postgresql.insert if url.get_backend_name() == "postgresql" else sqlite.insert
        self._claims: list[Callable[[], None]] = []
        try:
            version = self._present()
            if version is None and not make:
                raise StoreError(f"store {self.place!r} is empty: nothing has been written to it yet")
            if version != SCHEMA_VERSION:
                action = "made" if version is None else f"brought from schema {version} to {SCHEMA_VERSION}"
                with self._errors(action), self._writer.begin() as connection:
                    self._prepare(connection)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close the database and give up what was claimed. Idempotent."""
        while self._claims:
            self._claims.pop()()
        self._engine.dispose()

    def claim(self, name: str) -> bool:
        """Whether `name` is this store's alone from now on, until it is closed or its process ends.

        False where another store of this database has it. It binds those alone who ask.
        """
        with self._errors("claimed"):
            on_server = self._engine.name == "postgresql"
            give_up = self._claim_on_server(name) if on_server else self._claim_by_file(name)
        if give_up is not None:
            self._claims.append(give_up)
        return give_up is not None

    def _claim_on_server(self, name: str) -> Callable[[], None] | None:
        """What gives up the server's lock, which lasts as long as its connection; None where another has it."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        key = "hashtextextended(current_schema() || ' ' || :name, 0)"
        if not connection.scalar(text(f"SELECT pg_try_advisory_lock({key})"), {"name": name}):
            connection.close()
            return None
        connection.detach()  # in the pool it would go on holding the lock
        return connection.close

    def _claim_by_file(self, name: str) -> Callable[[], None] | None:
        """What gives up the lock of a file beside the database's; None where another has it."""
        file = Path(str(self._engine.url.database)).resolve()
        key = blake2b(name.encode("utf-8", "replace"), digest_size=8).hexdigest()
        lock = FileLock(file.with_name(f".{file.name}-{key}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock.release

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
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            reads = f"this agentrl reads schema {SCHEMA_VERSION}"
            raise StoreError(f"store {self.place!r} has schema {version}; {reads}: update agentrl")
        return version

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
        except (SQLAlchemyError, sqlite3.Error, ImportError, OSError, OverflowError, UnicodeError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            stuck = isinstance(reason, sqlite3.OperationalError) and "locked" in str(reason)
            held = f": another process has held it for {BUSY_SECONDS:.0f} seconds" if stuck else ""
            raise StoreError(f"store {self.place!r} cannot be {action}: {_line(reason)}{held}") from error

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
    if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
        raise StoreError(f"store {_shown(url)!r} is in memory, where nothing would survive the run; name a file")
    return url


def _file(file: Path) -> URL:
    """Where the folder may not be written, the write-ahead log's index cannot be made beside the file; without a log
    there is no writer, and the file can be read as it stands."""
    if str(file) == ":memory:":
        raise StoreError("store ':memory:' is in memory, where nothing would survive the run; name a file")
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


def _make_engine(url: URL, make: bool) -> Engine:
    if url.get_backend_name() != "sqlite":
        arguments = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_SECONDS}
        return create_engine(url, connect_args=arguments, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", partial(_configure, make=make))
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, _: object, *, make: bool) -> None:
    connection.isolation_level = None  # the driver's own transactions begin too late; `_begin` does it
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if VERSION.name in tables or (make and not tables):
        _use_log(connection)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _use_log(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, which is kept in the file; the one statement that does not wait by itself."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break  # a file system that cannot do it keeps its own mode: slower, equally safe
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _line(error: object) -> str:
    return " ".join(str(error).split())
