"""What the tests of the worker pool have its workers do."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def double(value: int) -> int:
    return 2 * value


def process_id() -> int:
    return os.getpid()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def spin() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        sum(range(10**9))


def allocate(size: int) -> int:
    return len(bytearray(size))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    sys.exit("bye")


def fail(text: str) -> None:
    raise LookupError(text)


def echo(data: bytes) -> bytes:
    return data


def unpicklable() -> object:
    return lambda: None


def note(path: str) -> None:
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(60)
