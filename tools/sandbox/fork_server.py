"""The server of the fork sandbox: three single-threaded processes between the host and its tenants.

`launcher`: started by the host; leaves the host's user, pid and mount namespaces, then only waits.
`nursery`: pid 1 of the server's pid namespace, small; clones each session's init (`fork_init`) into new namespaces.
`zygote` (`fork_zygote`): has the libraries loaded; forks each tenant, which joins the namespaces of its init, gives up
every privilege and serves the guest program. So what is forked often and what is large are not the same.

Invariants: when the host is gone (end of the control socket) the nursery ends, and with it, by the kernel, everything
below. A tenant holds its channel and 0, 1, 2, nothing else; a session has one tenant, ever. No variable of the host's
environment ever gets here: the host starts this program with an environment of its own making.

Control (a socket of packets): the host sends options and reads one answer, then sends sessions' limits, each with two
descriptors, the tenant's channel and the session's status socket; all that comes back comes on the latter.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import traceback
from collections import deque
from typing import Any, NoReturn

from . import fork_init, fork_root, fork_wire, fork_zygote, isolation

NOBODY = 65534


def main() -> NoReturn:
    """Run the launcher; the control socket is descriptor 0."""
    control = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.umask(0o022)  # the tenant must be able to read what is made here
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        options = json.loads(control.recv(fork_wire.LARGEST))
        root = os.geteuid() == 0
        user, group = os.getuid(), os.getgid()
        isolation.unshare(isolation.NEW_PID | isolation.NEW_MOUNTS | (0 if root else isolation.NEW_USER))
        if not root:
            isolation.map_user(user, user, group)
        child = os.fork()
        if child == 0:
            _nursery(control, options, root)
    except OSError as error:
        control.send(json.dumps({"error": str(error), "errno": error.errno}).encode())
        os._exit(1)
    control.close()
    os.waitpid(child, 0)
    os._exit(0)


def _nursery(control: socket.socket, options: dict[str, Any], root: bool) -> NoReturn:
    try:
        covered = fork_root.build(options["prefixes"], options["hidden"])
        if root:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            isolation.set_dumpable(True)
            isolation.unshare(isolation.NEW_USER)
            isolation.map_user(NOBODY, NOBODY, NOBODY)
        isolation.die_with_parent()
        _more_descriptors()
        Nursery(control, options, covered).run()
    except BaseException as error:
        answer = {"error": fork_wire.last_line(error), "trace": traceback.format_exc()}
        control.send(json.dumps(answer).encode()[: fork_wire.LARGEST])
    os._exit(1)


class Nursery:
    """Pid 1 of the server: takes the host's orders, and has a few sessions ready for them.

    A session that waits is complete but for limits and channel: nobody has used it, and whoever gets it is its only
    tenant.
    """

    def __init__(self, control: socket.socket, options: dict[str, Any], covered: list[str]) -> None:
        self._control = control
        self._covered = covered
        self._user, self._group = os.getuid(), os.getgid()
        self._spare: int = options["prefork"]
        self._ready: deque[tuple[int, socket.socket]] = deque()
        self._baseline = 0
        self._zygote, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            control.close()
            self._zygote.close()
            fork_zygote.run(theirs, options)
        theirs.close()

    def run(self) -> None:
        """Until the host or the zygote is gone."""
        answer = self._zygote.recv(fork_wire.LARGEST) or b'{"error": "the process that loads the libraries died"}'
        self._control.send(answer)
        if "error" in json.loads(answer):
            return
        self._baseline = json.loads(answer)["baseline"]
        gc.collect()
        gc.freeze()
        isolation.collapse_memory()
        woken = fork_wire.wake_on_child()
        poll = select.poll()
        for descriptor in (self._control.fileno(), self._zygote.fileno(), woken):
            poll.register(descriptor, select.POLLIN)
        while True:
            missing = len(self._ready) < self._spare
            events = [descriptor for descriptor, _ in poll.poll(0 if missing else None)]
            if woken in events:
                os.read(woken, 4096)
                fork_wire.reap()
            if self._zygote.fileno() in events:
                return
            if self._control.fileno() in events:
                if not self._open():
                    return
            elif missing and not events:  # nobody waits
                try:
                    self._ready.append(self._make())
                except OSError:  # too many processes: whoever opens a session will be told
                    self._spare = len(self._ready)

    def _open(self) -> bool:
        """Take one order; False when the host is gone."""
        order, descriptors, _, _ = socket.recv_fds(self._control, fork_wire.LARGEST, 2, fork_wire.CLOSE_ON_EXEC)
        if not order:
            return False
        try:
            if len(descriptors) == 2:
                self._give(order, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _give(self, order: bytes, descriptors: list[int]) -> None:
        with socket.socket(fileno=os.dup(descriptors[1])) as status:
            while True:
                waited = bool(self._ready)
                try:
                    process, init = self._ready.popleft() if waited else self._make()
                except OSError as error:  # too many processes or namespaces: this session's fault, not the server's
                    return fork_wire.say(status, b"E" + str(error).encode())
                try:
                    socket.send_fds(init, [order], descriptors)
                    return fork_wire.say(status, b"P", [process])
                except OSError:
                    if not waited:
                        return fork_wire.say(status, fork_wire.said(init) or b"Ethe session's first process died")
                finally:
                    init.close()
                    os.close(process)

    def _make(self) -> tuple[int, socket.socket]:
        """A session without tenant: its init's pidfd, and the socket that brings it an order."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        upper, lower = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, upper, lower:
            try:
                pid, process = isolation.clone(isolation.SESSION)
            except OSError:
                ours.close()
                raise
            if pid == 0:
                self._init(theirs.fileno(), upper.fileno())
            socket.send_fds(self._zygote, [b"f"], [process, lower.fileno()])
        return process, ours

    def _init(self, nursery: int, zygote: int) -> NoReturn:
        """In the cloned process."""
        try:
            signal.set_wakeup_fd(-1)
            nursery, zygote = fork_wire.keep_only(nursery, zygote)
            init = fork_init.Init(nursery, zygote, self._baseline)
            try:
                init.prepare(self._user, self._group, self._covered)
                init.obey()
                init.watch()
            except BaseException as error:
                init.fail(fork_wire.last_line(error))
        finally:
            os._exit(0)


def _more_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
