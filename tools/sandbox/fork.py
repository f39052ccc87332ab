"""`fork`: the default sandbox, a fork of a warm interpreter in namespaces of its own for every session.

A server (`fork_server`) loads the libraries once; a session is a fork of it, some 50 times cheaper than importing sympy
again. No daemon, no image, no privilege: it works for root and for an ordinary user on Linux 5.14 and later.

What holds a tenant: user, pid, network, ipc, uts and mount namespaces; an outer user without rights (`nobody`, or the
caller where that is not root) and no capability, `no_new_privs`; a root of read-only copies of the interpreter and the
system's programs, without the host's homes, /etc and working tree; a tmpfs of the size of the disk limit; rlimits; a
first process of ours that watches memory and CPU time of all processes together; seccomp; Landlock.

Essential, and refused without: namespaces, `no_new_privs`, seccomp. Only reported (`protections`): Landlock, which
repeats what the mounts say.

Invariants: what a tenant says never reaches anything but its own channel; a session is killed by the handle of its
first process, which needs nobody's cooperation; the kernel then kills all its processes and frees its files.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from agentrl.bridge import in_thread
from agentrl.errors import ConfigError, SandboxError
from agentrl.sandbox import NO_FILES, Execution, Language, Limits, Outcome, Sandbox

from . import isolation
from .channel import GuestSession, SocketTransport
from .fork_link import ForkServer, ended, handle

_END_SECONDS = 5.0
_DEATH_SECONDS = 2.0
"""For the session's init to say why its tenant died."""
_OPENING = 16
"""Sessions of one event loop that are being opened at one time: descriptors in flight between processes are limited."""
_MOST_PREFORKED = 64
_MOST_ENDING = 16
_REMEDIES = (
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
_KERNEL = (5, 14)


class ForkSession(GuestSession):
    """A tenant of the fork server."""

    def __init__(self, channel: socket.socket, status: socket.socket, process: int, limits: Limits) -> None:
        """Owns all three: the tenant's channel, the socket to the session's init, and that one's pidfd."""
        super().__init__(SocketTransport(channel), limits)
        self._status = status
        self._process = process
        self._calls = 0
        self.reason = ""
        """Why it could not be set up, once it is closed."""

    def kill(self) -> None:
        if self._process >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    async def released(self) -> None:
        process, self._process = self._process, -1
        try:
            async with asyncio.timeout(_END_SECONDS):
                await ended(process)
        except TimeoutError:  # it is dying, in a call of the kernel that takes long
            pass
        finally:
            os.close(process)
            with contextlib.suppress(OSError):
                said = self._status.recv(4096)
                self.reason = said[1:].decode("utf-8", "replace") if said[:1] == b"E" else ""
            self._status.close()

    async def death(self) -> Outcome:
        try:
            async with asyncio.timeout(_DEATH_SECONDS):
                said = await asyncio.get_running_loop().sock_recv(self._status, 4096)
        except (OSError, TimeoutError):
            said = b""
        if said == b"Dmemory":
            return Outcome.MEMORY
        cpu = said == b"Dcpu" or (said[1:].isdigit() and os.WTERMSIG(int(said[1:])) == signal.SIGXCPU)
        return Outcome.TIMEOUT if cpu else Outcome.KILLED

    async def _execute(self, op: str, code: str, wall: float | None) -> Execution:
        if self._calls and self.alive:  # CPU seconds are a call's: the session's init begins to count anew
            with contextlib.suppress(OSError):
                self._status.send(b"c")
        self._calls += 1
        return await super()._execute(op, code, wall)


class ForkSandbox(Sandbox):
    """Sessions forked from a warm interpreter. Linux 5.14 or later, x86-64 or ARM 64.

    Each session starts from the same state, so that the same cells give the same output: hash seed 0, and `random` and
    `numpy.random` seeded with 0 (what asks the system for entropy, such as `numpy.random.default_rng()`, differs).
    Memory is counted beyond what the loaded libraries take; what the kernel keeps for open files (buffers of sockets)
    is limited by their number alone. Refused to tenants, besides what needs privileges: anonymous shared memory
    (`mmap.mmap(-1, n)`), memfd, System V memory, sockets other than unix and internet ones.
    """

    name: ClassVar[str] = "fork"
    remedy: ClassVar[str] = "\n".join(f"sudo {remedy}" for *_, remedy in _REMEDIES)

    def __init__(self, *, preload: tuple[str, ...] = ("numpy", "sympy"), prefork: int = 2) -> None:
        """Raises `ConfigError`.

        Args:
            preload: modules that every session finds loaded.
            prefork: sessions that are made before they are asked for; they only wait.
        """
        if isinstance(prefork, bool) or not isinstance(prefork, int) or not 0 <= prefork <= _MOST_PREFORKED:
            raise ConfigError(f"sandbox fork: prefork={prefork!r} must be a number from 0 to {_MOST_PREFORKED}")
        self._preload, self._prefork = tuple(preload), prefork
        for name in self._preload:
            if not name.replace(".", "").isidentifier() or find_spec(name.split(".")[0]) is None:
                raise ConfigError(f"sandbox fork: preload={name!r} is no module of this interpreter")
        self._lock = threading.Lock()
        self._server: ForkServer | None = None
        self._closed = False
        self._ending: set[asyncio.Task[None]] = set()
        self._opening: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    @classmethod
    def why_not(cls) -> str | None:
        return _why_not()

    @classmethod
    def summary(cls) -> str:
        user = "nobody" if os.geteuid() == 0 else "your user without capabilities"
        version = isolation.landlock_version()
        return f"namespaces, seccomp, rlimits{f', Landlock {version}' if version else ''}; tenants are {user}"

    def protections(self) -> dict[str, bool | str]:
        """What holds tenants on this kernel. Starts the server if none runs; raises `SandboxError`.

        Without all of it but Landlock the server does not start.
        """
        version = int(self._running().answer["landlock"])
        return {
            "namespaces": "user, pid, network, ipc, uts, mount",
            "user": "nobody" if os.geteuid() == 0 else "the caller's, without capabilities",
            "no_new_privs": True,
            "seccomp": True,
            "rlimits": True,
            "memory": "of all processes, looked at every 20 to 1000 ms",
            "landlock": f"version {version}" if version else False,
        }

    async def open(self, *, limits: Limits = Limits(), files: Mapping[str, bytes] = NO_FILES) -> ForkSession:
        loop = asyncio.get_running_loop()
        gate = self._opening.get(loop)
        if gate is None:
            gate = self._opening[loop] = asyncio.Semaphore(_OPENING)
        async with gate:
            session = await self._connected(limits)
            try:
                await session.start({})
            except SandboxError as error:
                raise SandboxError(f"no session could be opened: {session.reason or error}") from error
        if files:
            try:
                for path, data in files.items():
                    await session.write(path, data)
            except BaseException:
                await session.close()
                raise
        return session

    async def run(
        self,
        code: str,
        *,
        language: Language = "python",
        limits: Limits = Limits(),
        files: Mapping[str, bytes] = NO_FILES,
    ) -> Execution:
        """As the contract says. The session is killed before this returns, and gone a moment later."""
        session = await self.open(limits=limits, files=files)
        try:
            return await (session.python(code) if language == "python" else session.shell(code))
        finally:
            session.kill()
            ending = asyncio.create_task(session.close())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            if len(self._ending) > _MOST_ENDING:  # the kernel is slower to end sessions than we are to begin them
                await asyncio.wait({ending})

    def close(self) -> None:
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
        if server is not None:
            server.close()

    # -- within --------------------------------------------------------------------------------------------------------

    async def _connected(self, limits: Limits) -> ForkSession:
        """A session that the server has promised. Raises `SandboxError`; a server that died is replaced, once."""
        for last in (False, True):
            server = self._server
            if server is None or not server.alive:
                server = await in_thread(self._running)
            try:
                return await _asked(server, limits)
            except (OSError, TimeoutError) as error:
                if last or server.alive:
                    advice = "; raise the limit of open files" if error.errno == errno.EMFILE else ""
                    raise SandboxError(f"no session could be opened: {error}{advice}") from error
        raise AssertionError("two attempts return or raise")

    def _running(self) -> ForkServer:
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._server is None or not self._server.alive:
                if self._server is not None:
                    self._server.close()
                self._server = ForkServer(self._preload, self._prefork)
            return self._server


async def _asked(server: ForkServer, limits: Limits) -> ForkSession:
    """Ask for a session and wait for the handle of its first process. Raises `OSError`."""
    with ExitStack() as ours, ExitStack() as theirs:
        channel, their_channel = map(_entered, (ours, theirs), socket.socketpair())
        status, their_status = map(_entered, (ours, theirs), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        status.setblocking(False)
        await server.order(limits, their_channel, their_status)
        theirs.close()
        process = await handle(status)
        ours.pop_all()
        return ForkSession(channel, status, process, limits)


def _entered(stack: ExitStack, end: socket.socket) -> socket.socket:
    return stack.enter_context(end)


_probe_lock = threading.Lock()
_probed: list[str | None] = []


def _why_not() -> str | None:
    """Open the namespaces once, for real; the answer is kept."""
    with _probe_lock:
        if not _probed:
            _probed.append(_probe())
        return _probed[0]


def _probe() -> str | None:
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}; use docker"
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release < _KERNEL:
        return f"it needs Linux {'.'.join(map(str, _KERNEL))}, this is {os.uname().release}; use docker"
    if isolation.machine() is None:
        return f"it knows x86-64 and ARM 64, this is {os.uname().machine}; use docker"
    sandbox = ForkSandbox(preload=(), prefork=0)
    try:
        with ThreadPoolExecutor(1) as pool:  # whichever loop this thread has, it is not ours to wait in
            execution = pool.submit(asyncio.run, sandbox.run("1 + 1")).result()
    except SandboxError as error:
        return f"{error}; {_remedy()}"
    finally:
        sandbox.close()
    return None if execution.value == "2" else f"a first session ended with {execution.outcome}"


def _remedy() -> str:
    for path, value, remedy in _REMEDIES:
        file = Path(path)
        if file.exists() and file.read_text().strip() == value:
            return remedy
    return "allow user namespaces (in a container: --security-opt seccomp=unconfined, or --privileged), or use docker"
