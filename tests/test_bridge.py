"""Bridges between coroutines and threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextvars import ContextVar

import pytest

from agentrl.bridge import in_thread, run_sync

variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_in_thread_gives_results_errors_and_context() -> None:
    variable.set("set")
    assert await in_thread(variable.get) == "set"
    assert await in_thread(lambda a, *, b: (a, b), 1, b=2) == (1, 2)
    assert await in_thread(lambda: threading.current_thread() is threading.main_thread()) is False
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_an_exception_that_no_future_can_carry_is_translated() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_thread(next, iter(()))


async def test_a_cancelled_wait_returns_while_the_thread_goes_on() -> None:
    release, began, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        release.wait(60)
        finished.set()

    task = asyncio.ensure_future(in_thread(work))
    while not began.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not finished.is_set()
    release.set()
    assert await in_thread(finished.wait, 60)


async def test_run_sync_works_inside_a_running_loop_and_on_one_loop() -> None:
    async def loop_id() -> int:
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop())

    first, second = run_sync(loop_id()), run_sync(loop_id())
    assert first == second != id(asyncio.get_running_loop())


def test_a_thread_that_hangs_does_not_keep_the_program() -> None:
    code = (
        "import asyncio, threading\n"
        "from agentrl.bridge import in_thread, run_sync\n"
        "async def main():\n"
        "    asyncio.ensure_future(in_thread(threading.Event().wait))\n"
        "    await asyncio.sleep(0.01)\n"
        "asyncio.run(main()); run_sync(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
