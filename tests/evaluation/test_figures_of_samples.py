"""Strata, tool use, planning of sample sizes, bootstrap intervals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

from agentrl.errors import ConfigError
from agentrl.evaluation.intervals import bootstrap_mean, bootstrap_means, t_quantile, wilson
from agentrl.evaluation.power import Spread, detectable_effect, needed_tasks, spread
from agentrl.evaluation.strata import accuracy, by_level, reward
from agentrl.evaluation.tool_use import tool_use
from tests.evaluation.made_samples import drawn, sample, table


def test_strata_by_level() -> None:
    samples = [*drawn(2, [2, 1], level=2), *table({"u:0": [0, None]}, level=1), *table({"v:0": [1]})]
    found = by_level(samples)
    assert [stratum.level for stratum in found] == [1, 2, None]
    assert [(stratum.samples, stratum.left_out, stratum.accuracy.tasks) for stratum in found] == [
        (1, 1, 1),
        (4, 0, 2),
        (1, 0, 1),
    ]
    assert [stratum.accuracy.value for stratum in found] == [0.0, 0.75, 1.0]
    assert found[1].accuracy == accuracy(samples[:4])
    assert sum(stratum.samples + stratum.left_out for stratum in found) == len(samples)


def test_rewards_leave_out_aborted_episodes_only() -> None:
    samples = [
        sample("t:0", reward=1.0),
        sample("t:1", reward=3.0, correct=None),
        sample("t:2", reward=9.0, correct=None, aborted=True),
    ]
    assert (reward(samples).value, reward(samples).samples) == (2.0, 2)
    assert accuracy(samples).samples == 1


def test_tool_use() -> None:
    found = tool_use(
        [
            sample(
                tool_calls=4,
                tool_errors=2,
                invalid_calls=1,
                tool_seconds=2.0,
                seconds=6.0,
                turns=3,
                tokens=10,
                prompt_tokens=50,
            ),
            sample(tool_calls=1, tool_errors=1, invalid_calls=1),  # it called nothing that could be executed
            sample(tokens=20),
            sample(tool_calls=99, aborted=True),
        ]
    )
    assert (found.episodes, found.calls, found.calls_per_episode) == (3, 5, pytest.approx(5 / 3))
    assert found.share_with_call == pytest.approx(1 / 3)
    assert (found.valid_rate, found.error_rate, found.seconds_per_call) == pytest.approx((0.6, 0.6, 0.4))
    assert (found.turns, found.tokens, found.prompt_tokens, found.seconds) == pytest.approx((1.0, 10.0, 50 / 3, 2.0))
    nothing = tool_use([])
    assert (nothing.episodes, nothing.valid_rate, nothing.error_rate, nothing.seconds_per_call) == (0, None, None, None)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (81, 263), (999, 1000)])
def test_wilson_is_that_of_statsmodels_and_scipy(successes: int, trials: int) -> None:
    ours = wilson(successes, trials)
    assert [ours.low, ours.high] == pytest.approx(
        list(proportion_confint(successes, trials, method="wilson")), abs=1e-12
    )
    theirs = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=1e-12)


def test_t_quantiles() -> None:
    assert t_quantile(9) == pytest.approx(2.262157, abs=1e-6)
    assert t_quantile(0) == math.inf
    assert wilson(3, 10, quantile=math.inf) == (0.3, 0.0, 1.0)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_is_that_of_scipy(method: str) -> None:
    values = np.random.default_rng(0).exponential(size=40)
    ours = bootstrap_mean(values.tolist(), method=method)  # type: ignore[arg-type]
    theirs = stats.bootstrap(
        (values,), np.mean, method={"bca": "BCa"}.get(method, method), rng=np.random.default_rng(11)
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.03)
    assert ours == bootstrap_mean(values.tolist(), method=method)  # type: ignore[arg-type]


def test_bca_moves_the_bounds_of_skewed_values_to_the_right() -> None:
    values = np.random.default_rng(0).exponential(size=30).tolist()
    corrected, plain = bootstrap_mean(values), bootstrap_mean(values, method="percentile")
    assert corrected.low > plain.low
    assert corrected.high > plain.high


def test_bootstrap_of_several_columns_is_that_of_each() -> None:
    table_ = np.random.default_rng(1).random((50, 3))
    for column, interval in zip(table_.T, bootstrap_means(table_, resamples=4000), strict=True):
        alone = bootstrap_mean(column.tolist(), method="percentile")
        assert interval.value == pytest.approx(column.mean())
        assert [interval.low, interval.high] == pytest.approx([alone.low, alone.high], abs=0.01)


def test_bootstrap_without_spread_or_data() -> None:
    assert bootstrap_mean([1.0] * 10) == wilson(10, 10)
    assert bootstrap_mean([0.5]) == wilson(0.5, 1)
    assert bootstrap_mean([3.0] * 10) == (3.0, -math.inf, math.inf)
    (empty,) = bootstrap_means(np.zeros((0, 1)))
    assert math.isnan(empty.value)


def test_coverage_of_the_bootstrap_over_tasks() -> None:
    rng, runs, tasks = np.random.default_rng(4), 400, 60
    covered = 0
    for _ in range(runs):
        rates = rng.beta(0.5, 0.5, size=tasks)
        (found,) = bootstrap_means((rng.binomial(4, rates) / 4)[:, None], resamples=400)
        covered += found.low <= 0.5 <= found.high
    assert 0.91 < covered / runs < 0.98


def test_spread_of_tasks_and_samples() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 2.0, size=(3000, 1)) + rng.normal(0, 3.0, size=(3000, 4))
    found = spread(values.tolist())
    assert (found.between, found.within) == (pytest.approx(4.0, rel=0.1), pytest.approx(9.0, rel=0.05))
    single = spread([[1.0], [3.0]])
    assert single.between == 2.0
    assert math.isnan(single.within)
    assert spread([[0.0, 1.0], [0.0, 1.0]]).between == 0.0  # tasks that differ less than chance would have it
    with pytest.raises(ConfigError, match="1 tasks"):
        spread([[1.0, 2.0], []])


def test_sample_sizes_are_those_of_statsmodels() -> None:
    found = needed_tasks(0.05, 1, Spread(0.2, math.nan))
    theirs = NormalIndPower(ddof=0).solve_power(effect_size=0.05 / math.sqrt(0.2), power=0.8, alpha=0.05, ratio=0)
    assert found == math.ceil(theirs)
    assert detectable_effect(found, 1, Spread(0.2, math.nan)) == pytest.approx(0.05, rel=1e-2)


def test_more_samples_help_against_their_own_variance_alone() -> None:
    found = Spread(0.1, 0.2)
    effects = [detectable_effect(100, samples, found) for samples in (1, 4, 10**6)]
    assert effects[0] > effects[1] > effects[2]
    assert effects[2] == pytest.approx(detectable_effect(100, 1, Spread(0.1, 0.0)), rel=1e-4)
    with pytest.raises(ConfigError, match="effect=0"):
        needed_tasks(0.0, 1, found)


def test_the_planned_power_is_reached() -> None:
    rng, tasks, samples = np.random.default_rng(6), 120, 2
    effect = detectable_effect(tasks, samples, Spread(0.04, 0.5))
    draws = effect + rng.normal(0, 0.2, size=(2000, tasks)) + rng.normal(0, math.sqrt(0.25), size=(2000, tasks))
    z = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(tasks))
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.04)


def test_the_table_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
    for tasks in (50, 100, 200, 500, 1000):
        effects = [100 * detectable_effect(tasks, samples, Spread(0.02, 0.25)) for samples in (1, 4, 8, 16)]
        assert f"| {tasks:,} | {' | '.join(f'{effect:.1f}' for effect in effects)} |" in page
