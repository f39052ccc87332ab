"""PriorityGate: how many may be inside at one time, and who goes first. Its limit may change at any time.

Invariant: somebody waits only while as many are inside as the limit allows; no slot is ever lost,
whatever is cancelled when.
"""

from __future__ import annotations

import asyncio
import heapq
from types import TracebackType

_SLACK = 64
"""Cancelled waiters that may stay in the queue before it is rebuilt."""


class PriorityGate:
    """At most `limit` inside (None: any number); those with the highest priority go first, first come among equals."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = _checked(limit)
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrivals = 0
        self.running = 0
        """How many are inside. Above the limit for a while where it was lowered: nobody is thrown out."""
        self.waiting = 0

    @property
    def limit(self) -> int | None:
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._limit = _checked(limit)
        self._admit()

    def enter(self, priority: float = 0.0) -> Entry:
        """`async with gate.enter(priority) as waited_seconds`: inside from there to the end of the block."""
        return Entry(self, priority)

    async def acquire(self, priority: float = 0.0) -> float:
        """Wait for a slot; returns the seconds waited, by the loop's clock. `enter` releases the slot by itself."""
        if self._limit is None or self.running < self._limit:
            self.running += 1
            return 0.0
        loop = asyncio.get_running_loop()
        began = loop.time()
        admitted: asyncio.Future[None] = loop.create_future()
        self._arrivals += 1
        heapq.heappush(self._queue, (-priority, self._arrivals, admitted))
        self.waiting += 1
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self.waiting -= 1
                self._sweep()
            else:  # admitted and cancelled in the same turn of the loop: the slot goes to the next
                self.release()
            raise
        return loop.time() - began

    def release(self) -> None:
        """Give a slot back."""
        self.running -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and (self._limit is None or self.running < self._limit):
            admitted = heapq.heappop(self._queue)[2]
            if not admitted.done():
                self.waiting -= 1
                self.running += 1
                admitted.set_result(None)

    def _sweep(self) -> None:
        if len(self._queue) > 2 * self.waiting + _SLACK:
            self._queue = [entry for entry in self._queue if not entry[2].done()]
            heapq.heapify(self._queue)


class Entry:
    """One passage through a gate; enter it once."""

    __slots__ = ("_gate", "_priority")

    def __init__(self, gate: PriorityGate, priority: float) -> None:
        self._gate = gate
        self._priority = priority

    async def __aenter__(self) -> float:
        return await self._gate.acquire(self._priority)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.release()


def _checked(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit!r} must be at least 1, or None for no limit")
    return limit
