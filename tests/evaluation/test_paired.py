"""Paired comparison: against scipy, statsmodels and enumeration; what is not paired is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_table

from agentrl.errors import ConfigError
from agentrl.evaluation.paired import compare_paired, episode_reward, mcnemar, sign_flip_test
from tests.evaluation.made_samples import drawn, sample, table


def test_difference_and_standard_error_are_those_of_the_paired_differences() -> None:
    rng = np.random.default_rng(0)
    a = drawn(4, rng.integers(0, 5, size=25).tolist())
    b = drawn(4, rng.integers(0, 5, size=25).tolist())
    found = compare_paired(a, b)
    rewards = compare_paired(a, b, episode_reward)  # the same numbers, not known to be right and wrong
    differences = np.array([float(y.correct is True) - float(x.correct is True) for x, y in zip(a, b, strict=True)])
    groups = np.repeat(np.arange(25), 4)
    fit = sm.OLS(differences, np.ones(100)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert found.difference == pytest.approx(fit.params[0])
    assert found.difference == pytest.approx(found.mean_b - found.mean_a)
    assert found.se == pytest.approx(fit.bse[0])
    assert [rewards.low, rewards.high] == pytest.approx(fit.conf_int()[0].tolist())
    assert [found.low, found.high] == pytest.approx([rewards.low, rewards.high], abs=0.02)
    assert (found.pairs, found.tasks, found.unmatched_a, found.unmatched_b, found.unjudged) == (100, 25, 0, 0, 0)
    assert found.only_b == int((differences > 0).sum())
    assert found.mcnemar_p is None  # four pairs of a task are not independent


def test_exact_sign_flips_are_all_sign_flips() -> None:
    totals = [3.0, -1.0, 2.0, 2.0, 0.0, 4.0]
    sums = [abs(sum(s * t for s, t in zip(signs, totals, strict=True))) for signs in product((-1, 1), repeat=6)]
    expected = sum(value >= abs(sum(totals)) - 1e-9 for value in sums) / len(sums)
    assert sign_flip_test(totals) == (pytest.approx(expected), True)


def test_scipy_agrees_exactly_and_by_drawing() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 10))
    theirs = stats.permutation_test(
        (x, y), lambda a, b: float(np.mean(a) - np.mean(b)), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_test((x - y).tolist())[0] == pytest.approx(theirs.pvalue, abs=1e-12)
    many = rng.normal(0.15, 1.0, size=80)
    p, exact = sign_flip_test(many.tolist())
    assert not exact
    drawn_by_scipy = stats.permutation_test(
        (many,), np.sum, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(3)
    )
    assert p == pytest.approx(drawn_by_scipy.pvalue, abs=0.02)
    assert p == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)
    assert sign_flip_test(many.tolist())[0] == p
    assert sign_flip_test((many + 10).tolist())[0] == pytest.approx(1 / 10_000)  # never 0


def test_no_difference_is_no_evidence() -> None:
    a = drawn(2, [1, 2, 0])
    found = compare_paired(a, a)
    assert (found.difference, found.p, found.se) == (0.0, 1.0, 0.0)
    assert -1 < found.low < 0 < found.high < 1
    rewards = compare_paired(a, a, episode_reward)
    assert (rewards.low, rewards.high) == (-math.inf, math.inf)
    assert sign_flip_test([0.0, 0.0]) == (1.0, True)


def test_the_test_keeps_its_level() -> None:
    """Two equal models on tasks whose samples are alike: p <= 0.05 about one time in twenty, where samples as units
    would find differences much more often."""
    rng, runs = np.random.default_rng(5), 200
    found = tested = 0
    for _ in range(runs):
        effects = rng.choice([-1.0, 1.0], size=8)  # whole tasks go one way or the other
        found += sign_flip_test((4 * effects).tolist())[0] <= 0.05
        tested += sign_flip_test(np.repeat(effects, 4).tolist(), resamples=199)[0] <= 0.05
    assert found / runs <= 0.05
    assert tested / runs > 0.15


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (2, 9), (7, 7), (30, 12)])
def test_mcnemar_is_statsmodels(only_a: int, only_b: int) -> None:
    theirs = mcnemar_table(np.array([[5, only_a], [only_b, 4]]), exact=True).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(theirs if only_a + only_b else 1.0)


def test_mcnemar_only_for_one_sample_a_task() -> None:
    a = drawn(1, [1, 0, 0, 0, 1, 0, 0])
    b = drawn(1, [1, 1, 1, 1, 0, 1, 1])
    found = compare_paired(a, b)
    assert (found.only_a, found.only_b) == (1, 5)
    assert found.mcnemar_p == pytest.approx(mcnemar(1, 5))
    assert found.p == pytest.approx(mcnemar(1, 5))  # flipping 0/1 differences is the same test
    rewards = [replace(item, reward=index / 7) for index, item in enumerate(b)]
    assert compare_paired(a, rewards, episode_reward).mcnemar_p is None


def test_pairing_takes_the_tasks_out() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.random(60)
    a = table({f"t:{i}": (rng.random(4) < p).tolist() for i, p in enumerate(difficulty)})
    b = [replace(item, correct=True) if not item.correct and rng.random() < 0.1 else item for item in a]
    found = compare_paired(a, b)
    unpaired = np.hypot(*(compare_paired([replace(i, correct=False) for i in side], side).se for side in (a, b)))
    assert found.se < 0.4 * unpaired


def test_what_is_not_paired_is_refused_or_counted() -> None:
    a, b = drawn(2, [1, 2]), drawn(2, [2, 2])
    with pytest.raises(ConfigError, match="not paired: 1 of 4 common samples have different seeds"):
        compare_paired(a, [replace(b[0], seed=99), *b[1:]])
    with pytest.raises(ConfigError, match="share no sample: 4 and 1"):
        compare_paired(a, [sample("other:1")])
    with pytest.raises(ConfigError, match="first model has sample 0 of task 't:0' in 'e' twice"):
        compare_paired([a[0], a[0]], b)
    with pytest.raises(ConfigError, match="none of the 4 pairs has a value"):
        compare_paired(a, [replace(item, correct=None, aborted=True) for item in b])
    found = compare_paired([*a, sample("t:9")], [replace(b[0], correct=None), *b[1:], sample("t:8"), sample("t:7")])
    assert (found.pairs, found.unmatched_a, found.unmatched_b, found.unjudged) == (3, 1, 2, 1)


def test_rewards_of_aborted_episodes_are_not_compared() -> None:
    a, b = drawn(1, [1, 1]), drawn(1, [1, 1])
    found = compare_paired(a, [replace(b[0], aborted=True), b[1]], episode_reward)
    assert (found.pairs, found.unjudged) == (1, 1)
    endless = compare_paired(a, [replace(b[0], reward=math.inf), b[1]], episode_reward)
    assert (endless.pairs, endless.unjudged, endless.difference) == (1, 1, 0.0)


def test_tasks_are_paired_where_seeds_differ() -> None:
    """The means of tasks, each worth as many samples as it has; what has no value on one side is counted."""
    rng = np.random.default_rng(6)
    rates = rng.random(40)
    a, b = (table({f"t:{i}": (rng.random(8) < rate).tolist() for i, rate in enumerate(rates)}) for _ in range(2))
    other = [replace(item, seed=item.seed + 1) for item in b]
    found, paired = compare_paired(a, other, unit="task"), compare_paired(a, b)
    assert (found.pairs, found.tasks, paired.pairs) == (40, 40, 320)
    assert (found.difference, found.p) == (pytest.approx(paired.difference), paired.p)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), rel=1e-6)
    fewer = [replace(item, correct=None) if item.task_id == "t:3" else item for item in other if item.task_id != "t:7"]
    found = compare_paired(a, fewer, unit="task")
    assert (found.pairs, found.unmatched_a, found.unmatched_b, found.unjudged) == (38, 1, 0, 1)
