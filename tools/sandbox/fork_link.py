"""The host's end of a fork server: it starts one, and orders sessions from it.

Invariants: the server's environment is the one written here; when the last copy of the control socket is closed, the
server and everything below it is gone, whatever became of the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, ClassVar

from agentrl.errors import SandboxError
from agentrl.sandbox import Limits

from .fork_wire import LARGEST, Order
from .hidden import hidden_folders

_START_SECONDS = 60.0
"""For loading the libraries, on a busy machine."""
_END_SECONDS = 5.0
_AGAIN_SECONDS = 0.005
_BOOTSTRAP = (
    "import sys, types, os; package = types.ModuleType('agentrl_sandbox'); package.__path__ = [os.getcwd()]; "
    "sys.modules['agentrl_sandbox'] = package; from agentrl_sandbox.fork_server import main; main()"
)
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/sandbox",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",  # a process with threads cannot be forked safely
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # each thread would reserve 64 MiB of the address space that the memory limit allows
}


class ForkServer:
    """The host's end of one fork server."""

    running: ClassVar[weakref.WeakSet[ForkServer]] = weakref.WeakSet()

    def __init__(self, preload: tuple[str, ...], prefork: int) -> None:
        """Start it; returns when it takes orders. Raises `SandboxError`."""
        self._owner = os.getpid()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-s", "-P", "-c", _BOOTSTRAP]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd=Path(__file__).parent,
                start_new_session=True,  # an interrupt of the terminal is the host's affair
            )
        options = {"preload": preload, "prefork": prefork, "prefixes": _prefixes(), "hidden": hidden_folders()}
        try:
            self._control.settimeout(_START_SECONDS)
            self._control.send(json.dumps(options).encode())
            self.answer: dict[str, Any] = json.loads(self._control.recv(LARGEST) or b"{}")
        except OSError as error:
            self.answer = {"error": f"no answer: {error}"}
        if "baseline" not in self.answer:
            self.close()
            raise SandboxError(f"the fork server did not start: {self.answer.get('error', 'it died')}")
        self._control.setblocking(False)
        self.running.add(self)

    @property
    def alive(self) -> bool:
        """Whether it is this process's and takes orders."""
        descriptor = self._control.fileno()
        if self._owner != os.getpid() or descriptor < 0:
            return False
        return not _is_readable(descriptor)  # it says nothing more; readable is its end

    async def order(self, limits: Limits, channel: socket.socket, status: socket.socket) -> None:
        """Ask for a session; raises `OSError`."""
        packed = Order(limits.cpu, limits.memory, limits.processes, limits.disk, limits.output).packed()
        async with asyncio.timeout(_START_SECONDS):
            while True:
                try:
                    socket.send_fds(self._control, [packed], [channel.fileno(), status.fileno()])
                    return
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS):
                        raise
                await asyncio.sleep(_AGAIN_SECONDS)  # it has many orders

    def forget(self) -> None:
        """Close this process's end: the server ends when nobody else has one."""
        self._control.close()

    def close(self) -> None:
        """End it and wait: the kernel kills what is below it."""
        if self._owner != os.getpid():
            return self.forget()
        with contextlib.suppress(OSError):  # it ended, or another thread closes it
            self._control.shutdown(socket.SHUT_RDWR)  # even if some other process holds a copy
        self.forget()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the nursery dies with it
            self._process.wait()


def _forget_servers() -> None:
    """In a forked child: a copy of the control socket would keep the server alive after its host."""
    for server in list(ForkServer.running):
        server.forget()


os.register_at_fork(after_in_child=_forget_servers)


def _prefixes() -> list[str]:
    """The interpreter's folders."""
    interpreter = Path(os.path.realpath(sys.executable)).parent.parent
    return sorted({sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, str(interpreter)})


async def handle(status: socket.socket) -> int:
    """The pidfd of a new session's init, which the server sends; raises `OSError`."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_START_SECONDS):
        while True:
            try:
                said, descriptors, _, _ = socket.recv_fds(status, 4096, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await _readable(loop, status.fileno())
                continue
            if descriptors:
                return descriptors[0]
            raise ConnectionError(said[1:].decode("utf-8", "replace") or "the fork server died")


async def ended(process: int) -> None:
    """Wait for the end of the process behind a pidfd."""
    if not _is_readable(process):
        await _readable(asyncio.get_running_loop(), process)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = loop.create_future()
    loop.add_reader(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
