"""Empirical support: which problems a model can solve at all within a budget, before training and after it.

A problem is in a model's support at budget k if one of k samples is right. Training keeps it (P), finds it (E), loses
it (S), or neither model has it (O). The ratios: SRR = P/(P+S), the part of the base model's support that is kept;
NDR = E/(P+E), the part of the trained model's that is new; SDS, their harmonic mean; NSCR = (E-S)/(P+E+S), net change.

Invariant: both models get the same budget on every problem; counts are added up before a ratio is taken, ratios are
never averaged. Source: "The Invisible Leash", arXiv 2507.14843, sections 3-5; its claim that a tilted policy has no
more entropy than the base is false in general and nowhere used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentrl.errors import ConfigError
from agentrl.evaluation.clusters import clustered_mean
from agentrl.evaluation.intervals import Interval, bootstrap_means
from agentrl.evaluation.samples import Sample, TaskKey, by_task, judged

NOTHING = "NA"
"""The class of all answers that are unfinished or could not be read."""


@dataclass(frozen=True, slots=True)
class Support:
    """Counts of problems, or of (problem, answer) pairs."""

    preserved: int = 0
    expanded: int = 0
    shrunk: int = 0
    outside: int = 0

    def __add__(self, other: Support) -> Support:
        return Support(
            self.preserved + other.preserved,
            self.expanded + other.expanded,
            self.shrunk + other.shrunk,
            self.outside + other.outside,
        )

    @property
    def total(self) -> int:
        return self.preserved + self.expanded + self.shrunk + self.outside

    @property
    def srr(self) -> float:
        """Support retention rate; NaN if the base model solves nothing."""
        return _ratio(self.preserved, self.preserved + self.shrunk)

    @property
    def ndr(self) -> float:
        """Net discovery rate, of the trained model's support; NaN if that is empty."""
        return _ratio(self.expanded, self.preserved + self.expanded)

    @property
    def sds(self) -> float:
        """Support dynamic score; 0 where both rates are 0, NaN where one of them is."""
        both = self.srr + self.ndr
        return 2 * self.srr * self.ndr / both if both != 0 else 0.0

    @property
    def nscr(self) -> float:
        """Net support change rate; NaN if neither model solves anything."""
        return _ratio(self.expanded - self.shrunk, self.preserved + self.expanded + self.shrunk)

    def to_dict(self) -> dict[str, Any]:
        """Counts and ratios; JSON-able but for NaN."""
        return asdict(self) | {"srr": self.srr, "ndr": self.ndr, "sds": self.sds, "nscr": self.nscr}


@dataclass(frozen=True, slots=True)
class SupportReport:
    """Support of two models on the problems that both were asked."""

    total: Support
    by_entry: Mapping[str, Support]
    k: int
    """Budget: samples of each model on each problem, the first ones by number."""
    epsilon: float
    """An answer that was not found has at most this probability, with 95 % confidence (`support_threshold`)."""
    unit: Literal["problem", "answer"]
    tasks: Mapping[str, tuple[TaskKey, ...]] = field(default_factory=dict)
    """The problems of `preserved`, `expanded`, `shrunk`, `outside`; by unit answer a problem may stand in several."""
    left_out: tuple[TaskKey, ...] = ()
    """Problems that one of the models was not asked or has no verdict on."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able but for NaN."""
        return asdict(self) | {
            "total": self.total.to_dict(),
            "by_entry": {entry: support.to_dict() for entry, support in self.by_entry.items()},
        }


def support_threshold(k: int, zeta: float = 0.05, *, exact: bool = False) -> float:
    """The probability that k samples without a find exclude with confidence 1 - zeta: -ln(zeta) / k, or exactly."""
    if k < 1 or not 0 < zeta < 1:
        raise ConfigError(f"k={k}, zeta={zeta:g}: k must be at least 1 and zeta between 0 and 1")
    return 1 - zeta ** (1 / k) if exact else -math.log(zeta) / k


def measure_support(
    base: Iterable[Sample],
    trained: Iterable[Sample],
    k: int | None = None,
    *,
    unit: Literal["problem", "answer"] = "problem",
    zeta: float = 0.05,
    same: Callable[[str], str] = str.strip,
) -> SupportReport:
    """Compare the support of a base model and a trained one, sampled and judged alike.

    `k` None: the fewest judged samples of any common problem. By unit `answer`, for tasks with many right answers,
    pairs (problem, right answer) are counted; `same` maps answers that count as one to the same text. A problem
    without a find is outside once. Raises `ConfigError` for k above a problem's samples and where no problem is common.
    """
    asked = list(base), list(trained)
    before, after = (by_task(judged(samples)) for samples in asked)
    common = dict.fromkeys(task for task in before if task in after)
    if not common:
        raise ConfigError("the two models have no judged problem in common")
    budget = min(min(len(before[task]), len(after[task])) for task in common) if k is None else k
    placed: dict[str, list[TaskKey]] = {name: [] for name in ("preserved", "expanded", "shrunk", "outside")}
    for task in common:
        found = [_finds(samples[task], budget, unit, same) for samples in (before, after)]
        for name, number in _categories(*found).items():
            placed[name] += [task] * number
    by_entry = {
        entry: Support(*(sum(task.entry == entry for task in tasks) for tasks in placed.values()))
        for entry in dict.fromkeys(task.entry for task in common)
    }
    return SupportReport(
        total=sum(by_entry.values(), Support()),
        by_entry=by_entry,
        k=budget,
        epsilon=support_threshold(budget, zeta),
        unit=unit,
        tasks={name: tuple(dict.fromkeys(tasks)) for name, tasks in placed.items()},
        left_out=tuple(task for task in by_task([*asked[0], *asked[1]]) if task not in common),
    )


def answer_entropy(answers: Sequence[str | None], same: Callable[[str], str] = str.strip) -> float:
    """Entropy of the answers of one problem's samples, nats; missing and empty ones are one class. NaN without any."""
    if not answers:
        return math.nan
    classes = Counter(NOTHING if answer is None or not same(answer) else "=" + same(answer) for answer in answers)
    return max(0.0, -math.fsum(count / len(answers) * math.log(count / len(answers)) for count in classes.values()))


def answered(samples: Iterable[Sample], *others: Iterable[Sample]) -> list[Sample]:
    """The samples that were not aborted, of the entries of which any sample (of `others`, too) states an answer.

    An environment that knows no answers says nothing of their entropy, which is not one of 0.
    """
    played = [sample for sample in samples if not sample.aborted]
    entries = {sample.entry for side in (played, *others) for sample in side if sample.answer is not None}
    return [sample for sample in played if sample.entry in entries]


def mean_answer_entropy(
    samples: Iterable[Sample],
    n: int | None = None,
    *,
    same: Callable[[str], str] = str.strip,
    coverage: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean answer entropy over problems, nats, with bootstrap bounds; over the first `n` episodes of each.

    The figure grows with n, so that models are compared with the same one; None: the fewest of any problem. Aborted
    episodes are left out. Raises `ConfigError` for n above a problem's episodes.
    """
    tasks = by_task(sample for sample in samples if not sample.aborted)
    size = min(map(len, tasks.values()), default=0) if n is None else n
    values = []
    for members in tasks.values():
        values.append([answer_entropy([sample.answer for sample in _first(members, size)], same)])
    if not values:
        return Interval(math.nan, -math.inf, math.inf)
    most = math.log(size)  # scaled by it the values lie in [0, 1]
    scaled = [[min(1.0, value[0] / most) if most else 0.0] for value in values]
    return Interval(*(bound * most for bound in bootstrap_means(scaled, coverage=coverage, seed=seed)[0]))


def mean_token_entropy(samples: Iterable[Sample], coverage: float = 0.95) -> Interval:
    """Mean over sequences of their token entropy, nats, clustered by task; NaN where no engine recorded it."""
    recorded = [(sample.token_entropy, sample.task) for sample in samples if sample.token_entropy is not None]
    return clustered_mean([value for value, _ in recorded], [task for _, task in recorded], coverage).interval


def mean_surprisal(samples: Iterable[Sample], coverage: float = 0.95) -> Interval:
    """Mean over sequences of their mean -log p, nats, clustered by task; NaN where no engine reported it."""
    reported = [(sample.surprisal, sample.task) for sample in samples if sample.surprisal is not None]
    return clustered_mean([value for value, _ in reported], [task for _, task in reported], coverage).interval


def _finds(
    samples: Sequence[Sample], k: int, unit: Literal["problem", "answer"], same: Callable[[str], str]
) -> set[str]:
    """The right answers among the first k samples; by unit problem they are all one."""
    right = [sample for sample in _first(samples, k) if sample.correct]
    if unit == "problem":
        return {"found"} if right else set()
    return {same(sample.answer or "") for sample in right}


def _categories(base: set[str], trained: set[str]) -> dict[str, int]:
    return {
        "preserved": len(base & trained),
        "expanded": len(trained - base),
        "shrunk": len(base - trained),
        "outside": int(not base and not trained),
    }


def _first(samples: Sequence[Sample], k: int) -> list[Sample]:
    if not 1 <= k <= len(samples):
        task = samples[0].task
        raise ConfigError(f"k={k}: task {task.task_id!r} of {task.entry!r} has {len(samples)} samples that count")
    return sorted(samples, key=lambda sample: sample.sample)[:k]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
