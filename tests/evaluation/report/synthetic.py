"""Evaluations to report on, written through the real store: every number is chosen by the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from agentrl.store import RunStore
from agentrl.trajectory import StopReason, Trajectory
from tests.report.synthetic import episode

Verdicts = Mapping[str, str]
"""By task one letter a sample: + right, - wrong, t timed out, x aborted, . missing."""

ARITHMETIC: Verdicts = {"a": "++++", "b": "+-+-", "c": "---+", "d": "----"}
SEARCH: Verdicts = {"q1": "+-", "q2": "--", "q3": "++"}


def played(task: str, letter: str, number: int, level: int | None = None, **changes: Any) -> Trajectory:
    """One episode: a call of the calculator, then the answer."""
    made = episode(task, letter == "+")
    made.member, made.seed = number, hash_of(task, number)
    made.timings = {"decode": 0.75, "tool": 0.25}
    made.info = {"answer": "146" if letter == "+" else f"{number}"} | ({} if level is None else {"level": level})
    if letter in "tx":
        made.stop_reason = StopReason.TIMEOUT if letter == "t" else StopReason.ENV_ERROR
        made.error, made.metrics = "deadline" if letter == "t" else "ValueError: boom", {}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def hash_of(task: str, number: int) -> int:
    """A seed that is the same in every process."""
    return sum(map(ord, task)) * 1000 + number


def write_evaluation_run(
    folder: Path,
    entries: Mapping[str, Verdicts],
    *,
    name: str | None = None,
    meta: Mapping[str, Any] | None = None,
    suite: Mapping[str, Any] | None = None,
    levels: int = 1_000_000,
) -> Path:
    """A folder as an evaluation leaves it; tasks have the levels 1 ... `levels` in turn, none for 0."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "name": "small", "version": 2, "seed": 7, "samples": 2,
        "sampling": {"temperature": 0.6, "top_p": 1.0},
        "limits": {"max_turns": 8},
        "entries": {
            entry: {
                "env": f"agentrl/{entry.title()}-v0",
                "tasks": len(tasks),
                "samples": max(map(len, tasks.values())),
                "digest": f"digest-of-{entry}",
            }
            for entry, tasks in entries.items()
        },
    } | dict(suite or {})  # fmt: skip
    facts = {
        "suite": "small", "suite_version": 2, "model": "tiny", "model_kind": "policy", "weights_hash": "ab" * 20,
        "seed": 7, "prices": None, "finished": True, "seconds": 12.5,
        "tasksets": {entry: f"digest-of-{entry}" for entry in entries},
    }  # fmt: skip
    with RunStore(folder / "store.sqlite") as store:
        run = store.begin_run(
            name or folder.name, yaml.safe_dump(settings, sort_keys=False), "eval", facts | dict(meta or {})
        )
        for entry, tasks in entries.items():
            for index, (task, verdicts) in enumerate(tasks.items()):
                write_task(store, run, entry, index, task, verdicts, index % levels + 1 if levels else None)
        store.update_run(run, status="finished")
    return folder


def write_task(
    store: RunStore, run: int, entry: str, index: int, task: str, verdicts: Sequence[str], level: int | None
) -> None:
    """The samples of one task."""
    for number, letter in enumerate(verdicts):
        if letter != ".":
            made = played(task, letter, number, level, env_id=f"agentrl/{entry.title()}-v0")
            store.add_episode(run, f"eval/{entry}", 0, f"{index:05d}", number, made)
