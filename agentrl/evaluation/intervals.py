"""Confidence intervals for what evaluations report.

Invariant: an interval is of the stated coverage under its stated assumption; no data gives the widest interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple


class Interval(NamedTuple):
    """A point estimate and its confidence bounds."""

    value: float
    low: float
    high: float


def wilson(successes: float, trials: int, coverage: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion: independent trials, right for shares near 0 and 1 and few trials.

    Source: E. B. Wilson, JASA 22 (1927). Shares and bounds lie in [0, 1].
    """
    if trials == 0:
        return Interval(0.0, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + coverage / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def normal_mean(values: Sequence[float], coverage: float = 0.95) -> Interval:
    """Normal interval of a mean over independent values (standard error with ddof=1)."""
    if not values:
        return Interval(0.0, float("-inf"), float("inf"))
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, float("-inf"), float("inf"))
    half = NormalDist().inv_cdf(0.5 + coverage / 2) * stdev(values) / sqrt(len(values))
    return Interval(mean, mean - half, mean + half)
