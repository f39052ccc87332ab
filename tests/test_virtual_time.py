"""Virtual time: the clock jumps over waits, stands while threads work, and a deadlock is an error."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.bridge import in_thread
from agentrl.virtual_time import VirtualTimeLoop, run_virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_day_passes_at_once_and_is_counted() -> None:
    async def main() -> str:
        await asyncio.gather(*(asyncio.sleep(hours * 3600) for hours in (3, 24, 7)))
        return "done"

    assert run_virtual(main()) == ("done", 24 * 3600)


@given(st.lists(st.integers(0, 1000), max_size=20))
def test_sleepers_wake_in_order_at_their_time(delays: list[int]) -> None:
    async def main() -> list[tuple[float, int]]:
        woken: list[tuple[float, int]] = []

        async def sleeper(index: int, delay: int) -> None:
            await asyncio.sleep(delay)
            woken.append((now(), index))

        await asyncio.gather(*(sleeper(index, delay) for index, delay in enumerate(delays)))
        return woken

    woken, seconds = run_virtual(main())
    assert seconds == max(delays, default=0)
    assert sorted(woken) == sorted((delay, index) for index, delay in enumerate(delays))
    assert [moment for moment, _ in woken] == sorted(delays)
    assert run_virtual(main())[0] == woken  # those that are due together, too


def test_tiny_waits_far_out_still_end() -> None:
    async def main() -> None:
        await asyncio.sleep(1e9)
        for _ in range(100):
            await asyncio.sleep(1e-6)

    _, seconds = run_virtual(main())
    assert seconds == pytest.approx(1e9 + 1e-4, abs=2e-5)


def test_timeouts_and_deadlines_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await asyncio.sleep(601)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 60)
        return now()

    assert run_virtual(main())[0] == pytest.approx(660)


@pytest.mark.parametrize("how", ["in_thread", "to_thread", "executor"])
def test_no_timer_overtakes_a_thread_job(how: str) -> None:
    finish = threading.Event()

    def job() -> str:
        finish.wait(10)
        return "result"

    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        # the job is let go by a real timer, which is sure to come after every virtual one
        threading.Timer(0.05, finish.set).start()
        async with asyncio.timeout(1e-3):
            if how == "in_thread":
                result = await in_thread(job)
            elif how == "to_thread":
                result = await asyncio.to_thread(job)
            else:
                with ThreadPoolExecutor(1) as pool:
                    result = await loop.run_in_executor(pool, job)
        return result, now()

    assert run_virtual(main()) == (("result", 0.0), 0.0)


def test_an_abandoned_thread_does_not_hold_the_clock() -> None:
    finish = threading.Event()

    async def main() -> None:
        waiter = asyncio.create_task(in_thread(finish.wait, 10))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.sleep(5)
        assert not finish.is_set()
        finish.set()

    assert run_virtual(main())[1] == 5


def test_the_end_waits_for_abandoned_workers_of_the_executor() -> None:
    done = threading.Event()

    def job() -> None:
        time.sleep(0.1)
        done.set()

    async def main() -> None:
        waiter = asyncio.create_task(asyncio.to_thread(job))
        await asyncio.sleep(0)
        waiter.cancel()

    run_virtual(main())
    assert done.is_set()


def test_a_declared_foreign_thread_holds_the_clock() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        answer: asyncio.Future[str] = loop.create_future()
        loop.hold(answer)
        threading.Timer(0.02, loop.call_soon_threadsafe, (answer.set_result, "here")).start()
        return await asyncio.wait_for(answer, 1e-3)

    assert run_virtual(main()) == ("here", 0.0)


def test_sockets_are_polled_before_the_clock_moves() -> None:
    async def main() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.send(b"ready")
            early = await asyncio.wait_for(loop.sock_recv(left, 16), 1)
            assert now() == 0
            # without timers the loop waits for the file, however long that takes
            threading.Timer(0.02, right.send, (b" later",)).start()
            late = await loop.sock_recv(left, 16)
        return early + late, now()

    assert run_virtual(main())[0] == (b"ready later", 0.0)


def test_a_deadlock_is_an_error_that_names_the_waiting_code() -> None:
    cleaned = []

    async def waits_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    async def main() -> None:
        await asyncio.sleep(3)
        await asyncio.gather(*(waits_for_ever() for _ in range(20)))

    with pytest.raises(RuntimeError, match=r"deadlock after 3 virtual seconds.*21 waiting tasks") as caught:
        run_virtual(main())
    assert os.path.basename(__file__) in str(caught.value)
    assert "13 more" in str(caught.value)
    assert len(cleaned) == 20


def test_errors_come_out_and_leftovers_are_put_down() -> None:
    ended: list[str] = []

    async def leftover() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append("task")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def main() -> None:
        task = asyncio.create_task(leftover())
        stream = numbers()
        await anext(stream)
        await asyncio.to_thread(time.sleep, 0)
        assert not task.done()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_virtual(main())
    assert sorted(ended) == ["generator", "task"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]
