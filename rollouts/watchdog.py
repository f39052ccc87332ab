"""Watchdog: how late the event loop is, and which code makes it late.

A timer on the loop measures by how much it fires late; a daemon thread looks at the timer's last beat and, where it is
overdue, logs the stack of the loop's thread while the code that blocks it is still on it.

Invariant: it measures and never acts; in virtual time, where nothing can be late, it does nothing at all, so that its
timer neither moves the clock nor hides a deadlock.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from asyncio import events
from types import TracebackType

from agentrl.virtual_time import VirtualTimeLoop

_log = logging.getLogger(__name__)

_LOOKS = 4
"""How often the thread looks within the time that it reports: a block is seen at most a quarter of it late."""
_JOIN_SECONDS = 1.0


class LagWatchdog:
    """Measures the lag of the running loop between `start` and `stop`, or as an async context manager. Seconds.

    A block longer than `report_above` is logged once, as a warning, while it lasts. No thread runs where such warnings
    are switched off.
    """

    def __init__(self, interval: float = 0.02, report_above: float = 0.5) -> None:
        if not (interval > 0 and report_above > 0):
            raise ValueError(f"interval={interval!r} and report_above={report_above!r} must be above 0")
        self.interval = interval
        self.report_above = report_above
        self.worst = 0.0
        """Longest lag since the last `reset`."""
        self.count = 0
        """Measurements since then."""
        self._sum = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._beat = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def mean(self) -> float:
        """Mean lag since the last `reset`; 0.0 without measurements."""
        return self._sum / self.count if self.count else 0.0

    def reset(self) -> None:
        """Begin to count anew."""
        self.worst, self._sum, self.count = 0.0, 0.0, 0

    def start(self) -> None:
        """Begin to measure the running loop. Idempotent."""
        loop = asyncio.get_running_loop()
        if self._timer is not None or isinstance(loop, VirtualTimeLoop):
            return
        self._schedule(loop)
        if _log.isEnabledFor(logging.WARNING):
            self._stopped = threading.Event()
            self._thread = threading.Thread(
                target=self._watch, args=(loop, threading.get_ident(), self._stopped), name="agentrl-lag", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the measurement; what was measured stays. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._thread is not None:
            self._stopped.set()
            self._thread.join(_JOIN_SECONDS)
            self._thread = None

    async def __aenter__(self) -> LagWatchdog:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat = time.monotonic()
        self._due = loop.time() + self.interval
        self._timer = loop.call_at(self._due, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        lag = max(0.0, loop.time() - self._due)
        self.count += 1
        self._sum += lag
        self.worst = max(self.worst, lag)
        self._schedule(loop)

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int, stopped: threading.Event) -> None:
        reported = 0.0
        while not stopped.wait(self.report_above / _LOOKS) and not loop.is_closed():
            beat = self._beat
            late = time.monotonic() - beat - self.interval
            # a loop that is not running is not blocked either
            if late < self.report_above or beat == reported or not loop.is_running():
                continue
            reported = beat
            if stack := _callback_stack(thread_id):
                _log.warning("the event loop has been blocked for %.2f s by this code:\n%s", late, stack)


def _callback_stack(thread_id: int) -> str:
    """What the loop's thread runs of a task or a callback; empty where it waits for events, starved by others."""
    frame = sys._current_frames().get(thread_id)
    frames = [] if frame is None else traceback.extract_stack(frame)
    places = [place for place, each in enumerate(frames) if each.filename == events.__file__ and each.name == "_run"]
    return "".join(traceback.format_list(frames[places[-1] + 1 :])).rstrip() if places else ""
