"""SIGTERM as an interrupt: what a supervisor or a cluster sends ends a command as Ctrl-C does.

Invariant: work that puts itself in order on `KeyboardInterrupt` does so on SIGTERM, too, and the process behaves as
before once the block is left.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise what Ctrl-C raises; a no-op beside the main thread, where signals cannot be handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C does at this moment: an event loop that runs has a gentler way than the exception."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # ignored, as for commands that a script began in the background
        raise KeyboardInterrupt
    handler(number, frame)
