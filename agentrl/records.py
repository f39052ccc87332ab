"""The folder of a run: configuration, store, `metrics.jsonl`, checkpoints, the trained policy, the report.

Invariants: `metrics.jsonl` and the store tell the same story; after a resume both hold each step once. The store is the
folder's own, or a shared database in which the run's name is this run's alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentrl.config import RunConfig
from agentrl.errors import ConfigError
from agentrl.rollout import GroupRequest
from agentrl.sinks import Sink, build_sinks
from agentrl.store import RunStatus, RunStore, TaskRecord
from agentrl.store.database import has_password
from agentrl.store.folder import STORE_FILE
from agentrl.trajectory import Trajectory, Turn

_STEPPED = ("train", "eval/step")


Credited = tuple[str, Trajectory, NDArray[np.float64]]
"""Group id, member, its advantages: shape (L_i,)."""


class RunRecords:
    """Writes what a run leaves behind."""

    def __init__(self, config: RunConfig) -> None:
        """Makes the run's folder; raises `ConfigError` if it cannot be written."""
        self.config = config
        self.folder = config.folder
        self._sinks: list[Sink] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"out: the folder {str(self.folder)!r} cannot be written: {error.strerror}") from None
        self.store = RunStore(config.store or self.folder / STORE_FILE)
        self.run = self.store.begin_run(config.name, config.to_yaml(), "train")
        self._jsonl = self.folder / "metrics.jsonl"
        self._tasks: set[tuple[str, str]] = set()
        """Tasks that this process recorded: environment, id."""

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def policy(self) -> Path:
        """The trained policy in transformers form."""
        return self.folder / "policy"

    def open_sinks(self, step: int) -> None:
        """Open the configured sinks; `step`: what the run goes on from. Raises `ConfigError` if one cannot work."""
        self._sinks = build_sinks(self.config, step)

    def rewind(self, step: int) -> None:
        """Forget what is later than `step`: a resumed run does it again."""
        self.store.discard_after(self.run, step, _STEPPED)
        if not self._jsonl.exists():
            return
        lines = self._jsonl.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _is_kept(line, step)]
        draft = self._jsonl.with_suffix(".tmp")
        draft.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(draft, self._jsonl)

    def log(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        """Record the numbers of one step of a phase."""
        self.store.log(self.run, phase, step, metrics)
        with self._jsonl.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"phase": phase, "step": step, **metrics}) + "\n")
        for sink in self._sinks:
            sink.log(phase, step, metrics)

    def episode(self, phase: str, step: int, request: GroupRequest, trajectory: Trajectory) -> None:
        """Record an episode as it finishes, and its task where it is the task's first."""
        self.store.add_episode(self.run, phase, step, request.group_id, trajectory.member, trajectory)
        task = trajectory.env_id, trajectory.task_id
        if trajectory.opening and task not in self._tasks:
            self._tasks.add(task)
            self.store.add_tasks(self.run, trajectory.env_id, [_task(trajectory)])

    def advantages(self, phase: str, step: int, trained: Iterable[Credited]) -> None:
        """Add what members of groups were trained with: group, episode, an advantage a sampled token in order."""
        self.store.set_advantages_of(
            self.run,
            phase,
            step,
            [(group, episode.member, _by_turn(episode.turns, values)) for group, episode, values in trained],
        )

    def status(self, status: RunStatus) -> None:
        """Say how the run stands."""
        self.store.update_run(self.run, status=status)

    def logged(self, phase: str) -> dict[int, dict[str, float]]:
        """Metrics of a phase by step."""
        return dict(self.store.metrics(self.run, phase))

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
        self.store.close()


def check_store(config: RunConfig) -> None:
    """Raise `ConfigError` for a shared database that cannot be opened, or whose password would be written down."""
    if config.store is None:
        return
    if has_password(config.store):
        raise ConfigError(
            "store: leave the password out of the configuration, which is written into the run's folder and its "
            "report; PostgreSQL reads it from PGPASSWORD or ~/.pgpass"
        )
    RunStore(config.store).close()


def check_new(config: RunConfig) -> None:
    """Raise `ConfigError` if there is such a run already: only a resumed one goes on."""
    if (config.folder / STORE_FILE).exists():
        where = repr(str(config.folder))
    elif config.store is not None:
        with RunStore(config.store) as store:
            if config.name not in {run.name for run in store.runs()}:
                return
            where = f"store {store.place!r}"
    else:
        return
    raise ConfigError(f"name={config.name!r}: {where} holds a run; resume it or choose another name")


def _task(trajectory: Trajectory) -> TaskRecord:
    """The task as its episode met it."""
    info, split = trajectory.info, trajectory.task_id.partition(":")[0]
    level = info.get("level")
    return TaskRecord(
        trajectory.task_id,
        str(info.get("split", split)),
        level if isinstance(level, int) else None,
        trajectory.opening,
        info.get("gold"),
    )


def _by_turn(turns: Sequence[Turn], values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """`values`, one a sampled token of all turns, turn by turn."""
    parts, start = [], 0
    for turn in turns:
        parts.append(values[start : start + len(turn.sampled_ids)])
        start += len(turn.sampled_ids)
    return parts


def _is_kept(line: str, step: int) -> bool:
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return False  # torn by a kill in mid-write
    return entry["phase"] not in _STEPPED or entry["step"] <= step
