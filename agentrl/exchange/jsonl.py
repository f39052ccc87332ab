"""A run as JSON lines, and back.

Each line is an object with a `kind`: `run` (first), `task`, `metrics`, `episode`, `judgement`. Invariant: a run that
was written and read again is equal in all that the store gives back, an episode's record bit for bit (so that a number
that is none stands as the literal NaN, as Python's own json module writes it). A line without a `kind` that holds a
`trajectory` is an episode: what other programs write needs nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from agentrl.errors import ConfigError
from agentrl.messages import Message
from agentrl.store import EpisodeRecord, RunRecord, RunStore, TaskRecord
from agentrl.trajectory import Trajectory

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
            stream.write(json.dumps({"kind": kind, **values}) + "\n")

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


def import_run(
    store: RunStore, file: Path, name: str | None = None, advance: Callable[[], object] | None = None
) -> tuple[RunRecord, int]:
    """Read a run from JSON lines into the store; returns it and the number of its episodes.

    `name`: the run's name in the store; default: the one that the file says, else the file's own. Raises `ConfigError`
    with file and line for what is not in this form, or if the store has a run of that name.
    """
    tell, count, run = advance or (lambda: None), 0, None
    for number, tree in _lines(file):
        kind = tree.get("kind", "episode" if "trajectory" in tree else None)
        try:
            if run is None:
                run = _begin(store, tree if kind == "run" else {}, name or str(tree.get("name", file.stem)))
            if kind == "run":
                continue
            _WRITERS[kind](store, run, tree)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise ConfigError(f"{str(file)!r}, line {number}: {_reason(kind, error)}") from None
        if kind == "episode":
            count += 1
            tell()
    if run is None:
        raise ConfigError(f"{str(file)!r} holds no run: it is empty")
    return store.run(run), count


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    tree = from_json(line, allow_inf_nan=True)
                except ValueError as error:
                    raise ConfigError(f"{str(file)!r}, line {number}: not JSON: {error}") from None
                if not isinstance(tree, dict):
                    raise ConfigError(f"{str(file)!r}, line {number}: not an object")
                yield number, tree
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error.strerror}") from None


def _begin(store: RunStore, tree: Mapping[str, Any], name: str) -> int:
    if int(tree.get("format", FORMAT)) > FORMAT:
        raise ValueError(f"format {tree['format']} is newer than this agentrl reads ({FORMAT})")
    if any(run.name == name for run in store.runs()):
        raise ConfigError(f"store {store.place!r} has a run {name!r} already; give another name")
    meta = dict(tree.get("meta", {})) | {"imported": True}
    run = store.begin_run(name, str(tree.get("config", "")), kind=tree.get("run_kind", "import"), meta=meta)
    store.update_run(run, status=tree.get("status", "finished"))
    return run


def _episode(store: RunStore, run: int, tree: Mapping[str, Any]) -> None:
    trajectory = Trajectory.from_json(json.dumps(tree["trajectory"]))
    key = tree.get("phase", "import"), int(tree.get("step", 0)), str(tree.get("group", trajectory.task_id))
    member = int(tree.get("member", trajectory.member))
    store.add_episode(run, *key, member, trajectory)
    if tree.get("advantages") is not None:
        store.set_advantages(run, *key, member, tree["advantages"])


def _task(store: RunStore, run: int, tree: Mapping[str, Any]) -> None:
    opening = _MESSAGES.validate_python(tree["opening"])
    task = TaskRecord(tree["id"], tree.get("split", ""), tree.get("level"), opening, tree.get("gold"))
    store.add_tasks(run, tree["env_id"], [task])


def _metrics(store: RunStore, run: int, tree: Mapping[str, Any]) -> None:
    values = {name: float(value) for name, value in tree["metrics"].items()}
    store.log(run, tree["phase"], int(tree["step"]), values)


def _judgement(store: RunStore, run: int, tree: Mapping[str, Any]) -> None:
    key = tree["phase"], int(tree["step"]), tree["group"], int(tree["member"])
    store.add_judgement(run, *key, tree["judge"], int(tree["number"]), tree["verdict"], tree["text"])


_WRITERS: dict[Any, Callable[[RunStore, int, Mapping[str, Any]], None]] = {
    "episode": _episode,
    "task": _task,
    "metrics": _metrics,
    "judgement": _judgement,
}


def _task_tree(task: TaskRecord) -> dict[str, Any]:
    opening = _MESSAGES.dump_python(tuple(task.opening), mode="json")
    return {"id": task.id, "split": task.split, "level": task.level, "opening": opening, "gold": task.gold}


def _reason(kind: object, error: Exception) -> str:
    if kind not in _WRITERS and kind != "run":
        return f"kind {kind!r} is none of run, {', '.join(_WRITERS)}"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{kind}: {'.'.join(str(part) for part in first['loc'])}: {first['msg'].lower()}"
    return f"{kind}: no {error.args[0]!r}" if isinstance(error, KeyError) else f"{kind}: {error}"
