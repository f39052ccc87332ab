"""The watchdog measures lag, names the code that blocks while it blocks, and keeps out of virtual time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from agentrl.rollouts.watchdog import LagWatchdog
from agentrl.virtual_time import run_virtual


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agentrl-lag"]


def a_blocking_function(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_block_is_measured_and_forgotten_by_reset() -> None:
    async with LagWatchdog(interval=0.01) as watchdog:
        await asyncio.sleep(0.05)
        a_blocking_function(0.2)
        await asyncio.sleep(0.03)
        assert watchdog.worst >= 0.15
        assert watchdog.count >= 2
        assert 0 < watchdog.mean < watchdog.worst
        watchdog.reset()
        assert (watchdog.worst, watchdog.mean, watchdog.count) == (0.0, 0.0, 0)
        await asyncio.sleep(0.03)
        assert watchdog.count >= 1
    assert threads() == []


async def test_a_long_block_is_logged_once_with_the_code_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    said_while_blocked = []

    def reports() -> list[logging.LogRecord]:
        return [record for record in caplog.records if "block_until_said" in record.getMessage()]

    def block_until_said() -> None:
        end = time.monotonic() + 10
        while not reports() and time.monotonic() < end:
            time.sleep(0.01)
        said_while_blocked.append(bool(reports()))
        a_blocking_function(0.3)  # long enough for further looks at the same block

    async with LagWatchdog(interval=0.01, report_above=0.1):
        await asyncio.sleep(0.02)
        block_until_said()
        await asyncio.sleep(0.02)
    assert said_while_blocked == [True]
    [record] = reports()
    assert record.levelno == logging.WARNING
    assert "test_watchdog.py" in record.getMessage()


async def test_short_blocks_and_idling_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with LagWatchdog(interval=0.01, report_above=5):
        a_blocking_function(0.05)
        await asyncio.sleep(0.1)
    assert caplog.records == []


async def test_no_thread_where_warnings_are_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="agentrl.rollouts.watchdog"):
        async with LagWatchdog(interval=0.01) as watchdog:
            assert threads() == []
            await asyncio.sleep(0.05)
            assert watchdog.count >= 1


async def test_start_and_stop_may_be_repeated() -> None:
    watchdog = LagWatchdog(interval=0.01)
    watchdog.stop()
    watchdog.start()
    watchdog.start()
    assert len(threads()) == 1
    watchdog.stop()
    watchdog.stop()
    assert threads() == []
    watchdog.start()
    await asyncio.sleep(0.05)
    watchdog.stop()
    assert watchdog.count >= 1


def test_a_loop_that_does_not_run_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    watchdog = LagWatchdog(interval=0.01, report_above=0.1)

    async def begin() -> None:
        watchdog.start()

    loop.run_until_complete(begin())
    time.sleep(0.3)
    [thread] = threads()
    loop.close()
    thread.join(5)
    assert not thread.is_alive()
    assert caplog.records == []


def test_in_virtual_time_it_neither_moves_the_clock_nor_hides_a_deadlock() -> None:
    async def sleeps() -> int:
        async with LagWatchdog() as watchdog:
            await asyncio.sleep(1e6)
            return watchdog.count

    assert run_virtual(sleeps()) == (0, 1e6)

    async def hangs() -> None:
        async with LagWatchdog():
            await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="deadlock"):
        run_virtual(hangs())


@pytest.mark.parametrize(("interval", "report_above"), [(0, 1), (-1, 1), (1, 0)])
def test_periods_must_be_positive(interval: float, report_above: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        LagWatchdog(interval, report_above)
