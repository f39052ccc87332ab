"""pass@k and pass^k without bias, and their curves over k with intervals.

pass@k is the probability that at least one of k samples of a task is right, pass^k that all of them are. From n samples
of which c are right, 1 - C(n-c, k) / C(n, k) and C(c, k) / C(n, k) are unbiased; the plug-ins 1 - (1 - c/n)^k and
(c/n)^k are not. Sources: M. Chen et al., arXiv 2107.03374, eq. 1; S. Yao et al., arXiv 2406.12045 (tau-bench).

Invariants: each task has its own n; the mean over tasks is unweighted; a task is in it up to k = n and is never
extrapolated; every point says how many tasks it is over; a task with n=0 has no value (NaN) and is listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import ConfigError
from agentrl.evaluation.clusters import clustered_share
from agentrl.evaluation.samples import TaskCounts, TaskKey

Estimator = Callable[[int, int, int], float]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples is right, from c right ones of n; NaN for n=0.

    Raises `ConfigError` for k outside 1 ... n or c outside 0 ... n.
    """
    if not _checked(n, c, k):
        return math.nan
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def pass_hat_k(n: int, c: int, k: int) -> float:
    """pass^k: probability that all of k samples are right, from c right ones of n; NaN for n=0.

    Raises `ConfigError` as `pass_at_k` does.
    """
    if not _checked(n, c, k):
        return math.nan
    places = np.arange(k)
    return float(np.prod((c - places) / (n - places))) if c >= k else 0.0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The value at one k: the unweighted mean over the tasks with k samples, with the bounds of `clustered_share`."""

    k: int
    value: float
    low: float
    high: float
    tasks: int
    """Tasks with k samples or more."""


@dataclass(frozen=True, slots=True)
class PassCurve:
    """pass@k or pass^k over k."""

    points: tuple[CurvePoint, ...]
    """By k; empty if no task has a sample with a verdict."""
    tasks: int
    """Tasks with a value: those that the point at k=1 is over."""
    samples: int
    """n of most tasks: the largest."""
    empty: tuple[TaskKey, ...]
    """Tasks without a value (n=0): in no mean."""
    short: tuple[TaskKey, ...]
    """Tasks with fewer samples than others: not in the points of larger k."""

    def at(self, k: int) -> CurvePoint:
        """The point at k; raises `ConfigError` if the curve has none."""
        for point in self.points:
            if point.k == k:
                return point
        raise ConfigError(f"k={k}: the curve has k up to {self.points[-1].k if self.points else 0}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able but for NaN."""
        return asdict(self)


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4 ... and n itself."""
    return sorted({*(2**power for power in range(n.bit_length())), n}) if n else []


def pass_curve(
    counts: Iterable[TaskCounts],
    ks: Sequence[int] | None = None,
    *,
    estimator: Estimator = pass_at_k,
    coverage: float = 0.95,
) -> PassCurve:
    """The curve over `ks`; None: every k up to the most samples of a task. At each k the tasks with k samples count.

    A task's value is bounded as the share of n // k trials, the groups of k samples that it has (no mean over all
    groups varies more: W. Hoeffding, Ann. Math. Stat. 19, 1948), so that at k=1 the bounds are those of the accuracy
    where all tasks have one n. Raises `ConfigError` for a k above every task's n.
    """
    listed = list(counts)
    full = [item for item in listed if item.n > 0]
    most = max((item.n for item in full), default=0)
    wanted = list(range(1, most + 1)) if ks is None else list(ks)
    if full and wanted and max(wanted) > most:
        raise ConfigError(f"k={max(wanted)} is more than the {most} samples with a verdict that a task has at most")
    points = [_point([item for item in full if item.n >= k], k, estimator, coverage) for k in wanted]
    return PassCurve(
        points=tuple(points) if full else (),
        tasks=len(full),
        samples=most,
        empty=tuple(item.task for item in listed if item.n == 0),
        short=tuple(item.task for item in full if item.n < most),
    )


def _point(counts: Sequence[TaskCounts], k: int, estimator: Estimator, coverage: float) -> CurvePoint:
    values = task_values(counts, [k], estimator)[:, 0].tolist()
    found = clustered_share(values, range(len(counts)), coverage, trials(counts, k))
    return CurvePoint(k, found.value, found.low, found.high, len(counts))


def trials(counts: Iterable[TaskCounts], k: int) -> list[int]:
    """How many groups of k samples each task has."""
    return [item.n // k for item in counts]


def task_values(counts: Sequence[TaskCounts], ks: Sequence[int], estimator: Estimator) -> NDArray[np.float64]:
    """The estimates of every task, shape (tasks, ks). Tasks that have n and c in common are computed once."""
    known: dict[tuple[int, int], list[float]] = {}
    for item in counts:
        pair = item.n, item.c
        if pair not in known:
            known[pair] = [estimator(item.n, item.c, k) for k in ks]
    return np.array([known[item.n, item.c] for item in counts], dtype=np.float64).reshape(len(counts), len(ks))


def _checked(n: int, c: int, k: int) -> bool:
    """False for n=0."""
    if not 0 <= c <= n:
        raise ConfigError(f"c={c} right samples of n={n}")
    if k < 1 or (n > 0 and k > n):
        raise ConfigError(f"k={k} must be between 1 and the n={n} samples of a task")
    return n > 0
