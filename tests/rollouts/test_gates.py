"""Gates: who goes first, limits that change, and no slot lost whatever is cancelled when."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.rollouts.gates import PriorityGate
from agentrl.virtual_time import run_virtual


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def visit(gate: PriorityGate, order: list[str], name: str, priority: float = 0, seconds: float = 1) -> float:
    async with gate.enter(priority) as waited:
        order.append(name)
        await asyncio.sleep(seconds)
    return waited


def test_the_highest_priority_goes_first_and_equals_in_order() -> None:
    order: list[str] = []

    async def main() -> list[float]:
        gate = PriorityGate(1)
        guests = [("first", 0), ("low-a", 1), ("high-a", 5), ("low-b", 1), ("high-b", 5), ("mid", 2.5)]
        return await asyncio.gather(*(visit(gate, order, name, priority) for name, priority in guests))

    waited, seconds = run_virtual(main())
    assert order == ["first", "high-a", "high-b", "mid", "low-a", "low-b"]
    assert waited == pytest.approx([0, 4, 1, 5, 2, 3])
    assert seconds == pytest.approx(6)


def test_no_limit_means_nobody_waits() -> None:
    async def main() -> PriorityGate:
        gate = PriorityGate()
        assert await asyncio.gather(*(visit(gate, [], "x") for _ in range(50))) == [0.0] * 50
        return gate

    gate, seconds = run_virtual(main())
    assert (seconds, gate.running, gate.waiting) == (1, 0, 0)


def test_a_raised_limit_admits_at_once_and_a_lowered_one_waits_for_exits() -> None:
    async def main() -> None:
        gate = PriorityGate(2)
        tasks = [asyncio.create_task(visit(gate, [], str(index), seconds=10)) for index in range(12)]
        await turns()
        assert (gate.running, gate.waiting) == (2, 10)
        gate.limit = 5
        await turns()
        assert (gate.running, gate.waiting) == (5, 7)
        gate.limit = 1
        await asyncio.sleep(5)
        assert (gate.running, gate.waiting) == (5, 7)
        await asyncio.sleep(6)
        assert (gate.running, gate.waiting) == (1, 6)
        gate.limit = None
        await turns()
        assert (gate.running, gate.waiting) == (7, 0)
        gate.limit = 3
        await asyncio.gather(*tasks)
        assert (gate.running, gate.waiting, gate.limit) == (0, 0, 3)

    run_virtual(main())


def test_a_slot_granted_to_a_cancelled_waiter_is_passed_on() -> None:
    order: list[str] = []

    async def main() -> None:
        gate = PriorityGate(1)
        await gate.acquire()
        doomed = asyncio.create_task(visit(gate, order, "doomed", priority=1))
        heir = asyncio.create_task(visit(gate, order, "heir"))
        await turns()
        gate.release()
        doomed.cancel()  # after it was admitted, before it could run
        await asyncio.wait({doomed, heir})
        assert doomed.cancelled()
        assert order == ["heir"]
        assert (gate.running, gate.waiting) == (0, 0)

    run_virtual(main())


def test_a_cancelled_waiter_is_skipped() -> None:
    async def main() -> None:
        gate = PriorityGate(1)
        await gate.acquire()
        waiter = asyncio.create_task(gate.acquire())
        await turns()
        waiter.cancel()
        gate.release()  # the waiter's future is cancelled, its task has not run yet
        await asyncio.wait({waiter})
        assert (gate.running, gate.waiting) == (0, 0)
        assert await asyncio.wait_for(gate.acquire(), 1) == 0.0

    run_virtual(main())


def test_an_error_inside_gives_the_slot_back() -> None:
    async def main() -> None:
        gate = PriorityGate(1)
        with pytest.raises(KeyError):
            async with gate.enter():
                raise KeyError
        assert gate.running == 0

    run_virtual(main())


def test_the_queue_does_not_grow_by_cancelled_waiters() -> None:
    async def main() -> None:
        gate = PriorityGate(1)
        await gate.acquire()
        for _ in range(50):
            waiters = [asyncio.create_task(gate.acquire()) for _ in range(20)]
            await turns(1)
            for waiter in waiters:
                waiter.cancel()
            await asyncio.wait(waiters)
        assert gate.waiting == 0
        assert len(gate._queue) <= 64

    run_virtual(main())


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="limit="):
        PriorityGate(limit)
    gate = PriorityGate(1)
    with pytest.raises(ValueError, match="limit="):
        gate.limit = limit
    assert gate.limit == 1


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_no_slot_is_lost_and_no_limit_broken_under_random_cancellation(seed: int) -> None:
    chance = random.Random(seed)
    entered: list[int] = []

    async def guest(gate: PriorityGate, index: int) -> None:
        await asyncio.sleep(chance.random() * 5)
        async with gate.enter(chance.randrange(3)):
            entered.append(index)
            assert gate.limit is None or gate.running <= max(gate.limit, highest[0])
            await asyncio.sleep(chance.random())

    highest = [1]

    async def main() -> None:
        gate = PriorityGate(1)
        tasks = [asyncio.create_task(guest(gate, index)) for index in range(40)]
        for _ in range(30):
            await asyncio.sleep(chance.random() / 2)
            if chance.random() < 0.3:
                gate.limit = chance.choice([1, 2, 4, None])
                highest[0] = max(highest[0], gate.limit or 40)
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
        gate.limit = 2
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()
        assert (gate.running, gate.waiting) == (0, 0)
        assert {index for index, task in enumerate(tasks) if not task.cancelled()} <= set(entered)

    run_virtual(main())
