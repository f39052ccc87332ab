"""What branching costs an environment: milliseconds and KiB of a snapshot and of its restoring, after some turns.

    python benchmarks/branching.py
    python benchmarks/branching.py --case "SQL, written" --turns 1 4 16 --repeats 20
    python benchmarks/branching.py --quick

One episode is played for some turns of one tool call each, with a snapshot after the last; a second environment, made
alike, is restored from it and must give the same answer to the same next call, or the benchmark fails. The milliseconds
are medians: of a copy, of its restoring, and, for scale, of the next turn (`play on`). `KiB kept` is what the process
holds for each further snapshot of the same state (Python's own allocations over --kept of them: what they share counts
once); `whole` is one snapshot pickled, with its task.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import pickle
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from agentrl.env import Env, make
from agentrl.messages import Message, ToolCall, assistant


class Case(NamedTuple):
    """An environment, and the call that each of its turns makes."""

    env_id: str
    options: dict[str, Any]
    how: str
    """How its state is copied."""
    tool: str
    arguments: Callable[[int], dict[str, Any]]
    """Of turn 0, 1, 2 ..."""


CASES = {
    "Math, calculator": Case(
        "agentrl/Math-v0",
        {"tools": ["calculator"]},
        "value",
        "calculator",
        lambda turn: {"expression": f"12 * {34 + turn}"},
    ),
    "Math, python": Case(
        "agentrl/Math-v0",
        {"tools": ["python"]},
        "replay",
        "python",
        lambda turn: {"code": f"x_{turn} = list(range({1000 + turn}))\nprint(sum(x_{turn}))"},
    ),
    "SQL, read": Case(
        "agentrl/SQL-v0",
        {"domains": ("shop",)},
        "value",
        "sql",
        lambda turn: {"query": f"SELECT COUNT(*) + {turn} FROM products"},
    ),
    "SQL, written": Case(
        "agentrl/SQL-v0",
        {"domains": ("shop",), "levels": (3, 4), "writes": 1.0},
        "serialise",
        "sql",
        lambda turn: {"query": f"UPDATE products SET name = 'product {turn}' WHERE rowid = {turn + 1}"},
    ),
    "SQL, written file": Case(
        "agentrl/SQL-v0",
        {"domains": ("shop",), "levels": (3, 4), "writes": 1.0, "rows": 5000},
        "serialise",
        "sql",
        lambda turn: {"query": f"UPDATE products SET name = 'product {turn}' WHERE rowid = {turn + 1}"},
    ),
    "Code, public tests": Case(
        "agentrl/Code-v0", {}, "value", "run_tests", lambda turn: {"code": f"def f(*given):\n    return {turn}"}
    ),
    "Search": Case("agentrl/Search-v0", {}, "value", "search", lambda turn: {"query": f"capital {turn}"}),
}


class Figures(NamedTuple):
    """Of one case after some turns: median milliseconds, KiB."""

    snapshot: float
    restore: float
    turn: float
    kept: float
    whole: float


def said(case: Case, turn: int) -> Message:
    call = ToolCall(id=f"call_{turn}", name=case.tool, arguments=json.dumps(case.arguments(turn)))
    return assistant("", (call,))


async def timed(call: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """Milliseconds, and what came back."""
    began = time.perf_counter()
    result = await call()
    return 1000 * (time.perf_counter() - began), result


async def kept_size(env: Env, number: int) -> float:
    """KiB that the process holds for each of `number` snapshots of the present state."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    snapshots = [await env.asnapshot() for _ in range(number)]
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(snapshots) / 1024


async def measure(case: Case, turns: int, repeats: int, number: int) -> Figures:
    """Figures after `turns` turns of one episode."""
    env, branch = make(case.env_id, **case.options), make(case.env_id, **case.options)
    task = env.tasks("train")[0].id
    await env.areset(seed=0, options={"task": task})
    for turn in range(turns):
        step = await env.astep(said(case, turn))
        if step.terminated or step.truncated or step.info["tool_calls"][0].error:
            raise SystemExit(f"{case.env_id}: turn {turn} failed: {step.info['tool_calls'][0].result}")
    taken = [await timed(env.asnapshot) for _ in range(repeats)]
    snapshot = taken[0][1]
    kept = await kept_size(env, number)
    expected = await env.astep(said(case, turns))
    restored: list[float] = []
    again: list[float] = []
    for _ in range(repeats):
        restored.append((await timed(lambda: branch.arestore(snapshot)))[0])
        milliseconds, step = await timed(lambda: branch.astep(said(case, turns)))
        again.append(milliseconds)
        if step.observation != expected.observation:
            raise SystemExit(f"{case.env_id}: the branch answered {step.observation}, not {expected.observation}")
    await env.aclose()
    await branch.aclose()
    times = [statistics.median(values) for values in ([ms for ms, _ in taken], restored, again)]
    return Figures(*times, kept, len(pickle.dumps(snapshot)) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 4], help="played before the snapshot")
    parser.add_argument("--repeats", type=int, default=10, help="of each timed operation; the median is shown")
    parser.add_argument("--kept", type=int, default=1000, help="snapshots that are kept at once to see what each takes")
    parser.add_argument("--quick", action="store_true", help="2 repeats and 20 snapshots: whether it runs at all")
    arguments = parser.parse_args()
    repeats, number = (2, 20) if arguments.quick else (arguments.repeats, arguments.kept)
    table = Table(box=None)
    for name in ("episode", "turns", "by", "ms to copy", "restore", "play on", "KiB kept", "whole"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("episode", "by") else "right")
    for label in arguments.case or CASES:
        for turns in arguments.turns:
            figures = asyncio.run(measure(CASES[label], turns, repeats, number))
            values = (f"{value:,.2f}" for value in figures[:3])
            sizes = (f"{value:,.1f}" for value in figures[3:])
            table.add_row(label, str(turns), CASES[label].how, *values, *sizes)
    Console(width=max(Console().width, 100)).print(table)  # as wide as its columns, in a file, too


if __name__ == "__main__":
    main()
