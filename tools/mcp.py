"""The toolset `mcp`: the tools of any server of the Model Context Protocol, as tools like all others.

The client is the protocol's own library; a server is a command (spoken to over its standard streams) or a URL
(streamable HTTP). Its tools are asked for once a process. Each episode has a connection of its own, which the tools of
one set share; it is opened at the first call, so that an episode that calls none costs nothing.

Invariants: one task enters and leaves the client's contexts, as that library demands; a connection that broke is
replaced at the next call, with the server's state lost; when the last tool of an episode is closed its server is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, model_validator

from agentrl.bridge import run_sync
from agentrl.errors import ConfigError, EnvError
from agentrl.signature import without_titles
from agentrl.task import Episode
from agentrl.tool import Tool, ToolResult, Toolset

if TYPE_CHECKING:
    from mcp import Client

_CLOSE_SECONDS = 10.0
"""A server that has not gone by then is left to the library's own kill."""


class McpToolset(Toolset):
    """The tools of a Model Context Protocol server, named by a command or a URL."""

    name = "mcp"

    def __init__(
        self,
        *,
        command: tuple[str, ...] = (),
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        include: tuple[str, ...] | None = None,
        prefix: str = "",
        connect_seconds: float = 30.0,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            command: program and arguments of a server that speaks on its standard streams; one a episode is started.
            url: of a server that speaks streamable HTTP, instead of a command.
            env: variables for the command, beside the few that the protocol's library passes on.
            headers: for the URL, such as an authorisation.
            include: names of the server's tools to offer; None for all of them.
            prefix: put before the names, where two servers have tools of one name.
            connect_seconds: in which a server must have answered for the first time.
        """
        if bool(command) == bool(url):
            raise ConfigError("tool 'mcp': give either command=[program, argument ...] or url=...")
        if (env and url) or (headers and command):
            raise ConfigError("tool 'mcp': env goes with a command, headers go with a url")
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise ConfigError("tool 'mcp' needs the package mcp: pip install 'agentrl[mcp]'") from None
        self._server = _Server(tuple(command), url, dict(env or {}), dict(headers or {}), connect_seconds)
        self._include, self._prefix = include, prefix

    def tools(self) -> list[Tool]:
        listed = self._server.listing()
        for name in self._include or ():
            if name not in listed:
                raise ConfigError(f"tool 'mcp': include: the server has no tool {name!r}; it has {', '.join(listed)}")
        connections = _Connections(self._server)
        chosen = [entry for name, entry in listed.items() if self._include is None or name in self._include]
        return [McpTool(connections, self._prefix, **entry) for entry in chosen]


class McpTool(Tool, by_instance=True):
    """One tool of a server."""

    def __init__(
        self, connections: _Connections, prefix: str, name: str, description: str, schema: dict[str, Any]
    ) -> None:
        self.name = prefix + name
        self.description = description
        self.parameters = _arguments_model(schema)
        self._remote, self._schema, self._connections = name, schema, connections
        self._episode: Episode | None = None

    async def open(self, episode: Episode) -> None:
        self._episode = episode
        self._connections.enter(episode)

    async def close(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            await self._connections.leave(episode)

    async def call(self, **arguments: Any) -> ToolResult:
        if self._episode is None:
            raise EnvError(f"tool {self.name!r} is not open")
        answer = await self._connections.of(self._episode).call(self._remote, arguments)
        text = "\n".join(_text(part) for part in answer.content)
        return ToolResult(text, "failed" if answer.is_error else None, data=answer.structured_content)

    def schema(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": self._schema}
        return {"type": "function", "function": function}


class _Server:
    """How a server is reached."""

    def __init__(
        self, command: tuple[str, ...], url: str | None, env: dict[str, str], headers: dict[str, str], seconds: float
    ) -> None:
        self._command, self._url, self._env, self._headers, self._seconds = command, url, env, headers, seconds
        self.label = url or " ".join(command)

    def listing(self) -> dict[str, dict[str, Any]]:
        """Name, description and schema of the server's tools; asked for once a process."""
        key = json.dumps([self._command, self._url, self._env, self._headers], sort_keys=True)
        if key not in _listings:
            _listings[key] = run_sync(self._listed())
        return _listings[key]

    async def connect(self, stack: AsyncExitStack) -> Client:
        """A client of it, entered into `stack`."""
        from mcp import Client, StdioServerParameters, stdio_client

        if self._url is None:
            program, *arguments = self._command
            parameters = StdioServerParameters(command=program, args=arguments, env=self._env)
            errors = stack.enter_context(open(os.devnull, "w"))  # noqa: SIM115 - its log is not ours
            target: Any = stdio_client(parameters, errlog=errors)
        elif self._headers:
            import httpx2
            from mcp.client.streamable_http import streamable_http_client

            http = await stack.enter_async_context(httpx2.AsyncClient(headers=self._headers))
            target = streamable_http_client(self._url, http_client=http)
        else:
            target = self._url
        async with asyncio.timeout(self._seconds):
            return await stack.enter_async_context(Client(target, cache=None))

    async def _listed(self) -> dict[str, dict[str, Any]]:
        connection = _Connection(self)
        try:
            tools = await connection.list_tools()
        except Exception as error:  # of a program or a network that is not ours: to the user it is one line
            raise ConfigError(f"tool 'mcp': {self.label!r} does not answer: {_first(error)}") from error
        finally:
            await connection.close()
        return {
            tool.name: {
                "name": tool.name,
                "description": tool.description or "",
                "schema": without_titles(dict(tool.input_schema)),
            }
            for tool in tools
        }


_listings: dict[str, dict[str, dict[str, Any]]] = {}


class _Connections:
    """The connections of one set's episodes, shared by its tools."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._users: dict[int, tuple[_Connection, int]] = {}

    def enter(self, episode: Episode) -> None:
        connection, users = self._users.get(id(episode), (None, 0))
        self._users[id(episode)] = (connection or _Connection(self._server), users + 1)

    def of(self, episode: Episode) -> _Connection:
        return self._users[id(episode)][0]

    async def leave(self, episode: Episode) -> None:
        connection, users = self._users.pop(id(episode))
        if users > 1:
            self._users[id(episode)] = (connection, users - 1)
        else:
            await connection.close()


class _Connection:
    """A client whose contexts one task of its own enters and leaves, while calls come from other tasks."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._owner: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Client] | None = None
        self._leave = asyncio.Event()

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        client = await self._client()
        try:
            return await client.call_tool(name, arguments)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                await self.close()
            raise
        except (OSError, EOFError):
            await self.close()
            raise

    async def list_tools(self) -> list[Any]:
        client, tools, cursor = await self._client(), [], None
        while True:
            page = await client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return tools

    async def close(self) -> None:
        owner, self._owner = self._owner, None
        if owner is None:
            return
        self._leave.set()
        done, _ = await asyncio.wait({owner}, timeout=_CLOSE_SECONDS)
        if not done:
            owner.cancel()
            await asyncio.wait({owner}, timeout=_CLOSE_SECONDS)

    async def _client(self) -> Client:
        if self._owner is None or self._owner.done():
            self._leave = asyncio.Event()
            self._ready = asyncio.get_running_loop().create_future()
            self._owner = asyncio.create_task(self._own(self._ready, self._leave))
        assert self._ready is not None
        return await asyncio.shield(self._ready)

    async def _own(self, ready: asyncio.Future[Client], leave: asyncio.Event) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await self._server.connect(stack)
                ready.set_result(client)
                await leave.wait()
        except Exception as error:  # whoever calls is told; after that the connection counts as broken
            if not ready.done():
                ready.set_exception(EnvError(f"{self._server.label!r}: {_first(error)}"))
                ready.exception()  # retrieved here, in case nobody waits any more
        finally:
            if not ready.done():
                ready.cancel()


def _arguments_model(schema: dict[str, Any]) -> type[BaseModel]:
    """A model that takes any arguments which the server's JSON schema allows."""
    from jsonschema import Draft202012Validator  # a dependency of mcp
    from jsonschema.exceptions import best_match

    validator = Draft202012Validator(schema)

    class Arguments(BaseModel):
        model_config = ConfigDict(extra="allow")

        @model_validator(mode="before")
        @classmethod
        def _checked(cls, data: Any) -> Any:
            if (error := best_match(validator.iter_errors(data))) is not None:
                where = ".".join(map(str, error.absolute_path))
                raise ValueError(f"{where}: {error.message[:300]}" if where else error.message[:300])
            return data

    return Arguments


def _text(part: Any) -> str:
    """A part of an answer as text: images, audio and resources are described."""
    if part.type == "text":
        return str(part.text)
    if part.type == "resource":
        return str(getattr(part.resource, "text", f"[resource {part.resource.uri}]"))
    if part.type == "resource_link":
        return f"[resource {part.uri}]"
    return f"[{part.type} of kind {getattr(part, 'mime_type', 'unknown')}]"


def _first(error: BaseException) -> str:
    """The first line of what went wrong, also within groups of exceptions."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
