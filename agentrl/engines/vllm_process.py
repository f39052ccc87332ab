"""vLLM's processes: the environment that they start in, and that none of them outlives its engine.

vLLM's engine core is a child of ours and its worker a child of that. Invariant: a process is known by its id and its
start time, so an id that was given to another process meanwhile is never signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
}
"""What a start sets unless the user did: no chatter, no report of usage, no hub (the policy is a local folder)."""
NO_COMPILER = {"TORCH_COMPILE_DISABLE": "1"}
"""Even without compiled graphs vLLM compiles one helper of its log-probabilities, at the first request, for 15 s."""


class Process(NamedTuple):
    """A process that may have ended."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether it runs; one that ended and only waits for its parent does not."""
        fields = _stat(self.pid)
        return fields is not None and fields[19] == self.started and fields[0] not in "ZX"


def tree(pid: int) -> list[Process]:
    """`pid` and its descendants, parents first."""
    fields = _stat(pid)
    if fields is None:
        return []
    found = [Process(pid, fields[19])]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += tree(int(child))
    return found


def end(processes: list[Process], grace: float = 0.0) -> None:
    """Kill what still runs after `grace` seconds and wait until it is gone, at most 10 s."""
    _wait(processes, grace)
    for process in processes:
        if process.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    _wait(processes, 10.0)


@contextlib.contextmanager
def environment(*, compiled: bool) -> Iterator[None]:
    """The variables for a start; the user's own win, and afterwards everything is as before."""
    wanted = QUIET if compiled else QUIET | NO_COMPILER
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _wait(processes: list[Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.alive for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before them may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
