"""The first process of each session of the fork sandbox: trusted, small, out of the tenant's reach.

It prepares the session's mounts, waits for an order, then watches: memory and CPU time of all processes together,
orphans to reap, the tenant's end, the host's word. When it ends, for whatever reason, the kernel kills everything in
its pid namespace.

Standard library only. Messages to the host on the session's status socket: `D` and a word or a wait status (why the
tenant died), `E` and a text (what could not be set up); from the host: `c`, a call begins, which has all CPU seconds.
Between this process and its tenant-to-be: `R` mounts are ready, `J` it has joined, `L` and limits it may serve.
"""

from __future__ import annotations

import os
import select
import socket

from . import fork_root, fork_wire, isolation

PAGE = os.sysconf("SC_PAGESIZE")
TICK = os.sysconf("SC_CLK_TCK")
_PROPORTIONAL = (b"Pss:", b"SwapPss:")
_SHORTEST, _LONGEST, _IDLE = 0.02, 0.25, 1.0
"""Seconds between looks: when several processes run, when one does (its own limits hold it), when none does."""


class Init:
    """Pid 1 of a session."""

    def __init__(self, nursery: int, zygote: int, baseline: int) -> None:
        """`nursery` brings the order; `zygote` leads to the tenant, and to the one who forks it and learns how it ends.

        `baseline`: bytes that the tenant is born with, which do not count.
        """
        self._nursery, self._zygote = socket.socket(fileno=nursery), socket.socket(fileno=zygote)
        self._status: socket.socket | None = None
        self._baseline = baseline
        self._memory, self._cpu = 0, 0.0
        self._spent = self._allowed = 0.0

    def prepare(self, user: int, group: int, covered: list[str]) -> None:
        isolation.set_dumpable(True)  # else the maps belong to somebody else
        isolation.map_user(fork_root.USER, user, group)
        fork_root.mount_session(covered)
        self._zygote.send(b"R")
        said = self._zygote.recv(4096)
        if said != b"J":
            raise RuntimeError(said[1:].decode() or "the process with the libraries died")
        isolation.set_dumpable(False)  # until it has joined, the tenant-to-be must be allowed to look at this one

    def obey(self) -> None:
        """Wait for the order; give the tenant its channel and its limits."""
        poll = select.poll()
        poll.register(self._nursery.fileno(), select.POLLIN)
        poll.register(self._zygote.fileno(), select.POLLIN)
        if any(descriptor == self._zygote.fileno() for descriptor, _ in poll.poll()):
            raise RuntimeError(fork_wire.said(self._zygote)[1:].decode() or "the process with the libraries died")
        data, descriptors, _, _ = socket.recv_fds(self._nursery, 4096, 2, fork_wire.CLOSE_ON_EXEC)
        if len(descriptors) != 2:
            raise RuntimeError("no order")
        channel, status = descriptors
        self._status = socket.socket(fileno=status)
        order = fork_wire.Order.of(data)
        fork_root.resize_session(order.disk)
        self._memory, self._cpu = order.memory + self._baseline, order.cpu
        self._allowed = order.cpu
        socket.send_fds(self._zygote, [b"L" + data], [channel])
        os.close(channel)
        self._nursery.close()

    def watch(self) -> None:
        """Returns when the session is over; the caller exits."""
        assert self._status is not None
        woken = fork_wire.wake_on_child()
        poll = select.poll()
        for descriptor in (self._status.fileno(), self._zygote.fileno(), woken):
            poll.register(descriptor, select.POLLIN)
        pause = _SHORTEST
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(pause * 1000)]
            if woken in ready:
                os.read(woken, 4096)
                fork_wire.reap()
            if self._zygote.fileno() in ready:
                return self._report(fork_wire.said(self._zygote) or b"Ethe process with the libraries died")
            if self._status.fileno() in ready:
                if not fork_wire.said(self._status):
                    return None
                self._allowed = self._usage()[2] + self._cpu
                pause = _SHORTEST
                continue
            before = self._spent
            count, memory, self._spent = self._usage()
            if memory > self._memory and self._exact() > self._memory:
                return self._report(b"Dmemory")
            if self._spent > self._allowed:
                return self._report(b"Dcpu")
            longest = _SHORTEST if count > 1 else _IDLE if self._spent == before else _LONGEST
            pause = min(2 * pause, longest)

    def fail(self, text: str) -> None:
        self._report(b"E" + text.encode()[:4000])

    def _report(self, message: bytes) -> None:
        # who is told may have gone
        try:
            (self._status or self._nursery).send(message)
        except OSError:
            return

    def _usage(self) -> tuple[int, int, float]:
        """Processes, bytes (an upper bound: shared pages count for each) and CPU seconds of the session."""
        count, pages, ticks = 0, 0, 0
        for pid in _processes():
            try:
                with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:  # it has ended since
                continue
            count += 1
            ticks += sum(map(int, fields[11:15]))
            pages += int(fields[21])
        own = os.times()
        return count, pages * PAGE + _disk(), ticks / TICK + own.children_user + own.children_system

    def _exact(self) -> int:
        """Bytes of the session, each shared page divided among those who share it."""
        total = _disk()
        for pid in _processes():
            try:
                with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
                    lines = file.read().splitlines()
                total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_PROPORTIONAL))
            except ProcessLookupError:
                continue
            except OSError:  # hidden from us, on purpose: all that it maps is counted
                total += _resident(pid)
        return total


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def _resident(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * PAGE
    except OSError:
        return 0


def _disk() -> int:
    usage = os.statvfs("/tmp")
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize
