"""How many tasks a comparison needs, and what a given number can show.

The variance of a mean over T tasks with K samples each is (between + within / K) / T: more samples of the same tasks
help against the second part alone. Source: E. Miller, arXiv 2411.00640, section 5.

Invariant: planning by the normal approximation; the test that is done in the end needs none (`paired`).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, nan, sqrt
from statistics import NormalDist, fmean, variance
from typing import NamedTuple

from agentrl.errors import ConfigError


class Spread(NamedTuple):
    """Variances of the paired differences of two models, or of one model's values."""

    between: float
    """Between the means of tasks."""
    within: float
    """Between samples of one task."""


def spread(tasks: Iterable[Iterable[float]]) -> Spread:
    """The variances of values that are listed by task, unbiased (analysis of variance, equal or unequal numbers).

    Raises `ConfigError` for fewer than two tasks; `within` is NaN where every task has one value.
    """
    lists = [list(values) for values in tasks]
    lists = [values for values in lists if values]
    if len(lists) < 2:
        raise ConfigError(f"{len(lists)} tasks with values: variances need at least 2")
    freedom = sum(len(values) - 1 for values in lists)
    means = [fmean(values) for values in lists]
    if freedom == 0:
        return Spread(variance(means), nan)
    squares = sum((value - mean) ** 2 for values, mean in zip(lists, means, strict=True) for value in values)
    within = squares / freedom
    share = fmean(1 / len(values) for values in lists)
    return Spread(max(0.0, variance(means) - within * share), within)


def detectable_effect(
    tasks: int, samples: int, found: Spread, *, level: float = 0.05, power: float = 0.8
) -> float:  # fmt: skip
    """The smallest true difference that a two-sided test at `level` finds with probability `power`."""
    return _factor(level, power) * sqrt(_variance(found, samples) / tasks)


def needed_tasks(effect: float, samples: int, found: Spread, *, level: float = 0.05, power: float = 0.8) -> int:
    """Tasks with `samples` samples each that show a true difference of `effect`. Raises `ConfigError` for 0."""
    if effect == 0:
        raise ConfigError("effect=0: no number of tasks shows a difference that is not there")
    return max(2, ceil((_factor(level, power) / effect) ** 2 * _variance(found, samples)))


def _factor(level: float, power: float) -> float:
    normal = NormalDist()
    return normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)


def _variance(found: Spread, samples: int) -> float:
    """Of a task's mean; one sample a task has both parts in `between` where `within` is unknown."""
    return found.between + (0.0 if found.within != found.within else found.within / samples)
