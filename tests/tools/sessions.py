"""Episodes, calls and processes for the tests of tools that have a sandbox session."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentrl import registry
from agentrl.messages import ToolCall
from agentrl.task import Episode, Task
from agentrl.tool import Tool, ToolResult, call_tool, resolve_tool


def needs(sandbox: str) -> str:
    """The sandbox's name; skips the test, saying why, where it does not work."""
    if reason := registry.sandboxes.get(sandbox).why_not():
        pytest.skip(f"{sandbox}: {reason}")
    return sandbox


def episode(seed: int = 0, **tool_options: dict[str, Any]) -> Episode:
    return Episode(Task("test:0", "test", ()), seed=seed, tool_options=tool_options)


@asynccontextmanager
async def opened(name: str, played: Episode | None = None, **options: Any) -> AsyncIterator[Tool]:
    """A tool in an episode."""
    tool = resolve_tool(name, **options)
    try:
        await tool.open(played or episode())
        yield tool
    finally:
        await tool.close()


async def call(tool: Tool, **arguments: Any) -> ToolResult:
    """A call as an environment makes it."""
    result, _ = await call_tool({tool.name: tool}, ToolCall(id="c", name=tool.name, arguments=json.dumps(arguments)))
    return result


async def gone(pid: int) -> bool:
    """Whether the process of this machine ends soon: killing a tree is asynchronous."""
    for _ in range(500):
        if not runs(pid):
            return True
        await asyncio.sleep(0.01)
    return False


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
    except ProcessLookupError:
        return False


def descriptors() -> int:
    """Open descriptors of this process, without those of earlier tests' garbage, which would close in between."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
