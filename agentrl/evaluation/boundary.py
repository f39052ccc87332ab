"""The boundary report: what a trained model can do at one try and at many, against the model it was trained from.

Training with verifiable rewards usually raises pass@1 and may lower pass@k at large k: mass moves to the answers that
were found often, and rare right ones are lost. Both curves, where they cross, what either alone solves and how the
accuracies of single problems moved say which of the two happened.

Invariant: both models are compared on the problems that both were judged on, with the same k; the rest is listed.
Source: Y. Yue et al., arXiv 2504.13837.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from agentrl.errors import ConfigError
from agentrl.evaluation.clusters import clustered_share_difference
from agentrl.evaluation.intervals import Interval
from agentrl.evaluation.pass_at_k import (
    CurvePoint,
    PassCurve,
    pass_at_k,
    pass_curve,
    powers_of_two,
    task_values,
    trials,
)
from agentrl.evaluation.samples import Sample, TaskCounts, TaskKey, by_task, task_counts
from agentrl.evaluation.support import (
    SupportReport,
    answered,
    mean_answer_entropy,
    mean_surprisal,
    mean_token_entropy,
    measure_support,
)

GAP_K = 256
"""k of the base model in the sampling-efficiency gap, where there are that many samples."""
_TENTHS = 10
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Some numbers, such as the perplexities of one model's texts under another; NaN are left out."""

    count: int
    mean: float
    quantiles: Mapping[str, float]
    """`0.05`, `0.25`, `0.5`, `0.75`, `0.95`."""


@dataclass(frozen=True, slots=True)
class BoundaryReport:
    """A base model against one that was trained from it."""

    base: str
    trained: str
    tasks: int
    """Problems that both were judged on."""
    base_curve: PassCurve
    """pass@k at k = 1, 2, 4 ... n, n the fewest samples of a problem and a model."""
    trained_curve: PassCurve
    difference: tuple[CurvePoint, ...]
    """Trained minus base at each k, paired by problem, with the bounds of `clustered_share_difference`."""
    crossover: int | None
    """Smallest k on the grid at which the base model is not behind, if the trained one led at k=1; None: never."""
    sampling_gap: float
    """pass@`gap_k` of the base model - pass@1 of the trained one: 0 when training brought the whole ceiling into reach
    of one try."""
    gap_k: int
    support: SupportReport
    """The coverage table: preserved = both, shrunk = base alone, expanded = trained alone, outside = neither."""
    base_histogram: tuple[int, ...]
    """Problems by c/n in tenths, the last one closed: ten counts."""
    trained_histogram: tuple[int, ...]
    entropies: Mapping[str, Interval] = field(default_factory=dict)
    """`base_answer`, `trained_answer`: nats, over the entries of which either states answers, with as many episodes of
    each problem for both, where there are several; where the engines recorded it also `base_token`, `trained_token`,
    and where they reported log-probabilities `base_surprisal`, `trained_surprisal`: nats a token."""
    perplexities: Mapping[str, Distribution] = field(default_factory=dict)
    """By the caller's names, such as `base of trained`: distributions of `perplexity.perplexities`."""
    left_out: tuple[TaskKey, ...] = ()
    """Problems that one model was not asked, or has no verdict on."""

    @property
    def coverage(self) -> dict[str, int]:
        """Problems that both, base alone, trained alone and neither solve within the largest k."""
        total = self.support.total
        return {
            "both": total.preserved,
            "only_base": total.shrunk,
            "only_trained": total.expanded,
            "neither": total.outside,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able but for NaN and infinities."""
        return asdict(self) | {
            "coverage": self.coverage,
            "support": self.support.to_dict(),
            "entropies": {name: interval._asdict() for name, interval in self.entropies.items()},
        }


def boundary(
    base: Iterable[Sample],
    trained: Iterable[Sample],
    *,
    names: tuple[str, str] = ("base", "trained"),
    perplexities: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
) -> BoundaryReport:
    """The report of two evaluations with the same tasks, prompts and sampling.

    `perplexities`: lists by name, see `BoundaryReport`. Raises `ConfigError` if no problem is common.
    """
    before, after = list(base), list(trained)
    support = measure_support(before, after)
    grid = powers_of_two(support.k)
    first, second = _common(before, after)
    curves = [pass_curve(counts, grid) for counts in (first, second)]
    gap_k = max(k for k in grid if k <= GAP_K)
    return BoundaryReport(
        base=names[0],
        trained=names[1],
        tasks=len(first),
        base_curve=curves[0],
        trained_curve=curves[1],
        difference=tuple(_difference(first, second, k) for k in grid),
        crossover=crossover(*curves),
        sampling_gap=curves[0].at(gap_k).value - curves[1].at(1).value,
        gap_k=gap_k,
        support=support,
        base_histogram=accuracy_histogram(first),
        trained_histogram=accuracy_histogram(second),
        entropies=_entropies(before, after, {item.task for item in first}, seed),
        perplexities={name: distribution(values) for name, values in (perplexities or {}).items()},
        left_out=_left_out(before, after, {item.task for item in first}),
    )


def crossover(base: PassCurve, trained: PassCurve) -> int | None:
    """Smallest k at which the base model has at least the trained one's pass@k, where that one led at the first k."""
    if not base.points or base.points[0].value >= trained.points[0].value:
        return None
    for before, after in zip(base.points, trained.points, strict=True):
        if before.value >= after.value:
            return before.k
    return None


def accuracy_histogram(counts: Iterable[TaskCounts]) -> tuple[int, ...]:
    """How many problems have c/n in [0, 0.1), [0.1, 0.2) ... [0.9, 1]."""
    bins = [0] * _TENTHS
    for item in counts:
        if item.n:
            bins[min(_TENTHS - 1, _TENTHS * item.c // item.n)] += 1
    return tuple(bins)


def distribution(values: Sequence[float]) -> Distribution:
    """Count, mean and quantiles of the numbers among `values`; raises `ConfigError` if there are none."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        raise ConfigError(f"a distribution of no numbers ({len(values)} values)")
    found = np.quantile(numbers, _QUANTILES)
    return Distribution(
        len(numbers),
        float(numbers.mean()),
        {f"{q:g}": float(value) for q, value in zip(_QUANTILES, found, strict=True)},
    )


def by_category(support: SupportReport, values: Mapping[TaskKey, Sequence[float]]) -> dict[str, Distribution]:
    """Distributions of numbers by task, such as perplexities of its solutions, in each category of the support.

    `preserved`, `expanded`, `shrunk`, `outside`; a category without a number is left out. Source: arXiv 2507.14843.
    """
    found: dict[str, Distribution] = {}
    for name, tasks in support.tasks.items():
        numbers = [value for task in tasks for value in values.get(task, ()) if not np.isnan(value)]
        if numbers:
            found[name] = distribution(numbers)
    return found


def _common(base: Sequence[Sample], trained: Sequence[Sample]) -> tuple[list[TaskCounts], list[TaskCounts]]:
    """The counts of the problems that both models have verdicts on, in one order."""
    after = {item.task: item for item in task_counts(trained) if item.n}
    before = [item for item in task_counts(base) if item.n and item.task in after]
    return before, [after[item.task] for item in before]


def _difference(base: Sequence[TaskCounts], trained: Sequence[TaskCounts], k: int) -> CurvePoint:
    before, after = (task_values(counts, [k], pass_at_k)[:, 0].tolist() for counts in (base, trained))
    groups = trials(base, k), trials(trained, k)
    return CurvePoint(
        k, *clustered_share_difference(before, after, range(len(base)), counts=groups), tasks=len(base)
    )  # fmt: skip


def _entropies(
    base: Sequence[Sample], trained: Sequence[Sample], tasks: set[TaskKey], seed: int
) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    played = [[item for item in samples if item.task in tasks and not item.aborted] for samples in (base, trained)]
    stated = answered(*played), answered(*reversed(played))
    fewest = min((len(members) for side in stated for members in by_task(side).values()), default=0)
    for name, samples, answers in zip(("base", "trained"), played, stated, strict=True):
        if fewest > 1:
            found[f"{name}_answer"] = mean_answer_entropy(answers, fewest, seed=seed)
        if any(sample.token_entropy is not None for sample in samples):
            found[f"{name}_token"] = mean_token_entropy(samples)
        if any(sample.surprisal is not None for sample in samples):
            found[f"{name}_surprisal"] = mean_surprisal(samples)
    return found


def _left_out(base: Iterable[Sample], trained: Iterable[Sample], compared: set[TaskKey]) -> tuple[TaskKey, ...]:
    asked = dict.fromkeys(sample.task for samples in (base, trained) for sample in samples)
    return tuple(task for task in asked if task not in compared)
