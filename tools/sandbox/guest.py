"""The program inside every sandbox: it runs code and commands for the host, one request at a time.

A single file of standard library, so that it can be bound, copied or forked into any sandbox. Frames in both
directions are a length (4 bytes, big-endian), a kind (1 byte) and a payload: the host sends `q` (a request, JSON), the
guest `o` and `e` (bytes of standard output and error, as they come), and `r` (the result of a request, JSON).

Invariant: output is caught at the descriptors, so that subprocesses and C code are heard, and is sent before the
result of its request. Nothing here is security: whoever can run code here can rewrite all of it. What the guest says
is taken as the tenant's own word by the host, and the limits hold from outside.
"""

from __future__ import annotations

import ast
import base64
import builtins
import fcntl
import io
import json
import linecache
import os
import resource
import select
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback
import types
import warnings

HEADER = struct.Struct("!IB")
CHUNK = 65536
SHELL_PATH = "/usr/local/bin:/usr/bin:/bin"


class Channel:
    """The frames to the host; writes are whole, whichever thread sends them."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._lock = threading.Lock()

    def receive(self) -> dict[str, object] | None:
        """The next request; None when the host is gone."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        size, _ = HEADER.unpack(header)
        payload = self._exactly(size)
        return None if payload is None else json.loads(payload)

    def send(self, kind: str, payload: bytes) -> None:
        frame = memoryview(HEADER.pack(len(payload), ord(kind)) + payload)
        with self._lock:
            while frame:
                frame = frame[os.write(self._outgoing, frame) :]

    def _exactly(self, count: int) -> bytes | None:
        parts = []
        while count:
            part = os.read(self._incoming, min(count, 1 << 20))
            if not part:
                return None
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class Output:
    """Descriptors 1 and 2 as pipes whose contents go to the host, at most `limit` bytes each a request."""

    def __init__(self, channel: Channel, limit: int) -> None:
        self._channel, self._limit = channel, limit
        self._lock = threading.Lock()
        self._kinds: dict[int, str] = {}
        self._room: dict[int, int] = {}
        self.truncated = False
        for target, kind in ((1, "o"), (2, "e")):
            reading, writing = os.pipe()
            os.dup2(writing, target, inheritable=True)
            os.close(writing)
            fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)
            self._kinds[reading] = kind
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)  # noqa: SIM115
        self.begin()
        threading.Thread(target=self._pump, name="output", daemon=True).start()

    def begin(self) -> None:
        """A new request: what its output may hold."""
        with self._lock:
            self._room = dict.fromkeys(self._kinds, self._limit)
            self.truncated = False

    def drain(self) -> None:
        """Send everything that was written so far."""
        for stream in (sys.stdout, sys.stderr):
            # the tenant may have closed it or put something else in its place
            try:
                stream.flush()
            except Exception as error:
                os.write(2, f"output could not be flushed: {error}\n".encode())
        for descriptor in self._kinds:
            while self._forward(descriptor):
                pass

    def _forward(self, descriptor: int) -> bool:
        """Send what is in one pipe; False if it was empty."""
        with self._lock:
            try:
                data = os.read(descriptor, CHUNK)
            except BlockingIOError:
                return False
            room = self._room[descriptor]
            self.truncated = self.truncated or len(data) > room
            if room and data:
                self._room[descriptor] = room - len(data[:room])
                self._channel.send(self._kinds[descriptor], data[:room])
            return bool(data)

    def _pump(self) -> None:
        poll = select.poll()
        for descriptor in self._kinds:
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, event in poll.poll():
                if event & select.POLLIN:
                    self._forward(descriptor)
                else:  # no writer is left: the tenant closed its descriptors
                    poll.unregister(descriptor)


class Interpreter:
    """Python cells over one module `__main__`; a cell's last expression has a value, as in a notebook."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.module.__dict__["__builtins__"] = builtins
        self._cells = 0

    def run(self, code: str, limit: int) -> dict[str, object]:
        sys.modules["__main__"] = self.module
        self._cells += 1
        name = f"<cell {self._cells}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        try:
            tree = ast.parse(code, name)
            namespace, value = self.module.__dict__, None
            last = tree.body[-1] if tree.body else None
            if isinstance(last, ast.Expr):
                del tree.body[-1]
            exec(compile(tree, name, "exec"), namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
            return {"outcome": "ok", "value": None if value is None else repr(value)[:limit]}
        except SystemExit as leaving:
            return _left(leaving.code)
        except MemoryError:
            return {"outcome": "memory"}
        except BaseException as error:
            sys.stderr.write(_traceback(error))
            return {"outcome": "error"}


def _left(code: object) -> dict[str, object]:
    if code is None or isinstance(code, int):
        return {"outcome": "error" if code else "ok", "exit_code": int(code or 0)}
    sys.stderr.write(f"{code}\n")
    return {"outcome": "error", "exit_code": 1}


def _traceback(error: BaseException) -> str:
    """The traceback from the tenant's first frame on; of code that could not be parsed there is none."""
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith("<cell "):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace, limit=-20))


def shell(command: str) -> dict[str, object]:
    """Run a command; its background processes go on until the session ends."""
    environment = {"PATH": SHELL_PATH, "LANG": "C.UTF-8", **os.environ, "HOME": os.getcwd()}
    try:
        done = subprocess.run(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, env=environment, check=False)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"the command could not be started: {error}\n")
        return {"outcome": "error", "exit_code": 127}
    return {"outcome": "error" if done.returncode else "ok", "exit_code": done.returncode}


def write(root: str, path: str, data: bytes) -> dict[str, object]:
    target = _within(root, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(data)
    return {"outcome": "ok"}


def read(root: str, path: str, limit: int) -> dict[str, object]:
    descriptor = os.open(_within(root, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"more than {limit} bytes")
    return {"outcome": "ok", "data": base64.b64encode(data).decode()}


def _within(root: str, path: str) -> str:
    """The file that a relative path means, links followed; raises `OSError` if it lies outside of the folder."""
    target = os.path.realpath(os.path.join(root, path))
    if os.path.isabs(path) or not target.startswith(os.path.realpath(root) + os.sep):
        raise OSError("outside of the working folder")
    return target


def _allow_cpu(seconds: float) -> None:
    """The tenant's politeness limit of this call; the host's is the one that holds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def set_limits(memory: int, disk: int, processes: int | None) -> None:
    """Limits of each process. `processes` counts those of the user (in its namespace); None where that is no use."""
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, disk),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_NPROC, processes),
    ):
        if value is not None:
            hard = resource.getrlimit(kind)[1]
            allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (allowed, allowed))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full file is an error that the code sees, not its death


def quiet() -> None:
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork.*")  # the pump holds no lock of theirs


def rehearse() -> None:
    """Run a cell for nobody: in a fork, the memory that every cell writes to is this process's own afterwards."""
    kept, sys.stdout = sys.stdout, io.StringIO()
    try:
        print(json.dumps(Interpreter().run("print(1 + 1)\n1", 100)), json.loads('{"id": 1}'))
    finally:
        sys.stdout = kept


def serve(incoming: int, outgoing: int, root: str, output: int) -> None:
    """Answer requests until the host is gone. `root` is the working folder, `output` the limit of each stream."""
    channel = Channel(incoming, outgoing)
    os.chdir(root)
    sys.path.append(root)  # at the end: a file of the tenant's must not stand in for the standard library's
    quiet()
    caught, interpreter = Output(channel, output), Interpreter()
    channel.send("r", b'{"id": 0}')
    while (request := channel.receive()) is not None:
        caught.begin()
        began = time.perf_counter()
        try:
            result = _answer(interpreter, root, output, request)
        except Exception as error:  # of a file: the host raises it as SandboxError
            result = {"outcome": "refused", "reason": f"{type(error).__name__}: {error}"}
        caught.drain()
        result |= {"id": request["id"], "truncated": caught.truncated, "seconds": time.perf_counter() - began}
        channel.send("r", json.dumps(result).encode())
        if result["outcome"] == "memory":
            os._exit(1)


def _answer(interpreter: Interpreter, root: str, output: int, request: dict[str, object]) -> dict[str, object]:
    kind = request["op"]
    if kind == "write":
        return write(root, str(request["path"]), base64.b64decode(str(request["data"])))
    if kind == "read":
        return read(root, str(request["path"]), int(str(request["limit"])))
    _allow_cpu(float(str(request["cpu"])))
    return shell(str(request["code"])) if kind == "shell" else interpreter.run(str(request["code"]), output)


def main() -> None:
    """`guest.py OPTIONS`: a JSON object with the arguments of `set_limits`, then of `serve`."""
    options = json.loads(sys.argv[1])
    set_limits(**options["limits"])
    incoming, outgoing = options["channel"]
    if incoming == 0:  # a sandbox that has only the standard streams: the tenant gets others
        incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if null > 2:
        os.close(null)
    del sys.argv[1:]
    serve(incoming, outgoing, options["root"], options["output"])


if __name__ == "__main__":
    main()
