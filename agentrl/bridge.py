"""Bridges between coroutines and threads.

`in_thread` lets a coroutine await a blocking function; `run_sync` lets blocking code wait for a coroutine, also where
an event loop already runs in the calling thread (a notebook). Invariant: nothing here keeps the interpreter alive or
makes one blocked call wait for another: each blocking call has a daemon thread of its own, because a pool's worker
that hangs is lost to everybody else, and a pool is joined at exit.
"""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

from agentrl.errors import AgentRLError
from agentrl.virtual_time import VirtualTimeLoop

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await `function(*args, **kwargs)` in a daemon thread of its own, with the caller's context variables.

    A cancelled wait returns at once; the thread goes on until the function returns, for Python cannot end it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    if isinstance(loop, VirtualTimeLoop):
        loop.hold(future)
    call = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except StopIteration as stop:  # a future cannot carry one
            error = RuntimeError(f"the function raised {stop!r}")
        except BaseException as raised:  # handed to whoever awaits, who decides
            error = raised
        if not loop.is_closed():
            # the loop may close between the check and the call, when nobody waits any more
            try:
                loop.call_soon_threadsafe(deliver, result, error)
            except RuntimeError:
                return

    # Thread.start would make the event loop wait until the new thread has run, up to some GIL intervals on a busy one.
    _thread.start_new_thread(work, ())
    return await future


class _PrivateLoop:
    """One event loop a process, in a daemon thread, for everything that is driven from blocking code."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():  # a fork copies the loop but not its thread
                self._loop = asyncio.new_event_loop()
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._loop.run_forever, name="agentrl-sync", daemon=True)
                self._thread.start()
            return self._loop

    def is_current(self) -> bool:
        return self._thread is threading.current_thread() and self._pid == os.getpid()

    def after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it when the process forked


_private = _PrivateLoop()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_private.after_fork)


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait for `coroutine`, run on the process's private event loop; works inside a running loop, too.

    An interrupt cancels the coroutine. Raises what the coroutine raises, and `AgentRLError` where the caller is itself
    on the private loop and would wait for itself for ever.
    """
    if _private.is_current():
        coroutine.close()
        raise AgentRLError("a blocking call inside a coroutine that a blocking call drives: await it instead")
    future = asyncio.run_coroutine_threadsafe(coroutine, _private.get())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
