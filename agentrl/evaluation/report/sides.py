"""The two evaluations of a comparison: where they are read from, and whether they can be compared at all.

An evaluation is read from its folder, from a run of a store, or from a `report.json` alone, which holds every verdict
but no episode. Invariant: different tasks are never compared, nor ways of sampling that differ unless one asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentrl.errors import ConfigError
from agentrl.evaluation.folder import open_evaluation
from agentrl.evaluation.report.build import load_evaluation, report_of
from agentrl.evaluation.report.schema import EvaluationReport
from agentrl.evaluation.samples import Sample
from agentrl.store import RunRecord, RunStore
from agentrl.store.folder import open_place

_CUTS = ("cost", "seconds")  # limits that end an evaluation early and decide no number
_DECIDES = ("split", "levels", "options")


@dataclass(frozen=True)
class Loaded:
    """An evaluation that is to be compared."""

    label: str
    """`A` or `B`."""
    report: EvaluationReport
    samples: list[Sample]
    store: RunStore | None = None
    """Where its episodes are; None for a report alone."""
    run: RunRecord | None = None


@contextmanager
def opened(label: str, place: Path, store: str | None = None) -> Iterator[Loaded]:
    """The evaluation at `place`: a folder, a report.json, or the name of a run in `store`.

    Raises `ConfigError` or `StoreError`, one line.
    """
    if store is None and place.is_file():
        report = _read(label, place)
        yield Loaded(label, report, list(samples_in(report)))
        return
    if store is None and not place.is_dir():
        raise ConfigError(f"{label}={str(place)!r} is neither an evaluation's folder nor its report.json")
    source, run = open_evaluation(place) if store is None else _run_of(store, str(place))
    with source:
        found = load_evaluation(source, run)
        report = report_of(found)
        order = {figures.name: place for place, figures in enumerate(report.entries)}  # as a report alone has them
        yield Loaded(label, report, sorted(found.samples, key=lambda sample: order[sample.entry]), source, run)


def samples_in(report: EvaluationReport) -> Iterator[Sample]:
    """The samples of a report, as far as it knows them: verdict and reward. Their seeds follow from the suite's."""
    for entry in report.entries:
        for task in entry.outcomes:
            for number, (correct, reward) in enumerate(zip(task.correct, task.reward, strict=True)):
                if correct is not None or reward is not None:
                    yield Sample(
                        entry.name, task.task_id, task.env_id, number, task.level, reward or 0.0, correct,
                        seed=report.seed or 0,
                    )  # fmt: skip


def check_same(a: EvaluationReport, b: EvaluationReport, *, other_sampling: bool = False) -> list[str]:
    """What a reader must know of two evaluations that are compared.

    Raises `ConfigError`, one line, for different tasks, and for different sampling unless `other_sampling`.
    """
    names = [[figures.name for figures in report.entries] for report in (a, b)]
    for label, own, other in (("A", *names), ("B", *reversed(names))):
        if alone := [name for name in own if name not in other]:
            raise ConfigError(f"the evaluations are of different tasks: {label} alone has the entry {alone[0]!r}")
    for name, digest in a.suite.tasksets.items():
        if digest != b.suite.tasksets.get(name, digest):
            raise ConfigError(
                f"the evaluations are of different tasks: entry {name!r} has digest {digest} in A and "
                f"{b.suite.tasksets[name]} in B"
            )
    found = _difference(_sampling(a.settings), _sampling(b.settings))
    if found is None:
        return []
    if not other_sampling:
        raise ConfigError(f"the evaluations were sampled differently: {found} (--other-sampling compares them anyway)")
    return [f"The evaluations were sampled differently: {found}."]


def _read(label: str, file: Path) -> EvaluationReport:
    try:
        return EvaluationReport.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{label}={str(file)!r} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise ConfigError(f"{label}={str(file)!r} is no report of an evaluation: {reason}") from None


def _run_of(store: str, name: str) -> tuple[RunStore, RunRecord]:
    source = open_place(store)
    try:
        run = source.run(name)
        if run.kind != "eval":
            raise ConfigError(f"run {name!r} of {source.place!r} is no evaluation but of kind {run.kind!r}")
    except BaseException:
        source.close()
        raise
    return source, run


def _sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how the tasks of a resolved suite are asked, flat."""
    limits = {key: value for key, value in _part(settings, "limits").items() if key not in _CUTS}
    asked = _part(settings, "entries")
    entries = {name: {key: _part(asked, name).get(key) for key in _DECIDES} for name in asked}
    return dict(_flat({"sampling": _part(settings, "sampling"), "limits": limits, "entries": entries}))


def _part(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of settings that may be anybody's: nothing where it has not the form of a suite's."""
    part = settings.get(key)
    return part if isinstance(part, Mapping) else {}


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The first setting in which the two differ, in words."""
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            return f"{key} is {a.get(key)!r} in A and {b.get(key)!r} in B"
    return None
