"""The contract of the rollout manager, rule by rule. A test that fails here means that the rule is broken: do not "fix"
the test, and read the rule again.

 1. Every requested episode comes out exactly once, in exactly one group, whatever the latencies.
 2. Groups come out in order of completion, members in their order.
 3. The same requests give the same episodes bit for bit, whatever the latencies; other seeds give others.
 4. What is recorded is what the engine saw and sampled: contexts, ids, log-probabilities, versions; rows train them.
 5. A turn records what the environment answered, its flags, the state before the action, and seconds by stage.
 6. An episode ends with the reason that the environment gives.
 7. The turn limit and the context limit end an episode; the environment judges what there was.
 8. No turn is given more tokens than the turn limit, the rollout's context or the engine's context allow.
 9. An environment that raises in make, reset or step: aborted data with the text of the error, and a fresh environment.
10. An environment that raises in close costs the last episode its verdict; nothing else.
11. A step that takes too long is a timeout that names the stage; the environment is closed and replaced.
12. The episode's deadline wins over an environment that swallows its cancellation or hangs in close: the environment is
    abandoned, kept until its call ends, and replaced.
13. A generation that fails is retried after 0.5 s, 1 s, 2 s ...; then the episode is aborted data.
14. An unreachable engine ends the run with EngineError after the finished groups were yielded; so does, with EnvError,
    an environment that cannot be made.
15. Mistakes are raised, not recorded: of the program, of the user (ConfigError), of the caller's iterable.
16. One percent of faults everywhere: each is accounted for, and nothing is left open.
17. Closing the iterator, cancelling its consumer (even twice) or breaking out of the loop leaves no task, environment
    or session; episodes in flight are reported as cancelled.
18. A consumer that stops reading stops new episodes, and takes no client of the engine hostage.
19. All first workers have entered `client()` before the first generation; a worker without episodes leaves it; batches
    of an engine in lockstep do not depend on latencies.
20. Workers have an environment each, made when it is needed, used again, closed at the end.
21. A blocking environment runs in a thread; so does the tokenising of long texts, and only of those.
22. Options and limits that cannot be honoured are ConfigErrors of one line.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import registry
from agentrl.env import Env, Step
from agentrl.errors import ConfigError, EngineError, EnvError
from agentrl.messages import Message, user
from agentrl.rollout import GroupRequest, RolloutContext
from agentrl.rollouts.boundary import _keepers
from agentrl.rollouts.independent import IndependentChains
from agentrl.rollouts.manager import Manager
from agentrl.trajectory import Group, StopReason, Trajectory
from tests.rollouts.fakes import CharRenderer, FakeEngine, LockstepEngine, WordEnv, World, content, context_of, requests


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """No test leaves a task behind."""
    if asyncio.iscoroutinefunction(request.function):
        request.getfixturevalue("no_task_left")


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    yield
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not _keepers


async def play(context: RolloutContext, wanted: Any, **options: Any) -> list[Group]:
    return [group async for group in Manager(context, **options).run(wanted)]


def ended(groups: list[Group]) -> list[StopReason]:
    return [trajectory.stop_reason for group in groups for trajectory in group.trajectories]


def only(groups: list[Group]) -> Trajectory:
    (group,) = groups
    (trajectory,) = group.trajectories
    return trajectory


# -- 1, 2, 3: what comes out -------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 6), max_size=12),
    concurrency=st.integers(1, 9),
    seed=st.integers(0, 2**20),
    lockstep=st.booleans(),
)
def test_01_every_episode_comes_out_exactly_once(sizes: list[int], concurrency: int, seed: int, lockstep: bool) -> None:
    world = World(latency=0.002, seed=seed)
    engine = LockstepEngine() if lockstep else FakeEngine(world.event)
    reported: list[tuple[str, int]] = []
    context = context_of(
        world, engine, concurrency=concurrency, on_episode=lambda r, t: reported.append((r.group_id, t.member))
    )
    wanted = [GroupRequest(f"g{i}", f"train:{i}", size, i) for i, size in enumerate(sizes)]

    async def run() -> list[Group]:
        groups = await play(context, wanted)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return groups

    groups = asyncio.run(run())
    assert set(ended(groups)) <= {StopReason.TERMINATED}
    expected = sorted((r.group_id, member) for r in wanted for member in range(r.size))
    assert sorted((g.group_id, t.member) for g in groups for t in g.trajectories) == expected
    assert sorted(reported) == expected
    assert {g.group_id: {t.task_id for t in g.trajectories} for g in groups} == {
        r.group_id: {r.task_id} for r in wanted
    }
    assert (world.open, engine.clients, engine.sessions) == (0, 0, set())


async def test_02_groups_in_order_of_completion_members_in_their_order() -> None:
    gates = {"train:0": asyncio.Event(), "train:1": asyncio.Event()}
    world = World()
    first_of_1 = asyncio.Event()

    class Gated(WordEnv):
        async def areset(self, **kwargs: Any) -> Any:
            answer = await super().areset(**kwargs)
            task_id = kwargs["options"]["task"]
            if task_id == "train:1" and not first_of_1.is_set():
                first_of_1.set()  # the first member waits for the second one to be done
                await gates[task_id].wait()
            elif task_id == "train:0":
                await gates[task_id].wait()
            return answer

    def release(request: GroupRequest, trajectory: Trajectory) -> None:
        gates[request.task_id].set()

    context = context_of(world, FakeEngine(), lambda: Gated(world), on_episode=release)
    order = []
    async for group in Manager(context).run(requests(2)):
        order.append(group.group_id)
        assert [trajectory.member for trajectory in group.trajectories] == [0, 1]
        gates["train:0"].set()
    assert order == ["g1", "g0"]


async def test_03_same_requests_same_episodes_whatever_the_latencies() -> None:
    async def record(latency: float, seed: int, engine: FakeEngine) -> dict[str, list[str]]:
        world = World(latency=latency, seed=seed)
        groups = await play(context_of(world, engine, concurrency=1 + seed), requests(12, size=3))
        return {group.group_id: [content(trajectory) for trajectory in group.trajectories] for group in groups}

    reference = await record(0.0, 3, FakeEngine())
    assert await record(0.004, 5, FakeEngine()) == reference
    assert await record(0.004, 7, LockstepEngine()) == reference
    assert len({text for texts in reference.values() for text in texts}) == 36
    world = World()
    other = await play(context_of(world, FakeEngine()), [GroupRequest("g0", "train:0", 3, seed=1)])
    assert [content(trajectory) for trajectory in other[0].trajectories] != reference["g0"]


# -- 4 to 8: the record ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewrites", [False, True])
async def test_04_what_is_trained_is_what_was_sampled(rewrites: bool) -> None:
    world, engine = World(), FakeEngine()
    groups = await play(context_of(world, engine, renderer=CharRenderer(rewrites)), requests(10))
    seen: dict[str, list[tuple[list[int], Any]]] = {}
    for session, prompt, completion in engine.calls:
        seen.setdefault(session.partition("/")[2], []).append((prompt, completion))
    for group in groups:
        for trajectory in group.trajectories:
            calls = seen.pop(f"{group.group_id[1:]}/{group.group_id}/{trajectory.member}")
            assert [trajectory.context_ids(index) for index in range(len(calls))] == [prompt for prompt, _ in calls]
            rows = trajectory.rows()
            assert len(rows) == (len(calls) if rewrites else 1)
            trained = [
                (token, logprob)
                for row in rows
                for token, turn, logprob in zip(row.ids, row.turn_ids, row.logprobs, strict=True)
                if turn
            ]
            sampled = [pair for _, answer in calls for pair in zip(answer.ids, answer.logprobs, strict=True)]
            assert trained == sampled
            assert {(turn.policy_version, turn.weights_hash) for turn in trajectory.turns} == {(3, "hash")}
    assert not seen


async def test_05_a_turn_records_answer_flags_state_and_seconds() -> None:
    class Careless(WordEnv):
        async def astep(self, action: Any) -> Step:
            step = await super().astep(action)
            step.info["tool_calls"][0].error = "failed"
            step.info["parse_error"] = True
            return step

        def turns_of(self, seed: int) -> int:
            return 3

    world = World(latency=0.001)
    trajectory = only(await play(context_of(world, FakeEngine(), lambda: Careless(world)), requests(1, size=1)))
    assert trajectory.info == {"id": "train:0"}
    assert [message.text for message in trajectory.opening] == ["task train:0"]
    assert [turn.state_key for turn in trajectory.turns] == ["s0", "s1", "s2"]
    assert [turn.reward for turn in trajectory.turns] == [0.25, 0.25, 1.0]
    assert [len(turn.observation) for turn in trajectory.turns] == [1, 1, 0]
    assert all(turn.tool_error and turn.parse_error and not turn.truncated for turn in trajectory.turns)
    for turn in trajectory.turns:
        assert set(turn.timings) == {"queue", "generate", "env", "tool", "tokenise"}
        assert all(seconds >= 0.0 for seconds in turn.timings.values())
        assert turn.tool_calls[0].arguments == turn.message.text
    assert sum(sum(turn.timings.values()) for turn in trajectory.turns) <= trajectory.seconds


@pytest.mark.parametrize(
    ("terminated", "hint", "reason"),
    [
        (True, None, StopReason.TERMINATED),
        (False, None, StopReason.MAX_TURNS),
        (False, "invalid_calls", StopReason.INVALID_CALLS),
    ],
)
async def test_06_the_environment_says_why_it_ended(terminated: bool, hint: str | None, reason: StopReason) -> None:
    class Ending(WordEnv):
        async def astep(self, action: Any) -> Step:
            return Step((), 0.5, terminated, not terminated, {"stop_reason": hint, "metrics": {"correct": 0.0}})

    world = World()
    trajectory = only(await play(context_of(world, FakeEngine(), lambda: Ending(world)), requests(1, size=1)))
    assert (trajectory.stop_reason, trajectory.reward, trajectory.metrics) == (reason, 0.5, {"correct": 0.0})


async def test_07_limits_end_an_episode_and_the_environment_judges() -> None:
    class Endless(WordEnv):
        def turns_of(self, seed: int) -> int:
            return 1000

    world = World()
    turns = only(await play(context_of(world, FakeEngine(), lambda: Endless(world), max_turns=3), requests(1, size=1)))
    assert (turns.stop_reason, turns.reward, turns.metrics) == (StopReason.MAX_TURNS, 0.25 * 3 - 0.5, {"cut": 1.0})
    assert len(turns.turns) == 3 and not turns.aborted
    limits = {"max_turns": 100, "max_context": 60}
    tokens = only(await play(context_of(world, FakeEngine(), lambda: Endless(world), **limits), requests(1, size=1)))
    assert (tokens.stop_reason, tokens.metrics) == (StopReason.MAX_TOKENS, {"cut": 1.0})
    assert tokens.reward == 0.25 * len(tokens.turns) - 0.5
    empty = only(await play(context_of(world, FakeEngine(), max_context=5), requests(1, size=1)))
    assert (empty.stop_reason, empty.turns, empty.aborted) == (StopReason.MAX_TOKENS, [], False)


@pytest.mark.parametrize(("own", "engines"), [(40, None), (1000, 40), (40, 1000)])
async def test_08_no_turn_gets_more_tokens_than_the_limits_allow(own: int, engines: int | None) -> None:
    world, engine = World(), FakeEngine(max_context=engines)
    context = context_of(world, engine, max_context=own, max_turn_tokens=5, max_turns=50)
    groups = await play(context, requests(20))
    for (_, prompt, _), sampling in zip(engine.calls, engine.sampling, strict=True):
        assert sampling.max_tokens == min(5, 40 - len(prompt))
        assert sampling.stop_ids == CharRenderer.stop_ids
    turns = [turn for group in groups for trajectory in group.trajectories for turn in trajectory.turns]
    assert any(turn.truncated for turn in turns) and not all(turn.truncated for turn in turns)
    assert all(turn.truncated == (turn.sampled_ids[-1] != 0) for turn in turns)


# -- 9 to 12: environments that fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["make", "reset", "step", "finish", "reward", "reason"])
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


async def test_10_a_close_that_raises_costs_the_last_episode_its_verdict() -> None:
    class Stuck(WordEnv):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("still busy")

    world = World()
    groups = await play(context_of(world, FakeEngine(), lambda: Stuck(world), concurrency=1), requests(3, size=1))
    assert ended(groups) == [StopReason.TERMINATED, StopReason.TERMINATED, StopReason.ENV_ERROR]
    assert groups[2].trajectories[0].error == "close: OSError: still busy"
    assert groups[2].trajectories[0].turns  # what was played is kept


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


async def test_12b_a_close_that_hangs_after_the_last_episode_is_a_timeout() -> None:
    class Hanging(WordEnv):
        async def aclose(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await super().aclose()

    world = World()
    context = context_of(world, FakeEngine(), lambda: Hanging(world), concurrency=1, step_seconds=0.05)
    trajectory = only(await play(context, requests(1, size=1)))
    assert (trajectory.stop_reason, trajectory.error) == (
        StopReason.TIMEOUT,
        "close: not done within step_seconds=0.05",
    )


async def test_12c_an_environment_made_too_late_is_closed() -> None:
    world, release, calls = World(), threading.Event(), count()

    def make() -> WordEnv:
        if next(calls) == 0:
            release.wait()
        return WordEnv(world)

    context = context_of(world, FakeEngine(), make, concurrency=1, step_seconds=0.05, episode_seconds=1.0)
    groups = await play(context, requests(2, size=1))
    assert ended(groups) == [StopReason.TIMEOUT, StopReason.TERMINATED]
    assert groups[0].trajectories[0].error == "make: not done within step_seconds=0.05"
    assert (world.made, world.open) == (1, 0)
    release.set()
    await asyncio.wait(set(_keepers))
    assert (world.made, world.open) == (2, 0)


# -- 13, 14: engines that fail -----------------------------------------------------------------------------------------


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


async def test_14_an_unreachable_engine_ends_the_run_after_the_finished_groups() -> None:
    world, answers = World(), [30]

    async def die(session: str) -> None:
        answers[0] -= 1
        if answers[0] < 0:
            raise EngineError("connection refused")

    reported: list[StopReason] = []
    engine, pulled, groups = FakeEngine(die), [], []
    context = context_of(world, engine, engine_retries=0, on_episode=lambda r, t: reported.append(t.stop_reason))
    with pytest.raises(EngineError, match=r"generate failed \d times in a row; last: connection refused"):
        async for group in Manager(context).run(requests(1000, pulled=pulled)):
            groups.append(group)
    complete = [group for group in groups if not any(trajectory.aborted for trajectory in group.trajectories)]
    assert len(complete) >= 3 and len(pulled) < 100
    assert reported.count(StopReason.ENGINE_ERROR) >= 4
    assert (world.open, engine.sessions, engine.clients) == (0, set(), 0)


async def test_14b_an_engine_that_never_answers_ends_even_a_small_run() -> None:
    async def refuse(session: str) -> None:
        raise EngineError("connection refused")

    world, groups = World(), []
    with pytest.raises(EngineError, match="connection refused"):
        async for group in Manager(context_of(world, FakeEngine(refuse), engine_retries=0)).run(requests(1)):
            groups.append(group)
    assert ended(groups) == [StopReason.ENGINE_ERROR] * 2


async def test_14c_an_environment_that_cannot_be_made_ends_the_run() -> None:
    def make() -> Any:
        raise TypeError("unexpected keyword argument 'levle'")

    pulled: list[str] = []
    with pytest.raises(EnvError, match=r"make failed 4 times in a row; last: TypeError: .*'levle'"):
        await play(context_of(World(), FakeEngine(), make), requests(1000, pulled=pulled))
    assert len(pulled) < 20
    with pytest.raises(EnvError, match="make failed 1 times in a row; last: TypeError"):
        await play(context_of(World(), FakeEngine(), make), requests(1, size=1))


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


# -- 15, 16: mistakes and faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("culprit", ["renderer", "engine", "observer", "task", "iterable", "size"])
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


async def test_16_random_faults_are_all_accounted_for() -> None:
    world = World(latency=0.0005, rate=0.01)
    engine = FakeEngine(lambda _: world.event("generate"))
    groups = await play(context_of(world, engine, concurrency=16, engine_retries=0), requests(250, size=4))
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    assert sorted(group.group_id for group in groups) == sorted(f"g{index}" for index in range(250))
    assert all([trajectory.member for trajectory in group.trajectories] == [0, 1, 2, 3] for group in groups)
    stages = [str(trajectory.error).partition(":")[0] for trajectory in trajectories if trajectory.aborted]
    for stage in ("reset", "step", "generate"):
        assert stages.count(stage) == world.faults[stage] > 0
    assert stages.count("close") <= world.faults.get("close", 0)
    assert all((trajectory.error is not None) == trajectory.aborted for trajectory in trajectories)
    assert all(len(turn.sampled_ids) > 0 for trajectory in trajectories for turn in trajectory.turns)
    assert (world.open, engine.sessions, engine.clients) == (0, set(), 0)


# -- 17, 18: consumers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "cancel", "cancel twice", "break"])
async def test_17_an_early_end_leaves_nothing_behind(way: str) -> None:
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
async def test_18_a_consumer_that_stops_reading_stops_new_episodes(lockstep: bool) -> None:
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


# -- 19 to 22: workers, threads, options -------------------------------------------------------------------------------


async def test_19_batches_in_lockstep_do_not_depend_on_latencies() -> None:
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


async def test_19b_no_generation_before_every_first_worker_has_entered() -> None:
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
    assert doors == [0] * 5
    assert len(engine.batches[0]) == 5


async def test_20_environments_are_made_lazily_used_again_and_closed() -> None:
    world, engine = World(), FakeEngine()
    context = context_of(world, engine, concurrency=4)
    assert await play(context, []) == [] and world.made == 0
    await play(context, requests(1, size=3))
    assert (world.made, world.open) == (3, 0)
    await play(context, requests(20))
    assert (world.made, world.open, engine.clients) == (3 + 4, 0, 0)


async def test_21_blocking_environments_and_long_texts_run_in_threads() -> None:
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


def test_22_options_and_limits_are_checked_at_the_start() -> None:
    context = context_of(World(), FakeEngine())
    assert registry.rollouts.get("independent") is IndependentChains
    with pytest.raises(ConfigError, match=r"independent has no option width=4; it takes none$"):
        IndependentChains(context, width=4)
    for key, value in {"concurrency": 0, "max_turns": 0, "episode_seconds": 0.0, "step_seconds": -1.0}.items():
        with pytest.raises(ConfigError, match=rf"rollout\.{key}=.* must be"):
            IndependentChains(context_of(World(), FakeEngine(), **{key: value}))


async def test_22b_independent_chains_yield_the_manager_s_groups() -> None:
    groups = [group async for group in IndependentChains(context_of(World(), FakeEngine())).run(requests(3, size=5))]
    assert sorted((group.group_id, len(group.members)) for group in groups) == [("g0", 5), ("g1", 5), ("g2", 5)]


def test_messages_of_a_history_end_before_the_observation() -> None:
    """The fake renderer asserts what the real one demands; here that the fake is no laxer."""
    with pytest.raises(AssertionError):
        CharRenderer().next_context([], [], [Message.from_wire({"role": "user", "content": "x"})], [])
