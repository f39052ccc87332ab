"""REINFORCE++ and KL in the reward: the specification's numbers (B3, B4, B5's controller, B13) and exact gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentrl.advantages import Credit, KLInReward, TurnTable, attribute, build, check_order
from agentrl.errors import ConfigError

# Batch E1 without its observation token: the first trajectory is two turns of two tokens.
OLD = [[-1.0, -0.5, -2.0, -0.7], [-1.2, -0.3, -0.9]]
REFERENCE = [[-1.1, -0.4, -1.8, -0.9], [-1.0, -0.5, -0.8]]
PLAIN = [{"name": "kl_in_reward", "beta": 0.1}, "token_returns"]


def table(rewards: list[float], lengths: list[int], old: list[float], reference: list[float]) -> TurnTable:
    columns = {"logprobs": np.array(old), "reference": np.array(reference)}
    return TurnTable(np.array(rewards, dtype=np.float64), np.array(lengths), columns=columns)


def e1() -> list[TurnTable]:
    return [table([0.0, 1.0], [2, 2], OLD[0], REFERENCE[0]), table([0.0], [3], OLD[1], REFERENCE[1])]


def tokens(spec: list[Any], groups: list[list[TurnTable]]) -> list[list[float]]:
    credits: list[Credit] = attribute(build(spec), groups)
    return [values.tolist() for credit in credits for values in credit.token_advantages()]


def test_returns_to_go_with_kl_in_the_reward_b4a() -> None:
    expected = [[1.0, 1.01, 1.0, 0.98], [0.01, -0.01, 0.01]]
    assert tokens(PLAIN, [e1()]) == [pytest.approx(row, abs=1e-9) for row in expected]


def test_plain_reinforce_pp_b4a() -> None:
    population = [[0.870916, 0.891238, 0.870916, 0.830273], [-1.140900, -1.181543, -1.140900]]
    found = tokens([*PLAIN, {"name": "whiten", "ddof": 0}], [e1()])
    assert found == [pytest.approx(row, abs=1e-6) for row in population]
    bessel = tokens([*PLAIN, "whiten"], [e1()])
    assert bessel[0][:2] == pytest.approx([0.806312, 0.825126], abs=1e-6)
    assert bessel[1][2] == pytest.approx(-1.056268, abs=1e-6)
    assert tokens([*PLAIN, "whiten"], [[one] for one in e1()]) == bessel  # the batch is whitened, not the group


def test_baseline_form_and_its_constant_for_a_solved_group_b4ab() -> None:
    groups = [
        [TurnTable(np.array([reward]), np.array([length])) for reward, length in pairs]
        for pairs in ([(1.0, 2), (0.0, 3)], [(1.0, 4), (1.0, 1)])
    ]
    for ddof, (high, low, solved) in {0: (1.571429, -1.285714, 0.142857), 1: (1.490788, -1.219736, 0.135526)}.items():
        found = tokens(["dr_grpo", {"name": "whiten", "ddof": ddof}], groups)
        expected = [[high] * 2, [low] * 3, [solved] * 4, [solved]]
        assert found == [pytest.approx(row, abs=1e-6) for row in expected]
    assert tokens(["grpo"], groups)[2:] == [[0.0] * 4, [0.0]]  # plain GRPO gives that group nothing


def test_discounting_counts_policy_tokens_across_turns() -> None:
    one = TurnTable(np.array([0.0, 1.0]), np.array([2, 2]))
    assert tokens([{"name": "token_returns", "gamma": 0.5}], [[one]]) == [[0.125, 0.25, 0.5, 1.0]]


def test_the_reward_of_an_empty_turn_is_not_lost() -> None:
    last_is_empty = TurnTable(np.array([0.0, 1.0]), np.array([2, 0]))
    first_is_empty = TurnTable(np.array([1.0, 0.0]), np.array([0, 2]))
    assert tokens(["token_returns"], [[last_is_empty, first_is_empty]]) == [[1.0, 1.0], [1.0, 0.0]]


def test_leave_one_out_compares_penalised_rewards_b3() -> None:
    group = [table([reward], [2], [-1.0, -1.0], [-1.0 - gap, -1.0]) for reward, gap in ((1.0, 0.5), (0.0, -1.0))]
    found = tokens([{"name": "kl_in_reward", "beta": 0.2}, "rloo"], [group])
    assert found[0] == pytest.approx([0.9 - 0.2] * 2)  # R - 0.2 sum(lp_old - lp_ref): 0.9 against 0.2
    assert found[1] == pytest.approx([0.2 - 0.9] * 2)


def test_a_policy_that_is_its_reference_pays_nothing_and_penalties_add_up() -> None:
    one = table([1.0], [2], [-1.0, -2.0], [-1.0, -2.0])
    (same,) = KLInReward(beta=5.0)([Credit.zeros([one])])[0].tables
    assert same.total == 1.0
    shaped = replace(e1()[0], token_rewards=np.array([0.5, 0.0, 0.0, 0.0]))
    (found,) = KLInReward(beta=0.1)([Credit.zeros([shaped])])[0].tables
    assert found.token_rewards == pytest.approx([0.49, 0.01, 0.02, -0.02])
    assert shaped.token_rewards is not None and shaped.token_rewards.tolist() == [0.5, 0, 0, 0]  # the argument stays


def test_kl_in_the_reward_has_the_true_gradient_b13b() -> None:
    """Exact expectation over a softmax: with R = 0, E[A grad log p] = -beta grad KL(p || q)."""
    p, q = np.exp([0.5, 0, -0.5, 1]), np.exp([0, 0.3, 0.2, -0.1])
    p, q = p / p.sum(), q / q.sum()
    total = np.zeros(4)
    for arm in range(4):
        one = table([0.0], [1], [float(np.log(p[arm]))], [float(np.log(q[arm]))])
        ((advantage,),) = tokens([{"name": "kl_in_reward", "beta": 1.0}, "token_returns"], [[one]])
        total += p[arm] * advantage * (np.eye(4)[arm] - p)
    assert -total == pytest.approx([-0.004765, -0.136814, -0.123597, 0.265176], abs=1e-6)


def test_the_coefficient_follows_the_target_b5() -> None:
    """coef (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon);"""
    kl = float(np.mean([np.mean(np.subtract(*pair)) for pair in zip(OLD, REFERENCE, strict=True)]))
    far = [[-0.5 + value for value in row] for row in REFERENCE]  # now KL is half a nat higher
    tables = [table([0.0], [len(row)], OLD[i], far[i]) for i, row in enumerate(OLD)]
    adaptive = KLInReward(beta=0.1, target=0.45, horizon=10)
    adaptive([Credit.zeros(tables)])
    assert adaptive.metrics == {"reward_kl": pytest.approx(kl + 0.5), "reward_kl_beta": 0.1}
    assert adaptive.beta == pytest.approx(0.1 * (1 + min(0.2, (kl + 0.5) / 0.45 - 1) * 2 / 10))
    adaptive([Credit.zeros(e1())])  # KL far below the target: at most 20 %
    after = 0.1 * (1 + min(0.2, (kl + 0.5) / 0.45 - 1) * 2 / 10) * (1 - 0.2 * 2 / 10)
    assert adaptive.beta == pytest.approx(after)
    again = KLInReward(beta=0.1, target=0.45, horizon=10)
    again.load_state_dict(adaptive.state_dict())
    assert again.beta == adaptive.beta


def test_without_target_the_coefficient_stays_what_is_configured() -> None:
    fixed = KLInReward(beta=0.1)
    fixed([Credit.zeros(e1())])
    assert fixed.beta == 0.1
    assert fixed.state_dict() == {}


def test_a_batch_without_policy_tokens_is_nothing() -> None:
    empty = table([1.0], [0], [], [])
    adaptive = KLInReward(beta=0.1, target=0.4)
    (found,) = adaptive([Credit.zeros([empty])])[0].tables
    assert found.total == 1.0
    assert adaptive.beta == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta is 0.0; it must be above 0"),
        ({"target": -1.0}, "target is -1.0"),
        ({"horizon": 5.0}, "without a target the coefficient does not change"),
        ({"target": 1.0, "horizon": 0.0}, "horizon is 0.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build([{"name": "kl_in_reward", **options}])


def test_the_penalty_stands_before_every_statistic() -> None:
    with pytest.raises(ConfigError, match=r"KLInReward .reward. must stand before RLOO"):
        check_order(build(["rloo", "kl_in_reward"]), 4)
