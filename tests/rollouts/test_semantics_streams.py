"""The rules of the rollout manager, 16 to 22: consumers, workers and threads, options, several environments.

A test that fails here means that a rule is broken: do not "fix" the test, and read the rule again.

16. Closing the iterator, cancelling its consumer (even twice) or breaking out of the loop leaves no task, environment
    or session; episodes in flight are reported as cancelled.
17. A consumer that stops reading stops new episodes, and takes no client of the engine hostage.
18. Episodes that start together have all entered `client()` before one of them generates; who has no successor leaves;
    batches of an engine in lockstep do not depend on latencies.
19. Environments are made when they are needed, never more than episodes play at one time, used again, and closed at
    the end.
20. A blocking environment runs in a thread; so does the tokenising of long texts, and only of those.
21. Options and limits that cannot be honoured are ConfigErrors of one line.
22. Requests name their environment: several mix in one stream, each with its own renderer and its own pool.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import Any

import pytest

from agentrl import registry
from agentrl.env import Env, Step
from agentrl.errors import ConfigError, UnknownNameError
from agentrl.messages import Message, user
from agentrl.rollout import EnvSource, GroupRequest
from agentrl.rollouts.boundary import _keepers
from agentrl.rollouts.independent import IndependentChains
from agentrl.rollouts.manager import Manager
from agentrl.trajectory import StopReason
from tests.rollouts.fakes import CharRenderer, FakeEngine, LockstepEngine, WordEnv, World, context_of, requests
from tests.rollouts.semantics import ended, in_virtual_time, play


@pytest.mark.parametrize("way", ["close", "cancel", "cancel twice", "break"])
@in_virtual_time
async def test_16_an_early_end_leaves_nothing_behind(way: str) -> None:
    world, reported = World(latency=0.003), []

    class Slow(WordEnv):
        async def aclose(self) -> None:
            await asyncio.sleep(0.01)
            await super().aclose()

    engine = FakeEngine(world.event)
    context = context_of(
        world, engine, lambda: Slow(world), concurrency=8, on_episode=lambda r, t: reported.append(t.stop_reason)
    )
    before, halfway = asyncio.all_tasks(), asyncio.Event()

    async def consume() -> None:
        async for _ in Manager(context).run(requests(1000)):
            halfway.set()
            if way == "break":
                break

    async def close() -> None:
        async with aclosing(Manager(context).run(requests(1000))) as groups:
            await anext(groups)

    task = asyncio.ensure_future(close() if way == "close" else consume())
    if way.startswith("cancel"):
        await halfway.wait()
        task.cancel()
        if way == "cancel twice":
            await asyncio.sleep(0.005)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.wait({task})
    while way == "break" and asyncio.all_tasks() - before:  # the loop closes a forgotten generator in a task of its own
        await asyncio.sleep(0.001)
    assert asyncio.all_tasks() == before
    assert (world.open, engine.sessions, engine.clients) == (0, set(), 0)
    assert 0 < reported.count(StopReason.CANCELLED) <= 8
    assert len(reported) < 100


@pytest.mark.parametrize("lockstep", [False, True])
@in_virtual_time
async def test_17_a_consumer_that_stops_reading_stops_new_episodes(lockstep: bool) -> None:
    world, pulled = World(), []
    engine = LockstepEngine() if lockstep else FakeEngine()
    context = context_of(world, engine, concurrency=4)
    groups = Manager(context).run(requests(200, pulled=pulled))

    async def quiet() -> int:
        for _ in range(3000):
            await asyncio.sleep(0)
        return len(world.resets)

    async with aclosing(groups):
        await anext(groups)
        started = await quiet()
        while (now := await quiet()) != started:
            started = now
        # 8 finished ones may wait; each worker may have had one under way and one taken; 2 were read
        assert started <= 8 + 2 * 4 + 2 and len(pulled) <= started // 2 + 1
        assert engine.clients == 0
        assert len([group async for group in groups]) == 199
    assert len(world.resets) == 400


@in_virtual_time
async def test_18_batches_in_lockstep_do_not_depend_on_latencies() -> None:
    async def batches(latency: float, seed: int) -> list[frozenset[str]]:
        engine = LockstepEngine()
        world = World(latency=latency, seed=seed)
        await play(context_of(world, engine, concurrency=5), requests(8, size=3))
        return engine.batches

    reference = await batches(0.0, 0)
    first = {"0/g0/0", "0/g0/1", "0/g0/2", "1/g1/0", "1/g1/1"}
    assert reference[0] == first
    assert len(reference[-1]) < 5  # workers left one by one as the episodes ran out
    for seed in range(3):
        assert await batches(0.004, seed) == reference


@in_virtual_time
async def test_18b_no_generation_before_every_first_episode_has_entered() -> None:
    doors: list[int] = []
    queue = count()

    class SlowDoor(LockstepEngine):
        @asynccontextmanager
        async def client(self) -> AsyncIterator[None]:
            await asyncio.sleep(0.01 * next(queue))
            doors.append(len(self.batches))
            async with super().client():
                yield

    world, engine = World(), SlowDoor()
    await play(context_of(world, engine, concurrency=5), requests(8, size=3))
    assert doors[:5] == [0] * 5
    assert len(engine.batches[0]) == 5


@in_virtual_time
async def test_19_environments_are_made_lazily_used_again_and_closed() -> None:
    world, engine = World(), FakeEngine()
    context = context_of(world, engine, concurrency=4)
    assert await play(context, []) == [] and world.made == 0
    await play(context, requests(1, size=3))
    assert (world.made, world.open) == (3, 0)
    await play(context, requests(20))
    assert (world.made, world.open, engine.clients) == (3 + 4, 0, 0)


@in_virtual_time
async def test_20_blocking_environments_and_long_texts_run_in_threads() -> None:
    here = threading.get_ident()
    stepped: set[int] = set()
    rendered: dict[bool, set[int]] = {False: set(), True: set()}
    closed: list[bool] = []

    class Blocking(Env):
        def tasks(self, split: str) -> Any:
            raise NotImplementedError

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            stepped.add(threading.get_ident())
            length = 30_000 if options["task"] == "train:1" else 10
            return (user("x" * length),), {}

        def step(self, action: Any) -> Step:
            stepped.add(threading.get_ident())
            return Step((), 1.0, True, False, {})

        def close(self) -> None:
            closed.append(True)

    class Watched(CharRenderer):
        def opening(self, messages: Any) -> list[int]:
            rendered[len(messages[0].text) > 20_000].add(threading.get_ident())
            return super().opening(messages)

    world = World()
    context = context_of(world, FakeEngine(), Blocking, Watched(), max_context=100_000)
    groups = await play(context, requests(2, size=1))
    assert ended(groups) == [StopReason.TERMINATED] * 2
    assert stepped and here not in stepped
    assert rendered[False] == {here} and rendered[True] and here not in rendered[True]
    assert closed == [True, True]


def test_21_options_and_limits_are_checked_at_the_start() -> None:
    context = context_of(World(), FakeEngine())
    assert registry.rollouts.get("independent") is IndependentChains
    with pytest.raises(ConfigError, match=r"independent has no option width=4; it takes none$"):
        IndependentChains(context, width=4)
    for key, value in {"concurrency": 0, "max_turns": 0, "episode_seconds": 0.0, "step_seconds": -1.0}.items():
        with pytest.raises(ConfigError, match=rf"rollout\.{key}=.* must be"):
            IndependentChains(context_of(World(), FakeEngine(), **{key: value}))


@in_virtual_time
async def test_21b_independent_chains_yield_the_manager_s_groups() -> None:
    groups = [group async for group in IndependentChains(context_of(World(), FakeEngine())).run(requests(3, size=5))]
    assert sorted((group.group_id, len(group.members)) for group in groups) == [("g0", 5), ("g1", 5), ("g2", 5)]


def test_messages_of_a_history_end_before_the_observation() -> None:
    """The fake renderer asserts what the real one demands; here that the fake is no laxer."""
    with pytest.raises(AssertionError):
        CharRenderer().next_context([], [], [Message.from_wire({"role": "user", "content": "x"})], [])


class Shouting(CharRenderer):
    """Renders in capitals, so that what came through it shows."""

    def opening(self, messages: Any) -> list[int]:
        return [ord(chr(token).upper()) for token in super().opening(messages)]


@in_virtual_time
async def test_22_environments_mix_in_one_stream_each_with_its_renderer() -> None:
    words, numbers, engine = World(latency=0.01), World(latency=0.05), FakeEngine()
    envs = {"numbers": EnvSource(numbers.make_env, Shouting())}  # type: ignore[arg-type]
    context = context_of(words, engine, envs=envs, concurrency=6)
    wanted = [GroupRequest(f"g{i}", f"train:{i}", 2, i, "numbers" if i % 2 else "") for i in range(20)]
    groups = await play(context, wanted)
    assert {group.group_id for group in groups} == {f"g{i}" for i in range(20)}
    assert {task for task, _ in words.resets} == {f"train:{i}" for i in range(0, 20, 2)}
    assert {task for task, _ in numbers.resets} == {f"train:{i}" for i in range(1, 20, 2)}
    for group in groups:
        for trajectory in group.trajectories:
            text = "".join(map(chr, trajectory.context_ids(0)))
            assert text == ("USER:TASK {}\n" if int(group.group_id[1:]) % 2 else "user:task {}\n").format(
                trajectory.task_id.upper() if int(group.group_id[1:]) % 2 else trajectory.task_id
            )
    assert (words.open, numbers.open) == (0, 0)
    assert max(words.made, numbers.made) <= 6


@in_virtual_time
async def test_22b_an_unknown_environment_is_the_user_s_mistake() -> None:
    envs = {"numbers": EnvSource(World().make_env, CharRenderer())}  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"env='nubmers' is no environment of this rollout; .*numbers"):
        await play(context_of(World(), FakeEngine(), envs=envs), [GroupRequest("g", "train:1", 1, 0, "nubmers")])


async def test_17b_an_end_while_episodes_are_being_stopped_begins_no_others() -> None:
    """A stopped episode takes its cancellation for its own; the iterator's must not get lost behind it."""
    world, reported = World(latency=0.01), list[StopReason]()
    engine = FakeEngine(world.event)
    manager = Manager(context_of(world, engine, on_episode=lambda r, t: reported.append(t.stop_reason)))
    groups = manager.run(requests(50))
    await anext(groups)
    for stream in list(manager._services.streams):
        stream.discard_all()
    before = len(reported)
    await groups.aclose()
    assert 0 < len(reported) - before <= 4 and StopReason.STALE in reported
    if _keepers:  # an environment that was being made in a thread is closed when it is there
        await asyncio.wait(set(_keepers))
    assert (world.open, engine.sessions, engine.clients) == (0, set(), 0)
