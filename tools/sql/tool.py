"""The tool `sql`: one statement a call on the database of the episode.

Which database that is stands in the tool's options or, above them, in the episode's: bytes of a serialised SQLite
database, a path, or a URL. Invariant: an episode never changes the database that it was given: it reads it, or has a
private copy. What a statement does wrong is an observation; statements run where they can be killed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from agentrl.errors import ConfigError, EnvError
from agentrl.registry import nearest
from agentrl.task import Episode
from agentrl.tool import Tool, ToolResult

from .answer import Limits
from .session import Session, open_session
from .source import Source, resolve
from .table import shown

MAX_QUERY = 50_000
"""Characters of a statement."""
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of the tool, checked."""

    database: str | bytes | Path | None = None
    writable: bool = False
    rows: int = 50
    fetch: int = 1000
    seconds: float = 5.0
    bytes: int = 1_000_000
    width: int = 200
    functions: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.writable, bool):
            raise ConfigError(f"tool 'sql': writable={self.writable!r} must be true or false")
        for key in ("rows", "fetch", "seconds", "bytes", "width"):
            value = getattr(self, key)
            whole = isinstance(value, int) or key == "seconds"
            if isinstance(value, bool) or not isinstance(value, int | float) or not whole or not 0 < value < 2**31:
                kind = "number" if key == "seconds" else "whole number"
                raise ConfigError(f"tool 'sql': {key}={value!r} must be a positive {kind}")
        for name in self.functions if not isinstance(self.functions, str) else (None,):
            if not isinstance(name, str) or not _FUNCTION.fullmatch(name):
                raise ConfigError(f"tool 'sql': functions={self.functions!r} must be a list of function names")


class SqlTool(Tool):
    """Runs one SQL statement on the database and shows the result as a table."""

    name = "sql"
    concurrency = len(os.sched_getaffinity(0))
    """As many as there are workers: what waits for one must not run into the timeout."""

    def __init__(
        self,
        *,
        database: str | bytes | Path | None = None,
        writable: bool = False,
        rows: int = 50,
        fetch: int = 1000,
        seconds: float = 5.0,
        bytes: int = 1_000_000,
        width: int = 200,
        functions: Sequence[str] = (),
    ) -> None:
        """Every option may also be given for one episode, by `Episode.tool_options`. Raises `ConfigError`.

        Args:
            database: path of an SQLite or DuckDB file; URL in SQLAlchemy's form (`sqlite:///shop.db`,
                `duckdb:///shop.duckdb`, `postgresql://user@host/shop`); or bytes of a serialised SQLite database.
            writable: whether statements may change the database: an episode then has a private copy of it.
            rows: rows that the policy reads.
            fetch: rows that `ToolResult.data` holds at most.
            seconds: time of one statement.
            bytes: size of one value, and of all values fetched.
            width: characters of a cell that the policy reads.
            functions: SQL functions that may be called beside the bundled list of harmless ones.
        """
        given: dict[str, Any] = dict(database=database, writable=writable, rows=rows, fetch=fetch, seconds=seconds)
        given |= dict(
            bytes=bytes, width=width, functions=tuple(functions) if not isinstance(functions, str) else functions
        )
        self._settings = Settings(**given)
        self._source = None if database is None else resolve(database)
        self._active = self._settings
        self._session: Session | None = None

    async def open(self, episode: Episode) -> None:
        """Raises `ConfigError` and `EnvError`."""
        await self.close()
        given = episode.tool_options.get(self.name, {})
        self._active = self._merged(given)
        source = resolve(given["database"]) if given.get("database") is not None else self._source
        if source is None:
            raise EnvError("there is no database: give the option database, or tool_options['sql']['database'] a task")
        if source.data == b"" and not self._active.writable:
            raise ConfigError("tool 'sql': an empty database that cannot be written to is of no use; set writable")
        self._session = await _begun(source, self._active)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(self, query: Annotated[str, Field(description="one SQL statement")]) -> ToolResult:
        if self._session is None:
            return ToolResult("Error: no database is open", "failed")
        if problem := _unusable(query):
            return ToolResult(f"Error: {problem}", "failed")
        settings = self._active
        limits = Limits(seconds=settings.seconds, rows=max(settings.rows, settings.fetch), bytes=settings.bytes)
        answer = await self._session.run(query, limits)
        text = shown(answer, rows=settings.rows, width=settings.width, characters=self.max_output)
        if answer.error is not None:
            return ToolResult(text, answer.kind)
        return ToolResult(text, data=(answer.columns, answer.rows))

    async def snapshot(self) -> Any:
        return None if self._session is None else await self._session.snapshot()

    async def restore(self, state: Any) -> None:
        if self._session is not None and state is not None:
            await self._session.restore(state)

    def _merged(self, given: dict[str, Any]) -> Settings:
        valid = [field.name for field in fields(Settings)]
        for key in given:
            if key not in valid:
                raise ConfigError(f"tool 'sql': option {key!r} is unknown; {nearest(key, valid)}")
        own = {key: getattr(self._settings, key) for key in valid}
        return Settings(**own | given)


async def _begun(source: Source, settings: Settings) -> Session:
    return await open_session(source, settings.writable, frozenset(name.lower() for name in settings.functions))


def _unusable(query: str) -> str | None:
    """Why no engine can be given the query; None where one can."""
    if not query.strip():
        return "the query is empty"
    if len(query) > MAX_QUERY:
        return f"the query is longer than {MAX_QUERY} characters"
    if "\x00" in query or any("\ud800" <= character <= "\udfff" for character in query):
        return "the query contains a character that SQL text cannot hold"
    return None
