"""Hostile programs on the protocol, on what judges them, and on the next episode.

The program that answers the host runs in the tenant's process: it can be made to say anything about its own session.
What must hold is that the host stays whole and bounded, that it gets an answer in time, and that no other session is
touched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentrl.sandbox import Outcome
from tests.tools.sandbox.attacks import ENDED, SMALL, attack, breach

ANY = frozenset(Outcome)
BRIEF = replace(SMALL, wall=0.5)


@attack("protocol", outcomes=ANY, limits=BRIEF)
def noise_on_every_descriptor(host: dict[str, Any]) -> None:
    import contextlib
    import os

    for fd in range(256):
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
            os.write(fd, os.urandom(4096))


@attack("protocol", outcomes=ANY, limits=BRIEF)
def forged_results(host: dict[str, Any]) -> None:
    """Results for this request and the next ones, in the form of the protocol."""
    import contextlib
    import json
    import os
    import struct

    for number in range(50):
        said = {"id": number, "outcome": "ok", "value": "forged", "exit_code": 0, "data": "Zm9yZ2Vk"}
        payload = json.dumps(said).encode()
        for fd in range(3, 32):
            with contextlib.suppress(OSError):
                os.write(fd, struct.pack("!IB", len(payload), ord("r")) + payload)


@attack("protocol", outcomes=ANY, limits=BRIEF)
def frame_of_four_gigabytes(host: dict[str, Any]) -> None:
    import contextlib
    import os

    for fd in range(3, 32):
        with contextlib.suppress(OSError):
            os.write(fd, b"\xff\xff\xff\xffr")


@attack("protocol", outcomes=ANY, limits=replace(SMALL, wall=1.0))
def frames_without_end(host: dict[str, Any]) -> None:
    """Each is small; together they would fill the host's memory."""
    import contextlib
    import os
    import struct

    frame = struct.pack("!IB", 60_000, ord("o")) + b"x" * 60_000
    fds = [fd for fd in range(3, 32) if fd != 0]
    for _ in range(3000):
        for fd in fds:
            with contextlib.suppress(OSError):
                os.set_blocking(fd, True)
                os.write(fd, frame)


@attack("protocol", outcomes=ANY, limits=BRIEF)
def results_of_wrong_types(host: dict[str, Any]) -> None:
    import contextlib
    import os
    import struct

    for payload in (
        b'{"id": 1, "outcome": ["ok"], "value": {"a": 1}, "exit_code": "0", "truncated": 7}',
        b'{"id": 2, "outcome": {}, "data": 5}',
        b"[" * 50_000,
        b'{"id": 1e999}',
        b"NaN",
        b'"\\ud800"',
        b"\xff\xfe",
        b'{"id": ' + b"9" * 5000 + b"}",
    ):
        for fd in range(3, 32):
            with contextlib.suppress(OSError):
                os.write(fd, struct.pack("!IB", len(payload), ord("r")) + payload)


@attack("protocol", outcomes=ANY, limits=BRIEF)
def closed_descriptors(host: dict[str, Any]) -> None:
    import os

    os.closerange(0, 256)


@attack("protocol", outcomes=ANY, limits=BRIEF)
def closed_output(host: dict[str, Any]) -> None:
    import os
    import sys

    sys.stdout.close()
    sys.stderr.close()
    os.close(1)
    os.close(2)


@attack("protocol", outcomes=ANY, limits=BRIEF)
def descriptors_exchanged(host: dict[str, Any]) -> None:
    import contextlib
    import os

    for fd in range(3, 16):
        with contextlib.suppress(OSError):
            os.dup2(1, fd)


@attack("protocol", outcomes=ANY, limits=BRIEF)
def requests_stolen(host: dict[str, Any]) -> None:
    """A child reads what the host sends next."""
    import contextlib
    import os

    if os.fork() == 0:
        for fd in range(3, 32):
            with contextlib.suppress(OSError):
                os.set_blocking(fd, True)
                os.read(fd, 1 << 16)
        os._exit(0)


@attack("tampering", outcomes=ANY, limits=BRIEF)
def patched_library(host: dict[str, Any]) -> None:
    import builtins
    import io
    import json
    import os
    import sys
    import time
    import traceback

    def lie(*args: object, **options: object) -> str:
        return '{"id": 1, "outcome": "ok", "value": "forged"}'

    for module in (json, io, time, traceback, os):
        for name in ("dumps", "loads", "open", "perf_counter", "format_exception", "read", "write", "getcwd"):
            if hasattr(module, name):
                setattr(module, name, lie)
    for name in ("open", "repr", "eval", "exec", "compile", "isinstance", "len", "print", "ord", "min"):
        setattr(builtins, name, lie)
    sys.modules["json"] = sys.modules["sys"]


@attack("tampering", outcomes=ANY, limits=BRIEF)
def guest_rewritten(host: dict[str, Any]) -> None:
    """Finds the objects of the program that runs it, and changes them."""
    import gc
    import sys

    frame = sys._getframe()
    while frame is not None:
        for name, value in list(frame.f_globals.items()):
            if callable(value) and name not in ("__build_class__", "breach", "attempt"):
                frame.f_globals[name] = lambda *a, **k: {"outcome": "ok", "value": "forged"}
        frame = frame.f_back  # type: ignore[assignment]
    for thing in gc.get_objects():
        if type(thing).__name__ in ("Channel", "Output", "Interpreter"):
            vars(thing).clear()


@attack("tampering", outcomes=ANY, limits=BRIEF)
def exceptions_that_resist(host: dict[str, Any]) -> None:
    class Resisting(BaseException):
        def __str__(self) -> str:
            raise Resisting

        __repr__ = __str__

        @property
        def __traceback__(self) -> Any:  # type: ignore[override]
            raise Resisting

        def __del__(self) -> None:
            raise Resisting

    raise Resisting


@attack("tampering", outcomes=ANY, limits=BRIEF)
def streams_that_raise(host: dict[str, Any]) -> None:
    import sys

    class Stream:
        def __getattr__(self, name: str) -> Any:
            raise SystemExit(0)

    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = Stream()  # type: ignore[assignment,misc]


@attack("tampering", outcomes=ANY, limits=BRIEF)
def hooks(host: dict[str, Any]) -> None:
    import atexit
    import sys
    import threading
    import time

    atexit.register(time.sleep, 1000)
    sys.excepthook = lambda *_: time.sleep(1000)
    sys.unraisablehook = lambda *_: time.sleep(1000)
    threading.settrace(lambda *_: time.sleep(1000))
    sys.setprofile(lambda *_: None)

    class Late:
        def __del__(self) -> None:
            while True:
                time.sleep(1000)

    sys.modules["late"] = Late()  # type: ignore[assignment]


@attack("tampering", outcomes=ANY, limits=BRIEF)
def interrupted_by_a_timer(host: dict[str, Any]) -> None:
    """A signal handler that raises at any moment, in the program that answers as well."""
    import signal

    def strike(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)


@attack("tampering", outcomes=frozenset({Outcome.KILLED}))
def silent_exit(host: dict[str, Any]) -> None:
    """Leaves before any judge has spoken."""
    import os

    os._exit(0)


@attack("tampering", outcomes=ENDED)
def exit_of_success(host: dict[str, Any]) -> None:
    """After a failure says that it succeeded; it cannot print what comes after the call."""
    import sys

    try:
        raise AssertionError("wrong answer")
    finally:
        sys.exit(0)


# -- the next episode --------------------------------------------------------------------------------------------------


@attack("leaks", outcomes=ANY)
def files_for_the_next(host: dict[str, Any]) -> None:
    import contextlib
    import os

    places = (".", os.path.expanduser("~"), "/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", "/home", "/mnt", "/")
    for folder in places:
        with contextlib.suppress(OSError), open(os.path.join(folder, host["mark"]), "w") as file:
            file.write("left")


@attack("leaks", outcomes=ANY)
def modules_for_the_next(host: dict[str, Any]) -> None:
    import json
    import os
    import sys

    json.left = os.left = sys.left = True  # type: ignore[attr-defined]
    __builtins__["left"] = True if isinstance(__builtins__, dict) else setattr(__builtins__, "left", True)
    os.environ["LEFT"] = "1"
    os.umask(0o777)
    sys.path.insert(0, "/left")


@attack("leaks", outcomes=ANY)
def shared_memory_for_the_next(host: dict[str, Any]) -> None:
    import ctypes
    import os

    libc = ctypes.CDLL(None)
    libc.shmget(host["leak_key"], 4096, 0o1666)
    libc.semget(host["leak_key"], 1, 0o1666)
    libc.msgget(host["leak_key"], 0o1666)
    if os.uname().machine == "x86_64":
        libc.syscall(248, b"user", host["mark"].encode(), b"left", 4, -4)  # add_key to the user's keyring


@attack("leaks", outcomes=ANY)
def servers_for_the_next(host: dict[str, Any]) -> None:
    import os
    import socket
    import time

    if os.fork() == 0:
        os.setsid()
        listening = [socket.socket(), socket.socket(socket.AF_UNIX)]
        listening[0].bind(("127.0.0.1", host["leak_port"]))
        listening[1].bind("\0" + host["mark"])
        for server in listening:
            server.listen()
        time.sleep(1000)


def what_another_left(host: dict[str, Any]) -> None:
    """Not an attack but what is asked in another session, after each of them and while theirs is open."""
    import contextlib
    import ctypes
    import glob
    import json
    import os
    import socket
    import sys

    if hasattr(json, "left") or hasattr(os, "left") or hasattr(sys, "left") or "LEFT" in os.environ:
        breach("changed modules")
    if "/left" in sys.path or os.umask(0o022) == 0o777 or "left" in dir(__builtins__):
        breach("changed state")
    for pattern in ("*", "/tmp/*", "/var/tmp/*", "/dev/shm/*", "/run/*", "/run/lock/*", "/home/*", "/mnt/*", "/*"):
        for path in glob.glob(pattern):
            if os.path.basename(path) == host["mark"]:
                breach(f"the file {path}")
    libc = ctypes.CDLL(None)
    if min(libc.shmget(host["leak_key"], 0, 0), libc.semget(host["leak_key"], 0, 0)) >= 0:
        breach("shared memory")
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", host["leak_port"]), timeout=0.3)
        breach("a server on loopback")
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_UNIX).connect("\0" + host["mark"])
        breach("a unix socket")
    if os.uname().machine == "x86_64" and libc.syscall(250, 10, -4, b"user", host["mark"].encode(), 0) >= 0:
        breach("a key in the keyring")
