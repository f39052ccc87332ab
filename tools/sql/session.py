"""An episode's database: which worker function runs its statements, and its state between them.

Invariant: every statement runs in a worker that can be killed. A session that only reads has no state; one that writes
owns a private copy that ends with it, and runs its statements one after another.
"""

from __future__ import annotations

import asyncio
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentrl.bridge import in_thread
from agentrl.errors import EnvError, WorkerError
from agentrl.workers import WorkerDied, WorkerTimeout, shared_pool

from .answer import Answer, Limits, overtime
from .source import Engine, Source

INLINE = 128 << 10
"""Bytes up to which a serialised database travels with every call; a larger one is put into a file once. Here both ways
take the same time; at 1 MiB a file is 4 times faster."""
_GRACE = 1.0
"""Seconds after which a statement that does not look at the clock is killed with its worker."""
_IMPORTS = 6.0
"""The same where a fresh worker may first have to import a driver; these engines stop in time by themselves."""
_OPENING = 60.0
"""Seconds that copying or creating a database may take."""


class Session(ABC):
    """The database of one episode."""

    def __init__(self, writable: bool, functions: frozenset[str]) -> None:
        """`functions`: names beside the bundled list that may be called."""
        self.writable = writable
        self.functions = functions
        self._turn = asyncio.Lock()

    async def run(self, query: str, limits: Limits) -> Answer:
        """The answer to one statement; never raises for what the statement does."""
        if not self.writable:
            return await self._run(query, limits)
        async with self._turn:  # the calls of one message arrive together
            return await self._run(query, limits)

    @abstractmethod
    async def _run(self, query: str, limits: Limits) -> Answer: ...

    async def snapshot(self) -> Any:
        """The state by value; None where there is none."""
        return None

    async def restore(self, state: Any) -> None:  # noqa: B027 - what only reads has nothing to restore
        """Take the state of a snapshot."""

    async def close(self) -> None:  # noqa: B027
        """Remove what the session made."""


class CopySession(Session):
    """A serialised SQLite database that travels with each call."""

    def __init__(self, data: bytes, writable: bool, functions: frozenset[str]) -> None:
        super().__init__(writable, functions)
        self._data = data

    async def _run(self, query: str, limits: Limits) -> Answer:
        arguments = (self._data, query, limits, self.writable, self.functions)
        answer = await in_worker("sqlite:on_copy", *arguments, seconds=limits.seconds)
        if answer.database is not None:
            self._data, answer.database = answer.database, None
        return answer

    async def snapshot(self) -> Any:
        return self._data if self.writable else None

    async def restore(self, state: Any) -> None:
        if self.writable:
            self._data = state


class FileSession(Session):
    """An SQLite file: the user's, read-only, or a private one."""

    def __init__(
        self, path: Path, folder: TemporaryDirectory[str] | None, writable: bool, functions: frozenset[str]
    ) -> None:
        super().__init__(writable, functions)
        self._path = path
        self._folder = folder
        """Holds the file where it is private; removed with the session, at the latest with the process."""

    async def _run(self, query: str, limits: Limits) -> Answer:
        if self.writable:
            arguments: tuple[Any, ...] = (str(self._path), query, limits, self.functions)
            return await in_worker("sqlite:on_private_file", *arguments, seconds=limits.seconds)
        arguments = (str(self._path), query, limits, self._folder is not None, self.functions)
        return await in_worker("sqlite:on_file", *arguments, seconds=limits.seconds)

    async def snapshot(self) -> Any:
        if not self.writable:
            return None
        async with self._turn:
            return await prepared("sqlite:serialised", str(self._path))

    async def restore(self, state: Any) -> None:
        if self.writable:
            _replace(self._path, state, "database.db-journal")

    async def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class DuckSession(Session):
    """A DuckDB file: the user's, read-only, or a private copy."""

    def __init__(self, path: Path, folder: TemporaryDirectory[str] | None, functions: frozenset[str]) -> None:
        super().__init__(folder is not None, functions)
        self._path = path
        self._folder = folder

    async def _run(self, query: str, limits: Limits) -> Answer:
        arguments = (str(self._path), query, limits, self.writable, self.functions)
        return await in_worker("duck:on_file", *arguments, seconds=limits.seconds, grace=_IMPORTS)

    async def snapshot(self) -> Any:
        if not self.writable:
            return None
        async with self._turn:
            await prepared("duck:settle", str(self._path))
            return self._path.read_bytes()

    async def restore(self, state: Any) -> None:
        if self.writable:
            _replace(self._path, state, "database.duckdb.wal")

    async def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class ServerSession(Session):
    """A PostgreSQL database: the one named, read-only, or a copy on its server that ends with the episode."""

    def __init__(self, url: str, writable: bool, functions: frozenset[str]) -> None:
        super().__init__(writable, functions)
        self._url = url

    async def _run(self, query: str, limits: Limits) -> Answer:
        arguments = (self._url, query, limits, self.writable, self.functions)
        return await in_worker("postgres:on_server", *arguments, seconds=limits.seconds, grace=_IMPORTS)

    async def snapshot(self) -> Any:
        if self.writable:
            raise EnvError(
                "a writable PostgreSQL database cannot be copied by value in mid-episode; use SQLite for that"
            )

    async def close(self) -> None:
        if self.writable:
            await prepared("postgres:drop", self._url)


def _replace(path: Path, state: bytes, log: str) -> None:
    path.with_name(log).unlink(missing_ok=True)
    path.write_bytes(state)


async def open_session(source: Source, writable: bool, functions: frozenset[str]) -> Session:
    """Begin on `source`. Raises `EnvError`."""
    if source.engine is Engine.SQLITE:
        return await _sqlite(source, writable, functions)
    if source.engine is Engine.DUCKDB:
        return await _duckdb(source, writable, functions)
    assert source.url is not None
    url, reason = source.url, await prepared("postgres:probe", source.url) if not writable else None
    if writable:
        url, reason = await prepared("postgres:create", source.url)
    if reason:
        from sqlalchemy.engine import make_url

        raise EnvError(f"database {make_url(source.url).render_as_string()!r} cannot be used: {reason}")
    return ServerSession(url, writable, functions)


async def _duckdb(source: Source, writable: bool, functions: frozenset[str]) -> Session:
    assert source.path is not None
    if not writable:
        if reason := await prepared("duck:probe", str(source.path)):
            raise EnvError(f"database {str(source.path)!r} cannot be read: {reason}")
        return DuckSession(source.path, None, functions)
    folder = TemporaryDirectory(prefix="agentrl-sql-")
    path = Path(folder.name) / "database.duckdb"
    try:
        await in_thread(shutil.copyfile, source.path, path)
    except BaseException:
        folder.cleanup()
        raise
    return DuckSession(path, folder, functions)


async def _sqlite(source: Source, writable: bool, functions: frozenset[str]) -> Session:
    if source.data is not None and len(source.data) <= INLINE:
        return CopySession(source.data, writable, functions)
    if source.data is None and not writable:
        assert source.path is not None
        if reason := await prepared("sqlite:probe", str(source.path)):
            raise EnvError(f"database {str(source.path)!r} cannot be read: {reason}")
        return FileSession(source.path, None, writable, functions)
    folder = TemporaryDirectory(prefix="agentrl-sql-")
    path = Path(folder.name) / "database.db"
    try:
        if source.data is not None:
            path.write_bytes(source.data)
        else:
            await prepared("sqlite:copied", str(source.path), str(path))
    except BaseException:
        folder.cleanup()
        raise
    return FileSession(path, folder, writable, functions)


async def in_worker(function: str, *arguments: Any, seconds: float, grace: float = _GRACE) -> Answer:
    """The answer of a worker function of this package, or what became of its worker."""
    try:
        answer: Answer = await shared_pool().run(f"{__package__}.{function}", *arguments, timeout=seconds + grace)
    except WorkerTimeout:
        return overtime(seconds)
    except WorkerDied:
        return Answer(error="the query needs too much memory, or it crashed the database engine")
    return answer


async def prepared(function: str, *arguments: Any) -> Any:
    """What a worker function gives that belongs to opening a session. Raises `EnvError`."""
    try:
        return await shared_pool().run(f"{__package__}.{function}", *arguments, timeout=_OPENING)
    except WorkerError as error:
        raise EnvError(f"the database could not be prepared: {error}") from error
