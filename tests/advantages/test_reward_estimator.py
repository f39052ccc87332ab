"""The reward as credit: a fixed baseline, and nothing of the group."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import TurnTable, attribute, check_order


def credit(rewards: list[float], **options: float) -> list[float]:
    tables = [TurnTable(np.array([0.0, reward]), np.array([2, 3])) for reward in rewards]
    result = attribute(advantages.build([{"name": "reward", **options}]), [tables])[0]
    assert all(len(set(each.tolist())) == 1 for each in result.token_advantages())
    return [float(each[0]) for each in result.token_advantages()]


def test_the_reward_less_a_constant() -> None:
    assert credit([1.0, -1.0, 0.5]) == [1.0, -1.0, 0.5]
    assert credit([1.0, 0.0, 0.0], baseline=0.5) == [0.5, -0.5, -0.5]


def test_an_equal_group_and_a_group_of_one_have_credit_too() -> None:
    assert credit([1.0, 1.0]) == [1.0, 1.0]
    assert credit([1.0]) == [1.0]
    check_order(advantages.build(["reward"]), group_size=1)


def test_a_member_without_tokens_has_none() -> None:
    table = TurnTable(np.array([1.0]), np.array([0]))
    assert attribute(advantages.build(["reward"]), [[table]])[0].token_advantages()[0].shape == (0,)


@pytest.mark.parametrize(("p", "c", "share"), [(0.5, 0.0, 0.5), (0.3, -0.4, 0.5), (0.8, 0.6, 0.5)])
def test_the_baseline_decides_the_weight_of_positive_trajectories(p: float, c: float, share: float) -> None:
    size = 10
    values = credit([1.0] * round(p * size) + [-1.0] * round((1 - p) * size), baseline=c)
    positive = sum(value for value in values if value > 0)
    assert positive / sum(abs(value) for value in values) == pytest.approx(share)
    assert p * (1 - c) / (1 + (1 - 2 * p) * c) == pytest.approx(share)
