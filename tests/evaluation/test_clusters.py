"""Clustered means against statsmodels, and their coverage by simulation."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from agentrl.errors import ConfigError
from agentrl.evaluation.clusters import clustered_mean, clustered_share, clustered_share_difference
from agentrl.evaluation.intervals import newcombe, wilson


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_statsmodels_agrees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(15), rng.integers(1, 9, size=15))
    values = rng.normal(size=15)[groups] + rng.normal(size=len(groups))
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    ours = clustered_mean(values.tolist(), groups.tolist())
    assert ours.value == pytest.approx(fit.params[0], abs=1e-12)
    assert ours.se == pytest.approx(fit.bse[0], rel=1e-10)
    assert [ours.low, ours.high] == pytest.approx(fit.conf_int()[0].tolist(), rel=1e-9)


def test_one_sample_a_task_is_the_plain_t_interval() -> None:
    values = np.random.default_rng(0).normal(size=20)
    ours = clustered_mean(values.tolist(), range(20))
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high])
    assert ours.se == pytest.approx(stats.sem(values))
    assert ours.design_effect == pytest.approx(1.0)


def test_copies_of_a_sample_add_nothing() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    once = clustered_mean(values, range(5))
    copied = clustered_mean(values * 4, [*range(5)] * 4)
    assert copied.se == pytest.approx(once.se)
    assert copied.design_effect > 3.5


def test_no_bound_without_two_tasks() -> None:
    one = clustered_mean([0.0, 1.0], ["a", "a"])
    assert (one.value, one.se, one.low, one.high) == (0.5, math.inf, -math.inf, math.inf)
    share = clustered_share([0.0, 1.0], ["a", "a"])
    assert (share.low, share.high) == (0.0, 1.0)
    assert math.isnan(clustered_mean([], []).value)
    assert (clustered_share([], []).low, clustered_share([], []).high) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="2 values, but 1 cluster"):
        clustered_mean([0.0, 1.0], ["a"])


def test_values_that_are_not_finite_bound_nothing() -> None:
    infinite = clustered_mean([1.0, math.inf], ["a", "b"])
    assert (infinite.value, infinite.low, infinite.high) == (math.inf, -math.inf, math.inf)
    assert math.isnan(clustered_mean([1.0, math.nan, 0.0], ["a", "b", "c"]).value)


@pytest.mark.parametrize("values", [[1, math.inf], [math.inf, -math.inf], [1e308] * 4, [1e200, 0, 3], [math.nan, 1]])
def test_numbers_that_have_no_mean_warn_of_nothing(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, share = clustered_mean(values, range(len(values))), clustered_share(values, range(len(values)))
    assert (mean.low, mean.high) == (-math.inf, math.inf)
    assert (share.low, share.high) == (0.0, 1.0)


@pytest.mark.parametrize("values", [[0.1] * 6, [0.0] * 6, [-3.0] * 6, [0.0, 1.0] * 3])
def test_means_of_tasks_that_do_not_differ_are_not_bounded(values: list[float]) -> None:
    """No spread, and no range that is known: an interval of width zero would claim what nobody knows."""
    found = clustered_mean(values, ["a", "a", "b", "b", "c", "c"])
    assert found.value == pytest.approx(sum(values) / 6)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_a_share_of_equal_samples_counts_each_task_once() -> None:
    found = clustered_share([1.0] * 80, [*range(20)] * 4)
    expected = wilson(20, 20, quantile=float(stats.t.ppf(0.975, 19)))
    assert (found.low, found.high) == (pytest.approx(expected.low), 1.0)
    assert found.low < 0.85
    uneven = clustered_share([1.0] * 80, [0] * 61 + [*range(1, 20)])  # 61 samples of one task are hardly more than one
    assert uneven.low < 0.5


def test_a_first_failure_makes_the_interval_hardly_narrower() -> None:
    """Near the end of the range the design effect is not known; the bounds change little by little all the same."""
    labels = np.repeat(np.arange(200), 4).tolist()
    found = [clustered_share([0.0] * wrong + [1.0] * (800 - wrong), labels) for wrong in range(12)]
    lows = [share.low for share in found]
    assert all(lower < higher + 1e-3 for higher, lower in pairwise(lows))
    widths = [share.high - share.low for share in found]
    assert all(after > 0.95 * before for before, after in pairwise(widths))  # where the design effect is 1: 0.37
    scattered = clustered_share(([0.0] + [1.0] * 3) * 3 + [1.0] * 788, labels)
    assert found[3].low < scattered.low < found[0].high  # three failures of one task say less than of three
    assert scattered.low < found[0].low


def test_a_share_of_shares_is_that_of_its_samples() -> None:
    rng = np.random.default_rng(4)
    values = (rng.random((30, 8)) < rng.random((30, 1))).astype(float)
    whole = clustered_share(values.ravel().tolist(), np.repeat(np.arange(30), 8).tolist())
    means = clustered_share(values.mean(axis=1).tolist(), range(30), counts=[8] * 30)
    assert (means.value, means.low, means.high) == pytest.approx((whole.value, whole.low, whole.high))


def test_newcombe_is_statsmodels() -> None:
    for right, of, right_other, of_other in ((56, 70, 48, 80), (10, 10, 0, 10), (9, 10, 3, 10), (0, 30, 0, 20)):
        theirs = confint_proportions_2indep(right, of, right_other, of_other, method="newcomb", compare="diff")
        ours = newcombe(wilson(right_other, of_other), wilson(right, of))
        assert [ours.low, ours.high] == pytest.approx(list(theirs), abs=1e-12)
    assert ours.value == 0.0
    assert newcombe(wilson(48, 80), wilson(56, 70))[1:] == pytest.approx((0.0524, 0.3339), abs=5e-5)  # as published


@pytest.mark.parametrize(
    "cells", [(36, 12, 2, 0), (20, 5, 3, 22), (1, 9, 8, 2), (8, 0, 0, 8), (0, 16, 0, 0), (30, 1, 0, 0)]
)
def test_one_pair_a_task_is_newcombes_method_10(cells: tuple[int, int, int, int]) -> None:
    """From the fourfold table: both right, first alone, second alone, neither; with t for the normal quantile."""
    both, first, second, neither = cells
    n = sum(cells)
    a = [1.0] * (both + first) + [0.0] * (second + neither)
    b = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    product = math.prod((both + first, second + neither, both + second, first + neither))
    cross = both * neither - first * second
    phi = 0.0 if product == 0 else (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(product)
    quantile = float(stats.t.ppf(0.975, n - 1))
    x, y = (wilson(sum(side), n, quantile=quantile) for side in (a, b))
    below = (y.value - y.low) ** 2 - 2 * phi * (y.value - y.low) * (x.high - x.value) + (x.high - x.value) ** 2
    above = (y.high - y.value) ** 2 - 2 * phi * (y.high - y.value) * (x.value - x.low) + (x.value - x.low) ** 2
    found = clustered_share_difference(a, b, range(n))
    assert found.value == pytest.approx((second - first) / n)
    assert found.low == pytest.approx(found.value - math.sqrt(below), abs=1e-9)
    assert found.high == pytest.approx(found.value + math.sqrt(above), abs=1e-9)
    assert -1 <= found.low < found.high <= 1


def test_a_difference_is_never_a_point() -> None:
    right, wrong, mixed = [1.0] * 16, [0.0] * 16, [1.0, 0.0] * 8
    flipped = clustered_share_difference(right, wrong, range(16))
    assert (flipped.value, flipped.low) == (-1.0, -1.0)
    assert -0.75 < flipped.high < -0.6
    for same in (right, wrong, mixed):
        found = clustered_share_difference(same, same, range(16))
        assert found.value == 0.0 and found.low == pytest.approx(-found.high) and 0.05 < found.high < 0.3
    assert clustered_share_difference(right, wrong, ["t"] * 16) == (-1.0, -1.0, 1.0)  # one task bounds nothing


def test_agreement_makes_the_difference_narrower() -> None:
    a, same, opposite = [1.0, 1.0, 0.0, 0.0] * 20, [1.0, 0.0, 0.0, 0.0] * 20, [0.0, 0.0, 0.0, 1.0] * 20
    close, far = (clustered_share_difference(a, other, range(80)) for other in (same, opposite))
    assert close.value == far.value == -0.25
    assert close.high - close.low < 0.75 * (far.high - far.low)


def test_a_share_of_independent_samples_is_nearly_wilson() -> None:
    rng = np.random.default_rng(3)
    values = rng.random(4000) < 0.3
    found = clustered_share(values.astype(float).tolist(), (np.arange(4000) // 2).tolist())
    plain = wilson(float(values.sum()), 4000)
    assert found.low == pytest.approx(plain.low, abs=2e-3)
    assert found.high == pytest.approx(plain.high, abs=2e-3)


@pytest.mark.parametrize(("tasks", "samples", "a", "b"), [(30, 8, 0.6, 0.9), (60, 4, 2.0, 0.6)])
def test_coverage_of_clustered_intervals(tasks: int, samples: int, a: float, b: float) -> None:
    """Tasks of beta-distributed difficulty: 95 % intervals hold the mean about that often, unclustered ones do not."""
    rng, runs = np.random.default_rng(7), 600
    truth, covered = a / (a + b), np.zeros(3)
    labels = np.repeat(np.arange(tasks), samples).tolist()
    for _ in range(runs):
        rates = np.repeat(rng.beta(a, b, size=tasks), samples)
        values = (rng.random(len(rates)) < rates).astype(float).tolist()
        found = clustered_mean(values, labels), clustered_share(values, labels), wilson(sum(values), len(values))
        covered += [interval.low <= truth <= interval.high for interval in found]
    mean, share, unclustered = covered / runs
    assert 0.925 < mean < 0.975  # the standard error of 600 runs is 0.009
    assert 0.925 < share < 0.98
    assert unclustered < 0.88


def test_coverage_of_shares_near_one() -> None:
    """Tasks that are nearly all right: the t interval is far too short, the share's is not."""
    rng, runs, tasks, samples = np.random.default_rng(8), 600, 100, 4
    truth, covered = 0.99, np.zeros(2)
    labels = np.repeat(np.arange(tasks), samples).tolist()
    for _ in range(runs):
        rates = np.repeat(rng.beta(0.99, 0.01, size=tasks), samples)
        values = (rng.random(len(rates)) < rates).astype(float).tolist()
        found = clustered_mean(values, labels), clustered_share(values, labels)
        covered += [interval.low <= truth <= interval.high for interval in found]
    mean, share = covered / runs
    assert share > 0.93
    assert mean < 0.9  # and where it covers it often does so because it has no bounds


def drawn_pairs(
    rng: np.random.Generator, tasks: int, samples: int, shares: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """Two models' samples: tasks make 40 % of the latent variance and are as hard for one as, mostly, for the other."""
    task, sample = rng.normal(size=(2, tasks, 1)), rng.normal(size=(2, tasks, samples))
    task[1], sample[1] = 0.8 * task[0] + 0.6 * task[1], 0.3 * sample[0] + math.sqrt(0.91) * sample[1]
    latent = math.sqrt(0.4) * task + math.sqrt(0.6) * sample
    a, b = ((side < stats.norm.ppf(share)).astype(float).ravel() for side, share in zip(latent, shares, strict=True))
    return a.tolist(), b.tolist()


@pytest.mark.parametrize(
    ("tasks", "samples", "shares"),
    [(16, 1, (0.98, 0.99)), (16, 4, (0.5, 0.6)), (50, 4, (0.9, 0.95)), (50, 1, (0.5, 0.6)), (200, 1, (0.9, 0.95))],
)
def test_coverage_of_paired_differences(tasks: int, samples: int, shares: tuple[float, float]) -> None:
    rng, runs, covered = np.random.default_rng(9), 400, np.zeros(2)
    truths = shares[0], shares[1] - shares[0]
    labels = np.repeat(np.arange(tasks), samples).tolist()
    for _ in range(runs):
        a, b = drawn_pairs(rng, tasks, samples, shares)
        found = clustered_share(a, labels).interval, clustered_share_difference(a, b, labels)
        covered += [side.low <= truth <= side.high for side, truth in zip(found, truths, strict=True)]
        assert all(side.low < side.high for side in found)
    assert min(covered / runs) > 0.917  # 0.95 less three standard errors of 400 runs
