"""DAPO's soft penalty on overlong episodes and the overlong filter (B7)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agentrl.advantages import GRPO, MaskTruncated, OverlongPenalty, TurnTable, attribute, build, check_order
from agentrl.advantages.batch import credited_batch
from agentrl.errors import ConfigError
from agentrl.messages import Message
from agentrl.trajectory import StopReason, Trajectory, Turn

PAPER = {"name": "overlong", "max_length": 20480, "cache": 4096}


def table(lengths: list[int], rewards: list[float] | None = None, truncated: tuple[bool, ...] = ()) -> TurnTable:
    return TurnTable(np.array(rewards or [0.0] * len(lengths)), np.array(lengths), truncated=truncated)


@pytest.mark.parametrize(
    ("length", "penalty"), [(16384, 0), (17408, -0.25), (18432, -0.5), (20480, -1), (20481, -1), (40000, -1), (0, 0)]
)
def test_b7a_penalty(length: int, penalty: float) -> None:
    (transform,) = build([PAPER])
    (credit,) = attribute([transform], [[table([length])]])
    assert credit.rewards.tolist() == [penalty]
    (half,) = attribute(build([{**PAPER, "factor": 0.5}]), [[table([length])]])
    assert half.rewards.tolist() == [penalty / 2]


def test_length_is_the_policys_tokens_of_all_turns_and_the_last_turn_pays() -> None:
    transform = OverlongPenalty(max_length=20, cache=10)
    before = table([8, 0, 7], [0.5, 0.0, 1.0])
    (credit,) = attribute([transform], [[before, table([4, 6], [0.0, 1.0])]])
    assert credit.tables[0].rewards.tolist() == [0.5, 0.0, 0.5]
    assert credit.tables[1].rewards.tolist() == [0.0, 1.0]
    assert before.rewards.tolist() == [0.5, 0.0, 1.0]  # the argument is as it was
    assert transform.metrics == {"overlong": 0.5, "overlong_penalty": -0.25}


def test_episodes_without_turns_or_tokens_pay_nothing() -> None:
    transform = OverlongPenalty(max_length=1, cache=1)
    (credit,) = attribute([transform], [[table([]), table([0], [1.0])]])
    assert credit.rewards.tolist() == [0.0, 1.0]


def test_the_penalty_stands_before_the_statistic() -> None:
    overlong, grpo = build([PAPER, "grpo"])
    check_order([overlong, grpo], group_size=2)
    with pytest.raises(ConfigError, match="must stand before"):
        check_order([grpo, overlong], group_size=2)
    (credit,) = attribute([overlong, grpo], [[table([100], [1.0]), table([20480], [1.0])]])
    assert credit.trajectory.tolist() == pytest.approx([0.707106, -0.707106], abs=1e-6)


@pytest.mark.parametrize("options", [{"cache": 0}, {"cache": 20481}, {"factor": -1.0}])
def test_wrong_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="overlong"):
        build([{**PAPER, **options}])


def episode(reward: float, truncated: bool = False, stop: StopReason = StopReason.TERMINATED) -> TurnTable:
    message = Message(role="assistant", content="")
    turns = [Turn([1], None, [2, 3], [-1.0, -1.0], message), Turn([4], 0, [5], [-1.0], message, reward=reward)]
    turns[0].truncated = truncated
    return TurnTable.of(Trajectory("t", turns=turns, stop_reason=stop))


def test_truncated_trajectories_lose_their_loss_and_keep_their_reward_in_the_statistics() -> None:
    group = [episode(1.0), episode(0.0, truncated=True), episode(0.0, stop=StopReason.MAX_TOKENS), episode(0.0)]
    transforms = build(["grpo", "mask_truncated"])
    check_order(transforms, group_size=4)
    credits = attribute(transforms, [group])
    plain = attribute([GRPO()], [group])
    assert np.array_equal(credits[0].trajectory, plain[0].trajectory)
    batch = credited_batch(credits)
    assert len(batch.trajectories) == 4  # they stay in the denominators
    masks = [np.asarray(columns["masked"]).tolist() for columns in batch.columns]
    assert masks == [[0.0] * 3, [1.0] * 3, [1.0] * 3, [0.0] * 3]
    assert transforms[1].metrics == {"truncated": 0.5}


def test_the_turn_limit_is_no_truncation() -> None:
    (credit,) = attribute([MaskTruncated()], [[episode(0.0, stop=StopReason.MAX_TURNS)]])
    assert not credit.masked


def test_masks_add_up_with_those_of_others() -> None:
    (credit,) = attribute([GRPO()], [[episode(1.0), episode(0.0, truncated=True)]])
    before = credit.with_mask(0, np.array([True, False, False]))
    (after,) = MaskTruncated()([before])
    assert {member: mask.tolist() for member, mask in after.masked.items()} == {
        0: [True, False, False],
        1: [True, True, True],
    }
    assert 1 not in before.masked


def test_group_variance_is_of_the_whole_group_after_the_rewards_were_changed() -> None:
    group = [episode(reward) for reward in (1.0, 0.0, 0.0, 1.0)]
    (credit,) = attribute([GRPO()], [group])
    columns = credited_batch([replace(credit, dropped=frozenset({1, 2}))]).columns
    assert [column["group_variance"] for column in columns] == [0.25, 0.25]
    (penalised,) = attribute([OverlongPenalty(max_length=3, cache=3), GRPO()], [group])
    assert credited_batch([penalised]).columns[0]["group_variance"] == pytest.approx(0.25)
    (alone,) = attribute([GRPO(singleton="raw")], [[episode(1.0)]])
    assert np.isnan(credited_batch([alone]).columns[0]["group_variance"])
    (equal,) = attribute([GRPO()], [[episode(0.1) for _ in range(8)]])
    assert credited_batch([equal]).columns[0]["group_variance"] == 0.0
