"""The rules of the rollout manager, 9 to 15: environments and engines that fail.

A test that fails here means that a rule is broken: do not "fix" the test, and read the rule again.

 9. An environment that raises in make, reset or step: aborted data with the text of the error, and a fresh environment.
10. Environments are closed when the iterator ends; one that then raises or hangs costs no episode its verdict, and no
    more time than a teardown may take.
11. A step that takes too long is a timeout that names the stage; the environment is closed and replaced.
12. The episode's deadline wins over an environment that swallows its cancellation or hangs in close: the environment is
    abandoned, kept until its call ends, and replaced. One that was made too late is closed.
13. A generation that fails is retried after 0.5 s, 1 s, 2 s ...; then the episode is aborted data.
14. An unreachable engine ends the run with EngineError after the finished groups were yielded; so does, with EnvError,
    an environment that cannot be made. An engine that hangs is a timeout.
15. Mistakes are raised, not recorded: of the program, of the user (ConfigError), of the caller's iterable.

Faults in thousands of episodes: test_chaos.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from agentrl.env import Step
from agentrl.errors import ConfigError, EngineError, EnvError
from agentrl.rollout import GroupRequest
from agentrl.rollouts.boundary import _keepers
from agentrl.rollouts.manager import Manager
from agentrl.trajectory import StopReason
from tests.rollouts.fakes import CharRenderer, FakeEngine, WordEnv, World, context_of, requests
from tests.rollouts.semantics import ended, in_virtual_time, left_nothing, only, play


@pytest.mark.parametrize("stage", ["make", "reset", "step", "finish", "reward", "reason"])
@in_virtual_time
async def test_09_an_environment_that_raises_is_data_and_is_replaced(stage: str) -> None:
    world = World()

    class Faulty(WordEnv):
        async def areset(self, **kwargs: Any) -> Any:
            if stage == "reset":
                raise ValueError("no sandbox")
            return await super().areset(**kwargs)

        async def astep(self, action: Any) -> Step:
            if stage == "step":
                raise ValueError("no sandbox")
            step = await super().astep(action)
            info = {**step.info, "stop_reason": "no sandbox"} if stage == "reason" else step.info
            return step._replace(info=info, reward=float("nan") if stage == "reward" else step.reward)

        async def afinish(self, reason: StopReason) -> Any:
            raise ValueError("no sandbox")

        def turns_of(self, seed: int) -> int:
            return 9

    asked = 0

    def make() -> WordEnv:
        nonlocal asked
        asked += 1
        if asked == 1 and stage == "make":
            raise ValueError("no sandbox")
        return Faulty(world) if asked == 1 else WordEnv(world)

    context = context_of(world, FakeEngine(), make, concurrency=1, max_turns=5)
    groups = await play(context, requests(2, size=1))
    assert ended(groups) == [StopReason.ENV_ERROR, StopReason.TERMINATED]
    error = groups[0].trajectories[0].error or ""
    expected = {"reward": "step: EnvError: the reward is nan", "reason": "step: ValueError: 'no sandbox'"}
    assert error.startswith(expected.get(stage, f"{stage}: ValueError: no sandbox"))
    assert groups[0].members == []
    assert (asked, world.open) == (2, 0)


@pytest.mark.parametrize("way", ["raises", "hangs"])
@in_virtual_time
async def test_10_a_close_at_the_end_that_raises_or_hangs_costs_no_verdict(way: str) -> None:
    class Stuck(WordEnv):
        async def aclose(self) -> None:
            await super().aclose()
            if way == "raises":
                raise OSError("still busy")
            await asyncio.Event().wait()

    world, began = World(), asyncio.get_running_loop().time()
    context = context_of(world, FakeEngine(), lambda: Stuck(world), concurrency=2, step_seconds=3.0)
    assert ended(await play(context, requests(3, size=1))) == [StopReason.TERMINATED] * 3
    assert (world.made, world.open) == (2, 0)
    assert asyncio.get_running_loop().time() - began <= 3.0


@in_virtual_time
async def test_11_a_slow_step_is_a_timeout_that_names_the_stage() -> None:
    world = World()

    class Slow(WordEnv):
        async def astep(self, action: Any) -> Step:
            if self.number == 1:
                await asyncio.Event().wait()
            return await super().astep(action)

    context = context_of(world, FakeEngine(), lambda: Slow(world), concurrency=1, step_seconds=0.05)
    groups = await play(context, requests(2, size=1))
    assert ended(groups) == [StopReason.TIMEOUT, StopReason.TERMINATED]
    trajectory = groups[0].trajectories[0]
    assert trajectory.error == "step: not done within step_seconds=0.05"
    assert len(trajectory.turns) == 1 and trajectory.turns[0].sampled_ids
    assert (world.made, world.open) == (2, 0)


@pytest.mark.parametrize("stage", ["reset", "step", "close"])
@in_virtual_time
async def test_12_the_deadline_wins_over_an_environment_that_swallows_cancellation(stage: str) -> None:
    world, release = World(), asyncio.Event()

    class Deaf(WordEnv):
        async def stubborn(self, here: str) -> None:
            while here == stage and self.number == 1 and not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        async def areset(self, **kwargs: Any) -> Any:
            await self.stubborn("reset")
            return await super().areset(**kwargs)

        async def astep(self, action: Any) -> Step:
            await self.stubborn("step")
            if stage == "close" and self.number == 1:
                raise OSError("broken, so it must be closed")
            return await super().astep(action)

        async def aclose(self) -> None:
            await self.stubborn("close")
            await super().aclose()

    engine = FakeEngine()
    context = context_of(world, engine, lambda: Deaf(world), concurrency=1, episode_seconds=0.4)
    groups = await play(context, requests(2, size=1))
    first = StopReason.ENV_ERROR if stage == "close" else StopReason.TIMEOUT
    assert ended(groups) == [first, StopReason.TERMINATED]
    if stage != "close":
        assert groups[0].trajectories[0].error == f"{stage}: not done within episode_seconds=0.4"
    assert not release.is_set()
    assert (world.made, world.open, len(_keepers)) == (2, 1, 1)
    assert engine.sessions == set()
    release.set()
    await asyncio.wait(set(_keepers))
    assert world.open == 0


async def test_12c_an_environment_made_too_late_is_closed() -> None:
    world, release, calls = World(), threading.Event(), count()

    def make() -> WordEnv:
        if next(calls) == 0:
            release.wait()
        return WordEnv(world)

    context = context_of(world, FakeEngine(), make, concurrency=1, step_seconds=0.5, episode_seconds=10.0)
    groups = await play(context, requests(2, size=1))
    assert ended(groups) == [StopReason.TIMEOUT, StopReason.TERMINATED]
    assert groups[0].trajectories[0].error == "make: not done within step_seconds=0.5"
    assert (world.made, world.open) == (1, 0)
    release.set()
    await asyncio.wait(set(_keepers))
    await left_nothing()
    assert (world.made, world.open) == (2, 0)


@in_virtual_time
async def test_13_a_failed_generation_is_retried_with_back_off_then_aborted() -> None:
    world, delays, failures = World(), [], [3]

    async def fail(session: str) -> None:
        if failures[0] > 0:
            failures[0] -= 1
            raise EngineError("no answer")

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    context = context_of(world, FakeEngine(fail), concurrency=1, engine_retries=3)
    assert ended(await play(context, requests(1, size=1), sleep=sleep)) == [StopReason.TERMINATED]
    assert delays == [0.5, 1.0, 2.0]
    failures[0], delays[:] = 3, []
    engine = FakeEngine(fail)
    groups = await play(context_of(world, engine, concurrency=1, engine_retries=2), requests(2, size=1), sleep=sleep)
    assert ended(groups) == [StopReason.ENGINE_ERROR, StopReason.TERMINATED]
    assert groups[0].trajectories[0].error == "generate: no answer"
    assert (delays, engine.sessions) == ([0.5, 1.0], set())


@in_virtual_time
async def test_14_an_unreachable_engine_ends_the_run_after_the_finished_groups() -> None:
    world, answers = World(), [30]

    async def die(session: str) -> None:
        answers[0] -= 1
        if answers[0] < 0:
            raise EngineError("connection refused")

    reported: list[StopReason] = []
    engine, pulled, groups = FakeEngine(die), [], []
    context = context_of(world, engine, engine_retries=0, on_episode=lambda r, t: reported.append(t.stop_reason))
    with pytest.raises(EngineError, match=r"generate failed \d+ times in a row; last: connection refused"):
        async for group in Manager(context).run(requests(1000, pulled=pulled)):
            groups.append(group)
    complete = [group for group in groups if not any(trajectory.aborted for trajectory in group.trajectories)]
    assert complete and len(pulled) < 100
    assert reported.count(StopReason.ENGINE_ERROR) >= 4
    assert (world.open, engine.sessions, engine.clients) == (0, set(), 0)


@in_virtual_time
async def test_14b_an_engine_that_never_answers_ends_even_a_small_run() -> None:
    async def refuse(session: str) -> None:
        raise EngineError("connection refused")

    world, groups = World(), []
    with pytest.raises(EngineError, match="connection refused"):
        async for group in Manager(context_of(world, FakeEngine(refuse), engine_retries=0)).run(requests(1)):
            groups.append(group)
    assert ended(groups) == [StopReason.ENGINE_ERROR] * 2


@in_virtual_time
async def test_14c_an_environment_that_cannot_be_made_ends_the_run() -> None:
    def make() -> Any:
        raise TypeError("unexpected keyword argument 'levle'")

    pulled: list[str] = []
    with pytest.raises(EnvError, match=r"make failed \d+ times in a row; last: TypeError: .*'levle'"):
        await play(context_of(World(), FakeEngine(), make), requests(1000, pulled=pulled))
    assert len(pulled) < 20
    with pytest.raises(EnvError, match="make failed 1 times in a row; last: TypeError"):
        await play(context_of(World(), FakeEngine(), make), requests(1, size=1))


@in_virtual_time
async def test_14d_an_engine_that_hangs_is_a_timeout() -> None:
    async def hang(session: str) -> None:
        await asyncio.Event().wait()

    world, engine = World(), FakeEngine(hang)
    trajectory = only(await play(context_of(world, engine, episode_seconds=0.1), requests(1, size=1)))
    assert (trajectory.stop_reason, trajectory.error) == (
        StopReason.TIMEOUT,
        "generate: not done within episode_seconds=0.1",
    )
    assert (world.made, world.open, engine.sessions) == (1, 0, set())


@pytest.mark.parametrize("culprit", ["renderer", "engine", "observer", "task", "iterable", "size"])
@in_virtual_time
async def test_15_mistakes_are_raised_not_recorded(culprit: str) -> None:
    def fail(*_: Any) -> Any:
        raise TypeError("a mistake")

    async def afail(session: str) -> None:
        fail()

    def wanted() -> Iterator[GroupRequest]:
        yield from requests(2)
        if culprit == "task":
            yield GroupRequest("g", "train:missing", 1, 0)
        if culprit == "size":
            yield GroupRequest("g", "train:1", 0, 0)
        if culprit == "iterable":
            fail()
        yield from requests(100)

    world, renderer = World(), CharRenderer()
    if culprit == "renderer":
        renderer.parse = fail  # type: ignore[method-assign]
    engine = FakeEngine(afail if culprit == "engine" else None)
    context = context_of(world, engine, renderer=renderer, on_episode=fail if culprit == "observer" else None)
    error = ConfigError if culprit in ("task", "size") else TypeError
    with pytest.raises(error, match=r"a mistake|unknown|at least 1"):
        await play(context, wanted())
    assert (world.open, engine.sessions, engine.clients) == (0, set(), 0)
