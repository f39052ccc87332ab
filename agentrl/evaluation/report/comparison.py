"""Compare two evaluations: paired differences, tests, and the boundary between a model and what was trained from it.

Invariant: every number comes from `agentrl.evaluation`, over what both sides have; where the seeds of samples differ,
the tasks are paired instead, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from agentrl import __version__
from agentrl.evaluation.boundary import BoundaryReport, boundary
from agentrl.evaluation.paired import PairedComparison, Unit, Value, compare_paired, correctness, episode_reward
from agentrl.evaluation.pass_at_k import CurvePoint as Point
from agentrl.evaluation.report.comparison_schema import (
    Boundary,
    ComparedEntry,
    ComparisonReport,
    Flip,
    PairedFigures,
    Side,
    SupportFigures,
)
from agentrl.evaluation.report.figures import estimate, point_of
from agentrl.evaluation.report.schema import CurvePoint, Estimate
from agentrl.evaluation.report.sides import Loaded, check_same, opened
from agentrl.evaluation.samples import Sample, by_task, judged, task_counts
from agentrl.evaluation.support import Support, SupportReport, measure_support

TOTAL = "total"


def compare(a: Path, b: Path, *, store: str | None = None, other_sampling: bool = False) -> ComparisonReport:
    """Compare evaluation B with evaluation A.

    Each is a folder, a report.json, or with `store` the name of a run in it. Raises `ConfigError` or `StoreError`, one
    line: not an evaluation, different tasks, different sampling (`other_sampling` allows that).
    """
    with opened("A", a, store) as first, opened("B", b, store) as second:
        return comparison_of(first, second, other_sampling=other_sampling)


def comparison_of(a: Loaded, b: Loaded, *, other_sampling: bool = False) -> ComparisonReport:
    """The comparison of two evaluations that are open."""
    notes = check_same(a.report, b.report, other_sampling=other_sampling)
    pairing = Pairing.of(a, b)
    names = [figures.name for figures in a.report.entries]
    entries = [_entry(name, pairing, lambda sample, name=name: sample.entry == name) for name in names]  # type: ignore[misc]
    total = _entry(TOTAL, pairing, lambda _: True)
    border = _boundary(a.samples, b.samples)
    supports = _supports(names, a.samples, b.samples)
    flips = _flips(a.samples, b.samples)
    return ComparisonReport(
        agentrl_version=__version__,
        a=_side(a),
        b=_side(b),
        unit=pairing.unit,
        notes=[*notes, *_notes(a, b, pairing, total), *_short(border, a.samples, b.samples)],
        total=total,
        entries=entries,
        boundary=None if border is None else _boundary_figures(border, supports),
        only_a=[flip for flip in flips if flip.right_a],
        only_b=[flip for flip in flips if flip.right_b],
    )


@dataclass(frozen=True)
class Pairing:
    """The two sides as they are paired."""

    unit: Unit
    a: Sequence[Sample]
    b: Sequence[Sample]

    @classmethod
    def of(cls, a: Loaded, b: Loaded) -> Pairing:
        """By sample if the samples that both have were drawn with the same seeds, else by task."""
        if a.store is None or b.store is None:  # a report alone knows the suite's seed, from which the others follow
            alike = a.report.seed is not None and a.report.seed == b.report.seed
        else:
            seeds = {sample.key: sample.seed for sample in a.samples}
            alike = all(seeds.get(sample.key, sample.seed) == sample.seed for sample in b.samples)
        return cls("sample" if alike else "task", a.samples, b.samples)

    def compare(self, fits: Callable[[Sample], bool], value: Value) -> PairedComparison | None:
        """The comparison of the samples that fit; None where no pair has a value on both sides."""
        # Samples that are paired were found to have been drawn alike; a report alone does not know how.
        sides = [[replace(sample, seed=0) for sample in side if fits(sample)] for side in (self.a, self.b)]
        valued = [[sample for sample in side if _is_finite(value(sample))] for side in sides]
        keys = [{sample.task if self.unit == "task" else sample.key for sample in side} for side in valued]
        return compare_paired(sides[0], sides[1], value, unit=self.unit) if keys[0] & keys[1] else None


def _is_finite(value: float | None) -> bool:
    return value is not None and isfinite(value)


def _entry(name: str, pairing: Pairing, fits: Callable[[Sample], bool]) -> ComparedEntry:
    return ComparedEntry(
        name=name,
        accuracy=_paired(pairing, fits, correctness),
        reward=_paired(pairing, fits, episode_reward),
    )


def _paired(pairing: Pairing, fits: Callable[[Sample], bool], value: Value) -> PairedFigures | None:
    found = pairing.compare(fits, value)
    if found is None:
        return None
    return PairedFigures(
        pairs=found.pairs,
        tasks=found.tasks,
        mean_a=found.mean_a,
        mean_b=found.mean_b,
        difference=Estimate(value=found.difference, low=found.low, high=found.high),
        p=found.p,
        exact=found.exact,
        only_a=found.only_a,
        only_b=found.only_b,
        mcnemar_p=found.mcnemar_p,
        unmatched_a=found.unmatched_a,
        unmatched_b=found.unmatched_b,
        unjudged=found.unjudged,
    )


def _notes(a: Loaded, b: Loaded, pairing: Pairing, total: ComparedEntry) -> list[str]:
    notes = []
    if pairing.unit == "task":
        notes.append(
            f"The samples are not paired: their seeds {_seeds(a.report.seed, b.report.seed)}. "
            "Means of tasks are compared instead, which finds less."
        )
    for side in (a, b):
        if side.report.total.missing:
            notes.append(f"{side.label} is not complete: {side.report.total.missing:,} episodes are missing.")
    if total.accuracy is None:
        notes.append("No pair has verdicts on both sides.")
    elif total.accuracy.unmatched_a or total.accuracy.unmatched_b or total.accuracy.unjudged:
        alone, without = total.accuracy.unmatched_a + total.accuracy.unmatched_b, total.accuracy.unjudged
        notes.append(f"Not compared: {alone:,} {pairing.unit}s without a partner, {without:,} pairs without a verdict.")
    return notes


def _seeds(*seeds: int | None) -> str:
    return "differ or are not known" if None in seeds else "differ (suite seeds {} and {})".format(*seeds)


def _short(border: BoundaryReport | None, a: Sequence[Sample], b: Sequence[Sample]) -> list[str]:
    """Where the curves of the two end before the samples do: both take what every task has."""
    if border is None:
        return []
    most = max(count.n for side in (a, b) for count in task_counts(side))
    if border.support.k == most:
        return []
    return [
        f"The curves over k of both sides end at k={border.support.k}, the fewest verdicts that either has on a task; "
        f"the most are {most}."
    ]


def _boundary(a: Sequence[Sample], b: Sequence[Sample]) -> BoundaryReport | None:
    tasks = [{count.task for count in task_counts(side) if count.n} for side in (a, b)]
    return boundary(a, b, names=("A", "B")) if tasks[0] & tasks[1] else None


def _supports(names: Iterable[str], a: Sequence[Sample], b: Sequence[Sample]) -> dict[str, SupportReport]:
    """The support of each entry within as many samples as every one of its tasks has on both sides."""
    found = {}
    for name in names:
        sides = [[sample for sample in side if sample.entry == name] for side in (a, b)]
        tasks = [{sample.task for sample in judged(side)} for side in sides]
        if tasks[0] & tasks[1]:
            found[name] = measure_support(sides[0], sides[1])
    return found


def _boundary_figures(found: BoundaryReport, supports: Mapping[str, SupportReport]) -> Boundary:
    total = sum((support.total for support in supports.values()), Support())
    budgets = {(support.k, support.epsilon) for support in supports.values()}
    return Boundary(
        tasks=found.tasks,
        curve_a=_points(found.base_curve.points),
        curve_b=_points(found.trained_curve.points),
        difference=_points(found.difference),
        crossover=found.crossover,
        sampling_gap=found.sampling_gap,
        gap_k=found.gap_k,
        support=_support(total, *(budgets.pop() if len(budgets) == 1 else (None, None))),
        support_by_entry={
            entry: _support(support.total, support.k, support.epsilon) for entry, support in supports.items()
        },
        histogram_a=list(found.base_histogram),
        histogram_b=list(found.trained_histogram),
        entropies={
            name.replace("base", "a").replace("trained", "b"): estimate(interval)
            for name, interval in found.entropies.items()
        },
        left_out=len(found.left_out),
    )


def _support(found: Support, k: int | None, epsilon: float | None) -> SupportFigures:
    return SupportFigures(k=k, epsilon=epsilon, **found.to_dict())


def _points(points: Iterable[Point]) -> list[CurvePoint]:
    return [point_of(point) for point in points]


def _flips(a: Sequence[Sample], b: Sequence[Sample]) -> list[Flip]:
    """The tasks that one side alone solves, each side with as many verdicts as the other has."""
    first, second = (by_task(judged(side)) for side in (a, b))
    flips = []
    for task in (task for task in first if task in second):
        size = min(len(first[task]), len(second[task]))
        right = [sum(sample.correct is True for sample in _first(side[task], size)) for side in (first, second)]
        if (right[0] > 0) != (right[1] > 0):
            level = first[task][0].level
            flips.append(
                Flip(
                    entry=task.entry,
                    task_id=task.task_id,
                    level=level,
                    samples=size,
                    right_a=right[0],
                    right_b=right[1],
                )
            )
    return flips


def _first(samples: Sequence[Sample], size: int) -> list[Sample]:
    return sorted(samples, key=lambda sample: sample.sample)[:size]


def _side(found: Loaded) -> Side:
    report = found.report
    return Side(
        run=report.run,
        model=report.model,
        suite=report.suite,
        seed=report.seed,
        accuracy=report.total.accuracy,
        judged=report.total.judged,
        tokens=report.total.tokens,
        seconds=report.total.seconds,
    )
