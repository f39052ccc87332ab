"""A run as JSON lines; `agentrl.exchange.read_jsonl` reads them.

Each line is an object with a `kind`: `run` (first), `metrics`, `task`, `episode`, `judgement`. Invariant: a run that
was written and read again is equal in all that the store gives back but ids, times of writing and tasks that no episode
played, an episode's record bit for bit (so that a number that is none stands as the literal NaN, as Python's own json
module writes it). Lone surrogates, which no reader must take, become U+FFFD; an episode has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agentrl.messages import Message
from agentrl.store import EpisodeRecord, RunRecord, RunStore, TaskRecord
from agentrl.store.codec import readable

FORMAT = 1

_MESSAGES: TypeAdapter[tuple[Message, ...]] = TypeAdapter(tuple[Message, ...])


def episode_line(record: EpisodeRecord, run: str) -> str:
    """An episode as a line (without its end): its key, the whole trajectory, and the advantages if it has any."""
    key = {"kind": "episode", "run": run, "phase": record.phase, "step": record.step, "group": record.group}
    head = json.dumps(key | {"member": record.member})[:-1]
    advantages = record.advantages
    tail = "" if advantages is None else f', "advantages": {json.dumps(advantages)}'
    return f'{head}, "trajectory": {record.trajectory.to_json()}{tail}}}'


def write_lines(store: RunStore, run: RunRecord, file: Path, phase: str | None, advance: Callable[[], object]) -> int:
    """Write a run, or one phase of it, to `file`; returns the number of episodes."""
    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as stream:

        def line(kind: str, **values: Any) -> None:
            stream.write(readable(json.dumps({"kind": kind, **values}, ensure_ascii=False)) + "\n")

        facts = {"name": run.name, "run_kind": run.kind, "status": run.status, "config": run.config}
        line("run", format=FORMAT, **facts, meta=dict(run.meta), created=run.created)
        for found in store.phases(run.id):
            if phase in (None, found.phase):
                for step, metrics in store.metrics(run.id, found.phase):
                    line("metrics", phase=found.phase, step=step, metrics=metrics)
        known: set[tuple[str, str]] = set()
        for record in store.episodes(run.id, phase):
            task = (record.env_id, record.task_id)
            if task not in known:
                known.add(task)
                if (posed := store.task(run.id, *task)) is not None:
                    line("task", env_id=record.env_id, **_task_tree(posed))
            stream.write(episode_line(record, run.name) + "\n")
            count += 1
            advance()
        for judgement in store.judgements(run.id, phase):
            where = {"phase": judgement.phase, "step": judgement.step, "group": judgement.group}
            said = {"judge": judgement.judge, "number": judgement.number, "verdict": judgement.verdict}
            line("judgement", **where, member=judgement.member, **said, text=judgement.text)
    return count


def _task_tree(task: TaskRecord) -> dict[str, Any]:
    opening = _MESSAGES.dump_python(tuple(task.opening), mode="json")
    return {"id": task.id, "split": task.split, "level": task.level, "opening": opening, "gold": task.gold}
