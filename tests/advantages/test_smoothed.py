"""DCPO's smoothed advantage: the specification's three visits (36), the history, and how much more carries signal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agentrl.advantages import GRPO, SmoothedAdvantage, Transform, TurnTable, attribute, build, check_order
from agentrl.errors import ConfigError

VISITS = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
EXPECTED = [[1.5, -0.5, -0.5, -0.5], [0.697214, 0.697214, 0.697214, -1.197214], [0.216295] * 4]


def group(rewards: list[float], task: str = "a") -> list[TurnTable]:
    return [TurnTable(np.array([reward]), np.array([2]), task_id=task) for reward in rewards]


def visit(transform: Transform, rewards: list[float], task: str = "a") -> list[float]:
    values: list[float] = attribute([transform], [group(rewards, task)])[0].trajectory.tolist()
    return values


def test_36a_three_visits() -> None:
    sas = SmoothedAdvantage()
    for rewards, expected in zip(VISITS, EXPECTED, strict=True):
        assert visit(sas, rewards) == pytest.approx(expected, abs=1e-6)
    visits, mean, std = sas.state_dict()["history"]["a"]
    assert (visits, mean, std) == (3, pytest.approx(0.666667, abs=1e-6), pytest.approx(0.513701, abs=1e-6))


def test_history_is_of_a_task_and_counts_its_visits_once_a_group() -> None:
    """Steps in which the task did not come, and other tasks, change nothing; nor does a larger group."""
    sas = SmoothedAdvantage()
    for rewards, expected in zip(VISITS, EXPECTED, strict=True):
        credits = attribute([sas], [group([1.0, 0.0, 1.0], "b"), group(rewards), group([0.5, 0.25], "c")])
        assert credits[1].trajectory.tolist() == pytest.approx(expected, abs=1e-6)
        visit(sas, [0.0, 1.0], "b")
    assert sas.state_dict()["history"]["b"][0] == 6
    together = SmoothedAdvantage()  # three groups of one task in one batch are three visits
    credits = attribute([together], [group(rewards) for rewards in VISITS])
    assert credits[2].trajectory.tolist() == pytest.approx(EXPECTED[2], abs=1e-6)


def test_the_state_goes_on_where_it_was() -> None:
    first = SmoothedAdvantage()
    visit(first, VISITS[0])
    visit(first, VISITS[1])
    resumed = SmoothedAdvantage()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert visit(resumed, VISITS[2]) == visit(first, VISITS[2])
    assert visit(SmoothedAdvantage(), VISITS[2]) == [0.0] * 4


def test_the_first_visit_is_grpo_without_eps() -> None:
    rewards = [0.3, 0.9, -0.2, 0.3, 1.7]
    assert visit(SmoothedAdvantage(), rewards) == pytest.approx(visit(GRPO(eps=1e-15), rewards), abs=1e-12)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1000.1])
def test_equal_rewards_give_exactly_zero_however_often(value: float) -> None:
    """The merged mean drifts in its last bits, so that the merged std is not exactly 0."""
    sas = SmoothedAdvantage()
    for _ in range(30):
        assert visit(sas, [value] * 7) == [0.0] * 7
    assert sas.state_dict()["history"]["a"][0] == 30  # such visits count
    assert visit(sas, [value, value + 1.0])[1] != 0


def test_a_group_of_one_has_only_its_history() -> None:
    sas = SmoothedAdvantage()
    assert visit(sas, [1.0]) == [0.0]
    # i = 2: M = 1/2, S^2 = (1/2) (0 - 1)^2 / 2, A_tot = -1, and both mixtures are half of it
    assert visit(sas, [0.0]) == pytest.approx([-0.5])
    check_order([sas], group_size=1)


def test_it_divides_by_a_spread() -> None:
    with pytest.raises(ConfigError, match="no option"):
        build([{"name": "sas", "eps": 1e-6}])
    assert SmoothedAdvantage.scales


def test_metrics() -> None:
    sas = SmoothedAdvantage()
    attribute([sas], [group([1.0, 0.0]), group([1.0, 1.0], "b")])
    assert sas.metrics == {"nonzero": 0.5, "visits": 1.0}
    attribute([sas], [group([1.0, 0.0])])
    assert sas.metrics["visits"] == 2.0


def test_36b_more_trajectories_carry_signal() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 0.5, size=50)
    sas, shares = SmoothedAdvantage(), np.zeros((20, 2))
    for row in shares:
        batch = [group((rng.random(8) < p).astype(float).tolist(), str(i)) for i, p in enumerate(rates)]
        for column, transform in enumerate((sas, GRPO())):
            values = np.concatenate([credit.trajectory for credit in attribute([transform], batch)])
            row[column] = (values != 0).mean()
    smoothed, plain = shares.mean(0)
    assert plain == pytest.approx(0.59, abs=0.08)
    assert smoothed > plain + 0.1
