"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it.

An hour of schedules, back-offs and latency models runs in the time that its code takes, in the same order every time
(timers that are due together fire in an order that repeats itself, not always in the order in which they were set).
Invariant: the clock moves only when nothing is left to do now. Real work takes no virtual time: while a thread job is
awaited, the loop really waits for it, and no timer can overtake it.

That is why the loop is ours: looptime and aiotools' virtual clock know nothing of threads, so that a timer (a deadline
around a blocking environment) fires while the thread it guards is still at work, in an order that differs from run to
run; and neither tells a deadlock from a wait.

Sockets and pipes are polled, but what comes from outside of the process has no place in virtual time: a timer wins over
data that are not there yet. A thread that the loop did not start counts only if it is declared (`hold`).
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")

_RESOLUTION = 1e-9
"""Timers closer together than this, in seconds, fire in the same turn of the loop."""
_NAMED = 8
"""Waiting tasks that the message of a deadlock names."""


class _JumpingSelector(selectors.BaseSelector):
    """Where the loop would sleep: `wait(timeout)` says how long to wait really, given that no file is ready now."""

    def __init__(self, wait: Callable[[float | None], float | None]) -> None:
        self._files = selectors.DefaultSelector()
        self._wait = wait

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._files.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._files.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._files.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._files.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        patience = self._wait(timeout)
        return [] if patience == 0 else self._files.select(patience)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._files.get_map()

    def close(self) -> None:
        self._files.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, seconds from 0.

    Raises `RuntimeError("deadlock ...")` out of `run_forever` and `run_until_complete` where a loop in real time would
    wait for ever: no timer, no thread job, no file to read or write.
    """

    def __init__(self) -> None:
        self._virtual = 0.0
        self._held: set[asyncio.Future[Any]] = set()
        self._jumping = _JumpingSelector(self._real_wait)
        super().__init__(self._jumping)
        self._clock_resolution = _RESOLUTION
        self._own_files = len(self._jumping.get_map())

    def time(self) -> float:
        """The virtual time, seconds."""
        return self._virtual

    def hold(self, future: asyncio.Future[Any]) -> None:
        """Stop the clock until `future`, which another thread will resolve, is done. A cancelled wait lets it go on."""
        self._held.add(future)
        future.add_done_callback(self._held.discard)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self.hold(future)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        # asyncio joins the workers in a thread of its own
        done = self.create_future()
        self.hold(done)
        try:
            await super().shutdown_default_executor(*args)
        finally:
            done.cancel()

    def _real_wait(self, timeout: float | None) -> float | None:
        if self._held:
            return None
        if timeout is not None:
            self._virtual += timeout
            # asyncio fires what is due within its clock's resolution, which must not vanish beside a late hour
            self._clock_resolution = max(_RESOLUTION, 2 * math.ulp(self._virtual))
            return 0
        if len(self._jumping.get_map()) > self._own_files:
            return None
        raise RuntimeError(self._deadlock())

    def _deadlock(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        places = []
        for task in tasks[:_NAMED]:
            frames = task.get_stack()
            place = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "its beginning"
            places.append(f"{task.get_name()} at {place}")
        if len(tasks) > _NAMED:
            places.append(f"{len(tasks) - _NAMED} more")
        return (
            f"deadlock after {self._virtual:g} virtual seconds: no timer, thread job or file is left that could wake "
            f"{len(tasks)} waiting tasks: {'; '.join(places)}"
        )


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Like `asyncio.run`, in virtual time: what the coroutine returned, and how many virtual seconds it took.

    Leftover tasks are cancelled, asynchronous generators and the executor shut down. Raises what the coroutine raises,
    and `RuntimeError("deadlock ...")` instead of waiting for ever.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        result = runner.run(coroutine)
        return result, runner.get_loop().time()
