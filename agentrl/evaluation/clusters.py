"""Means over samples of which several belong to one task: standard errors that are clustered by task.

Samples of one task are alike, so N samples of T tasks are worth less than N independent ones. The sandwich estimator
adds up the residuals of each task before it squares them: se^2 = T/(T-1) * sum_t (sum_i (x_ti - mean))^2 / N^2. This is
CR1 of a regression on a constant (its factor (N-1)/(N-p) is 1 for p=1). Bounds use Student's t with T-1 degrees of
freedom. Sources: K.-Y. Liang, S. Zeger, Biometrika 73 (1986); A. C. Cameron, D. L. Miller, JHR 50 (2015).

Invariants: independent are the tasks, never the samples; with fewer than two tasks nothing is bounded; no interval has
width zero, whatever came out. Which form an interval has follows from what the number is, never from how it came out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import ConfigError
from agentrl.evaluation.intervals import Interval, newcombe, t_quantile, wilson

_ROUNDING = 1e-12
"""Standard errors that are smaller, relative to the largest value, are those of equal values."""


@dataclass(frozen=True, slots=True)
class ClusteredMean:
    """A mean over samples, and what is known of it."""

    value: float
    """NaN without samples."""
    se: float
    """Standard error, clustered by task; infinite with fewer than two tasks, 0 where the tasks do not differ."""
    low: float
    high: float
    samples: int
    tasks: int
    design_effect: float
    """se^2 over that of as many independent samples: above 1 where a task's samples agree; NaN where all are equal."""

    @property
    def interval(self) -> Interval:
        """Value and bounds."""
        return Interval(self.value, self.low, self.high)


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable], coverage: float = 0.95) -> ClusteredMean:
    """The mean over samples of any numbers; one cluster label a sample. Raises `ConfigError` for unequal lengths.

    Where no task differs from the mean there is no spread to tell bounds from, and none are given.
    """
    sample = np.asarray(values, dtype=np.float64)
    size = len(sample)
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite or too large bound nothing
        tasks, totals = _residual_sums(sample, clusters)
        mean = float(sample.mean()) if size else nan
        if tasks < 2:
            return ClusteredMean(mean, inf, -inf, inf, size, tasks, nan)
        se = sqrt(tasks / (tasks - 1) * float(np.sum(totals**2))) / size
        plain = float(sample.var(ddof=1)) / size
    if not isfinite(se):
        return ClusteredMean(mean, inf, -inf, inf, size, tasks, nan)
    spread = se > _ROUNDING * float(np.abs(sample).max())
    half = t_quantile(tasks - 1, coverage) * se if spread else inf
    return ClusteredMean(mean, se, mean - half, mean + half, size, tasks, se * se / plain if plain > 0 else nan)


def clustered_share(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    coverage: float = 0.95,
    counts: Sequence[float] | None = None,
) -> ClusteredMean:
    """The mean over samples of numbers that are 0 or 1, with bounds that stay in [0, 1].

    Wilson's interval with the effective number of samples and Student's t with T-1 degrees of freedom as quantile; one
    task bounds nothing. Source: N. Dean, M. Pagano, J. Surv. Stat. Methodol. 3 (2015). The effective number is
    p(1-p) over the clustered variance, both with one task added that is all right and one that is all wrong, and at
    most the number of samples: where all samples are equal each task counts once, and a few that are not change that
    little by little. `counts`: where a value is itself a share, of how many samples (1 for a sample).
    """
    plain = clustered_mean(values, clusters, coverage)
    if plain.samples == 0 or not isfinite(plain.value):
        return replace(plain, value=nan, se=inf, low=0.0, high=1.0)
    if plain.tasks < 2:
        return replace(plain, low=0.0, high=1.0)
    effective = _effective_samples(plain, clusters, counts)
    bounds = wilson(plain.value * effective, effective, coverage, t_quantile(plain.tasks - 1, coverage))
    return replace(plain, low=bounds.low, high=bounds.high)


def clustered_share_difference(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable],
    coverage: float = 0.95,
    counts: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Interval:
    """The difference b - a of two shares over paired samples, with bounds in [-1, 1].

    Newcombe's interval from both clustered shares. Their correlation is that of the tasks' residuals; a positive one,
    which makes the interval shorter, is lowered by 1 / (2 n sd_a sd_b) with n the effective number of samples
    (Newcombe's continuity correction, method 10), and 0 where one of the shares does not vary. Values as in
    `clustered_share`; `counts` of both sides.
    """
    known = counts or (None, None)
    sides = [clustered_share(values, clusters, coverage, each) for values, each in zip((a, b), known, strict=True)]
    first, second = (side.interval for side in sides)
    if not isfinite(first.value) or not isfinite(second.value) or sides[0].tasks < 2:
        return Interval(second.value - first.value, -1.0, 1.0)
    sizes = [_effective_samples(side, clusters, each) for side, each in zip(sides, known, strict=True)]
    return newcombe(first, second, _correlation(a, b, clusters, sizes))


def _effective_samples(plain: ClusteredMean, clusters: Sequence[Hashable], counts: Sequence[float] | None) -> float:
    """How many independent samples bound the share as well; see `clustered_share`."""
    size, share = plain.samples, min(max(plain.value, 0.0), 1.0)
    most = size if counts is None else size**2 / sum(1 / count for count in counts)
    # Weight of an added task, 1/T where all have one size, and the squared residuals of the two from the share.
    added = sum(number * number for number in Counter(clusters).values()) / size**2
    pseudo = share**2 + (1 - share) ** 2
    variance = share * (1 - share) * most / (most - 1)
    return min(most, (variance + pseudo * added) / (plain.se**2 + pseudo * added**2))


def _correlation(a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], sizes: Sequence[float]) -> float:
    """Of the two shares' estimates, lowered where it is positive."""
    values = [np.asarray(side, dtype=np.float64) for side in (a, b)]
    residuals = [_residual_sums(side, clusters)[1] for side in values]
    norms = [float(np.sqrt(np.sum(side**2))) for side in residuals]
    shares = [float(side.mean()) for side in values]
    deviations = [sqrt(max(0.0, share * (1 - share))) for share in shares]
    if min(*norms, *deviations) <= _ROUNDING:
        return 0.0
    found = float(np.sum(residuals[0] * residuals[1])) / (norms[0] * norms[1])
    lowered = found - 1 / (2 * sqrt(sizes[0] * sizes[1]) * deviations[0] * deviations[1])
    return max(-1.0, found if found <= 0 else max(0.0, lowered))


def _residual_sums(sample: NDArray[np.float64], clusters: Sequence[Hashable]) -> tuple[int, NDArray[np.float64]]:
    """Number of clusters, and the sum of residuals of each."""
    if len(sample) != len(clusters):
        raise ConfigError(f"{len(sample)} values, but {len(clusters)} cluster labels")
    codes: dict[Hashable, int] = {}
    index = np.array([codes.setdefault(label, len(codes)) for label in clusters], dtype=np.int64)
    residuals = sample - sample.mean() if len(sample) else sample
    return len(codes), np.bincount(index, residuals, minlength=len(codes)).astype(np.float64)
