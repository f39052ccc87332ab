"""The rules of the rollout manager, 1 to 8: what comes out, and what is recorded.

A test that fails here means that a rule is broken: do not "fix" the test, and read the rule again.

 1. Every requested episode comes out exactly once, in exactly one group, whatever the latencies.
 2. Groups come out in order of completion, members in their order.
 3. The same requests give the same episodes bit for bit, whatever the latencies; other seeds give others.
 4. What is recorded is what the engine saw and sampled: contexts, ids, log-probabilities, versions; rows train them.
 5. A turn records what the environment answered, its flags, the state before the action, and seconds by stage.
 6. An episode ends with the reason that the environment gives.
 7. The turn limit and the context limit end an episode; the environment judges what there was.
 8. No turn is given more tokens than the turn limit, the rollout's context or the engine's context allow.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.account import STAGES
from agentrl.env import Step
from agentrl.rollout import GroupRequest
from agentrl.rollouts.manager import Manager
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.virtual_time import run_virtual
from tests.rollouts.fakes import CharRenderer, FakeEngine, LockstepEngine, WordEnv, World, content, context_of, requests
from tests.rollouts.semantics import ended, in_virtual_time, left_nothing, only, play


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
        await left_nothing()
        return groups

    groups, _ = run_virtual(run())
    assert set(ended(groups)) <= {StopReason.TERMINATED}
    expected = sorted((r.group_id, member) for r in wanted for member in range(r.size))
    assert sorted((g.group_id, t.member) for g in groups for t in g.trajectories) == expected
    assert sorted(reported) == expected
    assert {g.group_id: {t.task_id for t in g.trajectories} for g in groups} == {
        r.group_id: {r.task_id} for r in wanted
    }
    assert (world.open, engine.clients, engine.sessions) == (0, 0, set())


@in_virtual_time
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


@in_virtual_time
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


@pytest.mark.parametrize("rewrites", [False, True])
@in_virtual_time
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


@in_virtual_time
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
        assert {"queue", "decode", "env", "tool", "tokenise"} <= set(turn.timings) <= set(STAGES)
        assert all(seconds > -1e-9 for seconds in turn.timings.values())
        assert turn.tool_calls[0].arguments == turn.message.text
    assert sum(sum(turn.timings.values()) for turn in trajectory.turns) <= trajectory.seconds + 1e-9


@pytest.mark.parametrize(
    ("terminated", "hint", "reason"),
    [
        (True, None, StopReason.TERMINATED),
        (False, None, StopReason.MAX_TURNS),
        (False, "invalid_calls", StopReason.INVALID_CALLS),
    ],
)
@in_virtual_time
async def test_06_the_environment_says_why_it_ended(terminated: bool, hint: str | None, reason: StopReason) -> None:
    class Ending(WordEnv):
        async def astep(self, action: Any) -> Step:
            return Step((), 0.5, terminated, not terminated, {"stop_reason": hint, "metrics": {"correct": 0.0}})

    world = World()
    trajectory = only(await play(context_of(world, FakeEngine(), lambda: Ending(world)), requests(1, size=1)))
    assert (trajectory.stop_reason, trajectory.reward, trajectory.metrics) == (reason, 0.5, {"correct": 0.0})


@in_virtual_time
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
@in_virtual_time
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
