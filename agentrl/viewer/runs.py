"""Runs as the pages show them: status, progress, last figures, a spark line.

Invariant: nothing is made up: what a store does not say is not shown. A run that says it is running but has not been
written for a while is shown as silent: a killed process cannot say that it died.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import yaml

from agentrl.errors import StoreError
from agentrl.store import EpisodeQuery, PhaseRecord, RunRecord, RunStore
from agentrl.trajectory import StopReason
from agentrl.viewer.catalog import Catalog, Place

SILENT_AFTER = 600.0  # seconds: longer than a step of most runs, shorter than anybody's patience
SPARK_POINTS = 60
EVALUATIONS = "eval/"
_ORDER = ("eval/base", "warm_start", "eval/warm_start", "train", "eval/step", "eval/trained")
LEADING = ("accuracy", "reward", "correct", "loss")
"""Metrics that tell most, the first one there is drawn in the list."""
Steps = list[tuple[int, dict[str, float]]]


@dataclass(frozen=True)
class Outcome:
    """Verdicts of a phase. As everywhere in agentrl, who ran into the episode's deadline had its time and is wrong."""

    correct: int
    wrong: int
    timed_out: int = 0
    """Of the wrong ones."""

    @property
    def accuracy(self) -> float | None:
        judged = self.correct + self.wrong
        return self.correct / judged if judged else None

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.correct + other.correct, self.wrong + other.wrong, self.timed_out + other.timed_out)


@dataclass(frozen=True)
class RunView:
    """A run in a list or at the head of its page."""

    place: Place
    run: RunRecord
    phases: list[PhaseRecord]
    config: Mapping[str, Any]
    """The parsed configuration; empty where it cannot be read."""
    last: dict[str, float] = field(default_factory=dict)
    """Metrics of the last step of the leading phase."""
    spark: list[float] = field(default_factory=list)
    spark_name: str | None = None
    outcome: Outcome | None = None
    """Verdicts of a run that logged no metrics."""

    @property
    def key(self) -> str:
        """The run in query parameters."""
        return f"{self.place.slug}:{self.run.id}"

    @property
    def url(self) -> str:
        return f"/runs/{quote(self.place.slug)}/{self.run.id}"

    @property
    def title(self) -> str:
        return self.run.name

    @property
    def label(self) -> str:
        """The run's name beside other runs: with its folder, where that has another name."""
        place = self.place.title
        return self.title if place.rpartition("/")[2] == self.title else f"{self.title} ({place})"

    @property
    def episodes(self) -> int:
        return sum(phase.episodes for phase in self.phases)

    @property
    def planned(self) -> int | None:
        """Steps of training, or episodes of an evaluation, that the configuration asks for."""
        if self.run.kind == "eval":
            return _planned_episodes(self.config, self.run.meta.get("tasks"))
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def done(self) -> int:
        """Of what `planned` counts."""
        if self.run.kind == "eval":
            return self.episodes
        return next((phase.last_step or 0 for phase in self.phases if phase.phase == "train"), 0)

    @property
    def unit(self) -> str:
        return "episodes" if self.run.kind == "eval" else "steps"

    @property
    def progress(self) -> float | None:
        """Share that is done, 0 to 1."""
        return min(1.0, self.done / self.planned) if self.planned else None

    @property
    def state(self) -> str:
        """`running`, `silent`, `finished`, `failed` or `interrupted`."""
        quiet = self.run.status == "running" and time.time() - self.run.updated >= SILENT_AFTER
        return "silent" if quiet else str(self.run.status)

    @property
    def live(self) -> bool:
        return self.state == "running"

    def setting(self, dotted: str) -> Any:
        """A value of the configuration; None if there is no such key."""
        value: Any = self.config
        for key in dotted.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def model(self) -> str | None:
        named = self.run.meta.get("model") or self.setting("model.name")
        return named if isinstance(named, str) else None

    @property
    def subject(self) -> str | None:
        """What is trained or evaluated on: the environment, or the suite."""
        named = self.run.meta.get("suite") or self.setting("env.id")
        return named if isinstance(named, str) else None


@dataclass(frozen=True)
class Fault:
    """A store that cannot be read."""

    place: Place
    reason: str


class Runs:
    """Every run of every store, remembered until the store is written again."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._known: dict[str, tuple[object, list[RunView]]] = {}
        self._metrics: dict[tuple[str, int, str], tuple[object, Steps]] = {}
        self._lock = threading.Lock()

    def all(self) -> tuple[list[RunView], list[Fault]]:
        """All runs, the latest first, and the stores that could not be read."""
        views: list[RunView] = []
        faults: list[Fault] = []
        for place in self.catalog.places():
            try:
                views += self.of(place)
            except StoreError as error:
                faults.append(Fault(place, str(error)))
        return sorted(views, key=lambda view: (-view.run.created, view.run.name)), faults

    def of(self, place: Place) -> list[RunView]:
        """The runs of one store; raises `StoreError`."""
        stamp = place.stamp
        with self._lock:
            known = self._known.get(place.target)
        if stamp is not None and known is not None and known[0] == stamp:
            return known[1]
        store = self.catalog.open(place)
        views = [self._view(place, store, run) for run in store.runs()]
        with self._lock:
            self._known[place.target] = (stamp, views)
        return views

    def find(self, slug: str, run: int) -> RunView | None:
        """The run of that store with that number; raises `StoreError` if the store cannot be read."""
        place = self.catalog.place(slug)
        views = [] if place is None else self.of(place)
        return next((view for view in views if view.run.id == run), None)

    def store(self, view: RunView) -> RunStore:
        return self.catalog.open(view.place)

    def metrics(self, view: RunView, phase: PhaseRecord) -> Steps:
        """Metrics of every step of a phase, remembered until the store is written."""
        return self._steps(view.place, self.store(view), view.run.id, phase)

    def outcomes(self, view: RunView) -> dict[str, Outcome]:
        """Verdicts by phase, of the phases that have episodes."""
        return self._outcomes(self.store(view), view.run.id, view.phases)

    def evaluations(self, view: RunView) -> dict[str, dict[str, float]]:
        """Last metrics of each evaluation's phase, of those that have any."""
        phases = [phase for phase in view.phases if phase.phase.startswith(EVALUATIONS)]
        found = {phase.phase: self.metrics(view, phase) for phase in sorted(phases, key=place_in_time)}
        return {phase: steps[-1][1] for phase, steps in found.items() if steps}

    def _steps(self, place: Place, store: RunStore, run: int, phase: PhaseRecord) -> Steps:
        """Read once, then only what came later: the last step again, because its metrics may come in several parts.

        A run that was resumed from an earlier step has fewer steps than before, or, if nobody looked for a while, other
        values at the last step that is known: then all is read again.
        """
        key, stamp = (place.target, run, phase.phase), place.stamp
        with self._lock:
            known, steps = self._metrics.get(key, (None, []))
        if known is not None and known == stamp:
            return steps
        later: Steps = []
        if steps and phase.last_step >= steps[-1][0]:
            later = store.metrics(run, phase.phase, steps[-2][0] if len(steps) > 1 else None)
        going_on = later and _goes_on(steps[-1], later[0])
        steps = [*steps[:-1], *later] if going_on else store.metrics(run, phase.phase)
        with self._lock:
            self._metrics[key] = (stamp, steps)
        return steps

    def _view(self, place: Place, store: RunStore, run: RunRecord) -> RunView:
        phases = sorted(store.phases(run.id), key=place_in_time)
        leading = leading_phase(phases)
        steps = self._steps(place, store, run.id, leading) if leading else []
        name = next((name for name in LEADING if steps and name in steps[-1][1]), None)
        return RunView(
            place,
            run,
            phases,
            parsed(run.config),
            last=steps[-1][1] if steps else {},
            spark=thinned([metrics[name] for _, metrics in steps if name in metrics]) if name else [],
            spark_name=name,
            outcome=None if steps else sum(self._outcomes(store, run.id, phases).values(), Outcome(0, 0)),
        )

    @classmethod
    def _outcomes(cls, store: RunStore, run: int, phases: Sequence[PhaseRecord]) -> dict[str, Outcome]:
        return {phase.phase: cls._outcome(store, run, phase.phase) for phase in phases if phase.episodes}

    @staticmethod
    def _outcome(store: RunStore, run: int, phase: str) -> Outcome:
        correct, wrong = (store.count(EpisodeQuery(run, phase, correct=correct)) for correct in (True, False))
        if not correct + wrong:  # no verdicts at all: a time-out is none either
            return Outcome(0, 0)
        late = store.count(EpisodeQuery(run, phase, correct="none", stop_reason=StopReason.TIMEOUT))
        return Outcome(correct, wrong + late, late)


def _goes_on(last: tuple[int, dict[str, float]], again: tuple[int, dict[str, float]]) -> bool:
    """Whether that is the same step, with nothing but more metrics."""
    same = (name in again[1] and repr(again[1][name]) == repr(value) for name, value in last[1].items())
    return last[0] == again[0] and all(same)


def leading_phase(phases: Sequence[PhaseRecord]) -> PhaseRecord | None:
    """The phase whose metrics stand for the run: training, else the one with the most steps."""
    training = (phase for phase in phases if phase.phase == "train")
    return next(training, max(phases, key=lambda phase: phase.steps, default=None))


def place_in_time(phase: PhaseRecord) -> tuple[int, str]:
    """The trainer's phases in the order in which they happen, then all others by name."""
    return (_ORDER.index(phase.phase) if phase.phase in _ORDER else len(_ORDER), phase.phase)


def thinned(values: Sequence[float], points: int = SPARK_POINTS) -> list[float]:
    """At most `points` finite values, means of equal stretches."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) <= points:
        return finite
    edges = [len(finite) * index // points for index in range(points + 1)]
    return [sum(finite[low:high]) / (high - low) for low, high in pairwise(edges)]


@lru_cache(maxsize=256)
def parsed(text: str) -> Mapping[str, Any]:
    """A configuration; empty where it is none."""
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _planned_episodes(config: Mapping[str, Any], tasks: Any) -> int | None:
    """Episodes of a suite: tasks (as counted at the start, else as asked for) times samples of every entry."""
    entries = config.get("entries")
    if not isinstance(entries, Mapping) or not entries:
        return None
    counted = tasks if isinstance(tasks, Mapping) else {}
    total = 0
    for name, entry in entries.items():
        settings = entry if isinstance(entry, Mapping) else {}
        number = counted.get(name, settings.get("tasks"))
        samples = settings.get("samples") or config.get("samples", 1)
        if not isinstance(number, int) or not isinstance(samples, int):
            return None
        total += number * samples
    return total
