"""The numbers of some samples: of one entry, or of all of them.

Invariant: each number comes from one function of `agentrl.evaluation`; here they are only put in their places, and what
has no data becomes null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentrl.errors import ConfigError
from agentrl.evaluation.chain_of_thought import SampleKey, Vote, reasoning_report
from agentrl.evaluation.clusters import ClusteredMean, clustered_mean, clustered_share
from agentrl.evaluation.intervals import Interval, wilson
from agentrl.evaluation.pass_at_k import CurvePoint as Point
from agentrl.evaluation.pass_at_k import PassCurve, pass_curve, pass_hat_k
from agentrl.evaluation.report.schema import (
    CurvePoint,
    Estimate,
    Figures,
    Reasoning,
    Stratum,
    TaskOutcome,
    ToolFigures,
)
from agentrl.evaluation.result import is_share, verdict_metrics
from agentrl.evaluation.samples import Sample, by_task, judged, stop_reasons, task_counts
from agentrl.evaluation.strata import accuracy, by_level, reward
from agentrl.evaluation.support import answered, mean_answer_entropy, mean_surprisal, mean_token_entropy
from agentrl.evaluation.tool_use import tool_use


@dataclass(frozen=True)
class Judged:
    """The votes of one judge."""

    judge: str
    n_judge: int | None
    """Right answers of each task that it was to judge; None: all."""
    votes: Mapping[SampleKey, Sequence[Vote]]


@dataclass(frozen=True)
class Asked:
    """What an entry asked for, and what is known of it beside its samples."""

    name: str
    tasks: int
    samples: int | None
    """Of each task; None where entries differ."""
    planned: int
    """Episodes."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Episode-seconds by stage."""
    cost: float | None = None
    judges: Sequence[Judged] = ()


def figures_of(samples: Sequence[Sample], asked: Asked, outcomes: Sequence[TaskOutcome] = ()) -> Figures:
    """The figures of `samples`, which may be none."""
    verdicts, counts = judged(samples), task_counts(samples)
    correct = sum(sample.correct is True for sample in verdicts)
    curve = pass_curve(counts)
    played = tool_use(samples)
    any_played = played.episodes > 0
    return Figures(
        name=asked.name,
        environments=sorted({sample.env_id for sample in samples if sample.env_id}),
        tasks=asked.tasks,
        samples=asked.samples,
        planned=asked.planned,
        episodes=len(samples),
        judged=len(verdicts),
        correct=correct,
        aborted=sum(sample.aborted for sample in samples),
        missing=max(0, asked.planned - len(samples)),
        accuracy=clustered(accuracy(samples)),
        accuracy_wilson=estimate(wilson(correct, len(verdicts))) if verdicts else Estimate(),
        reward=clustered(reward(samples)),
        metrics=_metrics(samples),
        pass_at_k=points(curve),
        pass_hat_k=points(pass_curve(counts, estimator=pass_hat_k)),
        reasoning=[_reasoning(samples, judge) for judge in asked.judges],
        strata=_strata(samples),
        tools=_tools(samples),
        stop_reasons=stop_reasons(samples),
        turns=played.turns if any_played else None,
        seconds=played.seconds if any_played else None,
        tokens_per_episode=played.tokens if any_played else None,
        tokens=sum(sample.tokens for sample in samples),
        prompt_tokens=sum(sample.prompt_tokens for sample in samples),
        stages={stage: seconds for stage, seconds in asked.stages.items() if seconds > 0},
        cost=asked.cost,
        answer_entropy=_answer_entropy(samples),
        token_entropy=estimate(mean_token_entropy(samples)),
        surprisal=estimate(mean_surprisal(samples)),
        unjudged_tasks=[task.task_id for task in curve.empty],
        outcomes=list(outcomes),
    )


def outcomes_of(samples: Sequence[Sample], asked: int) -> list[TaskOutcome]:
    """The verdicts of each task by number of the sample; `asked` is how many there should be."""
    return [_outcome(members, asked) for members in by_task(samples).values()]


def points(curve: PassCurve) -> list[CurvePoint]:
    """A curve's points as the report holds them."""
    return [point_of(point) for point in curve.points]


def point_of(point: Point) -> CurvePoint:
    """A point of a curve as the report holds it."""
    return CurvePoint(k=point.k, value=point.value, low=point.low, high=point.high, tasks=point.tasks)


def clustered(mean: ClusteredMean) -> Estimate:
    """A mean with its clustered interval; nothing without samples."""
    return estimate(mean.interval) if mean.samples else Estimate()


def estimate(interval: Interval) -> Estimate:
    """An interval as the report holds it: bounds that are not finite are none."""
    return Estimate(value=interval.value, low=interval.low, high=interval.high)


def _tools(samples: Sequence[Sample]) -> ToolFigures:
    use = tool_use(samples)
    if not use.episodes:
        return ToolFigures()
    return ToolFigures(
        calls=use.calls,
        calls_per_episode=use.calls_per_episode,
        episodes_with_calls=use.share_with_call,
        valid_share=use.valid_rate,
        error_share=use.error_rate,
        seconds_per_call=use.seconds_per_call,
        seconds_per_episode=use.tool_seconds,
    )


def _metrics(samples: Sequence[Sample]) -> dict[str, Estimate]:
    """Means of what verdicts report beside `correct`, which is the accuracy; each over the entries that report it."""
    played = [sample for sample in samples if not sample.aborted]
    reported = {name: {sample.entry for sample in played if name in sample.metrics} for name in verdict_metrics(played)}
    return {
        name: _metric(name, [s for s in played if s.entry in of]) for name, of in reported.items() if name != "correct"
    }


def _metric(name: str, played: Sequence[Sample]) -> Estimate:
    values, tasks = verdict_metrics(played)[name], [sample.task for sample in played]
    return clustered((clustered_share if _are_shares(name, values) else clustered_mean)(values, tasks))


def _are_shares(name: str, values: Sequence[float]) -> bool:
    return is_share(name) and all(0.0 <= value <= 1.0 for value in values)


def _strata(samples: Sequence[Sample]) -> list[Stratum]:
    """By level; nothing where no task states one."""
    found = by_level(samples)
    if all(stratum.level is None for stratum in found):
        return []
    return [
        Stratum(
            level=stratum.level,
            tasks=stratum.accuracy.tasks,
            judged=stratum.samples,
            accuracy=clustered(stratum.accuracy),
            reward=clustered(stratum.reward),
        )
        for stratum in found
    ]


def _outcome(members: Sequence[Sample], asked: int) -> TaskOutcome:
    found = {sample.sample: sample for sample in members}
    places = [found.get(number) for number in range(max(asked, max(found) + 1))]
    return TaskOutcome(
        task_id=members[0].task_id,
        env_id=members[0].env_id,
        level=members[0].level,
        correct=[None if sample is None else sample.correct for sample in places],
        reward=[None if sample is None or sample.aborted else sample.reward for sample in places],
    )


def _reasoning(samples: Sequence[Sample], judge: Judged) -> Reasoning:
    """What one judge's votes make of the right answers; without figures while some have no vote."""
    try:
        report = reasoning_report(samples, judge.votes, n_judge=judge.n_judge)
    except ConfigError as error:
        keys = {sample.key for sample in samples}
        votes = sum(len(given) for key, given in judge.votes.items() if key in keys)
        return Reasoning(judge=judge.judge, complete=False, missing=str(error), votes=votes)
    return Reasoning(
        judge=judge.judge,
        complete=report.complete,
        votes=report.votes,
        abstentions=report.abstentions,
        p_sound=dict(report.p_sound),
        cot_pass_at_k={rule: points(curve) for rule, curve in report.sound.items()},
    )


def _answer_entropy(samples: Sequence[Sample]) -> Estimate:
    """Over the entries that state answers; one sample a task has no entropy."""
    stated = answered(samples)
    fewest = min(map(len, by_task(stated).values()), default=0)
    return estimate(mean_answer_entropy(stated)) if fewest > 1 else Estimate()
