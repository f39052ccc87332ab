"""Plan: every episode that an evaluation consists of, and those of them that are still to be played.

An episode is (entry, task, sample). Its seed is derived from these names and the suite's seed, so that two models meet
the same tasks under the same seeds whatever was played before. Invariant: an episode that has a result is never asked
for again; one that was aborted for no fault of the agent's has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from agentrl.evaluation.players.base import EntrySource, PlayRequest
from agentrl.evaluation.suite import Suite
from agentrl.evaluation.tasksets import EntryTasks
from agentrl.seeding import derive_seed
from agentrl.store import EpisodeQuery, EpisodeSummary, TaskRecord
from agentrl.trajectory import StopReason

if TYPE_CHECKING:
    from agentrl.store import RunStore

PHASE = "eval/"
"""What the phases of an evaluation begin with; the entry's name follows."""
PAGE = 1000


class Place(NamedTuple):
    """Where an episode belongs."""

    entry: str
    task: int
    """Number of the task within the entry."""
    sample: int


@dataclass(frozen=True)
class Plan:
    """What is asked of a model."""

    suite: Suite
    """Resolved: every entry says how many tasks and samples it has, and the digest of its tasks."""
    entries: Mapping[str, EntryTasks]

    @classmethod
    def of(cls, suite: Suite, entries: Mapping[str, EntryTasks]) -> Plan:
        """The plan of a suite whose tasks are read."""
        resolved = suite.model_copy(deep=True)
        for name, entry in resolved.entries.items():
            entry.tasks = len(entries[name].tasks)
            entry.samples = suite.samples_of(name)
            entry.digest = entries[name].digest
        return cls(resolved, entries)

    def with_samples_of(self, before: Suite) -> Plan:
        """The plan with at least as many samples of each task as `before` has, a resolved suite with these entries."""
        grown = self.suite.model_copy(deep=True)
        for name, entry in grown.entries.items():
            entry.samples = max(self.suite.samples_of(name), before.samples_of(name))
        return replace(self, suite=grown)

    @property
    def size(self) -> int:
        """Number of episodes."""
        return sum(len(entry.tasks) * self.suite.samples_of(name) for name, entry in self.entries.items())

    @property
    def sources(self) -> list[EntrySource]:
        """The environments to play in."""
        return [EntrySource(name, entry.make_env) for name, entry in self.entries.items()]

    def requests(self) -> Iterator[PlayRequest]:
        """All episodes; the first sample of every task of every entry first, so that a part is a fair part."""
        most = max(self.suite.samples_of(name) for name in self.entries)
        for sample in range(most):
            for name, entry in self.entries.items():
                if sample < self.suite.samples_of(name):
                    for index, task in enumerate(entry.tasks):
                        seed = derive_seed(self.suite.seed, "eval", name, task.id, sample)
                        yield PlayRequest(name, index, task.id, sample, seed)

    def record_tasks(self, store: RunStore, run: int) -> None:
        """Keep what was asked beside what was answered."""
        for entry in self.entries.values():
            posed = zip(entry.tasks, entry.gold, strict=True)
            records = [TaskRecord(task.id, task.split, task.level, task.messages, gold) for task, gold in posed]
            store.add_tasks(run, entry.env_id, records)


def place_of(request: PlayRequest) -> Place:
    return Place(request.entry, request.index, request.sample)


def episodes_of(store: RunStore, run: int, plan: Plan) -> dict[Place, EpisodeSummary]:
    """The episodes of a plan that are in the store, with a result or without."""
    found = {}
    for name in plan.entries:
        for row in _rows(store, EpisodeQuery(run, phase=PHASE + name, step=0, limit=PAGE)):
            if row.member < plan.suite.samples_of(name):
                found[Place(name, int(row.group), row.member)] = row
    return found


def has_result(reason: StopReason) -> bool:
    """A verdict, or the agent's own time is over; everything else that aborts an episode says nothing of the agent."""
    return not reason.aborted or reason is StopReason.TIMEOUT


def _rows(store: RunStore, query: EpisodeQuery) -> Iterator[EpisodeSummary]:
    while rows := store.page(query):
        yield from rows
        if len(rows) < query.limit:
            return
        query = replace(query, after=query.cursor(rows[-1]))
