"""What the processes of the fork sandbox say to each other, and how they wait for their children.

Standard library only. Invariant: nobody trusts that the other side is still there.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import traceback
from dataclasses import dataclass

from . import isolation

LARGEST = 1 << 16
"""Bytes of a message."""
CLOSE_ON_EXEC = 0x40000000
"""MSG_CMSG_CLOEXEC: the socket module has it only where it was built with it."""
_ORDER = struct.Struct("=5d")


@dataclass(frozen=True)
class Order:
    """The limits of a session, as they travel: see `agentrl.sandbox.Limits`."""

    cpu: float
    memory: int
    processes: int
    disk: int
    output: int

    def packed(self) -> bytes:
        return _ORDER.pack(self.cpu, self.memory, self.processes, self.disk, self.output)

    @classmethod
    def of(cls, data: bytes) -> Order:
        cpu, *whole = _ORDER.unpack(data)
        return cls(cpu, *map(int, whole))


def say(connection: socket.socket, message: bytes, descriptors: list[int] | None = None) -> None:
    """Send to one who may be gone."""
    try:
        socket.send_fds(connection, [message], descriptors or [])
    except OSError:
        return


def said(connection: socket.socket) -> bytes:
    """The next message; empty when the other side is gone."""
    try:
        return connection.recv(LARGEST)
    except OSError:
        return b""


def keep_only(*descriptors: int) -> tuple[int, ...]:
    """Move them to 3, 4, ... and close all others but 0, 1, 2."""
    first = max(descriptors) + 1
    kept = range(3, 3 + len(descriptors))
    high = [os.dup2(descriptor, max(first, kept.stop) + place) for place, descriptor in enumerate(descriptors)]
    for descriptor, target in zip(high, kept, strict=True):
        os.dup2(descriptor, target, inheritable=False)
    isolation.close_others(kept.stop)
    return tuple(kept)


def reap() -> None:
    """Take the status of every child that has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def wake_on_child() -> int:
    """A descriptor that is readable after a child of this process has ended."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, _nothing)
    return reading


def _nothing(number: int, frame: object) -> None:
    """A handler of SIGCHLD, so that the wake-up descriptor is written."""


def last_line(error: BaseException) -> str:
    """The error as it ends a traceback."""
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
