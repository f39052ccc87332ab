"""The rules of the rollout manager, 23 to 28: limits and deadlines.

A test that fails here means that a rule is broken: do not "fix" the test, and read the rule again.

23. Generations, tool calls and sandboxes have a limit each; each is reached, none is broken, and who waits for one of
    them keeps nobody from the others.
24. When more want to decode than may, those with the most turns to come go first.
25. `decoding: auto` finds what the engine runs at one time, and never sends all at once.
26. Each stage has its deadline: what hangs is a timeout that names the stage and the setting.
27. Waiting for a limit of the rollout counts against the episode's deadline alone, and who waits too long is told so.
28. Whatever hangs and swallows its cancellation, no episode takes longer than its deadline, teardown included.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from agentrl.engines.base import Completion, EngineLoad
from agentrl.env import Step
from agentrl.rollouts.boundary import _keepers
from agentrl.throttle import sandbox_ticket
from agentrl.trajectory import StopReason
from tests.rollouts.fakes import FakeEngine, World, context_of, requests
from tests.rollouts.semantics import TimedEngine, TimedEnv, ended, in_virtual_time, now, only, play


class Crowd:
    """How many are somewhere at one time."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    async def stay(self, seconds: float) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(seconds)
        self.inside -= 1


# -- 23, 24, 25: places ------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_23_generations_tools_and_sandboxes_are_limited_apart() -> None:
    tools, sandboxes, world, engine = Crowd(), Crowd(), World(), TimedEngine(4.0)

    class Boxed(TimedEnv):
        seconds = 1.0

        async def areset(self, **kwargs: Any) -> Any:
            answer = await super().areset(**kwargs)
            await sandbox_ticket()
            sandboxes.inside += 1
            sandboxes.most = max(sandboxes.most, sandboxes.inside)
            return answer

        async def event(self, stage: str) -> None:
            await tools.stay(0.0)

        async def astep(self, action: Any) -> Step:
            step = await super().astep(action)
            sandboxes.inside -= step.terminated
            return step

    limits = {"decoding": 3, "tools": 1, "sandboxes": 5, "episode_seconds": 1e4}
    context = context_of(world, engine, lambda: Boxed(world), concurrency=16, step_seconds=1e3, **limits)
    groups = await play(context, requests(10))
    assert ended(groups) == [StopReason.TERMINATED] * 20
    assert (engine.most, sandboxes.most) == (3, 5)
    spans = sorted(
        (turn.timings["tool"], turn.timings["tool_queue"]) for g in groups for t in g.trajectories for turn in t.turns
    )
    assert {round(tool, 6) for tool, _ in spans} == {1.0}
    assert spans[-1][1] > 0.0  # somebody waited for the tool that another one had


@in_virtual_time
async def test_23b_who_waits_for_one_limit_keeps_nobody_from_the_others() -> None:
    class Using(TimedEnv):
        turns, seconds = 3, 4.0

    async def span(**limits: Any) -> float:
        world, began = World(), now()
        context = context_of(world, TimedEngine(4.0), lambda: Using(world), concurrency=8, step_seconds=1e3, **limits)
        await play(context, requests(4))
        return now() - began

    assert await span() == pytest.approx(24.0)
    assert await span(decoding=4) == pytest.approx(28.0)  # eight half-busy chains on four slots: one decode more
    assert await span(decoding=4, tools=4) == pytest.approx(28.0)


@in_virtual_time
async def test_24_those_with_the_most_turns_to_come_decode_first() -> None:
    class Late(TimedEnv):
        turns = 4

        async def areset(self, **kwargs: Any) -> Any:
            if kwargs["options"]["task"] == "train:2":
                await asyncio.sleep(9.0)
            return await super().areset(**kwargs)

    world, engine = World(), TimedEngine(4.0)
    context = context_of(world, engine, lambda: Late(world), max_turns=4, decoding=1)
    await play(context, requests(3, size=1))
    order = [member for began, member in engine.starts]
    first, second, late = *order[:2], "g2/0"
    # `late` comes at second 9: it has more to come than who waits since second 8; among equals who waits longest
    assert order == [first, second, first, late, second, late, first, second, late, first, second, late]
    assert engine.most == 1


@in_virtual_time
async def test_25_auto_finds_what_the_engine_runs_at_one_time() -> None:
    class Queueing(TimedEngine):
        """Decodes twelve at one time, each for a time of its own; the others wait in it."""

        def __init__(self) -> None:
            super().__init__()
            self.random, self.slots = Random(0), asyncio.Semaphore(12)
            self.decoding = 0

        async def generate(self, *args: Any, **kwargs: Any) -> Completion:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                async with self.slots:
                    self.decoding += 1
                    await asyncio.sleep(self.random.random())
                    self.decoding -= 1
                return await FakeEngine.generate(self, *args, **kwargs)
            finally:
                self.running -= 1

        def load(self) -> EngineLoad:
            return EngineLoad(self.decoding, self.running - self.decoding)

    class Long(TimedEnv):
        turns = 8

    world, engine = World(), Queueing()
    context = context_of(world, engine, lambda: Long(world), concurrency=64, decoding="auto", episode_seconds=1e6)
    groups = await play(context, requests(60, size=8))
    assert set(ended(groups)) == {StopReason.TERMINATED}
    assert 12 <= engine.most < 32


# -- 26, 27, 28: deadlines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "setting", "limit"),
    [
        ("reset", "reset_seconds=3", 3.0),
        ("generate", "generate_seconds=5", 5.0),
        ("step", "step_seconds=7", 7.0),
        ("finish", "step_seconds=7", 7.0),
    ],
)
@in_virtual_time
async def test_26_each_stage_has_its_deadline(stage: str, setting: str, limit: float) -> None:
    class Hanging(TimedEnv):
        turns = 9

        async def areset(self, **kwargs: Any) -> Any:
            if stage == "reset":
                await asyncio.Event().wait()
            return await super().areset(**kwargs)

        async def astep(self, action: Any) -> Step:
            if stage == "step":
                await asyncio.Event().wait()
            return await super().astep(action)

        async def afinish(self, reason: StopReason) -> Any:
            await asyncio.Event().wait()

    world, engine = World(), TimedEngine(1e9 if stage == "generate" else 0.0)
    limits = {"reset_seconds": 3.0, "generate_seconds": 5.0, "step_seconds": 7.0, "max_turns": 1}
    trajectory = only(await play(context_of(world, engine, lambda: Hanging(world), **limits), requests(1, size=1)))
    assert (trajectory.stop_reason, trajectory.error) == (StopReason.TIMEOUT, f"{stage}: not done within {setting}")
    assert trajectory.seconds == pytest.approx(limit)
    assert (world.made, world.open, engine.sessions) == (1, 0, set())


@pytest.mark.parametrize("place", ["decoding", "tools"])
@in_virtual_time
async def test_27_waiting_for_a_limit_counts_against_the_episode_alone(place: str) -> None:
    class Using(TimedEnv):
        turns = 1
        seconds = 4.0 if place == "tools" else 0.0

    async def run(episode_seconds: float) -> list[StopReason]:
        world = World()
        limits = {"generate_seconds": 5.0, "step_seconds": 5.0, "episode_seconds": episode_seconds, place: 1}
        context = context_of(world, TimedEngine(4.0), lambda: Using(world), concurrency=10, **limits)
        groups = await play(context, requests(10, size=1))
        assert max(t.seconds for g in groups for t in g.trajectories) <= episode_seconds
        late = [str(t.error) for g in groups for t in g.trajectories if t.aborted]
        assert all(error.endswith("within episode_seconds=20") for error in late), late
        return ended(groups)

    assert await run(1000.0) == [StopReason.TERMINATED] * 10
    reasons = await run(20.0)
    assert reasons.count(StopReason.TERMINATED) in (3, 4)  # of 4 seconds each; two are kept for the teardown
    assert set(reasons) == {StopReason.TERMINATED, StopReason.TIMEOUT}


@pytest.mark.parametrize("stage", ["reset", "step", "close", "generate", "end_session"])
@in_virtual_time
async def test_28_the_outer_deadline_always_wins(stage: str) -> None:
    release = asyncio.Event()

    async def stubborn(here: str) -> None:
        while here == stage and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    class Deaf(TimedEnv):
        async def areset(self, **kwargs: Any) -> Any:
            await stubborn("reset")
            return await super().areset(**kwargs)

        async def astep(self, action: Any) -> Step:
            await stubborn("step")
            if stage == "close":
                raise OSError("broken, so it must be closed")
            return await super().astep(action)

        async def aclose(self) -> None:
            await stubborn("close")
            await super().aclose()

    class DeafEngine(TimedEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Any:
            await stubborn("generate")
            return await super().generate(*args, **kwargs)

        async def end_session(self, session: str) -> None:
            await stubborn("end_session")
            await super().end_session(session)

    world = World()
    context = context_of(world, DeafEngine(), lambda: Deaf(world), episode_seconds=30.0, step_seconds=25.0)
    groups = await play(context, requests(4))
    for group in groups:
        for trajectory in group.trajectories:
            assert trajectory.seconds <= 30.0
            assert trajectory.aborted == (stage != "end_session")
    release.set()
    await asyncio.wait(set(_keepers))
    assert world.open == 0
