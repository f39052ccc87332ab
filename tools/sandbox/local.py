"""Sessions whose guest is a tree of processes of this machine: how it is watched, killed and seen to be gone.

Resource limits hold for one process each; what all processes of a session use together is looked at from outside,
every `WATCH_SECONDS` while a call runs and every `IDLE_SECONDS` otherwise, for a program may go on after its call.
Linux only: it reads `/proc` and waits on a pidfd.

Invariant: after `close` no process of the session is left, and its descriptors are closed; `end` does the same from
any thread, without an event loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from agentrl.errors import SandboxError
from agentrl.sandbox import Execution, Limits, Outcome

from .channel import GuestSession, SocketTransport

WATCH_SECONDS = 0.1
IDLE_SECONDS = 1.0
AT_ONCE = 16
"""Sessions of one event loop that are started at the same time."""
GONE_SECONDS = 5.0
"""A process that was sent SIGKILL and is still there after so long hangs in the kernel: it is given up."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CPU_SIGNAL = (128 + signal.SIGXCPU, -signal.SIGXCPU)


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes use together."""

    memory: int
    """Bytes; what several share counts once."""
    cpu: float
    """Seconds, with those of children that ended."""
    tasks: int
    """Threads of all processes."""


def tree(root: int) -> list[int]:
    """Process ids of `root`, if it is there, and everything that descends from it, parents first."""
    found = [root] if os.path.exists(f"/proc/{root}") else []
    for pid in found:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def usage(pids: list[int], memory_limit: int) -> Usage:
    """Their usage. Shared memory is told from private, which is slow, only where all together pass the limit."""
    memory, ticks, tasks = 0, 0, 0
    alive = []
    for pid in pids:
        try:
            # the name, in parentheses, may hold anything
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))
        tasks += int(fields[17])
        memory += int(fields[21]) * _PAGE
        alive.append(pid)
    if memory > memory_limit:
        memory = sum(map(_proportional, alive))
    return Usage(memory, ticks / _TICKS, tasks)


def _proportional(pid: int) -> int:
    """Bytes of a process, its share of what it shares; all of it where it does not let itself be looked at."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
        return 0
    except PermissionError:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kill_all(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
    """A signal to each that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def started(pid: int) -> int | None:
    """When a process began, in ticks: with its number its identity. None if it has ended, waited for or not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Starts:
    """How many sessions of one event loop are started at the same time: all at once, each would take too long."""

    def __init__(self) -> None:
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    def gate(self) -> asyncio.Semaphore:
        """To be held during a start."""
        return self._gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))


class LocalSession(GuestSession):
    """A session in processes below `process`, which this class reaps."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        connection: socket.socket,
        limits: Limits,
        *,
        forget: Callable[[LocalSession], None],
        count_tasks: bool = False,
    ) -> None:
        """`forget` is called when all is gone. `count_tasks`: no resource limit holds the number of processes."""
        super().__init__(SocketTransport(connection), limits)
        self._connection = connection
        self._process = process
        self._forget = forget
        self._count_tasks = count_tasks
        self._reason: Outcome | None = None
        self._idle: asyncio.Future[None] | None = None
        self._exited = asyncio.Event()
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError as error:  # too many are open
            self.kill()
            process.wait(GONE_SECONDS)
            self._transport.close()
            raise SandboxError(f"the sandbox could not be started: {error}") from error
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._on_exit)

    def processes(self) -> list[int]:
        """Every process of the session that is left, the first one first."""
        # once it was waited for, its id may be another's
        return tree(self._process.pid) if self._process.returncode is None else []

    # -- what GuestSession asks for ------------------------------------------------------------------------------------

    def kill(self) -> None:
        kill_all(self.processes())

    async def released(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        until = time.monotonic() + GONE_SECONDS
        while self.processes() and time.monotonic() < until:
            self.kill()
            if self._exited.is_set():  # others are left
                await asyncio.sleep(0.005)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), 0.02)
        self._on_exit()
        self.free()
        self._forget(self)

    async def death(self) -> Outcome:
        try:
            async with asyncio.timeout(0.5):
                await self._exited.wait()
        except TimeoutError:
            return self._reason or Outcome.KILLED  # it lives, and does not talk
        ended_by_cpu = self._process.returncode in _CPU_SIGNAL
        return self._reason or (Outcome.TIMEOUT if ended_by_cpu else Outcome.KILLED)

    def free(self) -> None:
        """Free what is not a process, once more or for the first time: a backend that has files does it here."""

    def end(self) -> None:
        """`close` from any thread, without the event loop, which may be gone."""
        self.alive = False
        until = time.monotonic() + GONE_SECONDS
        while (self._process.poll() is None or self.processes()) and time.monotonic() < until:
            self.kill()
            time.sleep(0.005)
        if self._loop.is_closed():
            self._close_descriptors()
        else:
            self._loop.call_soon_threadsafe(self._close_descriptors)
        self.free()

    # -- watching ------------------------------------------------------------------------------------------------------

    async def start(self, files: Mapping[str, bytes]) -> None:
        self._idle = asyncio.ensure_future(self._watch(IDLE_SECONDS, float("inf")))
        await super().start(files)

    async def _execute(self, op: str, code: str, wall: float | None) -> Execution:
        watch = asyncio.ensure_future(self._watch(WATCH_SECONDS, self.limits.cpu))
        try:
            return await super()._execute(op, code, wall)
        finally:
            watch.cancel()

    async def _watch(self, every: float, cpu: float) -> None:
        """Kill the session when it uses more than it may: `cpu` seconds from now on, memory or processes at all."""
        began: float | None = None
        while True:
            await asyncio.sleep(every)
            used = usage(self.processes(), self.limits.memory)
            began = used.cpu if began is None else began
            if used.memory > self.limits.memory:
                self._reason = Outcome.MEMORY
            elif used.cpu - began > cpu:
                self._reason = Outcome.TIMEOUT
            elif self._count_tasks and used.tasks > self.limits.processes:
                self._reason = Outcome.KILLED
            if self._reason is not None:
                self.kill()

    def _on_exit(self) -> None:
        self._process.poll()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        with suppress(OSError):  # closed already, or from the other side
            self._connection.shutdown(socket.SHUT_RD)  # a child may hold the other end: what was said is all there is
        self._exited.set()

    def _close_descriptors(self) -> None:
        self._on_exit()
        self._transport.close()
