"""The rules of the rollout manager, 29 to 41: what becomes of episodes and groups; weights, branches, accounts.

A test that fails here means that a rule is broken: do not "fix" the test, and read the rule again.

29. Each stop reason says what it means; aborted episodes keep what they sampled and leave every statistic.
30. `fail_fast`: the first failure ends the run with an error that names the episode; finished groups come out before.
31. `retry`: a failed episode is replaced by a further member with a seed of its own, `times` for each place.
32. `minimum_group`: failed members are missing; a group that keeps too few is dropped, counted and replaced.
33. Groups whose judged outcomes are all equal are dropped, if that is asked for, and replaced by the next request. The
    outcome is the verdict `correct` where every judged member has one, else the reward.
34. `stop_after`: with that many equal outcomes the members still playing are stopped, and their time is saved.
35. `refill` bounds how many groups are dropped for one that is wanted; then the iterator ends with fewer.
36. Staleness: no more groups begin than the next versions can take, and one that finishes too old is dropped.
37. A weight update under `finish`: episodes under way end under the old weights; none begins until the new ones serve.
38. Under `continue` they go on: turns before the update have the old version and turns after it the new one; no
    generation runs during it, unless the engine can publish in flight: then one generation may have both.
39. Under `discard` they are stopped as stale, and other members play in their place under the new weights.
40. Every second of an episode is booked; the account sums to 100 %, and its makespan is the clock's.
41. An episode that is stepped again from its record gives the same answers; a branch of it, too.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from agentrl.account import STAGES, episode_account
from agentrl.env import Step
from agentrl.errors import EnvError
from agentrl.messages import user
from agentrl.replay import first_difference
from agentrl.rollout import GroupRequest, InFlight
from agentrl.rollouts.branching import BranchAtTurns
from agentrl.rollouts.manager import Manager
from agentrl.trajectory import Group, StopReason, Trajectory
from tests.rollouts.fakes import FakeEngine, WordEnv, World, content, context_of, requests
from tests.rollouts.semantics import TimedEngine, TimedEnv, ended, in_virtual_time, left_nothing, now, play


class Breaking(TimedEnv):
    """Raises in the second turn of the tasks and members (by the order of their resets) in `bad`."""

    bad: frozenset[tuple[str, int]] = frozenset()
    counts: Counter[str]

    async def areset(self, **kwargs: Any) -> Any:
        task = kwargs["options"]["task"]
        self.key = (task, self.counts[task])
        self.counts[task] += 1
        return await super().areset(**kwargs)

    async def astep(self, action: Any) -> Step:
        if self.key in self.bad and self.turn == 1:
            raise OSError("sandbox lost")
        return await super().astep(action)


def breaking(world: World, *bad: tuple[str, int]) -> Any:
    kind = type("Broken", (Breaking,), {"bad": frozenset(bad), "counts": Counter()})
    return lambda: kind(world)


# -- 29 to 32: failures ------------------------------------------------------------------------------------------------


def test_29_each_stop_reason_says_what_it_means() -> None:
    assert len({reason.meaning for reason in StopReason}) == len(StopReason)
    for reason in StopReason:
        assert reason.meaning.endswith("aborted") == reason.aborted


@in_virtual_time
async def test_29b_aborted_episodes_keep_what_they_sampled_and_leave_the_statistics() -> None:
    world = World()
    (group,) = await play(
        context_of(world, TimedEngine(), breaking(world, ("train:0", 0)), concurrency=1), requests(1, size=3)
    )
    assert group.trajectories[0].stop_reason is StopReason.ENV_ERROR
    assert len(group.trajectories[0].turns) == 2 and group.trajectories[0].turns[1].sampled_ids
    assert [member.member for member in group.members] == [1, 2]


@in_virtual_time
async def test_30_fail_fast_ends_the_run_after_the_finished_groups() -> None:
    world, engine, groups = World(), TimedEngine(), []
    env = breaking(world, ("train:3", 1))
    context = context_of(world, engine, env, concurrency=2, policies={"on_failure": "fail_fast"})
    message = r"fail_fast: episode \d of task train:3 \(group g3\): step: OSError: sandbox lost"
    with pytest.raises(EnvError, match=message):
        async for group in Manager(context).run(requests(1000)):
            groups.append(group.group_id)
    assert groups[:3] == ["g0", "g1", "g2"] and groups[3:] in ([], ["g3"])
    assert (world.open, engine.sessions) == (0, set())


@in_virtual_time
async def test_31_retry_lets_a_further_member_play() -> None:
    world, seeds = World(), set()
    bad = [("train:0", 0), ("train:1", 0), ("train:1", 1), ("train:1", 2), ("train:1", 3)]
    policies = {"on_failure": {"name": "retry", "times": 1}}
    context = context_of(world, TimedEngine(), breaking(world, *bad), concurrency=1, policies=policies)
    manager = Manager(context)
    groups = {group.group_id: group async for group in manager.run(requests(3))}
    assert {key: (len(g.trajectories), len(g.members)) for key, g in groups.items()} == {
        "g0": (3, 2),
        "g1": (4, 0),
        "g2": (2, 2),
    }
    for group in groups.values():
        assert [member.member for member in group.trajectories] == list(range(len(group.trajectories)))
        seeds |= {member.seed for member in group.trajectories}
    assert len(seeds) == 9
    assert manager.account().replayed == 3


@in_virtual_time
async def test_32_minimum_group_drops_and_replaces_what_is_too_thin() -> None:
    world, pulled = World(), []
    env = breaking(world, ("train:0", 0), ("train:1", 0), ("train:1", 1))
    policies = {"on_failure": {"name": "minimum_group", "members": 2}}
    manager = Manager(context_of(world, TimedEngine(), env, concurrency=3, policies=policies))
    groups = [group async for group in manager.run(requests(100, size=3, pulled=pulled), wanted=3)]
    assert {group.group_id: len(group.members) for group in groups} == {"g0": 2, "g2": 3, "g3": 3}
    assert pulled == ["g0", "g1", "g2", "g3"]
    account = manager.account()
    assert (account.dropped_groups, account.episodes) == (1, 12)


# -- 33 to 35: groups without signal -----------------------------------------------------------------------------------


class Dull(TimedEnv):
    """Tasks of even number are worth 1 whoever plays; the others are worth what the seed says. No verdict by itself."""

    async def areset(self, **kwargs: Any) -> Any:
        answer = await super().areset(**kwargs)
        self.dull = int(kwargs["options"]["task"].partition(":")[2]) % 2 == 0
        return answer

    def reward_of(self, seed: int) -> float:
        return 1.0 if self.dull else float(seed % 1000)

    def verdict_of(self, seed: int) -> dict[str, float]:
        return {}

    async def astep(self, action: Any) -> Step:
        step = await super().astep(action)
        step.info["metrics"] = self.verdict_of(self.seed) if step.terminated else {}
        return step


def signal(world: World, engine: FakeEngine, **policies: Any) -> Manager:
    return Manager(
        context_of(
            world, engine, lambda: Dull(world), concurrency=8, policies={"drop_without_signal": True, **policies}
        )
    )


@in_virtual_time
async def test_33_groups_without_signal_are_dropped_and_replaced() -> None:
    world, pulled = World(), []
    manager = signal(world, TimedEngine())
    groups = [group async for group in manager.run(requests(100, size=4, pulled=pulled), wanted=5)]
    assert {group.group_id for group in groups} == {"g1", "g3", "g5", "g7", "g9"}
    assert all(len({member.reward for member in group.members}) > 1 for group in groups)
    account = manager.account()
    assert account.dropped_groups + len(groups) == len(pulled) <= 12
    world = World()
    every = [group async for group in signal(world, TimedEngine()).run(requests(10, size=4))]
    assert len(every) == 5  # without `wanted` what is dropped is not replaced
    assert len(await play(context_of(world, TimedEngine(), lambda: Dull(world)), requests(10, size=4))) == 10


@in_virtual_time
async def test_33b_a_verdict_counts_more_than_a_shaped_reward() -> None:
    class Shaped(Dull):
        """Even tasks: all are right, each with a reward of its own. Odd ones: right or wrong, all with the same."""

        def reward_of(self, seed: int) -> float:
            return float(seed % 1000) if self.dull else 0.5

        def verdict_of(self, seed: int) -> dict[str, float]:
            return {"correct": 1.0 if self.dull else float(seed % 2)}

    class Partly(Shaped):
        """Some members have no verdict, so that groups are judged by the reward."""

        def verdict_of(self, seed: int) -> dict[str, float]:
            return {} if seed % 3 == 0 else super().verdict_of(seed)

    async def kept(kind: type[Dull]) -> set[str]:
        world = World()
        policies = {"drop_without_signal": True}
        context = context_of(world, TimedEngine(), lambda: kind(world), policies=policies)
        return {group.group_id for group in await play(context, requests(6, size=8))}

    assert await kept(Shaped) == {"g1", "g3", "g5"}
    assert await kept(Partly) == {"g0", "g2", "g4"}


@in_virtual_time
async def test_33c_dynamic_sampling_fills_the_batch_with_mixed_groups() -> None:
    """B7 (b): with success rate 0.9 and groups of 8 a batch of n takes n / (1 - 0.9^8 - 0.1^8) groups."""

    class Likely(TimedEnv):
        turns = 1

        def reward_of(self, seed: int) -> float:
            return float(random.Random(seed).random() < 0.9)

        async def astep(self, action: Any) -> Step:
            step = await super().astep(action)
            step.info["metrics"] = {"correct": step.reward}
            return step

    world, pulled, wanted = World(), [], 120
    policies = {"drop_without_signal": True}
    context = context_of(world, TimedEngine(), lambda: Likely(world), concurrency=8, policies=policies)
    supply = requests(10**6, size=8, pulled=pulled)
    groups = [group async for group in Manager(context).run(supply, wanted=wanted)]
    assert len(groups) == wanted
    assert all(len({member.metrics["correct"] for member in group.members}) == 2 for group in groups)
    assert len(pulled) == pytest.approx(wanted / (1 - 0.9**8 - 0.1**8), rel=0.12)


@in_virtual_time
async def test_34_members_still_playing_are_stopped_once_enough_rewards_are_equal() -> None:
    class Uneven(Dull):
        """Every other episode takes a minute a turn."""

        async def astep(self, action: Any) -> Step:
            await asyncio.sleep(60.0 * (self.number % 2))
            return await super().astep(action)

    world, engine, reported = World(), TimedEngine(), []
    context = context_of(
        world,
        engine,
        lambda: Uneven(world),
        concurrency=4,
        episode_seconds=1e3,
        step_seconds=100.0,
        policies={"drop_without_signal": True, "stop_after": 2},
        on_episode=lambda request, trajectory: reported.append(trajectory.stop_reason),
    )
    manager, began = Manager(context), now()
    assert [group async for group in manager.run(requests(1, size=4))] == []
    assert now() - began < 10.0
    assert sorted(reported) == [StopReason.NO_SIGNAL] * 2 + [StopReason.TERMINATED] * 2
    account = manager.account()
    assert (account.episodes, account.dropped_groups) == (4, 1)
    assert (world.open, engine.sessions) == (0, set())


@in_virtual_time
async def test_35_refill_bounds_how_many_groups_are_dropped() -> None:
    world, pulled = World(), []

    def dull() -> Iterator[GroupRequest]:
        for index in range(0, 1000, 2):
            pulled.append(index)
            yield GroupRequest(f"g{index}", f"train:{index}", 4, index)

    manager = signal(world, TimedEngine(), refill=3.0)
    assert [group async for group in manager.run(dull(), wanted=2)] == []
    assert 6 < manager.account().dropped_groups == len(pulled) <= 9


# -- 36 to 39: other weights -------------------------------------------------------------------------------------------


def versions(groups: list[Group]) -> set[tuple[int, ...]]:
    """Of the turns of each judged episode."""
    return {tuple(turn.policy_version for turn in member.turns) for group in groups for member in group.members}


@in_virtual_time
async def test_36_groups_begin_only_as_far_as_staleness_allows() -> None:
    class Straggling(TimedEnv):
        async def areset(self, **kwargs: Any) -> Any:
            self.slow = kwargs["options"]["task"] == "train:0"
            return await super().areset(**kwargs)

        async def astep(self, action: Any) -> Step:
            await asyncio.sleep(25.0 * self.slow)
            return await super().astep(action)

    world, engine, pulled = World(), TimedEngine(), []
    engine.version = 0
    policies = {"max_staleness": 1, "groups_per_version": 2, "in_flight": InFlight.CONTINUE}
    context = context_of(world, engine, lambda: Straggling(world), concurrency=8, policies=policies, step_seconds=200.0)
    manager, seen = Manager(context), []
    async with aclosing(manager.run(requests(100, size=2, pulled=pulled))) as groups:
        seen += [(await anext(groups)).group_id for _ in range(3)]
        assert pulled == ["g0", "g1", "g2", "g3"]  # two a version, for this one and the next
        reading = asyncio.ensure_future(anext(groups))
        await asyncio.sleep(10.0)
        assert not reading.done() and len(pulled) == 4
        for version in (1, 2):
            await manager.update(lambda version=version: engine.publish(None, version), version)
        seen.append((await reading).group_id)
        assert len(pulled) == 8
        while len(seen) < 7:
            seen.append((await anext(groups)).group_id)
        await asyncio.sleep(100.0)
        assert manager.account().dropped_groups == 1  # the straggler's: sampled under 0, when 2 is trained
        assert "g0" not in seen and len(pulled) == 9  # and another group takes its place


async def updated(
    in_flight: InFlight, **capabilities: Any
) -> tuple[list[Group], list[tuple[StopReason, int]], TimedEngine, float, Manager]:
    """Eight episodes of four turns of a second, four at one time, and new weights after two and a half seconds."""

    class Long(TimedEnv):
        turns = 4

    world, engine, reported = World(), TimedEngine(1.0, **capabilities), []
    context = context_of(
        world,
        engine,
        lambda: Long(world),
        concurrency=4,
        policies={"in_flight": in_flight},
        on_episode=lambda _, trajectory: reported.append((trajectory.stop_reason, len(trajectory.turns))),
    )
    manager, began = Manager(context), now()
    waited = 0.0

    async def update() -> None:
        nonlocal waited
        await asyncio.sleep(2.5)
        assert await manager.update(lambda: engine.publish(None, 4), 4) == "hash 4"
        waited = now() - began - 2.5

    updating = asyncio.ensure_future(update())
    groups = [group async for group in manager.run(requests(4))]
    await updating
    assert (world.open, engine.sessions) == (0, set())
    return groups, reported, engine, waited, manager


@in_virtual_time
async def test_37_finish_lets_episodes_end_under_the_old_weights() -> None:
    groups, reported, _, waited, manager = await updated(InFlight.FINISH)
    assert waited == pytest.approx(1.5)
    assert versions(groups) == {(3, 3, 3, 3), (4, 4, 4, 4)}
    assert reported == [(StopReason.TERMINATED, 4)] * 8
    assert manager.account().makespan == pytest.approx(8.0)


@in_virtual_time
async def test_38_continue_goes_on_from_the_next_turn() -> None:
    groups, reported, _, waited, manager = await updated(InFlight.CONTINUE)
    assert waited == pytest.approx(0.5)
    assert versions(groups) == {(3, 3, 3, 4), (4, 4, 4, 4)}
    assert reported == [(StopReason.TERMINATED, 4)] * 8
    assert {member.oldest_version for group in groups for member in group.members} == {3, 4}
    assert manager.account().makespan == pytest.approx(8.0)


@in_virtual_time
async def test_38b_continue_in_mid_turn_where_the_engine_can() -> None:
    groups, _, _, waited, _ = await updated(InFlight.CONTINUE, publish_in_flight=True)
    assert waited == pytest.approx(0.0)
    turns = [turn for group in groups for member in group.members for turn in member.turns]
    both = [turn for turn in turns if turn.switches]
    assert len(both) == 4
    assert all(turn.hashes == {"hash 3", "hash 4"} and set(turn.versions) == {4} for turn in both)


@in_virtual_time
async def test_39_discard_plays_other_members_under_the_new_weights() -> None:
    groups, reported, _, waited, manager = await updated(InFlight.DISCARD)
    assert waited == pytest.approx(0.0)
    assert versions(groups) == {(4, 4, 4, 4)}
    assert Counter(reason for reason, _ in reported) == {StopReason.STALE: 4, StopReason.TERMINATED: 8}
    assert {group.group_id: (len(group.trajectories), len(group.members)) for group in groups} == {
        "g0": (4, 2),
        "g1": (4, 2),
        "g2": (2, 2),
        "g3": (2, 2),
    }
    assert manager.account().replayed == 4


# -- 40, 41: the books -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_40_every_second_is_booked() -> None:
    class Using(TimedEnv):
        seconds = 3.0

        async def areset(self, **kwargs: Any) -> Any:
            await asyncio.sleep(0.5)
            return await super().areset(**kwargs)

        async def astep(self, action: Any) -> Step:
            step = await super().astep(action)
            await asyncio.sleep(0.25)
            step.info["judge_seconds"] = 0.25 * step.terminated
            return step

    world, began = World(), now()
    context = context_of(world, TimedEngine(4.0), lambda: Using(world), concurrency=2, decoding=1, tools=1)
    manager = Manager(context)
    groups = [group async for group in manager.run(requests(1))]
    first, second = sorted((t for g in groups for t in g.trajectories), key=lambda t: t.seconds)
    expected = {"decode": 8.0, "tool": 6.0, "env": 0.75, "judge": 0.25}
    for trajectory in (first, second):
        booked = episode_account(trajectory)
        assert set(booked) == set(STAGES)
        assert sum(booked.values()) == pytest.approx(trajectory.seconds)
        assert {stage: booked[stage] for stage in expected} == pytest.approx(expected)
    # 0.5 reset, 4 decode, 3.25 step, twice; the other begins four seconds later, for there is one decoding slot
    assert first.seconds == pytest.approx(0.5 + 2 * 7.25 + episode_account(first)["queue"])
    account = manager.account()
    assert sum(account.shares.values()) == pytest.approx(1.0)
    assert account.makespan == pytest.approx(now() - began) == pytest.approx(second.seconds)
    assert account.lower_bound == pytest.approx(16.0)  # four decodes of four seconds on one slot
    assert account.shares["idle"] == pytest.approx(0.0, abs=1e-6)
    assert manager.account().episodes == 0  # taken: a new one began


class Counting(WordEnv):
    """Answers with the number of letters so far; can be copied."""

    def turns_of(self, seed: int) -> int:
        self.letters = 0
        return 4

    async def astep(self, action: Any) -> Step:
        step = await super().astep(action)
        self.letters += len(action.text)
        return step if step.terminated else step._replace(observation=(user(str(self.letters)),))

    async def asnapshot(self) -> Any:
        return (self.left, self.turn, self.letters)

    async def arestore(self, state: Any) -> None:
        self.left, self.turn, self.letters = state


@in_virtual_time
async def test_41_what_was_recorded_can_be_stepped_again() -> None:
    world = World()
    context = context_of(world, FakeEngine(), lambda: Counting(world))
    rollout = BranchAtTurns(context, turns=[1, 2], roots=2)
    groups = [group async for group in rollout.run(requests(3, size=6))]
    records = [trajectory for group in groups for trajectory in group.trajectories]
    assert ended(groups) == [StopReason.TERMINATED] * 18
    assert Counter(None if t.branch is None else t.branch.turns for t in records) == {None: 6, 1: 6, 2: 6}
    for group in groups:
        for trajectory in group.trajectories:
            if (branch := trajectory.branch) is not None:
                parent = group.trajectories[branch.parent]
                assert content_of(trajectory, branch.turns) == content_of(parent, branch.turns)
                assert content(trajectory) != content(parent)
    env = Counting(World())
    for trajectory in records:
        assert await first_difference(env, trajectory) is None
    records[0].turns[1].observation = [user("17000")]
    assert str(await first_difference(env, records[0])).startswith("turn 2, message 1: ")
    await left_nothing()


def content_of(trajectory: Trajectory, turns: int) -> list[Any]:
    return [(turn.new_ids, turn.sampled_ids, turn.logprobs, turn.observation) for turn in trajectory.turns[:turns]]
