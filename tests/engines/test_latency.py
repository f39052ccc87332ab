"""Latency models on a loop with virtual time: what a completion costs, and what waits for what."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

import pytest

from agentrl.engines.latency import Batch, Constant, Given, Job, Latency, LogNormal, PerToken, Work
from agentrl.errors import ConfigError, EngineError
from agentrl.virtual_time import run_virtual


async def play(batch: Batch, *arrivals: tuple[float, int, int]) -> list[Job]:
    """Jobs (arrival in seconds, prompt tokens, tokens) through the batch."""

    async def one(at: float, prompt: int, tokens: int) -> Job:
        await asyncio.sleep(at)
        job = batch.submit([0] * prompt, [0] * tokens, None)
        await batch.finish(job)
        return job

    return list(await asyncio.gather(*(one(*arrival) for arrival in arrivals)))


def seconds(batch: Batch, *arrivals: tuple[float, int, int]) -> list[tuple[float, ...]]:
    jobs, _ = run_virtual(play(batch, *arrivals))
    assert (batch.running, batch.waiting) == (0, 0)
    return [tuple(round(value, 6) for value in job.seconds) for job in jobs]


def test_what_one_completion_costs() -> None:
    assert Constant(2.0).work([1], [2], None) == Work(0.0, 2.0)
    assert PerToken(100, 10).work([1] * 50, [2] * 5, None) == Work(0.5, 0.5)
    assert Given(lambda prompt, ids: len(prompt) + 0.5 * len(ids)).work([1, 2], [3] * 4, None) == Work(0.0, 4.0)


def test_log_normal_has_the_mean_and_the_spread_that_it_is_given() -> None:
    model = LogNormal(4.0, 0.5, seed=3)
    drawn = [model.work([1, 2], [3], seed).decode for seed in range(4000)]
    assert drawn == [model.work([1, 2], [3], seed).decode for seed in range(4000)]
    assert fmean(drawn) == pytest.approx(4.0, abs=0.1)  # 3 standard errors
    assert pstdev(map(math.log, drawn)) == pytest.approx(0.5, abs=0.02)
    assert drawn[0] != LogNormal(4.0, 0.5, seed=4).work([1, 2], [3], 0).decode
    assert drawn[0] != model.work([1, 5], [3], 0).decode


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(-1.0), "seconds=-1.0 must be at least 0"),
        (lambda: LogNormal(0.0, 1.0), "mean=0.0 must be positive"),
        (lambda: LogNormal(1.0, math.nan), "sigma=nan"),
        (lambda: PerToken(0, 1), "prefill_rate=0 must be positive"),
        (lambda: Batch(Constant(1.0), slots=0), "slots=0 must be at least 1"),
        (lambda: Batch(Constant(1.0), capacity=0), "capacity=0 must be positive"),
    ],
)
def test_mistakes_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_without_limits_nothing_waits() -> None:
    assert seconds(Batch(PerToken(10, 1)), (0, 10, 2), (0.5, 20, 1)) == [(0, 1, 2), (0, 2, 1)]


def test_slots_queue_in_order_of_arrival() -> None:
    batch = Batch(PerToken(1e12, 1), slots=2)
    assert seconds(batch, (0, 0, 3), (0, 0, 5), (1, 0, 1), (1.5, 0, 2)) == [
        (0, 0, 3),
        (0, 0, 5),
        (2, 0, 1),
        (2.5, 0, 2),
    ]


def test_running_jobs_slow_down_alike_beyond_the_capacity() -> None:
    # Two jobs of 2 s at half speed from 0 to 2 (1 s of work each); then the third shares for its 1 s of work.
    batch = Batch(PerToken(1e12, 1), capacity=1)
    times = seconds(batch, (0, 0, 2), (0, 0, 2), (2, 0, 1))
    # From 2 on three share: each needs 1 more second of work, which takes three: all end at 5.
    assert times == [(0, 0, 5), (0, 0, 5), (0, 0, 3)]
    assert seconds(Batch(PerToken(1e12, 1), capacity=2), (0, 0, 2), (0, 0, 2)) == [(0, 0, 2), (0, 0, 2)]


def test_a_job_that_leaves_gives_its_speed_back() -> None:
    # 1 s and 3 s of work share one unit: the short one ends at 2, the long one has done 1 and needs 2 more alone.
    assert seconds(Batch(PerToken(1e12, 1), capacity=1), (0, 0, 1), (0, 0, 3)) == [(0, 0, 2), (0, 0, 4)]


def test_cancelled_jobs_make_room_at_once() -> None:
    async def scenario() -> list[float]:
        batch = Batch(Constant(10.0), slots=1)
        loop, ended = asyncio.get_running_loop(), []

        async def one() -> None:
            await batch.finish(batch.submit([], [], None))
            ended.append(loop.time())

        tasks = [asyncio.create_task(one()) for _ in range(4)]
        await asyncio.sleep(4)
        assert (batch.running, batch.waiting) == (1, 3)
        tasks[1].cancel()  # while it waits
        tasks[0].cancel()  # while it runs
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (batch.running, batch.waiting) == (1, 1)
        await asyncio.gather(*tasks, return_exceptions=True)
        return ended

    assert run_virtual(scenario())[0] == [14.0, 24.0]


def test_tokens_come_at_a_steady_rate() -> None:
    async def scenario() -> list[int]:
        batch = Batch(PerToken(10, 4), slots=1)
        first, second = batch.submit([0] * 10, [0] * 8, None), batch.submit([], [0], None)
        seen = []
        for _ in range(8):
            seen.append(batch.decoded(first))
            await asyncio.sleep(0.5)
        assert batch.decoded(second) == 1
        await asyncio.gather(batch.finish(first), batch.finish(second))
        return seen

    assert run_virtual(scenario())[0] == [0, 0, 0, 2, 4, 6, 8, 8]


def test_failing_ends_every_job() -> None:
    async def scenario() -> list[BaseException | None]:
        batch = Batch(Constant(10.0), slots=1)
        jobs = [asyncio.create_task(batch.finish(batch.submit([], [], None))) for _ in range(3)]
        await asyncio.sleep(1)
        batch.fail("switched off")
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert (batch.running, batch.waiting) == (0, 0)
        await batch.finish(batch.submit([], [], None))  # and it goes on
        return results

    results, took = run_virtual(scenario())
    assert took == 11.0
    assert [type(result) for result in results] == [EngineError] * 3


async def test_clock_and_sleep_may_be_given() -> None:
    now = 100.0

    async def sleep(passing: float) -> None:
        nonlocal now
        now += passing

    batch = Batch(PerToken(10, 1), clock=lambda: now, sleep=sleep)
    job = batch.submit([0] * 20, [0] * 3, None)
    await batch.finish(job)
    assert (now, job.seconds) == (105.0, (0.0, 2.0, 3.0))


async def test_a_sleep_that_raises_ends_the_jobs() -> None:
    async def sleep(passing: float) -> None:
        raise EngineError("no time")

    batch = Batch(Constant(1.0), sleep=sleep)
    job = batch.submit([], [], None)
    with pytest.raises(EngineError, match="time stopped passing: EngineError: no time"):
        await batch.finish(job)
    assert batch.running == 0


def reference(model: Latency, arrivals: Sequence[tuple[float, int, int]], slots: int, capacity: float) -> list[float]:
    """End of each job by small steps of time: slow, and obviously right to within a step."""
    step, now = 0.001, 0.0
    left = [sum((work := model.work([0] * p, [0] * n, None), work.prefill + work.decode)[1:]) for _, p, n in arrivals]
    ends = [-1.0] * len(arrivals)
    queue = sorted(range(len(arrivals)), key=lambda index: (arrivals[index][0], index))
    running: list[int] = []
    while min(ends) < 0:
        while queue and arrivals[queue[0]][0] <= now and len(running) < slots:
            running.append(queue.pop(0))
        speed = min(1.0, capacity / max(1, len(running)))
        now += step
        for index in list(running):
            left[index] -= speed * step
            if left[index] <= 1e-9:
                ends[index] = now
                running.remove(index)
    return ends


@pytest.mark.parametrize("seed", range(8))
def test_times_agree_with_a_simulation_in_small_steps(seed: int) -> None:
    draw = random.Random(seed)
    arrivals = [(draw.uniform(0, 2), draw.randrange(0, 10), draw.randrange(1, 10)) for _ in range(12)]
    slots, capacity = draw.randrange(1, 6), draw.uniform(0.5, 4)
    model = PerToken(20, 10)
    jobs, _ = run_virtual(play(Batch(model, slots=slots, capacity=capacity), *arrivals))
    for job, (at, _, _), end in zip(jobs, arrivals, reference(model, arrivals, slots, capacity), strict=True):
        assert sum(job.seconds) == pytest.approx(end - at, abs=0.05)  # a few dozen steps of rounding
