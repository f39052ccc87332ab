"""A real server of the Model Context Protocol for the tests: `python mcp_server.py [PORT]`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from pydantic import Field

server = MCPServer("numbers")
_memory: list[int] = []


@server.tool()
def add(a: int, b: Annotated[int, Field(description="the second")] = 1) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def remember(number: int) -> str:
    """Remembers a number and tells all that were remembered."""
    _memory.append(number)
    return str(_memory)


@server.tool()
def fail(text: str) -> str:
    """Fails."""
    raise RuntimeError(text)


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool()
def environment(name: str) -> str:
    """A variable of the server's environment."""
    return os.environ.get(name, "not set")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run(transport="streamable-http", port=int(sys.argv[1]))
    else:
        server.run(transport="stdio")
