"""Queries per second of the tool `sql` on every engine that is here, in one run, beside `sqlite3` itself.

    python benchmarks/sql.py --queries 500 --rows 1000

The query selects ten rows by key; all engines hold the same table. `raw` is one kept `sqlite3` connection without any
limit; `copy` a database that travels with each call, `file` one that is read in place, `writable` a private copy that
the query changes. `concurrent` calls wait at the same time. PostgreSQL is asked where `--postgres URL` names a server
whose role may read the table `items`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentrl.task import Episode, Task
from agentrl.tool import Tool, resolve_tool

QUERY = "SELECT id, name, price FROM items WHERE id BETWEEN {} AND {} + 9"
CHANGE = "UPDATE items SET price = price + 1 WHERE id = {}"


def database(rows: int) -> bytes:
    """The table of the benchmark as a serialised SQLite database."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price REAL)")
    connection.executemany("INSERT INTO items VALUES (?, ?, ?)", ((i, f"item {i}", i / 7) for i in range(rows)))
    connection.commit()
    data = connection.serialize()
    connection.close()
    return data


def duckdb_file(folder: Path, rows: int) -> Path:
    """The same table as a DuckDB file."""
    import duckdb

    path = folder / "items.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute(
            f"CREATE TABLE items AS SELECT i AS id, 'item ' || i AS name, i / 7 AS price FROM range({rows}) t(i)"
        )
    return path


def raw(data: bytes, queries: int, rows: int) -> list[float]:
    """Seconds of each query on a kept connection."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(data)
    seconds = []
    for index in range(queries):
        began = time.perf_counter()
        connection.execute(QUERY.format(index % rows, index % rows)).fetchall()
        seconds.append(time.perf_counter() - began)
    connection.close()
    return seconds


async def timed(options: dict[str, Any], query: Callable[[int], str], queries: int, concurrent: int) -> list[float]:
    """Seconds of each call; the last is the time of all of them."""
    tools = [resolve_tool("sql", **options) for _ in range(concurrent)]
    for tool in tools:
        await tool.open(Episode(Task("b:0", "b", ()), 0))
    seconds: list[float] = []

    async def work(tool: Tool, own: range) -> None:
        for index in own:
            began = time.perf_counter()
            result = await tool.call(query=query(index))
            seconds.append(time.perf_counter() - began)
            assert result.error is None, result.text

    try:
        for _ in range(2):  # workers start and import their drivers in the first round
            seconds.clear()
            began = time.perf_counter()
            await asyncio.gather(*(work(tool, range(n, queries, concurrent)) for n, tool in enumerate(tools)))
        return [*seconds, time.perf_counter() - began]
    finally:
        for tool in tools:
            await tool.close()


async def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One row an engine and number of concurrent calls."""
    rows, queries = arguments.rows, arguments.queries
    data = database(rows)
    file = folder / "items.db"
    file.write_bytes(data)
    kinds: dict[str, dict[str, Any]] = {
        "sqlite copy": {"database": data},
        "sqlite file": {"database": file},
        "sqlite writable": {"database": data, "writable": True},
    }
    if find_spec("duckdb"):
        kinds["duckdb file"] = {"database": duckdb_file(folder, rows)}
    if arguments.postgres:
        kinds["postgresql"] = {"database": arguments.postgres}
    base = raw(data, queries, rows)
    table = [_row("sqlite3 raw", 1, [*base, sum(base)], sum(base) / queries)]
    for name, options in kinds.items():
        text = CHANGE if options.get("writable") else QUERY
        for concurrent in arguments.concurrent:
            seconds = await timed(options, lambda i, t=text: t.format(i % rows, i % rows), queries, concurrent)
            table.append(_row(name, concurrent, seconds, sum(base) / queries))
    return table


def _row(name: str, concurrent: int, seconds: list[float], base: float) -> dict[str, Any]:
    calls, total = sorted(seconds[:-1]), seconds[-1]
    return {
        "engine": name,
        "concurrent": concurrent,
        "queries/s": round(len(calls) / total),
        "p50 ms": round(statistics.median(calls) * 1000, 3),
        "p99 ms": round(calls[int(len(calls) * 0.99)] * 1000, 3),
        "times raw": round(total / len(calls) / base, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rows", type=int, default=1000, help="rows of the table")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--postgres", metavar="URL")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = asyncio.run(measure(arguments, Path(folder)))
    if arguments.json:
        print(json.dumps(table))
        return
    print("  ".join(f"{key:>15}" for key in table[0]))
    for row in table:
        print("  ".join(f"{value!s:>15}" for value in row.values()))


if __name__ == "__main__":
    main()
