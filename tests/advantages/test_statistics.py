"""Group statistics: peer rules, leave-one-out, equal members, values without peers."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.advantages import GroupStatistic, PeerRule
from agentrl.errors import ConfigError

Z_SCORE = GroupStatistic(leave_one_out=False, scale=True)
LEAVE_ONE_OUT = GroupStatistic(leave_one_out=True, scale=False)
RAGGED = [np.array([0.9, 1.0]), np.array([0.2, 0.0, 0.0]), np.array([1.0])]


@pytest.mark.parametrize(
    ("rule", "second_turn_baseline_of_first"),
    [("alive", 0.0), ("pad_zero", 0.0), ("pad_final", 0.5), ("episode", 0.6), ("none", 0.0)],
)
def test_peer_rules(rule: str, second_turn_baseline_of_first: float) -> None:
    residuals = GroupStatistic(leave_one_out=True, scale=False, singleton="raw").over_turns(RAGGED, PeerRule(rule))
    assert residuals[0][1] == pytest.approx(1.0 - second_turn_baseline_of_first, abs=1e-12)
    assert [len(member) for member in residuals] == [2, 3, 1]


def test_a_turn_without_a_peer_follows_singleton() -> None:
    values = [np.array([1.0, 5.0]), np.array([0.0])]
    assert LEAVE_ONE_OUT.over_turns(values, PeerRule.ALIVE)[0][1] == 0.0
    raw = GroupStatistic(leave_one_out=True, scale=False, singleton="raw")
    assert raw.over_turns(values, PeerRule.ALIVE)[0][1] == 5.0


def test_z_score_over_turns_takes_mean_and_std_of_the_members_alive() -> None:
    values = [np.array([1.0, 3.0]), np.array([0.0, 1.0]), np.array([2.0])]
    first, second, third = Z_SCORE.over_turns(values, PeerRule.ALIVE)
    std = np.sqrt(2.0)
    assert first == pytest.approx([0.0, 1.0 / (std + 1e-6)])
    assert second == pytest.approx([-1.0 / (1.0 + 1e-6), -1.0 / (std + 1e-6)])
    assert third == pytest.approx([1.0 / (1.0 + 1e-6)])


@pytest.mark.parametrize("statistic", [Z_SCORE, LEAVE_ONE_OUT, GroupStatistic(leave_one_out=False, scale=False)])
@pytest.mark.parametrize(
    "values",
    [
        np.full(8, np.float32(0.1)),
        np.full(7, 0.1),
        np.array([0.3, 0.1 + 0.2, 0.3]),
        np.float32(1e6) + np.array([0.0, 0.0, 0.5]),  # 5e-7 relative: equal at this size
        np.array([0.0, 1e-7]),
    ],
)
def test_equal_members_get_exactly_zero(statistic: GroupStatistic, values: np.ndarray) -> None:
    assert (statistic.over_trajectories(values) == 0.0).all()
    turns = [np.full(3, value, dtype=np.float64) for value in values]
    for residual in statistic.over_turns(turns, PeerRule.PAD_FINAL):
        assert (residual == 0.0).all()


def test_a_small_but_real_difference_is_kept() -> None:
    assert LEAVE_ONE_OUT.over_trajectories(np.array([0.0, 1e-5])) == pytest.approx([-1e-5, 1e-5])


@pytest.mark.parametrize(("singleton", "expected"), [("zero", 0.0), ("raw", 0.7)])
def test_group_of_one(singleton: str, expected: float) -> None:
    for scale in (False, True):
        for leave_one_out in (False, True):
            statistic = GroupStatistic(leave_one_out, scale, singleton=singleton)  # type: ignore[arg-type]
            assert statistic.over_trajectories(np.array([0.7])).tolist() == [expected]


def test_empty_group_and_member_without_turns() -> None:
    assert LEAVE_ONE_OUT.over_trajectories(np.zeros(0)).shape == (0,)
    assert LEAVE_ONE_OUT.over_turns([], PeerRule.ALIVE) == []
    values = [np.zeros(0), np.array([1.0])]
    padded = LEAVE_ONE_OUT.over_turns(values, PeerRule.PAD_FINAL)
    assert padded[0].shape == (0,)
    assert padded[1].tolist() == [1.0]  # an episode without a turn earned 0
    assert LEAVE_ONE_OUT.over_turns(values, PeerRule.ALIVE)[1].tolist() == [0.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"ddof": 2}, "ddof is 2"), ({"singleton": "row"}, "'raw'"), ({"eps": 0.0}, "eps is 0.0")],
)
def test_wrong_options_are_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        GroupStatistic(leave_one_out=False, scale=True, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_pool_compares_every_value_with_every_other_one_s_own_too() -> None:
    pooled = np.concatenate(RAGGED)
    scores = Z_SCORE.over_pool(RAGGED)
    assert [len(member) for member in scores] == [2, 3, 1]
    assert np.concatenate(scores) == pytest.approx((pooled - pooled.mean()) / (pooled.std(ddof=1) + 1e-6))
    others = LEAVE_ONE_OUT.over_pool([np.array([1.0, 0.0]), np.zeros(0), np.array([0.5])])
    assert [member.tolist() for member in others] == [[0.75, -0.75], [], [0.0]]
    assert Z_SCORE.over_pool([]) == []


def test_states_compare_values_with_an_equal_key() -> None:
    values = [np.array([1.0, 5.0, 2.0]), np.array([0.0, 7.0])]
    keys = [("a", None, "b"), ("a", None)]
    mean = GroupStatistic(leave_one_out=False, scale=False).over_states(values, keys)
    assert [member.tolist() for member in mean] == [[0.5, 0.0, 0.0], [-0.5, 0.0]]
    raw = GroupStatistic(leave_one_out=True, scale=False, singleton="raw").over_states(values, keys)
    assert [member.tolist() for member in raw] == [[1.0, 5.0, 2.0], [-1.0, 7.0]]
    same = Z_SCORE.over_states([np.full(3, np.float64(np.float32(0.1)))] * 2, [("a", "a", "b")] * 2)
    assert not np.concatenate(same).any()
