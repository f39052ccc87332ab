"""Confidence intervals for what evaluations report.

Invariant: an interval is of the stated coverage under its stated assumption; no data gives no value (NaN) and the
widest interval, and data that are all equal give no interval of width zero where the values are known to lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite, nan, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHUNK_DRAWS = 2**21
"""Draws of a bootstrap that are in memory at one time."""


class Interval(NamedTuple):
    """A point estimate and its confidence bounds."""

    value: float
    low: float
    high: float


def wilson(successes: float, trials: float, coverage: float = 0.95, quantile: float | None = None) -> Interval:
    """Wilson's score interval of a proportion: independent trials, right for shares near 0 and 1 and few trials.

    `quantile` replaces the normal one. Source: E. B. Wilson, JASA 22 (1927). Shares and bounds lie in [0, 1].
    """
    if trials == 0:
        return Interval(nan, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + coverage / 2) if quantile is None else quantile
    if not isfinite(z):
        return Interval(successes / trials, 0.0, 1.0)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = centre - half if share > 0 else 0.0  # exactly the end of the range, whatever rounding says
    high = centre + half if share < 1 else 1.0
    return Interval(share, max(0.0, low), min(1.0, high))


def newcombe(a: Interval, b: Interval, correlation: float = 0.0) -> Interval:
    """The difference b - a of two proportions from their own intervals, "square and add"; lies in [-1, 1].

    `correlation` of the two estimates, -1 ... 1; 0 for independent ones. Sources: R. G. Newcombe, Stat. Med. 17 (1998),
    873-890 (independent) and 2635-2650 (paired, method 8); G. Y. Zou, A. Donner, Stat. Med. 27 (2008).
    """
    difference = b.value - a.value
    below, above = (b.value - b.low, a.high - a.value), (b.high - b.value, a.value - a.low)
    low, high = (sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y)) for x, y in (below, above))
    return Interval(difference, max(-1.0, difference - low), min(1.0, difference + high))


def normal_mean(values: Sequence[float], coverage: float = 0.95) -> Interval:
    """Normal interval of a mean over independent values (standard error with ddof=1)."""
    if not values:
        return Interval(nan, -inf, inf)
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, -inf, inf)
    half = NormalDist().inv_cdf(0.5 + coverage / 2) * stdev(values) / sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def t_quantile(freedom: float, coverage: float = 0.95) -> float:
    """Two-sided quantile of Student's t; infinite without a degree of freedom."""
    if freedom < 1:
        return inf
    from scipy import stats

    return float(stats.t.ppf(0.5 + coverage / 2, freedom))


def bootstrap_mean(
    values: Sequence[float],
    *,
    method: Literal["percentile", "bca"] = "bca",
    coverage: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a mean over independent values (one a task): no assumption of a form, 20 values or more.

    `bca` corrects bias and skewness (B. Efron, JASA 82, 1987), `percentile` does not. Fewer than two values bound
    nothing; values that are all equal: see `bootstrap_means`.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or np.ptp(sample) == 0.0:
        return bootstrap_means(sample[:, None], coverage=coverage)[0]
    from scipy import stats

    name = {"bca": "BCa", "percentile": "percentile"}[method]
    rng = np.random.default_rng(seed)
    batch = max(1, 2**24 // len(sample))
    result = stats.bootstrap(
        (sample,), np.mean, confidence_level=coverage, n_resamples=resamples, method=name, batch=batch, rng=rng
    )
    return Interval(float(sample.mean()), float(result.confidence_interval.low), float(result.confidence_interval.high))


def bootstrap_means(
    values: ArrayLike, *, coverage: float = 0.95, resamples: int = 2000, seed: int = 0
) -> list[Interval]:
    """Percentile bootstrap of the mean over rows of each column, one draw of rows for all; shape (rows, columns).

    A column whose values are all equal has no spread to draw from: in [0, 1] it gets Wilson's bounds with one trial a
    row, which is conservative (no distribution in [0, 1] of that mean varies more), elsewhere none. No row: NaN.
    """
    table = np.asarray(values, dtype=np.float64)
    rows, columns = table.shape
    if rows == 0:
        return [Interval(nan, -inf, inf)] * columns
    draws = _resampled(table, resamples, np.random.default_rng(seed)) if rows > 1 else table
    tail = (1 - coverage) / 2
    lows, highs = np.quantile(draws, [tail, 1 - tail], axis=0) if columns else (np.zeros(0), np.zeros(0))
    intervals = []
    for column, low, high in zip(table.T, lows, highs, strict=True):
        mean = float(column.mean())
        if np.ptp(column) == 0.0:
            low, high = _bounds_of_equal(float(column[0]), rows, coverage)
        intervals.append(Interval(mean, float(low), float(high)))
    return intervals


def _resampled(table: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of resampled rows, shape (resamples, columns)."""
    rows, means = len(table), np.empty((resamples, table.shape[1]))
    chunk = max(1, CHUNK_DRAWS // rows)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        means[start : start + size] = (
            np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows) @ table / rows
        )
    return means


def _bounds_of_equal(value: float, rows: int, coverage: float) -> tuple[float, float]:
    if not 0.0 <= value <= 1.0:
        return -inf, inf
    bounds = wilson(value * rows, rows, coverage)
    return bounds.low, bounds.high
