"""One thread that acts when a call's time is over.

A timer of its own for every call would cost a thread's start and end, more than a small query takes. Invariant: once
the block is left its action runs no more, so a late one never meets the next call.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """For one call at a time."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._deadline = math.inf
        self._action: Callable[[], object] | None = None
        self._wakes = -math.inf
        """When the thread looks next; it is woken only for an earlier deadline."""
        self._thread: threading.Thread | None = None

    @contextmanager
    def within(self, seconds: float, action: Callable[[], object]) -> Iterator[None]:
        """Call `action`, which must not raise, in the other thread if the block takes longer."""
        with self._condition:
            self._deadline, self._action = time.monotonic() + seconds, action
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="agentrl-sql-watchdog", daemon=True)
                self._thread.start()
            elif self._deadline < self._wakes:
                self._condition.notify()
        try:
            yield
        finally:
            with self._condition:  # waits for an action that has begun
                self._action = None

    def _watch(self) -> None:
        with self._condition:
            while True:
                now = time.monotonic()
                if self._action is not None and now >= self._deadline:
                    action, self._action = self._action, None
                    action()
                self._wakes = math.inf if self._action is None else self._deadline
                self._condition.wait(None if self._action is None else self._deadline - now)


watchdog = Watchdog()
"""The worker's own: a worker serves one call at a time."""
