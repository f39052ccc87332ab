"""Runs, the metrics of their steps, and the tasks that they posed.

Invariant: what is written again under the same key replaces what was there; nothing is there twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row, and_, delete, func, select, update

from agentrl.errors import StoreError
from agentrl.messages import Message
from agentrl.registry import nearest
from agentrl.store.codec import nullable, number, readable, told
from agentrl.store.database import Database
from agentrl.store.records import PhaseRecord, RunKind, RunRecord, RunStatus, TaskRecord
from agentrl.store.schema import EPISODES, METRICS, RUNS, STEPS, TASKS

_PLAYED = (
    select(EPISODES.c.created).where(EPISODES.c.run == RUNS.c.id).order_by(EPISODES.c.id.desc()).limit(1)
).scalar_subquery()
_ALIVE = select(RUNS, _PLAYED.label("played"))
_MESSAGES: TypeAdapter[list[Message]] = TypeAdapter(list[Message])


class RunTables(Database):
    """The part of a store that knows runs."""

    def begin_run(self, name: str, config: str, kind: RunKind = "train", meta: Mapping[str, Any] | None = None) -> int:
        """The id of the run of this name. One that exists goes on: `config` and `kind` are its own from now on, `meta`
        is merged into what it has, and it is running again."""
        now = time.time()
        values = {"name": key_text("run", name), "kind": kind, "status": "running", "config": config, "updated": now}
        new = self._insert(RUNS).values(**values, meta="{}", created=now)
        begin = new.on_conflict_do_update(index_elements=[RUNS.c.name], set_=values).returning(RUNS.c.id)
        with self._writing() as connection:
            run = int(connection.execute(begin).scalar_one())
            if meta:
                self._merge(connection, run, meta)
        return run

    def update_run(self, run: int, *, status: RunStatus | None = None, meta: Mapping[str, Any] | None = None) -> None:
        """Say how a run stands; `meta` is merged into what it has, key by key. Raises `StoreError` if there is none."""
        values: dict[str, Any] = {"updated": time.time()} | ({} if status is None else {"status": status})
        with self._writing() as connection:
            if not connection.execute(update(RUNS).where(RUNS.c.id == run).values(**values)).rowcount:
                raise StoreError(f"store {self.place!r} has no run of id {run}")
            if meta:
                self._merge(connection, run, meta)

    def runs(self) -> list[RunRecord]:
        """Every run, the oldest first."""
        with self._reading() as connection:
            return [_run(row) for row in connection.execute(_ALIVE.order_by(RUNS.c.id))]

    def run(self, name_or_id: str | int) -> RunRecord:
        """One run; raises `StoreError` with the nearest names if it is not there."""
        column = RUNS.c.id if isinstance(name_or_id, int) else RUNS.c.name
        with self._reading() as connection:
            row = connection.execute(_ALIVE.where(column == name_or_id)).one_or_none()
            if row is not None:
                return _run(row)
            names = [str(name) for name in connection.scalars(select(RUNS.c.name))]
        known = nearest(str(name_or_id), names) if names else "it holds no run yet"
        raise StoreError(f"store {self.place!r} has no run {name_or_id!r}; {known}")

    def log(self, run: int, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of a step. Names that the step already has are replaced, others stay.

        In a name, NUL and lone surrogates, which databases refuse, become U+FFFD.
        """
        if not metrics:
            return
        now, at = time.time(), {"run": run, "phase": key_text("phase", phase), "step": step}
        rows = [at | {"name": readable(name), "value": nullable(metrics[name])} for name in sorted(metrics)]
        with self._writing() as connection:
            connection.execute(self._upsert(STEPS, "logged"), at | {"logged": now})
            connection.execute(self._upsert(METRICS, "value"), rows)
            connection.execute(update(RUNS).where(RUNS.c.id == run).values(updated=now))

    def metrics(self, run: int, phase: str, after: int | None = None) -> list[tuple[int, dict[str, float]]]:
        """Metrics of every step of a phase, by step; with `after` only of later steps than that."""
        columns = METRICS.c.step, METRICS.c.name, METRICS.c.value
        query = select(*columns).where(METRICS.c.run == run, METRICS.c.phase == phase)
        if after is not None:
            query = query.where(METRICS.c.step > after)
        steps: dict[int, dict[str, float]] = {}
        with self._reading() as connection:
            for step, name, value in connection.execute(query.order_by(METRICS.c.step, METRICS.c.name)):
                steps.setdefault(step, {})[name] = number(value)
        return list(steps.items())

    def phases(self, run: int) -> list[PhaseRecord]:
        """What the run holds of each phase, by name."""
        logged = select(STEPS.c.phase, STEPS.c.step).where(STEPS.c.run == run)
        played = (
            select(EPISODES.c.phase, EPISODES.c.step, func.count())
            .where(EPISODES.c.run == run)
            .group_by(EPISODES.c.phase, EPISODES.c.step)
        )
        steps: dict[str, set[int]] = {}
        episodes: dict[str, int] = {}
        with self._reading() as connection:
            for phase, step in connection.execute(logged):
                steps.setdefault(phase, set()).add(step)
            for phase, step, count in connection.execute(played):
                steps.setdefault(phase, set()).add(step)
                episodes[phase] = episodes.get(phase, 0) + count
        return [PhaseRecord(name, len(steps[name]), max(steps[name]), episodes.get(name, 0)) for name in sorted(steps)]

    def add_tasks(self, run: int, env_id: str, tasks: Iterable[TaskRecord]) -> None:
        """Record tasks, in place of those of the same environment and id."""
        rows = sorted((_task_row(run, env_id, task) for task in tasks), key=itemgetter("id"))
        if rows:  # in one order, so that two writers of the same tasks wait for each other in one direction only
            with self._writing() as connection:
                connection.execute(self._upsert(TASKS, "split", "level", "opening", "gold"), rows)

    def task(self, run: int, env_id: str, task_id: str) -> TaskRecord | None:
        """A task that the run posed, None if it was not recorded."""
        query = select(TASKS).where(TASKS.c.run == run, TASKS.c.env_id == env_id, TASKS.c.id == task_id)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        with told(f"task {task_id!r}"):
            opening, gold = _MESSAGES.validate_json(row.opening), json.loads(row.gold)
        return TaskRecord(row.id, row.split, row.level, opening, gold)

    def discard_after(self, run: int, step: int, phases: Sequence[str]) -> None:
        """Forget metrics and episodes of these phases later than `step`: a resumed run does them again."""
        with self._writing() as connection:
            for table in (STEPS, METRICS, EPISODES):
                later = and_(table.c.run == run, table.c.step > step, table.c.phase.in_(list(phases)))
                connection.execute(delete(table).where(later))

    def remove_run(self, run: int) -> None:
        """Forget a run and all that is of it; nothing happens if there is none."""
        with self._writing() as connection:
            connection.execute(delete(RUNS).where(RUNS.c.id == run))

    def _merge(self, connection: Any, run: int, meta: Mapping[str, Any]) -> None:
        of_run = RUNS.c.id == run
        known = json.loads(connection.scalar(select(RUNS.c.meta).where(of_run).with_for_update()))
        try:
            merged = json.dumps(known | dict(meta))
        except (TypeError, ValueError) as error:
            raise StoreError(f"the meta of a run must be JSON: {error}") from error
        connection.execute(update(RUNS).where(of_run).values(meta=merged))


def key_text(what: str, text: str) -> str:
    """`text` as part of a key; raises `StoreError` for what one database cuts and another refuses."""
    if "\x00" in text or (not text.isascii() and text.encode("utf-8", "ignore").decode() != text):
        raise StoreError(f"{what} {text!r}: a name in the store cannot hold NUL characters or lone surrogates")
    return text


def _run(row: Row[Any]) -> RunRecord:
    values = dict(row._mapping)
    alive = max(values["updated"], values.pop("played") or 0.0)
    with told(f"the meta of run {row.name!r}"):
        meta = json.loads(row.meta)
    return RunRecord(**values | {"meta": meta, "updated": alive})


def _task_row(run: int, env_id: str, task: TaskRecord) -> dict[str, Any]:
    try:
        opening, gold = _MESSAGES.dump_json(list(task.opening)).decode(), json.dumps(task.gold)
    except (TypeError, ValueError) as error:
        raise StoreError(f"task {task.id!r} cannot be written: {' '.join(str(error).split())}") from error
    names = {"env_id": key_text("environment", env_id), "id": key_text("task", task.id)}
    return {"run": run, **names, "split": task.split, "level": task.level, "opening": opening, "gold": gold}
