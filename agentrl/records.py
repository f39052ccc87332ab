"""The folder of a run: configuration, store, `metrics.jsonl`, checkpoints, the trained policy, the report.

Invariant: `metrics.jsonl` and the store tell the same story; after a resume both hold each step once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from agentrl.config import RunConfig
from agentrl.errors import ConfigError
from agentrl.rollout import GroupRequest
from agentrl.store import RunStore
from agentrl.trajectory import Trajectory

_STEPPED = ("train", "eval/step")


class RunRecords:
    """Writes what a run leaves behind."""

    def __init__(self, config: RunConfig) -> None:
        """Makes the run's folder; raises `ConfigError` if it cannot be written."""
        self.folder = config.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"out: the folder {str(self.folder)!r} cannot be written: {error.strerror}") from None
        self.store = RunStore(self.folder / "store.sqlite")
        self.run = self.store.begin_run(config.name, config.to_yaml())
        self._jsonl = self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def policy(self) -> Path:
        """The trained policy in transformers form."""
        return self.folder / "policy"

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

    def episode(self, phase: str, step: int, request: GroupRequest, trajectory: Trajectory) -> None:
        """Record an episode as it finishes."""
        self.store.add_episode(self.run, phase, step, request.group_id, trajectory.member, trajectory)

    def logged(self, phase: str) -> dict[int, dict[str, float]]:
        """Metrics of a phase by step."""
        return dict(self.store.metrics(self.run, phase))

    def close(self) -> None:
        self.store.close()


def _is_kept(line: str, step: int) -> bool:
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return False  # torn by a kill in mid-write
    return entry["phase"] not in _STEPPED or entry["step"] <= step
