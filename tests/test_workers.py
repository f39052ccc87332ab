"""The worker pool: results, failures by kind, hard kill, memory cap, no strays, any loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl.bridge import run_sync
from agentrl.errors import ConfigError
from agentrl.workers import WorkerDied, WorkerFailed, WorkerPool, WorkerTimeout, shared_pool

F = "tests.workers_functions:"


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(size=2, memory=1 << 30)
    yield made
    made.close()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_function_is_called_and_its_worker_used_again(pool: WorkerPool) -> None:
    assert await pool.run(F + "double", 21) == 42
    first = await pool.run(F + "process_id")
    assert first != os.getpid()
    assert await pool.run(F + "process_id") == first


async def test_large_arguments_and_results_arrive_whole(pool: WorkerPool) -> None:
    data = os.urandom(5_000_000)
    assert await pool.run(F + "echo", data) == data


async def test_what_the_function_raises_is_told(pool: WorkerPool) -> None:
    with pytest.raises(WorkerFailed, match="LookupError: no such thing") as caught:
        await pool.run(F + "fail", "no such thing")
    assert (caught.value.kind, caught.value.message) == ("LookupError", "no such thing")
    assert "in fail" in caught.value.trace
    with pytest.raises(WorkerFailed, match="SystemExit: bye"):
        await pool.run(F + "leave")
    with pytest.raises(WorkerFailed, match="AttributeError"):
        await pool.run(F + "absent")
    with pytest.raises(WorkerFailed, match="pickle"):
        await pool.run(F + "unpicklable")
    assert await pool.run(F + "double", 1) == 2


async def test_a_function_that_does_not_return_is_killed(pool: WorkerPool) -> None:
    pid = await pool.run(F + "process_id")
    with pytest.raises(WorkerTimeout, match="spin did not return within"):
        await pool.run(F + "spin", timeout=0.3)
    assert not alive(pid)
    assert await pool.run(F + "double", 2) == 4


async def test_memory_is_capped_and_a_death_is_told(pool: WorkerPool) -> None:
    with pytest.raises(WorkerDied, match="exit code 1"):
        await pool.run(F + "allocate", 2 << 30)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await pool.run(F + "die")
    assert await pool.run(F + "allocate", 1000) == 1000


async def test_a_cancelled_call_kills_its_worker_and_the_next_in_line_is_served(pool: WorkerPool) -> None:
    tasks = [asyncio.create_task(pool.run(F + "sleep", 60, timeout=90)) for _ in range(2)]
    while len(pool._workers) < 2:
        await asyncio.sleep(0.01)
    waiting = asyncio.create_task(pool.run(F + "double", 4))
    given_up = asyncio.create_task(pool.run(F + "double", 5))
    await asyncio.sleep(0.05)
    given_up.cancel()
    tasks[0].cancel()
    assert await asyncio.wait_for(waiting, 30) == 8
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, given_up, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


async def test_no_more_workers_than_its_size(pool: WorkerPool) -> None:
    pids = await asyncio.gather(*(pool.run(F + "process_id") for _ in range(50)))
    assert 1 <= len(set(pids)) <= 2


async def test_a_worker_is_replaced_after_many_calls(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.workers.MAX_CALLS", 3)
    pids = [await pool.run(F + "process_id") for _ in range(6)]
    assert len(set(pids)) == 2
    assert not alive(pids[0])


async def test_a_closed_pool_has_no_workers_and_takes_no_calls(pool: WorkerPool) -> None:
    pid = await pool.run(F + "process_id")
    running = asyncio.create_task(pool.run(F + "sleep", 60, timeout=90))
    await asyncio.sleep(0.1)
    pool.close()
    with pytest.raises(WorkerDied):
        await running
    assert not alive(pid)
    with pytest.raises(WorkerDied, match="closed"):
        await pool.run(F + "double", 1)


def test_the_shared_pool_serves_several_loops_and_blocking_code() -> None:
    assert asyncio.run(shared_pool().run(F + "double", 3)) == 6
    assert asyncio.run(shared_pool().run(F + "double", 4)) == 8
    assert run_sync(shared_pool().run(F + "double", 5)) == 10


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="size=-1"):
        WorkerPool(size=-1)


def test_workers_die_with_their_process(tmp_path: Path) -> None:
    """Killed by -9 while a worker is in a call: the worker's own alarm ends it."""
    path = tmp_path / "pid"
    code = (
        "import asyncio; from agentrl.workers import shared_pool; "
        f"asyncio.run(shared_pool().run('tests.workers_functions:note', {str(path)!r}, timeout=0.5))"
    )
    host = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while not (path.exists() and path.read_text()):
        assert host.poll() is None
        time.sleep(0.01)
    host.kill()
    host.wait()
    worker, patience = int(path.read_text()), time.monotonic() + 30
    while alive(worker) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not alive(worker)
