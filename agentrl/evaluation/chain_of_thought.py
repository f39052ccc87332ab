"""CoT-pass@k: pass@k that counts a right answer only where what led to it is right as well.

A judge votes several times on every right episode; wrong ones cannot count and are not judged. A vote is yes, no, or
None, which abstains: a verdict that could not be read is no "no". `majority` is the line, `any` and `all` are the band:
under `all` false acceptances become rarer with every vote, under `any` false rejections do.

Invariants: CoT-pass@k <= pass@k for every rule; a right episode that was to be judged and has no vote is an error,
neither right nor wrong; a task of which some right episodes only were judged gives P(CC|CA) and no pass@k.
Source: arXiv 2506.14245.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, NamedTuple, get_args

from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.evaluation.pass_at_k import PassCurve, pass_curve
from agentrl.evaluation.samples import Sample, TaskCounts, TaskKey, by_task, judged

Vote = bool | None
Rule = Literal["any", "majority", "all"]
RULES: tuple[Rule, ...] = get_args(Rule)
SampleKey = tuple[str, str, int]
"""`Sample.key`."""


def accepted(votes: Sequence[Vote], rule: Rule) -> bool:
    """Whether the votes accept: `any` at least one yes; `all` a yes and no "no"; `majority` more yes than no."""
    one_of("rule", rule, RULES)
    yes, no = sum(vote is True for vote in votes), sum(vote is False for vote in votes)
    return {"any": yes > 0, "all": yes > 0 and no == 0, "majority": yes > no}[rule]


@dataclass(frozen=True, slots=True)
class TaskReasoning:
    """One task's right answers and what the judge holds of them."""

    task: TaskKey
    level: int | None
    n: int
    """Samples with a verdict."""
    right: int
    """C: those with the right answer."""
    judged: int
    """Of these, how many the judge was asked about."""
    accepted: Mapping[str, int]
    """By rule, D of those that were judged."""

    @property
    def p_right(self) -> float:
        """P(CA) = C/n; NaN without a sample."""
        return self.right / self.n if self.n else math.nan

    def p_sound(self, rule: Rule = "majority") -> float:
        """P(CC|CA), the share of the judged right answers that is accepted; NaN without one."""
        return self.accepted[rule] / self.judged if self.judged else math.nan

    def estimated(self, rule: Rule = "majority") -> float:
        """D-hat = C * P(CC|CA): an estimate for dynamics, never for the combinatorial estimator; 0 if C is 0."""
        return self.right * self.p_sound(rule) if self.judged else 0.0


@dataclass(frozen=True, slots=True)
class ReasoningReport:
    """CoT-pass@k of one model."""

    tasks: tuple[TaskReasoning, ...]
    passed: PassCurve
    """pass@k."""
    sound: Mapping[str, PassCurve]
    """CoT-pass@k by rule; empty if `complete` is False."""
    complete: bool
    """Every right episode was judged."""
    p_right: float
    """Median over tasks of P(CA); NaN without a task."""
    p_sound: Mapping[str, float]
    """By rule, median of P(CC|CA) over the tasks with a right answer; NaN without one."""
    abstentions: int
    """Votes that could not be read."""
    votes: int
    undecided: int
    """Right answers of which no vote could be read: no rule accepts them, but nobody rejected them either."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able but for NaN."""
        return asdict(self)


def to_judge(samples: Iterable[Sample], n_judge: int | None = None) -> list[Sample]:
    """The right samples that the judge is asked about: all, or the first `n_judge` of each task by number."""
    if n_judge is not None and n_judge < 1:
        raise ConfigError(f"n_judge={n_judge} must be at least 1")
    chosen: list[Sample] = []
    for members in by_task(samples).values():
        right = sorted((sample for sample in members if sample.correct), key=lambda sample: sample.sample)
        chosen += right[:n_judge]
    return chosen


def reasoning_report(
    samples: Iterable[Sample],
    votes: Mapping[SampleKey, Sequence[Vote]],
    *,
    n_judge: int | None = None,
    ks: Sequence[int] | None = None,
) -> ReasoningReport:
    """The report; `votes` by `Sample.key`, those of wrong answers are ignored.

    `n_judge`: right answers of each task that count, unless there are votes on all of them. Raises `ConfigError` for a
    right sample that was to be judged and has no vote.
    """
    listed = judged(samples)
    asked = to_judge(listed)
    if not all(votes.get(sample.key) for sample in asked):
        asked = to_judge(listed, n_judge)
    if missing := [sample for sample in asked if not votes.get(sample.key)]:
        first = missing[0]
        raise ConfigError(
            f"{len(missing)} of {len(asked)} right answers have no judgement, the first is sample {first.sample} of "
            f"task {first.task_id!r} in {first.entry!r}; run the judge to its end"
        )
    by_key = {sample.key: tuple(votes[sample.key]) for sample in asked}
    tasks = tuple(_task(task, members, by_key) for task, members in by_task(listed).items())
    complete = all(task.judged == task.right for task in tasks)
    sound: dict[str, PassCurve] = {rule: _curve(tasks, rule, ks) for rule in RULES} if complete else {}
    right = [task for task in tasks if task.right]
    given = [vote for several in by_key.values() for vote in several]
    return ReasoningReport(
        tasks=tasks,
        passed=pass_curve([TaskCounts(task.task, task.n, task.right, task.level) for task in tasks], ks),
        sound=sound,
        complete=complete,
        p_right=median([task.p_right for task in tasks]) if tasks else math.nan,
        p_sound={rule: median([task.p_sound(rule) for task in right]) if right else math.nan for rule in RULES},
        abstentions=sum(vote is None for vote in given),
        votes=len(given),
        undecided=sum(all(vote is None for vote in several) for several in by_key.values()),
    )


class LogicPrior(NamedTuple):
    """What reward for answers alone does to reasoning, in expectation over large groups."""

    mean: float
    """mu: probability of a right answer."""
    std: float
    """sigma of the reward."""
    advantage_right: float
    """Expected advantage of an episode whose reasoning is right; positive exactly if alpha > beta."""
    advantage_wrong: float
    p_sound: float
    """P(CC|CA)."""


def logic_prior(p_right: float, alpha: float, beta: float) -> LogicPrior:
    """The expected advantages of right and wrong reasoning, of which a share `p_right` is right.

    `alpha` and `beta` are the probabilities of a right answer after right and after wrong reasoning. The sum of the two
    advantages, weighted by how often they occur, is 0. NaN where the answers are all right or all wrong.
    """
    for name, value in (("p_right", p_right), ("alpha", alpha), ("beta", beta)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name}={value:g} must be between 0 and 1")
    mean = p_right * alpha + (1 - p_right) * beta
    std = math.sqrt(max(0.0, mean * (1 - mean)))
    gain = (alpha - beta) / std if std > 0 else math.nan
    sound = p_right * alpha / mean if mean > 0 else math.nan
    return LogicPrior(mean, std, (1 - p_right) * gain, -p_right * gain, sound)


def _task(task: TaskKey, members: Sequence[Sample], votes: Mapping[SampleKey, Sequence[Vote]]) -> TaskReasoning:
    given = [votes[sample.key] for sample in members if sample.key in votes]
    return TaskReasoning(
        task=task,
        level=members[0].level,
        n=len(members),
        right=sum(sample.correct is True for sample in members),
        judged=len(given),
        accepted={rule: sum(accepted(several, rule) for several in given) for rule in RULES},
    )


def _curve(tasks: Sequence[TaskReasoning], rule: Rule, ks: Sequence[int] | None) -> PassCurve:
    return pass_curve([TaskCounts(task.task, task.n, task.accepted[rule], task.level) for task in tasks], ks)
