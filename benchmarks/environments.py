"""Environment steps a second and tool calls a second, one after another and many at once, in one run.

    python benchmarks/environments.py
    python benchmarks/environments.py --env agentrl/SQL-v0 --concurrency 64 --seconds 3
    python benchmarks/environments.py --tool python --json

An episode is the oracle's: its messages are recorded once and stepped again, so that what is measured is reset, tools,
judge and close, and no policy. The last column is the ratio to `agentrl/Arithmetic-v0` (to `calculator` for tools),
which does the least that an environment can do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agentrl.env import Env, make
from agentrl.messages import Message, ToolCall
from agentrl.oracle import oracle_trajectory
from agentrl.registration import env_ids
from agentrl.task import Episode, Task
from agentrl.tool import Tool, call_tool, resolve_tool

TASKS = 16
BASE_ENV, BASE_TOOL = "agentrl/Arithmetic-v0", "calculator"
DOCUMENTS = [{"id": str(n), "title": f"Town {n}", "text": f"Town {n} has {n * 7} people."} for n in range(1000)]


def tool_cases(folder: Path) -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """Label to (tool, options, arguments of the call)."""
    database, corpus = folder / "numbers.sqlite", folder / "towns.jsonl"
    import sqlite3

    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE numbers (n INTEGER)")
        connection.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(10_000)])
    corpus.write_text("\n".join(map(json.dumps, DOCUMENTS)), encoding="utf-8")
    return {
        "calculator": ("calculator", {}, {"expression": "12 * 34"}),
        "submit": ("submit", {}, {"answer": "42"}),
        "sql": ("sql", {"database": str(database)}, {"query": "SELECT COUNT(*) FROM numbers WHERE n % 7 = 0"}),
        "search": ("search", {"corpus": str(corpus)}, {"query": "people of town 17"}),
        "python": ("python", {}, {"code": "print(1 + 1)"}),
        "python fresh": ("python", {"stateful": False}, {"code": "print(1 + 1)"}),
        "shell": ("shell", {}, {"command": "echo 2"}),
    }


async def env_rate(name: str, concurrency: int, seconds: float) -> float:
    """Steps a second of `concurrency` environments at once."""
    recorder = make(name)
    tasks = [recorder.tasks("train")[index].id for index in range(TASKS)]
    episodes = [[turn.message for turn in (await oracle_trajectory(recorder, None, t, 0)).turns] for t in tasks]
    await recorder.aclose()

    async def play(env: Env, worker: int, ended: Callable[[], bool]) -> int:
        steps = 0
        while not ended():
            number = (worker + steps) % TASKS
            await env.areset(seed=0, options={"task": tasks[number]})
            steps += await stepped(env, episodes[number])
        await env.aclose()
        return steps

    environments = [make(name) for _ in range(concurrency)]
    return await rate([lambda ended, e=env, w=w: play(e, w, ended) for w, env in enumerate(environments)], seconds)


async def stepped(env: Env, messages: list[Message]) -> int:
    for message in messages:
        await env.astep(message)
    return len(messages)


async def tool_rate(case: tuple[str, dict[str, Any], dict[str, Any]], concurrency: int, seconds: float) -> float:
    """Calls a second of `concurrency` episodes at once, each with a session of its own."""
    name, options, arguments = case
    call = ToolCall(id="call_0", name=name, arguments=json.dumps(arguments))
    tools = [resolve_tool(name, **options) for _ in range(concurrency)]

    async def repeat(tool: Tool, ended: Callable[[], bool]) -> int:
        calls = 0
        await tool.open(Episode(Task("train:0", "train", ()), 0))
        while not ended():
            result, _ = await call_tool({name: tool}, call)
            if result.error:
                raise SystemExit(f"{name}: {result.text}")
            calls += 1
        await tool.close()
        return calls

    return await rate([lambda ended, t=tool: repeat(t, ended) for tool in tools], seconds)


async def rate(workers: list[Callable[[Callable[[], bool]], Awaitable[int]]], seconds: float) -> float:
    """Units a second; the workers run once for a moment first, to open what is shared."""
    for span in (min(0.3, seconds), seconds):
        began = time.perf_counter()
        done = await asyncio.gather(
            *(worker(lambda b=began, s=span: time.perf_counter() - b > s) for worker in workers)
        )
        total = time.perf_counter() - began
    return sum(done) / total


def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cases = tool_cases(folder)
    environments = arguments.env or ([] if arguments.tool else sorted(env_ids()))
    tools = arguments.tool or ([] if arguments.env else list(cases))
    for kind, names, base in (("environment", environments, BASE_ENV), ("tool", tools, BASE_TOOL)):
        for name in ([base] if names else []) + [name for name in names if name != base]:
            for concurrency in (1, arguments.concurrency):
                run = (
                    env_rate(name, concurrency, arguments.seconds)
                    if kind == "environment"
                    else tool_rate(cases[name], concurrency, arguments.seconds)
                )
                rows.append({"kind": kind, "name": name, "concurrency": concurrency, "rate": asyncio.run(run)})
                first = next(r for r in rows if (r["kind"], r["concurrency"]) == (kind, concurrency))
                rows[-1]["ratio"] = rows[-1]["rate"] / first["rate"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", help="only this environment; may be repeated")
    parser.add_argument("--tool", action="append", help="only this tool; may be repeated")
    parser.add_argument("--concurrency", type=int, default=32, help="episodes at once, beside one alone")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments, Path(folder))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("kind", "name", "at once", "a second", "to the first", box=None)
    for row in rows:
        table.add_row(row["kind"], row["name"], str(row["concurrency"]), f"{row['rate']:,.0f}", f"{row['ratio']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
