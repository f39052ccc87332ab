"""Processes of fork sandboxes, for their tests."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from agentrl.sandbox import Session
from agentrl.tools.sandbox.fork import ForkSandbox

HANG = 30.0
"""Seconds after which a test has hung; nothing is timed by it."""


def parents() -> dict[int, int]:
    """Every process of this machine that is alive, with its parent."""
    found: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = (Path("/proc") / name / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state not in "ZX":
            found[int(name)] = int(parent)
    return found


def children(root: int) -> list[int]:
    """The eldest first; ids say nothing about that, for they begin anew."""
    return sorted((pid for pid, parent in parents().items() if parent == root), key=started)


def started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])


def below(root: int) -> set[int]:
    """Ids of the processes that descend from `root`."""
    known, found, last = parents(), set[int](), {root}
    while last := {pid for pid, parent in known.items() if parent in last}:
        found |= last
    return found


async def until(happened: object, seconds: float = HANG) -> None:
    """Wait for a condition that must come true."""
    assert callable(happened)
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)


def server(sandbox: ForkSandbox) -> int:
    """Process id of the launcher; what it started is below it."""
    assert sandbox._server is not None
    return sandbox._server._process.pid


def at_rest(sandbox: ForkSandbox) -> bool:
    """Whether nothing of a session in use is left: the server's processes are nursery, zygote and two for each session
    that waits, and this process has closed what it held of those that ended."""
    return not sandbox._ending and len(below(server(sandbox))) == 2 + 2 * sandbox._prefork


async def value(session: Session, code: str) -> str | None:
    execution = await session.python(code)
    assert execution.ok, execution.stderr
    return execution.value
