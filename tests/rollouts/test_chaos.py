"""Chaos: what the manager does with engines that die, tools that hang and environments that raise, thousands of times.

After each test the books must balance: every episode is accounted for and none twice, every environment that was made
is closed, every session of the engine ended, and no task, thread, child process or descriptor is left.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from agentrl.account import BatchAccount
from agentrl.engines.base import Engine
from agentrl.rollout import GroupRequest, RolloutContext
from agentrl.rollouts.boundary import _keepers
from agentrl.rollouts.manager import Manager
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.virtual_time import run_virtual
from tests.rollouts.fakes import FakeEngine, World, context_of
from tests.rollouts.faults import Books, Faults, FaultyBlockingEnv, FaultyEngine, FaultyEnv

T = TypeVar("T")

pytestmark = pytest.mark.usefixtures("nothing_left")

FAILED = {StopReason.TIMEOUT, StopReason.ENV_ERROR, StopReason.ENGINE_ERROR}
PATIENCE = 20.0
"""Seconds that an ended thread or process may take to be gone."""


@dataclass
class Ledger:
    """What `on_episode` was told, to be compared with what the iterator yielded."""

    entries: list[tuple[str, int]] = field(default_factory=list)
    reasons: Counter[StopReason] = field(default_factory=Counter)

    def __call__(self, request: GroupRequest, trajectory: Trajectory) -> None:
        self.entries.append((request.group_id, trajectory.member))
        self.reasons[trajectory.stop_reason] += 1

    def check(self, groups: list[Group], number: int, size: int) -> None:
        """`number` groups of `size` were asked for and none was dropped: all came out, each episode once."""
        yielded = [(group.group_id, each.member) for group in groups for each in group.trajectories]
        assert sorted(yielded) == sorted(self.entries)
        assert len(set(yielded)) == len(yielded)
        assert sorted(group.group_id for group in groups) == sorted(f"g{index}" for index in range(number))
        for group in groups:
            assert [each.member for each in group.trajectories] == list(range(len(group.trajectories)))
            assert len(group.trajectories) >= size
        for each in (each for group in groups for each in group.trajectories):
            assert (each.error is not None) == each.aborted, (each.stop_reason, each.error)
            assert each.aborted or each.turns


def children(pid: int | str = "self") -> set[int]:
    """Processes that this one has started and that still are, and those that they have started."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            found |= {int(child) for child in path.read_text().split()}
    return found.union(*(children(child) for child in found))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def wait_for(done: Callable[[], bool]) -> None:
    """Until it is so, or patience ends; blocks the thread, as what is waited for runs in others."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < deadline:
        pause.wait(0.05)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No thread, child process or descriptor outlives a test."""

    def left() -> tuple[set[threading.Thread], set[int], set[str]]:
        return (set(threading.enumerate()) - before[0], children() - before[1], descriptors() - before[2])

    gc.collect()
    before = (set(threading.enumerate()), children(), descriptors())
    yield
    gc.collect()
    wait_for(lambda: not any(left()))
    assert not any(remaining := left()), remaining


def virtually(call: Coroutine[Any, Any, T], faults: Faults) -> T:
    """What the coroutine returns, in virtual time; should it fail, nothing stubborn keeps the loop from ending."""

    async def run() -> T:
        try:
            return await call
        finally:
            faults.release()

    return run_virtual(run())[0]


async def settled(engine: Engine, faults: Faults, books: Books) -> None:
    """Let go of what was stuck; then nothing is left on the loop or in the books."""
    faults.release()
    while keepers := set(_keepers):
        await asyncio.wait(keepers)
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert isinstance(engine, FaultyEngine)
    # a call that was given up goes on in its thread, which a busy machine may run late
    wait_for(lambda: books.made == books.closed and not books.open)
    assert (books.open, books.sessions, engine.sessions) == (set(), set(), set())
    assert books.made == books.closed


def requests(number: int, size: int, pulled: list[str] | None = None) -> Iterator[GroupRequest]:
    """`number` groups of `size`, over the thousand tasks that there are; ids are appended to `pulled` as they go."""
    for index in range(number):
        if pulled is not None:
            pulled.append(f"g{index}")
        yield GroupRequest(f"g{index}", f"train:{index % 1000}", size, seed=index)


def faulty_context(
    faults: Faults, books: Books, ledger: Ledger | None = None, *, env: Any = FaultyEnv, turns: int = 6, **options: Any
) -> RolloutContext:
    """Many episodes at once over an engine that takes its time; deadlines of a few (virtual) seconds."""

    random = Random(faults.seed)

    async def decode(session: str) -> None:
        await asyncio.sleep(0.1 * random.random())

    engine = FaultyEngine(FakeEngine(decode), faults)
    settings = {"concurrency": 256, "episode_seconds": 8.0, "step_seconds": 1.0, "generate_seconds": 1.0, **options}
    return context_of(World(), engine, lambda: env(faults, books, turns), on_episode=ledger, **settings)


async def play(context: RolloutContext, number: int, size: int, **options: Any) -> list[Group]:
    return [group async for group in Manager(context, **options).run(requests(number, size))]


# -- faults everywhere -------------------------------------------------------------------------------------------------

ONE_PERCENT = {
    **{"make.raise": 0.01, "reset.raise": 0.004, "reset.slow": 0.004, "reset.hang": 0.0015, "reset.stubborn": 0.0005},
    **{"step.raise": 0.004, "step.slow": 0.004, "step.hang": 0.0018, "step.stubborn": 0.0002},
    **{"finish.raise": 0.01, "close.raise": 0.005, "close.hang": 0.005, "end_session.raise": 0.01},
    **{"generate.raise": 0.007, "generate.hang": 0.0025, "generate.stubborn": 0.0002, "generate.die": 0.0003},
}
"""1 % at every stage."""


@pytest.mark.parametrize(
    ("on_failure", "number"),
    [pytest.param("minimum_group", 1250, marks=pytest.mark.slow), ("retry", 250)],
)
def test_one_percent_of_faults_everywhere_and_every_episode_is_accounted_for(on_failure: str, number: int) -> None:
    faults, books, ledger = Faults(ONE_PERCENT, seed=1), Books(), Ledger()

    async def run() -> tuple[list[Group], BatchAccount]:
        context = faulty_context(
            faults, books, ledger, max_turns=5, engine_retries=1, policies={"on_failure": on_failure}
        )
        manager = Manager(context)
        groups = [group async for group in manager.run(requests(number, 4))]
        await settled(context.engine, faults, books)
        return groups, manager.account()

    groups, account = virtually(run(), faults)
    ledger.check(groups, number, 4)
    failed = sum(ledger.reasons[reason] for reason in FAILED)
    assert failed > number / 10
    assert set(ledger.reasons) == FAILED | {StopReason.TERMINATED, StopReason.MAX_TURNS}
    assert (account.episodes, account.dropped_groups) == (len(ledger.entries), 0)
    assert sum(account.shares.values()) == pytest.approx(1.0)
    if on_failure == "retry":
        assert account.replayed == failed
        assert len(ledger.entries) == 4 * number + failed
        assert {len(group.members) for group in groups} == {4}
    else:
        assert all(faults.done[key] > 0 for key in ONE_PERCENT), faults.done
        assert (len(ledger.entries), account.replayed) == (4 * number, 0)


def test_groups_that_lose_too_many_are_dropped_replaced_and_counted() -> None:
    faults, books, ledger = Faults({"step.raise": 0.08}, seed=2), Books(), Ledger()
    pulled: list[str] = []

    async def run() -> tuple[list[Group], BatchAccount]:
        policies = {"on_failure": {"name": "minimum_group", "members": 4}}
        context = faulty_context(faults, books, ledger, policies=policies)
        manager = Manager(context)
        groups = [group async for group in manager.run(requests(10_000, 4, pulled), wanted=200)]
        await settled(context.engine, faults, books)
        return groups, manager.account()

    groups, account = virtually(run(), faults)
    assert len(groups) == 200
    assert all(len(group.members) == len(group.trajectories) == 4 for group in groups)
    assert account.dropped_groups > 100
    assert len(pulled) == 200 + account.dropped_groups
    assert account.episodes == len(ledger.entries) == len(set(ledger.entries)) == 4 * len(pulled)


@pytest.mark.parametrize("env", [FaultyEnv, FaultyBlockingEnv])
@pytest.mark.parametrize("kind", ["raise", "hang", "stubborn"])
@pytest.mark.parametrize("stage", ["make", "reset", "step", "close"])
async def test_an_environment_that_fails_at_a_stage_costs_its_own_episodes_only(
    env: Any, stage: str, kind: str
) -> None:
    rates = {f"{stage}.{kind}": 0.2} if stage != "close" else {"step.raise": 0.3, f"close.{kind}": 0.5}
    faults, books, ledger = Faults(rates, seed=3), Books(), Ledger()
    limits = {"concurrency": 16, "step_seconds": 0.5, "episode_seconds": 5.0}
    context = faulty_context(faults, books, ledger, env=env, turns=3, **limits)
    context.engine.inner.before = None  # type: ignore[attr-defined]
    groups = await play(context, 12, 4)
    await settled(context.engine, faults, books)
    ledger.check(groups, 12, 4)
    assert faults.done[f"{stage}.{kind}"] > 0
    assert ledger.reasons[StopReason.TERMINATED] > 0
    assert set(ledger.reasons) <= {StopReason.TERMINATED, StopReason.TIMEOUT, StopReason.ENV_ERROR}


@pytest.mark.parametrize("way", ["close", "cancel"])
def test_a_consumer_that_leaves_in_the_midst_of_chaos_leaves_nothing(way: str) -> None:
    faults, books, ledger = Faults({key: 3 * rate for key, rate in ONE_PERCENT.items()}, seed=4), Books(), Ledger()

    async def run() -> list[Group]:
        context = faulty_context(faults, books, ledger)
        groups: list[Group] = []

        async def consume() -> None:
            async with aclosing(Manager(context).run(requests(100_000, 4))) as stream:
                async for group in stream:
                    groups.append(group)
                    if way == "close" and len(groups) == 50:
                        return

        task = asyncio.ensure_future(consume())
        if way == "cancel":
            await asyncio.sleep(2.0)
            task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() == (way == "cancel")
        await settled(context.engine, faults, books)
        return groups

    groups = virtually(run(), faults)
    assert len(set(ledger.entries)) == len(ledger.entries)
    yielded = {(group.group_id, each.member) for group in groups for each in group.trajectories}
    assert len(groups) >= 20 and yielded <= set(ledger.entries)
    assert ledger.reasons[StopReason.CANCELLED] > 100


# -- engines that die --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 3])
def test_an_engine_killed_in_mid_decode_and_restarted_loses_nothing(retries: int) -> None:
    faults, books, ledger = Faults({"step.slow": 1.0}), Books(), Ledger()

    async def run() -> tuple[list[Group], int]:
        context = faulty_context(faults, books, ledger, engine_retries=retries, concurrency=32)
        engine = context.engine
        assert isinstance(engine, FaultyEngine)

        async def strike() -> None:
            for _ in range(5):
                await asyncio.sleep(1.07)
                engine.kill(down_seconds=0.3 if retries else 0.0)

        striking = asyncio.ensure_future(strike())
        groups = await play(context, 256, 4)
        assert engine.deaths == 5
        await striking
        await settled(engine, faults, books)
        return groups, engine.lost

    groups, lost = virtually(run(), faults)
    ledger.check(groups, 256, 4)
    assert lost > 40
    if retries:
        assert set(ledger.reasons) == {StopReason.TERMINATED}
    else:
        assert ledger.reasons == {StopReason.ENGINE_ERROR: lost, StopReason.TERMINATED: 1024 - lost}
