"""GRPO, Dr. GRPO, RLOO: the specification's numbers (B1, B2, B3) and exact expectations by enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from agentrl.advantages import GRPO, RLOO, DrGRPO, Transform, TurnTable, attribute

LOGITS = np.array([0.2, 0.0, -0.3])
POLICY = np.exp(LOGITS) / np.exp(LOGITS).sum()
REWARDS = np.array([1.0, 0.0, 0.5])
TRUE_GRADIENT = POLICY * (REWARDS - POLICY @ REWARDS)


def table(reward: float, length: int = 1) -> TurnTable:
    return TurnTable(rewards=np.array([reward], dtype=np.float64), lengths=np.array([length]))


def credit_of(transform: Transform, rewards: list[float]) -> np.ndarray:
    return attribute([transform], [[table(reward) for reward in rewards]])[0].trajectory


def expected_gradient(transform: Transform, size: int) -> np.ndarray:
    """E[(1/G) sum_i A_i grad log p(a_i)] over all groups of `size` arms of the three-armed bandit, exactly."""
    groups = list(product(range(3), repeat=size))
    credits = attribute([transform], [[table(REWARDS[arm]) for arm in group] for group in groups])
    total = np.zeros(3)
    for group, credit in zip(groups, credits, strict=True):
        scores = np.eye(3)[list(group)] - POLICY
        total += POLICY[list(group)].prod() * (credit.trajectory @ scores) / size
    return total


def test_grpo_b1a() -> None:
    high, low = 1.095443, -0.730295
    assert credit_of(GRPO(), [1, 0, 0, 1, 0]) == pytest.approx([high, low, low, high, low], abs=1e-6)
    high, low = 1.224742, -0.816495
    assert credit_of(GRPO(ddof=0), [1, 0, 0, 1, 0]) == pytest.approx([high, low, low, high, low], abs=1e-6)
    assert credit_of(GRPO(), [1, 0]) == pytest.approx([0.707106, -0.707106], abs=1e-6)


def test_dr_grpo_b2a() -> None:
    assert credit_of(DrGRPO(), [1, 0]).tolist() == [0.5, -0.5]


def test_rloo_b3a() -> None:
    assert credit_of(RLOO(), [1, 0, 0.5, 0]) == pytest.approx([0.833333, -0.5, 0.166667, -0.5], abs=1e-6)


def test_true_gradient_is_the_printed_one() -> None:
    assert TRUE_GRADIENT.tolist() == pytest.approx([0.190754, -0.181408, -0.009346], abs=1e-6)


@pytest.mark.parametrize(("size", "share"), [(2, 0.5), (4, 0.75)])
def test_mean_baseline_shrinks_the_gradient_by_one_over_g_b1b(size: int, share: float) -> None:
    assert expected_gradient(DrGRPO(), size) == pytest.approx(share * TRUE_GRADIENT, abs=1e-12)


@pytest.mark.parametrize("size", [2, 4])
def test_std_keeps_the_direction_b1b(size: int) -> None:
    gradient = expected_gradient(GRPO(), size)
    cosine = gradient @ TRUE_GRADIENT / np.linalg.norm(gradient) / np.linalg.norm(TRUE_GRADIENT)
    assert cosine > 0.999
    assert cosine < 1 - 1e-9  # it is a different estimator, not the true one scaled


@pytest.mark.parametrize("size", [2, 3, 4])
def test_rloo_is_exactly_unbiased_b3b(size: int) -> None:
    assert expected_gradient(RLOO(), size) == pytest.approx(TRUE_GRADIENT, abs=1e-9)


@pytest.mark.parametrize("transform", [GRPO(), GRPO(ddof=0), DrGRPO(), RLOO()])
@pytest.mark.parametrize("rewards", [[np.float32(0.1)] * 8, [0.1] * 7, [0.0] * 3, [1e9] * 4, [0.5]])
def test_equal_groups_and_groups_of_one_get_exactly_zero(transform: Transform, rewards: list[float]) -> None:
    assert (credit_of(transform, rewards) == 0.0).all()


@pytest.mark.parametrize("kind", [GRPO, DrGRPO, RLOO])
def test_raw_singleton_gives_the_reward(kind: type[GRPO] | type[DrGRPO] | type[RLOO]) -> None:
    transform = kind(singleton="raw")
    assert credit_of(transform, [0.7]).tolist() == [0.7]
    assert credit_of(transform, [0.7, 0.7]).tolist() == [0.0, 0.0]


def test_total_reward_of_all_turns_goes_to_all_tokens_undiscounted() -> None:
    long = TurnTable(rewards=np.array([0.25, 0.0, 0.75]), lengths=np.array([2, 0, 3]))
    credit = attribute([RLOO()], [[long, table(0.0, length=1)]])[0]
    tokens = credit.token_advantages()
    assert tokens[0].tolist() == [1.0] * 5
    assert tokens[1].tolist() == [-1.0]


def test_member_without_policy_tokens_keeps_its_reward_in_the_statistic() -> None:
    credit = attribute([RLOO()], [[table(1.0), table(0.0), table(0.5, length=0)]])[0]
    assert credit.trajectory == pytest.approx([0.75, -0.75, 0.0])
    assert credit.token_advantages()[2].shape == (0,)


def test_groups_do_not_mix_and_sizes_may_differ() -> None:
    batch = [[table(reward) for reward in group] for group in ([1, 0], [5, 5, 5], [0, 0, 3])]
    credits = attribute([RLOO()], batch)
    assert [credit.trajectory.tolist() for credit in credits] == [[1, -1], [0, 0, 0], [-1.5, -1.5, 3]]


def test_estimators_add_up_and_leave_their_argument_alone() -> None:
    tables = [table(1.0), table(0.0)]
    once = attribute([RLOO()], [tables])
    twice = RLOO()(once)
    assert twice[0].trajectory.tolist() == [2.0, -2.0]
    assert once[0].trajectory.tolist() == [1.0, -1.0]
