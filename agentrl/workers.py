"""One supervised pool of worker processes for what must be killable: verifiers, graders, hostile SQL.

A function is named by `module:name` and imported in the worker; arguments and result travel as pickles. Python can end
neither a thread nor a C function that does not return, a process it can: at the timeout the worker is killed and the
next call gets a fresh one. No signal handlers and no main thread are needed, which is where verifiers hang elsewhere.

Invariant: `run` returns or raises within its timeout plus the start of a worker, whatever the function does; a worker
serves one call at a time, is bounded in memory, is replaced after `MAX_CALLS` calls, and dies with this process.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections import deque
from concurrent.futures import Future
from functools import cache
from typing import Any

from agentrl.errors import ConfigError, WorkerError

MAX_CALLS = 2000
"""Calls after which a worker is replaced, so that what libraries leak stays small."""
MEMORY = 2 << 30
"""Bytes of address space of a worker."""
_START_SECONDS = 60.0
"""A worker that has not come up by then (imports on a busy machine) counts as dead."""
_ALARM_SLACK = 2.0
"""A worker whose parent is gone ends by an alarm so many seconds after its call's timeout."""
_FRAME = struct.Struct("!Q")


class WorkerTimeout(WorkerError):
    """The function did not return in time; its worker was killed."""


class WorkerDied(WorkerError):
    """The worker ended during the call: killed, out of memory, or a crash in C code."""


class WorkerFailed(WorkerError):
    """The function raised."""

    def __init__(self, kind: str, message: str, trace: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind
        """Name of the exception's class."""
        self.message = message
        self.trace = trace
        """The worker's traceback."""


class WorkerPool:
    """At most `size` workers, started when first needed. Usable from any event loop and thread at the same time."""

    def __init__(self, *, size: int | None = None, memory: int = MEMORY) -> None:
        """`size` defaults to the number of cores; `memory` is a worker's address space in bytes."""
        self.size = size or len(os.sched_getaffinity(0))
        self.memory = memory
        if self.size < 1 or memory < 1:
            raise ConfigError(f"worker pool: size={size!r} and memory={memory!r} must be positive")
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._starting = 0
        self._waiting: deque[Future[_Worker | None]] = deque()
        self._closed = False

    async def run(self, function: str, *args: Any, timeout: float = 10.0, **kwargs: Any) -> Any:
        """The result of `module:name` called with these arguments; waits for a free worker without a limit.

        `timeout` counts from the moment that a worker has the call and has imported its module. Raises `WorkerTimeout`,
        `WorkerDied` and `WorkerFailed`. A cancelled call kills its worker.
        """
        request = pickle.dumps((function, args, kwargs, timeout), pickle.HIGHEST_PROTOCOL)
        worker = await self._acquire()
        try:
            answer = await worker.call(request, timeout, function)
        except BaseException:
            self._discard(worker)
            raise
        self._release(worker)
        ok, value = answer
        if ok:
            return value
        raise WorkerFailed(*value)

    def close(self) -> None:
        """Kill every worker; calls that run end with `WorkerDied`. Idempotent."""
        with self._lock:
            self._closed = True
            idle, busy, waiting = list(self._idle), self._workers - set(self._idle), list(self._waiting)
            self._idle.clear()
            self._waiting.clear()
            self._workers -= set(idle)
        for worker in idle:
            worker.kill()
        for worker in busy:  # its call sees the end of the connection; closing the socket here would hide that
            worker.stop()
        for future in waiting:
            _give(future, None)

    async def _acquire(self) -> _Worker:
        while True:
            with self._lock:
                if self._closed:
                    raise WorkerDied("the worker pool is closed")
                if self._idle:
                    return self._idle.pop()
                if len(self._workers) + self._starting < self.size:
                    self._starting += 1
                    break
                future: Future[_Worker | None] = Future()
                self._waiting.append(future)
            try:
                handed = await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                if future.done() and not future.cancelled() and (given := future.result()) is not None:
                    self._release(given)
                raise
            if handed is not None:
                return handed
        return await self._start()

    async def _start(self) -> _Worker:
        worker = None
        try:
            worker = _Worker(self.memory)
            await worker.ready()
        except BaseException:
            if worker is not None:
                worker.kill()
            with self._lock:
                self._starting -= 1
                successor = self._waiting.popleft() if self._waiting else None
            _give(successor, None)
            raise
        with self._lock:
            self._starting -= 1
            self._workers.add(worker)
            closed = self._closed
        if closed:
            self._discard(worker)
            raise WorkerDied("the worker pool is closed")
        return worker

    def _release(self, worker: _Worker) -> None:
        if worker.calls >= MAX_CALLS or self._closed:
            self._discard(worker)
            return
        with self._lock:
            while self._waiting:
                future = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_result(worker)
                    return
            self._idle.append(worker)

    def _discard(self, worker: _Worker) -> None:
        worker.kill()
        with self._lock:
            self._workers.discard(worker)
            successor = self._waiting.popleft() if self._waiting else None
        _give(successor, None)  # who waits longest starts the successor


def _give(future: Future[_Worker | None] | None, worker: _Worker | None) -> None:
    if future is not None and future.set_running_or_notify_cancel():
        future.set_result(worker)


class _Worker:
    """One process and the socket to it."""

    def __init__(self, memory: int) -> None:
        self.calls = 0
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            # its standard output is none of ours: a verifier that prints must not write into a table or into JSON
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), str(memory), os.pathsep.join(sys.path)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},  # what goes through sets comes out alike in every worker
            )

    async def ready(self) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._receive()
        except (OSError, EOFError, TimeoutError) as error:
            raise WorkerDied("a worker process could not be started") from error

    async def call(self, request: bytes, timeout: float, function: str) -> Any:
        self.calls += 1
        try:
            async with asyncio.timeout(_START_SECONDS):
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(self._socket, _FRAME.pack(len(request)) + request)
                await self._receive()
            async with asyncio.timeout(timeout):
                return pickle.loads(await self._receive())
        except TimeoutError:
            raise WorkerTimeout(f"{function} did not return within {timeout:g} seconds") from None
        except (OSError, EOFError):
            raise WorkerDied(f"{function} ended its worker process ({self._ended()})") from None

    def kill(self) -> None:
        """End the process, wait until it is gone, and close the connection. Idempotent."""
        self.stop()
        self._process.wait()
        self._socket.close()

    def stop(self) -> None:
        """End the process; whoever waits for its answer gets `WorkerDied`."""
        if self._process.poll() is None:
            self._process.kill()

    def _ended(self) -> str:
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "its socket was closed"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def _receive(self) -> bytes:
        size = _FRAME.unpack(await self._exactly(_FRAME.size))[0]
        return await self._exactly(size)

    async def _exactly(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray(count)
        view, filled = memoryview(data), 0
        while filled < count:
            received = await loop.sock_recv_into(self._socket, view[filled:])
            if not received:
                raise EOFError
            filled += received
        return bytes(data)


_shared: dict[int, WorkerPool] = {}
_shared_lock = threading.Lock()


def shared_pool() -> WorkerPool:
    """The process's pool, of as many workers as there are cores."""
    with _shared_lock:
        pool = _shared.get(os.getpid())
        if pool is None:
            _shared.clear()  # a forked child's copy of its parent's pool, whose workers are not its own
            pool = _shared[os.getpid()] = WorkerPool()
        return pool


def _close_shared() -> None:
    pool = _shared.pop(os.getpid(), None)
    if pool is not None:
        pool.close()


atexit.register(_close_shared)

# -- inside the worker -------------------------------------------------------------------------------------------------

_MAIN = (
    "import sys; sys.path[:] = sys.argv[3].split(__import__('os').pathsep); "
    "from agentrl.workers import serve; serve(int(sys.argv[1]), int(sys.argv[2]))"
)


def serve(descriptor: int, memory: int) -> None:
    """A worker's life: answer calls on the socket until it is closed."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=descriptor) as connection:
        _send(connection, b"")
        while request := _read(connection):
            function, args, kwargs, timeout = pickle.loads(request)
            # its default action: the kernel ends the process
            signal.setitimer(signal.ITIMER_REAL, _START_SECONDS + timeout + _ALARM_SLACK)
            target = _loaded(function)
            _send(connection, b"")
            signal.setitimer(signal.ITIMER_REAL, timeout + _ALARM_SLACK)
            answer = target if isinstance(target, bytes) else _answer(target, args, kwargs)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(connection, answer)


def _loaded(function: str) -> Any:
    """The function, or the answer that says why it cannot be imported."""
    try:
        return _imported(function)
    except BaseException as error:  # the boundary: the caller gets it as WorkerFailed
        return _failure(error)


def _answer(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps((True, target(*args, **kwargs)), pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        os._exit(1)  # what is left of the heap cannot be trusted to answer
    except BaseException as error:  # the boundary: the caller gets it as WorkerFailed
        return _failure(error)


def _failure(error: BaseException) -> bytes:
    trace = "".join(traceback.format_exception(error, limit=-20))
    return pickle.dumps((False, (type(error).__name__, str(error)[:2000], trace[-8000:])))


@cache
def _imported(function: str) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _send(connection: socket.socket, payload: bytes) -> None:
    connection.sendall(_FRAME.pack(len(payload)) + payload)


def _read(connection: socket.socket) -> bytes:
    """The next request; empty when the other end is gone."""
    header = connection.recv(_FRAME.size, socket.MSG_WAITALL)
    if len(header) < _FRAME.size:
        return b""
    return connection.recv(_FRAME.unpack(header)[0], socket.MSG_WAITALL)
