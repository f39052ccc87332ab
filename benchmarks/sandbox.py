"""Latency and throughput of the sandboxes side by side, in one run on one machine.

    python benchmarks/sandbox.py                                  # every backend that works here
    python benchmarks/sandbox.py --backends fork none --concurrent 1 64
    python benchmarks/sandbox.py --backends fork --calls 20000    # does anything grow?

`fresh` is `print(1 + 1)` in a session of its own, opened and closed for it; `session` is the same in a session that is
open. Each cell runs for `--seconds`, and until every caller may have had an answer, with so many callers, each of whom
asks again when it has its answer; calls cut off by the end do not count. `sympy` is a job that imports sympy and
factors a polynomial; its ratio is the time of a fresh interpreter, without any sandbox, over the backend's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from agentrl import registry
from agentrl.errors import AgentRLError
from agentrl.sandbox import Limits, Sandbox, Session

BACKENDS = ("none", "bubblewrap", "fork", "docker")
LIMITS = Limits(wall=120.0, cpu=60.0)
CODE = "print(1 + 1)"
JOB = "import sympy\nx = sympy.Symbol('x')\nprint(sympy.factor(x**8 - 1))"
OPENING = 16
"""Sessions that are opened at the same time."""
MOST_SECONDS = 60.0
"""A cell ends then, whatever is missing."""
FRESH, SESSION = "fresh", "session"


async def closed_loop(
    calls: list[Callable[[], Awaitable[Any]]], seconds: float, pause: float = 0.0
) -> dict[str, float]:
    """Each of the calls again and again; milliseconds at the median and the 99th percentile, calls a second."""
    taken: list[float] = []

    async def repeat(call: Callable[[], Awaitable[Any]]) -> None:
        while True:
            began = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - began)
            if pause:
                await asyncio.sleep(pause)

    began = time.perf_counter()
    callers = [asyncio.ensure_future(repeat(call)) for call in calls]
    done, rest = await asyncio.wait(callers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    while not done and len(taken) < len(calls) and time.perf_counter() - began < MOST_SECONDS:
        done, rest = await asyncio.wait(callers, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
    lasted = time.perf_counter() - began
    for caller in rest:
        caller.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for caller in done:
        caller.result()
    return {**quantiles(taken), "calls_per_s": round(len(taken) / lasted, 1), "calls": len(taken)}


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds; empty where nothing came to its end."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    last = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"p50_ms": round(1000 * statistics.median(ordered), 3), "p99_ms": round(1000 * last, 3)}


async def run_checked(sandbox: Sandbox, code: str) -> str:
    execution = await sandbox.run(code, limits=LIMITS)
    if not execution.ok:
        raise SystemExit(f"{sandbox.name}: {execution}")
    return execution.stdout


async def fresh(sandbox: Sandbox, concurrent: int, seconds: float, pause: float) -> dict[str, float]:
    return await closed_loop([lambda: run_checked(sandbox, CODE)] * concurrent, seconds, pause)


async def in_sessions(sandbox: Sandbox, concurrent: int, seconds: float) -> dict[str, float]:
    gate = asyncio.Semaphore(OPENING)

    async def opened(stack: AsyncExitStack) -> Session:
        async with gate:
            return await stack.enter_async_context(await sandbox.open(limits=LIMITS))

    async with AsyncExitStack() as stack:
        sessions = await asyncio.gather(*[opened(stack) for _ in range(concurrent)])
        return await closed_loop([lambda session=session: session.python(CODE) for session in sessions], seconds)


async def sympy_job(sandbox: Sandbox, repeats: int) -> float:
    """Milliseconds, the median."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        await run_checked(sandbox, JOB)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def plain_interpreter(repeats: int) -> float:
    """Milliseconds of the sympy job in a fresh interpreter without a sandbox, the median."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", JOB], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


async def measure(sandbox: Sandbox, arguments: argparse.Namespace) -> dict[str, Any]:
    await run_checked(sandbox, CODE)  # what a backend starts once
    result: dict[str, Any] = {FRESH: {}, SESSION: {}}
    for concurrent in arguments.concurrent:
        if sandbox.name == "docker" and concurrent > arguments.containers:
            continue
        result[FRESH][concurrent] = await fresh(sandbox, concurrent, arguments.seconds, arguments.pause)
        result[SESSION][concurrent] = await in_sessions(sandbox, concurrent, arguments.seconds)
    result["sympy_ms"] = round(await sympy_job(sandbox, arguments.repeats), 1)
    return result


async def endurance(sandbox: Sandbox, calls: int, concurrent: int) -> list[dict[str, float]]:
    """Ten parts of `calls` fresh calls: latency, and what this process holds after each."""
    await asyncio.gather(*[run_checked(sandbox, CODE) for _ in range(concurrent)])
    parts = []
    for _ in range(10):
        left = iter(range(max(1, calls // 10)))
        taken: list[float] = []

        async def work(left: Any = left, taken: list[float] = taken) -> None:
            for _ in left:
                began = time.perf_counter()
                await run_checked(sandbox, CODE)
                taken.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*[work() for _ in range(concurrent)])
        rate = round(len(taken) / (time.perf_counter() - began), 1)
        parts.append({"calls": len(taken), **quantiles(taken), "calls_per_s": rate, **held()})
        print(json.dumps(parts[-1]), file=sys.stderr, flush=True)
    return parts


def held() -> dict[str, float]:
    """This process's descriptors and resident MiB, and the machine's processes that descend from it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = [os.getpid()]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "resident_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        "processes": len(found),
    }


def table(results: dict[str, Any], interpreter: float) -> str:
    """The results as lines of text: a row for each backend, kind and number of callers."""
    lines = [f"{'backend':<12}{'call':<9}{'at once':>8}{'p50 ms':>10}{'p99 ms':>10}{'calls/s':>10}"]
    for name, result in results.items():
        if "why_not" in result:
            lines.append(f"{name:<12}{result['why_not']}")
            continue
        for kind in (FRESH, SESSION):
            for concurrent, cell in result[kind].items():
                shown = [f"{cell.get(key, float('nan')):>10.1f}" for key in ("p50_ms", "p99_ms", "calls_per_s")]
                lines.append(f"{name:<12}{kind:<9}{concurrent:>8}" + "".join(shown))
        ratio = interpreter / result["sympy_ms"]
        lines.append(f"{name:<12}{'sympy':<9}{1:>8}{result['sympy_ms']:>10.1f}   {ratio:.1f} times a fresh interpreter")
    lines.append(f"fresh interpreter without a sandbox, sympy job: {interpreter:.1f} ms; {os.cpu_count()} cores")
    return "\n".join(lines)


def compare(arguments: argparse.Namespace) -> None:
    results: dict[str, Any] = {}
    interpreter = plain_interpreter(arguments.repeats)
    for name in arguments.backends:
        backend = registry.sandboxes.get(name)
        if reason := backend.why_not():
            results[name] = {"why_not": f"does not work here: {reason}"}
            continue
        sandbox = backend()
        try:
            results[name] = asyncio.run(measure(sandbox, arguments))
        except AgentRLError as error:
            results[name] = {"why_not": f"failed: {error}"}
        finally:
            sandbox.close()
    if arguments.json:
        print(json.dumps({"backends": results, "interpreter_sympy_ms": round(interpreter, 1), "cores": os.cpu_count()}))
    else:
        print(table(results, interpreter))


def endure(arguments: argparse.Namespace) -> None:
    for name in arguments.backends:
        backend = registry.sandboxes.get(name)
        if reason := backend.why_not():
            print(f"{name} does not work here: {reason}")
            continue
        sandbox = backend()
        try:
            parts = asyncio.run(endurance(sandbox, arguments.calls, arguments.callers))
        finally:
            sandbox.close()
        if arguments.json:
            print(json.dumps({"backend": name, "parts": parts}))
            continue
        print(f"{name}: {arguments.calls} fresh calls, {arguments.callers} at once")
        print(f"{'calls':>8}{'p50 ms':>9}{'p99 ms':>9}{'calls/s':>9}{'fds':>6}{'MiB':>8}{'processes':>11}")
        done = 0
        for part in parts:
            done += int(part["calls"])
            print(
                f"{done:>8}{part['p50_ms']:>9.1f}{part['p99_ms']:>9.1f}{part['calls_per_s']:>9.1f}"
                f"{part['descriptors']:>6}{part['resident_mib']:>8.1f}{part['processes']:>11}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), help=f"of {', '.join(BACKENDS)}")
    parser.add_argument("--concurrent", nargs="+", type=int, default=[1, 64, 512], help="numbers of callers")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each cell runs")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between a caller's fresh calls")
    parser.add_argument("--repeats", type=int, default=7, help="of the sympy job")
    parser.add_argument("--containers", type=int, default=64, help="docker is measured with at most so many callers")
    parser.add_argument("--calls", type=int, help="instead of the table: so many fresh calls, and what grows")
    parser.add_argument("--callers", type=int, default=4, help="how many ask at the same time with --calls")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if arguments.calls is not None:
        endure(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
