"""Build the report of an evaluation from its store.

Invariant: the store is the only source, so that building a report again gives the same report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from agentrl import __version__
from agentrl.account import STAGES, episode_account
from agentrl.errors import StoreError
from agentrl.evaluation.budget import Prices
from agentrl.evaluation.folder import open_evaluation
from agentrl.evaluation.judge import votes_of
from agentrl.evaluation.report.figures import Asked, Judged, figures_of, outcomes_of
from agentrl.evaluation.report.schema import EvaluationReport, Figures, ModelFacts, SuiteFacts
from agentrl.evaluation.samples import PHASE, Sample, SampleTable, duplicates, repeated
from agentrl.store import EpisodeRecord, RunRecord, RunStore

TOTAL = "total"
SHOWN_NAMES = 5  # names that a note lists before it counts the rest


@dataclass(frozen=True)
class Evaluated:
    """An evaluation as it lies in a store."""

    run: RunRecord
    samples: list[Sample]
    settings: dict[str, Any]
    """The resolved suite; empty where the run was none."""
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Episode-seconds by entry and stage."""
    judges: list[Judged] = field(default_factory=list)


@dataclass
class Reading:
    """One reading of an evaluation's episodes, which are decoded once for all that is made of them."""

    store: RunStore
    run: RunRecord
    table: SampleTable = field(default_factory=SampleTable)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    def episodes(self) -> Iterator[EpisodeRecord]:
        """All episodes in the order of the store; what a report needs of each is kept on its way."""
        for episode in self.store.episodes(self.run.id):
            self.table.add(episode)
            spent = self.stages.setdefault(episode.phase.removeprefix(PHASE), dict.fromkeys(STAGES, 0.0))
            for stage, seconds in episode_account(episode.trajectory).items():
                spent[stage] += seconds
            yield episode

    def found(self) -> Evaluated:
        """Everything that a report is computed from, of the episodes that were read."""
        run, samples = self.run, self.table.samples
        judges = [
            Judged(name, facts.get("n_judge"), votes_of(self.store, run.id, samples, name))
            for name, facts in run.meta.get("judges", {}).items()
        ]
        return Evaluated(run, samples, _settings(run.config), self.stages, judges)


def _settings(config: str) -> dict[str, Any]:
    """The resolved suite; nothing of a text that is none, as an imported run may have."""
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    return tree if isinstance(tree, dict) else {}


def build_evaluation(folder: Path) -> EvaluationReport:
    """The report of the evaluation in `folder`; raises `StoreError` if it holds none."""
    store, run = open_evaluation(folder)
    with store:
        return report_of(load_evaluation(store, run))


def holds_evaluation(folder: Path) -> bool:
    """Whether `folder` is an evaluation's, not a training run's."""
    try:
        store, _ = open_evaluation(folder)
    except StoreError:
        return False
    store.close()
    return True


def load_evaluation(store: RunStore, run: RunRecord) -> Evaluated:
    """Everything that a report is computed from."""
    reading = Reading(store, run)
    for _ in reading.episodes():
        pass
    return reading.found()


def report_of(found: Evaluated) -> EvaluationReport:
    """The report of an evaluation."""
    run, meta, settings = found.run, found.run.meta, found.settings
    entries = [_entry(found, name) for name in _entry_names(found)]
    total = _total(found, entries)
    finished = bool(meta.get("finished", run.status == "finished"))
    return EvaluationReport(
        agentrl_version=__version__,
        run=run.name,
        started=_utc(run.created),
        updated=_utc(run.updated),
        finished=finished,
        seconds=meta.get("seconds"),
        seed=meta.get("seed", settings.get("seed")),
        suite=SuiteFacts(
            name=str(meta.get("suite", settings.get("name", run.name))),
            version=_text(meta.get("suite_version", settings.get("version"))),
            tasksets=meta.get("tasksets", {}),
        ),
        model=ModelFacts(
            name=str(meta.get("model", "unknown")), kind=meta.get("model_kind"), weights_hash=meta.get("weights_hash")
        ),
        settings=settings,
        prices=meta.get("prices"),
        total=total,
        entries=entries,
        notes=[*_notes(total, entries, finished), *_draws(found)],
    )


def _entry_names(found: Evaluated) -> list[str]:
    """Entries in the order of the suite, those that only the store knows last."""
    return list(dict.fromkeys([*_asked_entries(found), *(sample.entry for sample in found.samples)]))


def _entry(found: Evaluated, name: str) -> Figures:
    samples = [sample for sample in found.samples if sample.entry == name]
    entry = _asked_entries(found).get(name, {})
    each = int(entry.get("samples") or max((sample.sample + 1 for sample in samples), default=1))
    tasks = int(entry.get("tasks") or len({sample.task_id for sample in samples}))
    asked = Asked(
        name=name,
        tasks=tasks,
        samples=each,
        planned=tasks * each,
        stages=found.stages.get(name, {}),
        cost=_cost(found, samples),
        judges=found.judges,
    )
    return figures_of(samples, asked, outcomes_of(samples, each))


def _total(found: Evaluated, entries: Sequence[Figures]) -> Figures:
    each = {figures.samples for figures in entries}
    asked = Asked(
        name=TOTAL,
        tasks=sum(figures.tasks for figures in entries),
        samples=each.pop() if len(each) == 1 else None,
        planned=sum(figures.planned for figures in entries),
        stages={stage: sum(figures.stages.get(stage, 0.0) for figures in entries) for stage in STAGES},
        cost=_cost(found, found.samples, found.run.meta.get("lost", {})),
        judges=found.judges,
    )
    return figures_of(found.samples, asked)


def _notes(total: Figures, entries: Sequence[Figures], finished: bool) -> list[str]:
    notes = []
    if total.missing:
        how = "the evaluation was ended early" if finished else "the evaluation is not finished"
        notes.append(f"{total.missing:,} of {total.planned:,} episodes are missing: {how}.")
    if total.aborted:
        notes.append(f"{total.aborted:,} episodes were aborted and have no verdict; they are in no share.")
    unjudged = [f"{entry.name}: {task}" for entry in entries for task in entry.unjudged_tasks]
    if unjudged:
        more = f" and {len(unjudged) - SHOWN_NAMES} more" if len(unjudged) > SHOWN_NAMES else ""
        notes.append(f"Tasks without a verdict, in no share: {', '.join(unjudged[:SHOWN_NAMES])}{more}.")
    rows = [*entries, total] if len(entries) > 1 else entries
    notes += [note for figures in rows if (note := _short(figures))]
    notes += [f"Judge {judge.judge}: {judge.missing}." for judge in total.reasoning if judge.missing]
    return notes


def _short(figures: Figures) -> str | None:
    """Where a curve leaves tasks out that it begins with."""
    curve = figures.pass_at_k
    fewer = [point for point in curve if point.tasks < curve[0].tasks]
    if not fewer:
        return None
    first, last = fewer[0], fewer[-1]
    more = f" and {last.tasks:,} at k={last.k}" if last.tasks < first.tasks else ""
    return (
        f"pass@k of {figures.name} is not over the same tasks at every k: {curve[0].tasks:,} at k=1, "
        f"{first.tasks:,} at k={first.k}{more}; the others have fewer verdicts."
    )


def _draws(found: Evaluated) -> list[str]:
    """What a reader must know where the samples of a task are no independent draws."""
    notes = []
    if alike := duplicates(found.samples):
        same, tasks = sum(group.same for group in alike), len({group.task for group in alike})
        notes.append(
            f"Samples that share a seed are no independent draws: {len(alike):,} groups of them in {tasks:,} "
            f"{'task' if tasks == 1 else 'tasks'}, of which {same:,} came out the same. pass@k above k=1 counts each "
            "as several tries."
        )
    same, several = repeated(found.samples)
    sampling = found.settings.get("sampling")
    greedy = isinstance(sampling, Mapping) and sampling.get("temperature") == 0
    if greedy and several and found.run.meta.get("model_kind") not in ("oracle", "random"):
        notes.append(
            f"Greedy sampling (temperature 0) draws nothing: all samples came out the same in {same:,} of the "
            f"{several:,} tasks with several. pass@k and pass^k above k=1 say no more than k=1 does there."
        )
    return notes


def _asked_entries(found: Evaluated) -> Mapping[str, Any]:
    entries = found.settings.get("entries")
    return entries if isinstance(entries, Mapping) else {}


def _cost(found: Evaluated, samples: Sequence[Sample], lost: Mapping[str, int] = {}) -> float | None:
    """Dollars at the prices that were given; `lost`: tokens of failed episodes that were played again."""
    prices = found.run.meta.get("prices")
    if not prices:
        return None
    read, written = (
        sum(getattr(sample, name) for sample in samples) + lost.get(name, 0) for name in ("prompt_tokens", "tokens")
    )
    return Prices(**prices).of(read, written)


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
