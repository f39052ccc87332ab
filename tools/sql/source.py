"""Which database is meant: a path, a URL in SQLAlchemy's form, or the bytes of a serialised SQLite database.

Invariant: whatever can be known to be wrong without opening a connection is a `ConfigError` of one line, which shows no
password.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from agentrl.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_MAGIC = b"SQLite format 3\x00"
_DUCKDB_MAGIC = slice(8, 12), b"DUCK"
_MEMORY = (None, "", ":memory:")


class Engine(StrEnum):
    SQLITE = "sqlite"
    DUCKDB = "duckdb"
    POSTGRES = "postgresql"


@dataclass(frozen=True, slots=True)
class Source:
    """A database that an episode starts from."""

    engine: Engine
    data: bytes | None = None
    """A serialised SQLite database; empty for a new one."""
    path: Path | None = None
    url: str | None = None
    """With the password: for connecting, not for showing."""


def resolve(database: object) -> Source:
    """The source that `database` names. Raises `ConfigError`."""
    if isinstance(database, bytes | bytearray | memoryview):
        return Source(Engine.SQLITE, data=_rollback(_checked(bytes(database))))
    if isinstance(database, Path):
        return _file(database)
    if not isinstance(database, str):
        kind = type(database).__name__
        raise ConfigError(f"tool 'sql': database must be a path, a URL or bytes of an SQLite database, not {kind}")
    if "://" not in database:
        return Source(Engine.SQLITE, data=b"") if database == ":memory:" else _file(Path(database))
    from sqlalchemy.engine import make_url  # here, so that a list of tools loads no database library
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(database)
    except (ArgumentError, ValueError):
        raise ConfigError(f"tool 'sql': database={database[:40]!r} is not a URL such as sqlite:///shop.db") from None
    return _of_url(url)


def _of_url(url: URL) -> Source:
    if url.get_backend_name() == "postgres":  # what many servers print for their address, and SQLAlchemy refuses
        url = url.set(drivername=url.drivername.replace("postgres", "postgresql", 1))
    backend = url.get_backend_name()
    engine = next((one for one in Engine if one == backend), None)
    if engine is None:
        valid = ", ".join(Engine)
        raise ConfigError(f"tool 'sql': database={_hidden(url)!r}: {backend!r} is not supported; valid: {valid}")
    if engine is Engine.POSTGRES:
        return _postgres(url)
    if url.host or url.query:
        raise ConfigError(
            f"tool 'sql': database={_hidden(url)!r}: write {engine}:///relative or {engine}:////absolute/path"
        )
    if url.database in _MEMORY:
        if engine is Engine.DUCKDB:
            raise ConfigError(f"tool 'sql': database={_hidden(url)!r} is empty; name a file: duckdb:///shop.duckdb")
        return Source(engine, data=b"")
    return _file(Path(str(url.database)), engine)


def _postgres(url: URL) -> Source:
    if url.get_driver_name() not in ("psycopg", "psycopg2") or "psycopg2" in url.drivername:
        raise ConfigError(f"tool 'sql': database={_hidden(url)!r}: only the driver psycopg is supported")
    if find_spec("psycopg") is None:
        raise ConfigError("tool 'sql': PostgreSQL needs psycopg: pip install 'agentrl[postgres]'")
    if not url.database:
        raise ConfigError(f"tool 'sql': database={_hidden(url)!r} names no database")
    url = url.set(drivername="postgresql+psycopg")
    return Source(Engine.POSTGRES, url=url.render_as_string(hide_password=False))


def _file(path: Path, engine: Engine | None = None) -> Source:
    shown = str(path)
    path = path.expanduser().resolve()
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        raise ConfigError(f"tool 'sql': database={shown!r}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"tool 'sql': database={shown!r}: {error.strerror}") from None
    found = _engine(head)
    if found is None or engine not in (None, found):
        wanted = "an SQLite or DuckDB" if engine is None else {"sqlite": "an SQLite", "duckdb": "a DuckDB"}[engine]
        raise ConfigError(f"tool 'sql': database={shown!r} is not {wanted} database")
    if found is Engine.DUCKDB and find_spec("duckdb") is None:
        raise ConfigError("tool 'sql': DuckDB needs its package: pip install 'agentrl[duckdb]'")
    return Source(found, path=path)


def _engine(head: bytes) -> Engine | None:
    where, magic = _DUCKDB_MAGIC
    if head[where] == magic:
        return Engine.DUCKDB
    return Engine.SQLITE if head.startswith(_MAGIC) or not head else None


def _checked(data: bytes) -> bytes:
    if data and not data.startswith(_MAGIC):
        raise ConfigError(f"tool 'sql': database: the {len(data)} bytes given are not a serialised SQLite database")
    return data


def _rollback(data: bytes) -> bytes:
    """The same database in rollback mode: one in write-ahead mode cannot be opened from memory or as immutable."""
    return data[:18] + b"\x01\x01" + data[20:] if data[18:20] == b"\x02\x02" else data


def _hidden(url: URL) -> str:
    return url.render_as_string(hide_password=True)
