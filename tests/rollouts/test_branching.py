"""Branches in mid-episode, through the manager, with bundled environments and the scripted engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentrl import registry
from agentrl.chat import ChatRenderer
from agentrl.engines.scripted import ScriptedEngine
from agentrl.env import make
from agentrl.errors import ConfigError
from agentrl.models.tiny import build_tiny
from agentrl.replay import first_difference
from agentrl.rollout import GroupRequest, RolloutContext, RolloutLimits
from agentrl.rollouts.branching import AtTurns, BranchAtTurns
from agentrl.trajectory import Group, StopReason, Trajectory
from tests.rollouts.fakes import FakeEngine, WordEnv, World, content, context_of, requests


class Copied(WordEnv):
    """A word environment that can be copied, and that always plays four turns."""

    copies = 0

    def turns_of(self, seed: int) -> int:
        return 4

    async def asnapshot(self) -> Any:
        return (self.left, self.turn)

    async def arestore(self, state: Any) -> None:
        type(self).copies += 1
        self.left, self.turn = state


async def play(context: RolloutContext, size: int = 7, number: int = 3, **options: Any) -> list[Group]:
    rollout = BranchAtTurns(context, **options)
    groups = [group async for group in rollout.run(requests(number, size=size))]
    return sorted(groups, key=lambda group: group.group_id)


def shape(group: Group) -> list[tuple[int, int] | None]:
    return [None if t.branch is None else (t.branch.parent, t.branch.turns) for t in group.trajectories]


# -- where branches are ------------------------------------------------------------------------------------------------


def test_seats_are_spread_evenly_and_add_up() -> None:
    for size in range(1, 12):
        for turns in ((1,), (1, 2), (2, 3, 5)):
            brancher, request = AtTurns(turns, None), GroupRequest("g", "t", size, 0)
            roots = brancher.roots(request)
            given = [
                brancher.children(request, Trajectory("t", member=member, turns=[None] * turn), size)  # type: ignore[list-item]
                for turn in turns
                for member in range(roots)
            ]
            assert 1 <= roots <= size and sum(given) == size - roots
            assert max(given) - min(given) <= 1


async def test_members_branch_after_the_turns_and_share_their_past() -> None:
    world, engine = World(), FakeEngine()
    for group in await play(context_of(world, engine, lambda: Copied(world)), turns=[1, 3], roots=2):
        assert shape(group)[:2] == [None, None]
        assert sorted(filter(None, shape(group))) == [(0, 1), (0, 1), (0, 3), (1, 1), (1, 3)]
        assert [t.member for t in group.trajectories] == list(range(7))
        for trajectory in group.trajectories:
            assert len(trajectory.turns) == 4 and trajectory.stop_reason is StopReason.TERMINATED
            if trajectory.branch is None:
                continue
            parent, cut = group.trajectories[trajectory.branch.parent], trajectory.branch.turns
            assert trajectory.opening == parent.opening and trajectory.seed == parent.seed
            for mine, theirs in zip(trajectory.turns[:cut], parent.turns[:cut], strict=True):
                assert (mine.sampled_ids, mine.logprobs, mine.reward) == (
                    *(theirs.sampled_ids, theirs.logprobs, theirs.reward),
                )
                assert mine.timings == {}
            assert trajectory.context_ids(cut) == parent.context_ids(cut)
            assert trajectory.turns[cut].parent == f"{parent.member}.{cut - 1}"
            assert trajectory.turns[cut].sampled_ids != parent.turns[cut].sampled_ids
    assert (world.open, engine.sessions, engine.clients) == (0, set(), 0)


async def test_branches_do_not_depend_on_latencies() -> None:
    async def record(latency: float, seed: int, concurrency: int) -> list[list[str]]:
        world = World(latency=latency, seed=seed)
        engine = FakeEngine(world.event)
        groups = await play(context_of(world, engine, lambda: Copied(world), concurrency=concurrency), turns=[1, 2])
        return [sorted(_without_place(trajectory) for trajectory in group.trajectories) for group in groups]

    reference = await record(0.0, 0, 4)
    assert await record(0.003, 1, 9) == reference
    assert await record(0.003, 2, 1) == reference


def _without_place(trajectory: Trajectory) -> str:
    trajectory.member = 0
    return content(trajectory)


async def test_seats_that_nobody_takes_are_played_from_the_start() -> None:
    class Short(Copied):
        def turns_of(self, seed: int) -> int:
            return 1

    world = World()
    for group in await play(context_of(world, FakeEngine(), lambda: Short(world)), turns=[2]):
        assert shape(group) == [None] * 7
        assert len({content(trajectory) for trajectory in group.trajectories}) == 7


async def test_an_environment_that_cannot_be_copied_plays_its_groups_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    rollout = BranchAtTurns(context_of(world, FakeEngine()), turns=[1])
    groups = [group async for group in rollout.run(requests(2, size=4))]
    assert all(shape(group) == [None] * 4 and not any(t.aborted for t in group.trajectories) for group in groups)
    assert "cannot be branched here" in caplog.text and "cannot be copied in mid-episode" in caplog.text
    assert rollout.account().failed_branches > 0
    assert world.open == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": []}, "ascending"),
        ({"turns": [2, 1]}, "ascending"),
        ({"turns": [0]}, "from 1 on"),
        ({"turns": [8]}, "no episode goes on after turn"),
        ({"turns": [1], "roots": 0}, "at least 1"),
    ],
)
def test_options_are_checked_at_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BranchAtTurns(context_of(World(), FakeEngine()), **options)
    assert registry.rollouts.get("branch") is BranchAtTurns


# -- with real environments --------------------------------------------------------------------------------------------

CALLS = {
    "agentrl/SQL-v0": ('{"name": "sql", "arguments": {"query": "%s"}}', ("SELECT 1", "SELECT 2", "SELECT 3")),
    "agentrl/Math-v0": (
        '{"name": "calculator", "arguments": {"expression": "%s"}}',
        ("1 + 1", "2 + 2", "3 + 3"),
    ),
}


@pytest.mark.parametrize("env_id", sorted(CALLS))
async def test_bundled_environments_branch_and_their_records_step_again(env_id: str) -> None:
    call, arguments = CALLS[env_id]
    table = {f"<tool_call>\n{call % each}\n</tool_call>": 2.0 for each in arguments} | {"The answer is 7.": 1.0}
    probe = make(env_id)
    task = probe.tasks("train")[0].id
    renderer = ChatRenderer(build_tiny()[1], probe.tool_schemas(), tool_prompt="none")
    engine = ScriptedEngine(renderer, lambda prompt, sampling: table)
    limits = RolloutLimits(max_turns=4, max_context=20_000, concurrency=6)
    rollout = BranchAtTurns(RolloutContext(engine, renderer, lambda: make(env_id), limits), turns=[1, 2], roots=3)
    wanted = [GroupRequest(f"g{seed}", task, 9, seed) for seed in range(2)]
    trajectories = [t async for group in rollout.run(wanted) for t in group.trajectories]
    assert not any(t.aborted for t in trajectories)
    assert sum(t.branch is not None for t in trajectories) >= 4
    env = make(env_id)
    for trajectory in trajectories:
        assert await first_difference(env, trajectory) is None
    await env.aclose()
    account = rollout.account()
    assert account.seconds["branch"] > 0 and abs(sum(account.shares.values()) - 1) < 1e-9


def test_branching_under_asyncio_run_twice() -> None:
    """A strategy belongs to no event loop."""
    world = World()
    context = context_of(world, FakeEngine(), lambda: Copied(world))
    for _ in range(2):
        assert len(asyncio.run(play(context, turns=[1]))) == 3
