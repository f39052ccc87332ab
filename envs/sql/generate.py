"""Generated databases: the rows of a domain from a seed, in SQLite's own file format.

A database is named by its key (domain, rows of the largest table, seed); small ones are kept as bytes in memory, large
ones as files in the user's cache folder. Invariant: the same key has the same rows, always; a file under its final name
is complete, because it is renamed there under a lock that processes respect, and a damaged one is made again.
"""

from __future__ import annotations

import os
import sqlite3
import warnings
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from agentrl.errors import EnvError
from agentrl.models.cache import cache_dir
from agentrl.seeding import derive_seed

from .domains import DOMAINS, Amount, Choice, Column, Day, Domain, Link, Table, Text, Whole

VERSION = 1
"""Part of every file's name and of every seed: raise it with any change that changes rows."""
SMALL = 5_000
"""Rows up to which a database is bytes in memory (about 0.5 MB at the most)."""
LEAST, MOST = 10, 1_000_000
"""Rows of the largest table."""
_KEPT = 64
"""Small databases in memory."""
_LINK_SKEW = 1.6
"""Exponent above 1: some parents have many children, some none."""
_EPOCH = date(1940, 1, 1)


@dataclass(frozen=True, slots=True)
class Key:
    """Names a generated database."""

    domain: str
    rows: int
    seed: int

    def __str__(self) -> str:
        return f"{self.domain}-{self.rows}-{self.seed}"


def database(key: Key) -> bytes | Path:
    """The database's bytes if it is small, else its file. Raises `EnvError` where the cache cannot be written."""
    return _small(key) if key.rows <= SMALL else _cached(key)


def schema(domain: Domain) -> str:
    """The tables as `CREATE TABLE` statements."""
    return "\n".join(_create(table) for table in domain.tables)


@lru_cache(maxsize=_KEPT)
def _small(key: Key) -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            "PRAGMA page_size = 1024"
        )  # a page for each table and index: the bytes travel with each call
        _fill(connection, key)
        return bytes(connection.serialize())


def _cached(key: Key) -> Path:
    folder = cache_dir() / "databases"
    path = folder / f"{key}-v{VERSION}.sqlite"
    if _is_whole(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{path.name}.lock"):
            if not _is_whole(path):  # another process may have made it meanwhile
                if path.exists():
                    warnings.warn(f"cached database {path} is damaged: making it again", stacklevel=2)
                _write(path, key)
    except OSError as error:
        raise EnvError(
            f"cannot write the database cache {folder} ({error.strerror or error}): set AGENTRL_CACHE to another folder"
        ) from error
    return path


def _write(path: Path, key: Key) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a killed process: the lock is ours
    try:
        with closing(sqlite3.connect(partial, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=OFF")
            connection.execute("PRAGMA synchronous=OFF")
            _fill(connection, key)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    """Whether the file is there with the length that its header states: cheap, and finds a cut file."""
    try:
        with path.open("rb") as stream:
            header = stream.read(32)
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return False
    pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    return header.startswith(b"SQLite format 3\0") and size == (65536 if pages[0] == 1 else pages[0]) * pages[1]


# -- rows --------------------------------------------------------------------------------------------------------------


def _fill(connection: sqlite3.Connection, key: Key) -> None:
    domain = DOMAINS[key.domain]
    rng = np.random.default_rng(derive_seed("sql database", VERSION, key.domain, key.rows, key.seed))
    connection.execute("BEGIN")
    for table in domain.tables:
        count = table.size(key.rows)
        columns = [range(1, count + 1), *(_values(column, count, rng, domain, key.rows) for column in table.columns)]
        places = ", ".join("?" * len(columns))
        connection.execute(_create(table))
        connection.executemany(f"INSERT INTO {table.name} VALUES ({places})", zip(*columns, strict=True))
        for column in table.of(Link):
            connection.execute(f"CREATE INDEX {table.name}_{column.name} ON {table.name} ({column.name})")
    connection.execute("COMMIT")


def _create(table: Table) -> str:
    parts = ["id INTEGER PRIMARY KEY"]
    for column in table.columns:
        null = "" if column.missing else " NOT NULL"
        target = f" REFERENCES {column.table} (id)" if isinstance(column, Link) else ""
        parts.append(f"{column.name} {column.sql_type}{null}{target}")
    return f"CREATE TABLE {table.name} ({', '.join(parts)});"


def _values(column: Column, count: int, rng: np.random.Generator, domain: Domain, rows: int) -> list[Any]:
    values = _complete(column, count, rng, domain, rows)
    if not column.missing:
        return values
    missing = rng.random(count) < column.missing * rng.uniform(0.4, 1.0)
    return [None if gone else value for value, gone in zip(values, missing.tolist(), strict=True)]


def _complete(column: Column, count: int, rng: np.random.Generator, domain: Domain, rows: int) -> list[Any]:
    if isinstance(column, Link):
        parents = domain.table(column.table).size(rows)
        places = (rng.random(count) ** _LINK_SKEW * parents).astype(np.int64)
        return list((rng.permutation(parents) + 1)[places].tolist())
    if isinstance(column, Choice):
        weights = rng.dirichlet(np.full(len(column.values), 1.5))
        return _taken(list(column.values), rng.choice(len(column.values), count, p=weights))
    if isinstance(column, Text):
        pool = column.pool
        return _taken(pool, rng.integers(len(pool), size=count))
    if isinstance(column, Day):
        bounds = [(date(year, 1, 1) - _EPOCH).days for year in (column.first, column.last + 1)]
        return _taken(_calendar(), rng.integers(bounds[0], bounds[1], size=count))
    if isinstance(column, Whole):
        return list(rng.integers(column.low, column.high, size=count, endpoint=True).tolist())
    if isinstance(column, Amount):
        scale = column.middle * rng.uniform(0.6, 1.6)
        return list(np.maximum(np.round(scale * np.exp(rng.normal(0.0, column.spread, count)), 2), 0.01).tolist())
    raise TypeError(f"no values for a {type(column).__name__}")


def _taken(pool: list[str], places: np.ndarray[Any, Any]) -> list[Any]:
    return [pool[place] for place in places.tolist()]


@lru_cache(maxsize=1)
def _calendar() -> list[str]:
    return [(_EPOCH + timedelta(days)).isoformat() for days in range((date(2031, 1, 1) - _EPOCH).days)]
