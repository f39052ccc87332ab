"""A small shop as a serialised SQLite database, and a tool opened on it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agentrl.messages import ToolCall
from agentrl.task import Episode, Task
from agentrl.tool import Tool, ToolResult, call_tool, resolve_tool

SCRIPT = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER);
INSERT INTO people VALUES (1, 'Ada', 36), (2, 'Bob', NULL), (3, 'Cy', 7);
CREATE TABLE orders (id INTEGER PRIMARY KEY, person INTEGER REFERENCES people, total REAL);
INSERT INTO orders VALUES (1, 1, 10.5), (2, 1, 4.0), (3, 3, 1.0);
CREATE INDEX by_person ON orders(person);
CREATE VIEW adults AS SELECT name FROM people WHERE age >= 18;
"""


@cache
def shop() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCRIPT)
    data = connection.serialize()
    connection.close()
    return data


def duck_file(folder: Path) -> Path:
    """The same shop as a DuckDB file."""
    duckdb = pytest.importorskip("duckdb")
    path = folder / "shop.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute(SCRIPT)
    return path


def episode(**options: Any) -> Episode:
    """An episode whose own options of the tool are these."""
    return Episode(Task("t:0", "t", ()), 0, tool_options={"sql": options} if options else {})


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Tool]:
    tool = resolve_tool("sql", **options)
    try:
        await tool.open(episode())
        yield tool
    finally:
        await tool.close()


async def ask(tool: Tool, query: str) -> ToolResult:
    """The answer that a policy's call gets."""
    call = ToolCall(id="call_0", name="sql", arguments=json.dumps({"query": query}))
    result, _ = await call_tool({"sql": tool}, call)
    return result
