"""The small parts of the manager: doors, forecasts, the rule of signals, failure policies, account."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.account import MEANING, STAGES, BatchAccount, Chain, episode_account, lower_bound
from agentrl.errors import ConfigError
from agentrl.messages import assistant
from agentrl.rollouts.doorway import Doorway
from agentrl.rollouts.failures import FailFast, MinimumGroup, Retry
from agentrl.rollouts.forecast import MEMORY, Forecast
from agentrl.rollouts.signal import no_signal
from agentrl.trajectory import Group, StopReason, Trajectory, Turn

# -- doors -------------------------------------------------------------------------------------------------------------


async def test_nobody_enters_a_shut_door_and_empty_waits_for_the_last() -> None:
    door, order = Doorway(), []
    await door.enter()
    await door.enter()
    door.shut = True
    assert not door.try_enter()

    async def late() -> None:
        await door.enter()
        order.append("late")

    async def watch() -> None:
        await door.empty()
        order.append("empty")
        door.open()

    tasks = [asyncio.ensure_future(late()), asyncio.ensure_future(watch())]
    await asyncio.sleep(0)
    door.leave()
    await asyncio.sleep(0)
    assert order == []
    door.leave()
    await asyncio.gather(*tasks)
    assert order == ["empty", "late"] and door.inside == 1


async def test_a_door_that_is_shut_again_at_once_lets_nobody_in() -> None:
    door = Doorway()
    door.shut = True
    waiter = asyncio.ensure_future(door.enter())
    await asyncio.sleep(0)
    door.open()
    door.shut = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiter.done() and door.inside == 0
    door.open()
    await waiter
    assert door.inside == 1


async def test_cancelled_waits_at_a_door_leave_nothing() -> None:
    door = Doorway()
    await door.enter()
    door.shut = True
    tasks = [asyncio.ensure_future(door.enter()), asyncio.ensure_future(door.empty())]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    door.leave()
    door.open()
    assert door.inside == 0 and not door._outside and not door._watching


# -- forecasts ---------------------------------------------------------------------------------------------------------


def test_a_forecast_knows_the_task_then_the_environment_then_the_limit() -> None:
    forecast = Forecast(10)
    assert forecast.remaining("env", "task", 0) == 10
    forecast.observe("env", "short", 2)
    assert forecast.remaining("env", "short", 0) == 2
    assert forecast.remaining("env", "other", 1) == 1
    assert forecast.remaining("elsewhere", "short", 4) == 6
    assert forecast.remaining("env", "short", 9) == 1  # it plays on: at least this turn
    forecast.observe("env", "short", 7)
    assert forecast.remaining("env", "short", 0) == pytest.approx(2 + 0.2 * 5)


def test_a_forecast_forgets_old_tasks() -> None:
    forecast = Forecast(4)
    for number in range(MEMORY + 100):
        forecast.observe("env", str(number), 1)
    assert len(forecast._means) == MEMORY
    assert forecast.remaining("env", "", 0) == 1  # the environment's own mean is never the oldest


# -- signal ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "outstanding", "stop_after", "given_up"),
    [
        ([], 4, None, False),
        ([], 1, None, True),
        ([1.0], 0, None, True),
        ([1.0], 1, None, False),
        ([0.0, 0.0, 0.0], 1, None, False),
        ([0.0, 0.0, 0.0, 0.0], 0, None, True),
        ([0.0, 1.0], 0, None, False),
        ([0.0, 0.0, 0.0], 5, 3, True),
        ([0.0, 0.0], 5, 3, False),
        ([0.0, 0.0, 1.0], 5, 3, False),
    ],
)
def test_when_a_group_is_given_up(
    rewards: list[float], outstanding: int, stop_after: int | None, given_up: bool
) -> None:
    assert no_signal(rewards, outstanding, stop_after) is given_up


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=8), st.integers(0, 8))
def test_the_certain_rule_never_gives_up_a_group_with_signal(rewards: list[float], finished: int) -> None:
    finished = min(finished, len(rewards))
    if no_signal(rewards[:finished], len(rewards) - finished):
        assert len(set(rewards)) == 1


# -- failure policies --------------------------------------------------------------------------------------------------


def test_failure_policies() -> None:
    judged, failed = Trajectory("t"), Trajectory("t", stop_reason=StopReason.ENV_ERROR)
    group = Group("g", [judged, failed, judged])
    assert FailFast.ends_run and not FailFast().replaces(1, 4)
    assert [Retry(2).replaces(number, 3) for number in (1, 6, 7)] == [True, True, False]
    assert MinimumGroup().viable(Group("g", [failed])) and not MinimumGroup(1).viable(Group("g", [failed]))
    assert MinimumGroup(2).viable(group) and not MinimumGroup(3).viable(group)
    for wrong in (lambda: Retry(0), lambda: MinimumGroup(-1)):
        with pytest.raises(ConfigError, match="on_failure"):
            wrong()


# -- the account -------------------------------------------------------------------------------------------------------

timings = st.dictionaries(st.sampled_from(STAGES[:-1]), st.floats(0, 100), max_size=9)


@given(st.lists(timings, max_size=4), timings, st.floats(0.001, 1000))
def test_an_account_sums_to_the_whole(turns: list[dict[str, float]], own: dict[str, float], seconds: float) -> None:
    record = Trajectory(
        "t", turns=[Turn([], None, [], [], assistant("x"), timings=spent) for spent in turns], seconds=seconds
    )
    record.timings = own
    account = episode_account(record)
    assert set(account) == set(STAGES) == set(MEANING)
    assert sum(account.values()) == pytest.approx(seconds) and min(account.values()) >= 0
    batch = BatchAccount()
    batch.add(record)
    assert sum(batch.shares.values()) == pytest.approx(1)


def test_the_lower_bound_of_the_field() -> None:
    chains = [Chain(4.0, 1.0), Chain(2.0, 5.0, 1.0), Chain(3.0, 0.0)]
    assert lower_bound(chains) == 8.0
    assert lower_bound(chains, slots=1) == 9.0
    assert lower_bound(chains, slots=1, workers=0.5) == 12.0
    assert lower_bound([]) == 0.0
    assert math.isnan(BatchAccount().efficiency) and BatchAccount().lines()
