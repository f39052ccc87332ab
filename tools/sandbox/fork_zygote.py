"""The process of the fork sandbox that has the libraries loaded, and forks tenants.

Invariant: a tenant gives up every privilege before it has heard of its session's limits and channel, and serves only
after its session's first process has given it both. Standard library only, but for what it is told to load.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from . import fork_root, fork_wire, guest, isolation, seccomp

_JOINED = isolation.SESSION & ~isolation.NEW_PID
"""That one is entered by being forked."""


def run(nursery: socket.socket, options: dict[str, Any]) -> NoReturn:
    try:
        zygote = Zygote(nursery, options)
    except BaseException as error:
        answer = {"error": fork_wire.last_line(error), "trace": traceback.format_exc()}
        nursery.send(json.dumps(answer).encode()[: fork_wire.LARGEST])
        os._exit(1)
    try:
        zygote.run()
    finally:
        os._exit(1)


class Zygote:
    """The process that has the libraries loaded, and forks tenants."""

    def __init__(self, nursery: socket.socket, options: dict[str, Any]) -> None:
        self._nursery = nursery
        self._tenants: dict[int, socket.socket] = {}
        self._filter = seccomp.joining()
        self._last_capability = isolation.last_capability()
        for name in options["preload"]:
            importlib.import_module(name)
        warm_up()
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError(
                f"preload={options['preload']} starts threads, and a process with threads cannot be forked"
            )
        for name in [name for name in sys.modules if name.split(".")[0] == __name__.split(".")[0]]:
            del sys.modules[name]  # the tenant has no use for them
        gc.collect()
        gc.freeze()
        isolation.collapse_memory()
        isolation.no_new_privileges()
        seccomp.install(seccomp.program())
        self._address_space, resident = _memory()
        answer = {"baseline": resident, "landlock": isolation.landlock_version()}
        nursery.send(json.dumps(answer).encode())

    def run(self) -> None:
        """Until the nursery is gone."""
        woken = fork_wire.wake_on_child()
        poll = select.poll()
        for descriptor in (self._nursery.fileno(), woken):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if self._nursery.fileno() in ready:
                word, descriptors, _, _ = socket.recv_fds(self._nursery, 16, 2, fork_wire.CLOSE_ON_EXEC)
                if not word:
                    return
                self._fork(*descriptors)

    def _fork(self, process: int, init: int) -> None:
        connection = socket.socket(fileno=init)
        try:
            isolation.join(process, isolation.NEW_PID)
            pid = os.fork()
        except OSError as error:  # its init is dead already, or there are too many processes
            fork_wire.say(connection, b"E" + str(error).encode())
            connection.close()
        else:
            if pid == 0:
                self._tenant(process, init)
            self._tenants[pid] = connection
        os.close(process)

    def _reap(self) -> None:
        while self._tenants:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._tenants.pop(pid) as init:
                fork_wire.say(init, b"D" + str(status).encode())

    def _tenant(self, process: int, init: int) -> None:
        """In the forked process: join the session, drop everything, wait for limits and channel, serve."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for connection in (self._nursery, *self._tenants.values()):
                connection.detach()  # _keep_only closes them
            process, init = fork_wire.keep_only(process, init)
            connection = socket.socket(fileno=init)
            if connection.recv(1) == b"R":
                try:
                    isolation.join(process, _JOINED)
                    connection.send(b"J")
                    self._confine()
                except OSError as error:
                    fork_wire.say(connection, b"E" + str(error).encode())
                    raise
                self._serve(connection)
        finally:
            os._exit(1)

    def _confine(self) -> None:
        isolation.set_dumpable(True)  # lost by joining; its own /proc is its own
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"900")
        os.close(score)
        isolation.drop_capabilities(self._last_capability)
        isolation.set_dumpable(True)
        fork_root.landlock()
        seccomp.install(self._filter)
        os.umask(0o022)

    def _serve(self, connection: socket.socket) -> None:
        guest.rehearse()  # a session made ahead of its use has time for this; its tenant has not
        word, descriptors, _, _ = socket.recv_fds(connection, fork_wire.LARGEST, 1)
        if word[:1] != b"L":
            return
        connection.detach()
        (channel,) = fork_wire.keep_only(*descriptors)
        order = fork_wire.Order.of(word[1:])
        # the session's init and the guest's own thread are not the tenant's
        guest.set_limits(self._address_space + order.memory, order.disk, order.processes + 2)
        random.seed(0)
        guest.serve(channel, channel, fork_root.WORK, order.output)


def warm_up() -> None:
    """Fill the caches of loaded libraries that every job would have to fill, and fix the random state."""
    random.seed(0)
    guest.quiet()
    for _ in range(20):  # the interpreter rewrites code that runs often: better once, here
        guest.Interpreter().run("import json\nfor x in range(3): [y for y in str(x)]\n(lambda: 1)()", 100)
    if "numpy" in sys.modules:
        numpy = importlib.import_module("numpy")
        numpy.random.seed(0)
        numpy.linalg.solve(numpy.eye(3), numpy.ones(3))
    if "sympy" in sys.modules:
        sympy = importlib.import_module("sympy")
        x, y = sympy.symbols("x y")
        sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2 + (x**2 - 1) / (x - 1))
        sympy.solve(x**2 - 3 * x + 2, x)
        sympy.solve([x + y - 3, x - y - 1], [x, y])
        str(sympy.integrate(x * sympy.exp(x), x)), str(sympy.diff(x**3, x)), str(sympy.factor(x**2 - 1))
        sympy.sympify("x**2 + 1/3").evalf()


def _memory() -> tuple[int, int]:
    """Bytes of address space and of memory of this process."""
    with open("/proc/self/statm", "rb") as file:
        pages = [int(item) for item in file.read().split()]
    return pages[0] * os.sysconf("SC_PAGESIZE"), pages[1] * os.sysconf("SC_PAGESIZE")
