"""Intervals against published values and against exact binomial coverage."""

import math
from math import comb

import pytest

from agentrl.evaluation.intervals import normal_mean, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson(successes, trials)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)
    assert interval.value == successes / trials


def test_wilson_covers_about_95_percent() -> None:
    trials, share = 200, 0.9
    covered = sum(
        comb(trials, k) * share**k * (1 - share) ** (trials - k)
        for k in range(trials + 1)
        if wilson(k, trials).low <= share <= wilson(k, trials).high
    )
    assert 0.93 < covered < 0.97


def test_no_data_is_the_widest_interval() -> None:
    assert wilson(0, 0)[1:] == (0.0, 1.0)
    assert normal_mean([])[1:] == (float("-inf"), float("inf"))
    assert math.isnan(wilson(0, 0).value) and math.isnan(normal_mean([]).value)


def test_normal_mean() -> None:
    interval = normal_mean([0.0, 1.0, 2.0])
    assert interval.value == 1.0
    assert interval.high - 1.0 == pytest.approx(1.959964 / 3**0.5, abs=1e-6)
