"""Clustered means against statsmodels, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from agentrl.errors import ConfigError
from agentrl.evaluation.clusters import clustered_mean, clustered_share
from agentrl.evaluation.intervals import wilson


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


def test_a_share_of_equal_samples_counts_each_task_once() -> None:
    found = clustered_share([1.0] * 80, [*range(20)] * 4)
    expected = wilson(20, 20, quantile=float(stats.t.ppf(0.975, 19)))
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.low < 0.85


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
    assert mean < 0.85
