"""Two models on the same tasks with the same seeds: their difference, its standard error, and a test.

A hard task is hard for both models, so the difference of a pair varies less than the two results do. Pairs of one task
are a cluster. The test flips the sign of whole tasks: if the models were alike, a task's total difference would be as
likely with the other sign. It assumes that tasks are independent and nothing of a distribution.

Two models whose samples were drawn with different seeds have no pairs but their tasks: then the means of tasks are
paired. Invariant: only samples that agree in entry, task, number and seed (or tasks) and have a finite value on both
sides are compared; how many were, and how many could not be, is part of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import ConfigError
from agentrl.evaluation.clusters import clustered_mean, clustered_share_difference
from agentrl.evaluation.samples import Sample, TaskKey, by_task

RESAMPLES = 9999
"""Sign patterns that are drawn; where there are no more than that, all of them are taken and the test is exact."""
_ROUNDING = 1e-12
"""Sums that differ by less, relative to the sum of all sizes, are equal: floats depend on the order of addition."""
_CHUNK = 2**22
"""Signs in memory at one time."""

Value = Callable[[Sample], float | None]
Unit = Literal["sample", "task"]
"""What is paired: samples with the same seed, or tasks (their means) where the samples were drawn with others."""


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Model b minus model a."""

    mean_a: float
    mean_b: float
    difference: float
    """mean_b - mean_a over the pairs."""
    se: float
    """Clustered by task."""
    low: float
    """Of right and wrong those of `clustered_share_difference`, else of `clustered_mean` over the differences."""
    high: float
    p: float
    """Two-sided, of the sign-flip test over tasks."""
    exact: bool
    """All sign patterns were taken; else `RESAMPLES` of them were drawn."""
    pairs: int
    tasks: int
    only_b: int
    """Pairs in which b's value is larger; of right and wrong: that b alone got right."""
    only_a: int
    mcnemar_p: float | None
    """Exact McNemar test; None unless the values are 0 or 1 and every task has one pair."""
    unmatched_a: int
    """Samples (or tasks) of a that b has no partner for: not compared."""
    unmatched_b: int
    unjudged: int
    """Pairs in which one side or both have no value: not compared."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able but for NaN and infinities."""
        return asdict(self)


def correctness(sample: Sample) -> float | None:
    """1.0 or 0.0; None without a verdict."""
    return None if sample.correct is None else float(sample.correct)


def episode_reward(sample: Sample) -> float | None:
    """The episode's reward; None for an aborted one."""
    return None if sample.aborted else sample.reward


def compare_paired(
    a: Iterable[Sample],
    b: Iterable[Sample],
    value: Value = correctness,
    *,
    unit: Unit = "sample",
    coverage: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models' samples pair by pair, or with `unit="task"` their means of tasks, whatever the seeds.

    Raises `ConfigError` if a pair's seeds differ, a key occurs twice, or nothing can be compared.
    """
    left, right = _sides(a, "first", value, unit), _sides(b, "second", value, unit)
    common = [key for key in left if key in right]
    _check_pairs(left, right, common)
    usable = [pair for key in common if _is_number((pair := (left[key], right[key]))[0].value, pair[1].value)]
    if not usable:
        raise ConfigError(f"none of the {len(common)} pairs has a value on both sides: there is nothing to compare")
    clusters = [side.task for side, _ in usable]
    first, second = (np.array([pair[side].value for pair in usable], dtype=np.float64) for side in (0, 1))
    differences = second - first
    mean = clustered_mean(differences.tolist(), clusters, coverage)
    bounds = mean.interval
    if value is correctness:
        counts = [side.samples for side, _ in usable], [side.samples for _, side in usable]
        bounds = clustered_share_difference(first.tolist(), second.tolist(), clusters, coverage, counts)
    p, exact = sign_flip_test(_totals(differences, clusters), seed=seed)
    return PairedComparison(
        mean_a=float(first.mean()),
        mean_b=float(second.mean()),
        difference=mean.value,
        se=mean.se,
        low=bounds.low,
        high=bounds.high,
        p=p,
        exact=exact,
        pairs=len(usable),
        tasks=mean.tasks,
        only_b=int((differences > 0).sum()),
        only_a=int((differences < 0).sum()),
        mcnemar_p=_mcnemar_of(first, second) if mean.tasks == len(usable) else None,
        unmatched_a=len(left) - len(common),
        unmatched_b=len(right) - len(common),
        unjudged=len(common) - len(usable),
    )


def sign_flip_test(totals: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, bool]:
    """Two-sided p-value of "each total is as likely with the other sign", and whether all sign patterns were taken.

    Drawn patterns count the observed one in, so that p is never 0 (B. Phipson, G. Smyth, SAGMB 9, 2010).
    """
    moved = np.array([total for total in totals if total != 0.0])  # a zero is the same with either sign
    bound = abs(moved.sum()) - _ROUNDING * np.abs(moved).sum()
    if 2 ** len(moved) <= resamples:
        patterns = 2 * (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1) - 1
        return float(np.mean(np.abs(patterns @ moved) >= bound)), True
    rng, extreme, chunk = np.random.default_rng(seed), 0, max(1, _CHUNK // len(moved))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start), len(moved)
        # The sum over all with the sign of those that are drawn turned around: total - 2 * their sum.
        flipped = moved.sum() - 2 * (rng.integers(2, size=size, dtype=np.int8).astype(np.float64) @ moved)
        extreme += int((np.abs(flipped) >= bound).sum())
    return (extreme + 1) / (resamples + 1), False


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test of one pair a task: are the pairs that differ split evenly? 1.0 if none differs."""
    from scipy import stats

    discordant = only_a + only_b
    return float(stats.binomtest(only_b, discordant, 0.5).pvalue) if discordant else 1.0


class _Side(NamedTuple):
    """What one model has to compare."""

    task: TaskKey
    value: float | None
    samples: int
    """That the value is the mean of."""
    seed: int | None
    """None where no single sample is compared."""


def _is_number(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def _sides(samples: Iterable[Sample], which: str, value: Value, unit: Unit) -> dict[Hashable, _Side]:
    """By sample or by task."""
    table: dict[Hashable, Sample] = {}
    for sample in samples:
        if sample.key in table:
            raise ConfigError(
                f"the {which} model has sample {sample.sample} of task {sample.task_id!r} in {sample.entry!r} twice"
            )
        table[sample.key] = sample
    if unit == "sample":
        return {key: _Side(sample.task, value(sample), 1, sample.seed) for key, sample in table.items()}
    return {task: _task_mean(task, members, value) for task, members in by_task(table.values()).items()}


def _task_mean(task: TaskKey, members: Sequence[Sample], value: Value) -> _Side:
    values = [found for sample in members if (found := value(sample)) is not None]
    return _Side(task, math.fsum(values) / len(values) if values else None, len(values), None)


def _check_pairs(left: Mapping[Any, _Side], right: Mapping[Any, _Side], common: Sequence[Any]) -> None:
    if not common:
        raise ConfigError(f"the two evaluations share no sample: {len(left)} and {len(right)}, of different tasks")
    unequal = [key for key in common if left[key].seed != right[key].seed]
    if unequal:
        entry, task, number = unequal[0]
        raise ConfigError(
            f"the two evaluations are not paired: {len(unequal)} of {len(common)} common samples have different seeds, "
            f"the first is sample {number} of task {task!r} in {entry!r}; evaluate both with one suite seed"
        )


def _totals(differences: NDArray[np.float64], clusters: Sequence[Hashable]) -> list[float]:
    totals: dict[Hashable, float] = {}
    for label, difference in zip(clusters, differences.tolist(), strict=True):
        totals[label] = totals.get(label, 0.0) + difference
    return list(totals.values())


def _mcnemar_of(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    if not np.isin([first, second], [0.0, 1.0]).all():
        return None
    return mcnemar(int((first > second).sum()), int((second > first).sum()))
