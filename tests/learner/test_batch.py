"""Rows, packing and the token table."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import TrainingError
from agentrl.learner.batch import PackedTokens, TokenTable, TrainingRow, flatten, pack
from agentrl.messages import Message
from agentrl.trajectory import Trajectory, Turn
from tests.learner.tiny_models import make_batch, make_trajectory


def turn(new: list[int], prefix: int | None, sampled: list[int]) -> Turn:
    return Turn(new, prefix, sampled, [-float(token) for token in sampled], Message(role="assistant", content=""))


def test_each_sampled_token_carries_its_own_advantage_once_across_forks() -> None:
    # turns 2 and 3 both continue turn 1; turn 4 rewrote history
    tree = [turn([1, 2], None, [10, 11]), turn([3], 0, [12]), turn([4, 5], 0, [13, 14]), turn([6], None, [15])]
    trajectory = Trajectory("tree", turns=tree)
    rows = flatten([trajectory], [np.array([10.0, 11.0, 12.0, 13.0, 14.0, 15.0])])
    trained = [
        (int(token), float(advantage), float(behaviour))
        for row in rows
        for token, advantage, behaviour in zip(row.ids[row.positions], row.advantages, row.behaviour, strict=True)
    ]
    assert sorted(trained) == [(token, float(token), -float(token)) for token in range(10, 16)]
    assert [row.turn_ids.tolist() for row in rows] == [[1, 1, 2], [3, 3], [4]]
    assert rows[1].ids.tolist() == [1, 2, 10, 11, 4, 5, 13, 14]


def test_a_turn_without_tokens_leaves_no_row_and_shifts_nothing() -> None:
    trajectory = Trajectory("empty", turns=[turn([1], None, [10]), turn([2], 0, []), turn([3], 1, [12])])
    (row,) = flatten([trajectory], [np.array([1.0, 3.0])])
    assert row.turn_ids.tolist() == [1, 3]
    assert row.advantages.tolist() == [1.0, 3.0]
    assert flatten([Trajectory("none", turns=[turn([1], None, [])])], [np.zeros(0)]) == []


@pytest.mark.parametrize(
    ("advantages", "message"),
    [
        ([np.zeros(1)], "2 policy tokens, but 1 of advantage"),
        ([np.array([0.0, np.nan])], "advantage is not finite"),
        ([], "1 trajectories, but advantages of 0"),
    ],
)
def test_refuses_what_cannot_be_trained_on(advantages: list[np.ndarray], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        flatten([Trajectory("bad", turns=[turn([1], None, [10, 11])])], advantages)


def test_refuses_a_sampled_token_without_context_and_records_that_are_not_finite() -> None:
    with pytest.raises(TrainingError, match="without context"):
        flatten([Trajectory("bare", turns=[turn([], None, [10])])], [np.zeros(1)])
    broken = turn([1], None, [10])
    broken.logprobs = [float("-inf")]
    with pytest.raises(TrainingError, match="log-probability is not finite"):
        flatten([Trajectory("broken", turns=[broken])], [np.zeros(1)])


def sized(length: int, trajectory: int) -> TrainingRow:
    one = np.ones(1)
    return TrainingRow(np.zeros(length, np.int64), np.array([1]), np.array([1]), one, one, trajectory, np.array([0]))


@given(st.lists(st.lists(st.integers(2, 40), min_size=1, max_size=3), min_size=1, max_size=12), st.integers(1, 60))
def test_packing_keeps_every_row_once_within_bounds_and_trajectories_together(
    trajectories: list[list[int]], limit: int
) -> None:
    rows = [sized(length, index) for index, lengths in enumerate(trajectories) for length in lengths]
    bins = pack(rows, limit)
    assert sorted(index for members in bins for index in members) == list(range(len(rows)))
    for members in bins:
        assert len(members) == 1 or sum(len(rows[index]) for index in members) <= limit
    for index, lengths in enumerate(trajectories):
        if sum(lengths) <= limit:
            assert sum(any(rows[row].trajectory == index for row in members) for members in bins) == 1
    # first fit leaves no two bins that would fit into one
    totals = [sum(len(rows[index]) for index in members) for members in bins]
    whole = all(sum(lengths) <= limit for lengths in trajectories)
    assert not whole or len(totals) < 2 or sum(sorted(totals)[:2]) > limit


def test_packed_tokens_predict_each_policy_token_from_the_position_before_it() -> None:
    trajectories, advantages = make_batch()
    rows = flatten(trajectories, advantages)
    packed, table = PackedTokens.of(rows), TokenTable.of(rows)
    assert packed.input_ids[0, packed.sources + 1].tolist() == packed.targets.tolist()
    assert sum(packed.segments.lengths) == packed.input_ids.shape[1]
    assert len(packed.targets) == len(table.behaviour) == sum(item.num_policy_tokens for item in trajectories)
    index = table.index([2, 0])
    expected = [*rows[2].behaviour, *rows[0].behaviour]
    assert table.behaviour[index].tolist() == pytest.approx(expected)


def test_packing_does_not_depend_on_token_values() -> None:
    first = make_trajectory(random.Random(1))
    second = Trajectory.from_json(first.to_json())
    second.turns[0].new_ids = [0] * len(second.turns[0].new_ids)
    zeros = np.zeros(first.num_policy_tokens)
    assert pack(flatten([first], [zeros]), 64) == pack(flatten([second], [zeros]), 64)
