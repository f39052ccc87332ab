"""What a report is made from: one run, read from its folder.

Invariant: nothing is made up for what is not there; absent pieces are absent here and named in `missing`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agentrl.errors import StoreError
from agentrl.store import RunRecord, RunStore
from agentrl.store.folder import CONFIG_FILE, open_folder, runs_of
from agentrl.trajectory import StopReason

STAGES = ("base", "warm_start", "trained")
ROUNDING = 1e-3  # seconds; a smaller rest of a step is no part of it
_STOP = "stop/"
_ORDER = ("evaluation", "warm start", "rollout", "update", "other")

Steps = list[tuple[int, dict[str, float]]]
"""Metrics by step."""


@dataclass(frozen=True)
class Evaluation:
    """A held-out evaluation."""

    stage: str
    """`base`, `warm_start`, `trained`, or `step` for one on the way."""
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class RunData:
    """A run as far as it came."""

    run: RunRecord
    config_text: str
    config: dict[str, Any]
    """The parsed configuration; empty where it cannot be read."""
    train: Steps
    warm_start: Steps
    evaluations: list[Evaluation]
    """Base, warm-started and trained, those that there are."""
    on_the_way: list[Evaluation]
    missing: list[str] = field(default_factory=list)

    @property
    def planned(self) -> int | None:
        """Training steps that the configuration asks for."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def last_step(self) -> int:
        """The last training step that is recorded; 0 before the first."""
        return self.train[-1][0] if self.train else 0

    @property
    def finished(self) -> bool:
        """Every planned step was trained."""
        return self.planned is not None and self.last_step >= self.planned

    def evaluation(self, stage: str) -> Evaluation | None:
        """The evaluation of a stage, if there is one."""
        return next((evaluation for evaluation in self.evaluations if evaluation.stage == stage), None)

    def setting(self, dotted: str) -> Any:
        """A value of the configuration; None if it has no such key."""
        value: Any = self.config
        for key in dotted.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value


def open_store(folder: Path) -> RunStore:
    """The store of a run's folder; raises `StoreError` if there is none."""
    return open_folder(folder)


def load_run(folder: Path, store: RunStore) -> RunData:
    """Read the run; raises `StoreError` if the store holds none."""
    text = _read(folder / CONFIG_FILE)
    run = _choose(store, folder, _parse(text or "").get("name"))
    found = {stage: store.metrics(run.id, f"eval/{stage}") for stage in (*STAGES, "step")}
    data = RunData(
        run=run,
        config_text=run.config if text is None else text,
        config=_parse(run.config if text is None else text),
        train=store.metrics(run.id, "train"),
        warm_start=store.metrics(run.id, "warm_start"),
        evaluations=[Evaluation(stage, *found[stage][-1]) for stage in STAGES if found[stage]],
        on_the_way=[Evaluation("step", *entry) for entry in found["step"]],
    )
    if text is None:
        data.missing.append(f"{CONFIG_FILE} cannot be read; the configuration shown is the one in the store.")
    data.missing.extend(_missing(data))
    return data


@dataclass
class Part:
    """What wall-clock time was spent on."""

    name: str
    seconds: float = 0.0
    details: dict[str, float] = field(default_factory=dict)
    """Seconds by what is known to lie within this part."""


def seconds_account(data: RunData) -> list[Part]:
    """Where the recorded wall-clock time went; parts do not overlap, and what took no time is left out.

    A training step tells `seconds`, its parts `seconds/<part>` and what lies within a part, `seconds/<part>_<detail>`.
    """
    account: dict[str, Part] = {}

    def add(name: str, seconds: float) -> None:
        if seconds > ROUNDING:  # not-a-number is not
            account.setdefault(name, Part(name)).seconds += seconds

    for _, metrics in data.train:
        split = [(name.split("/"), value) for name, value in metrics.items()]
        known = {path[1]: value for path, value in split if path[0] == "seconds" and len(path) == 2}
        owner = {name: next((part for part in known if name.startswith(f"{part}_")), None) for name in known}
        parts = {name: value for name, value in known.items() if owner[name] is None}
        for name, value in parts.items():
            add(name, value)
        add("unaccounted", metrics.get("seconds", 0.0) - sum(parts.values()))
        for name, part in owner.items():
            if part in account and part is not None and known[name] > 0:
                details, detail = account[part].details, name.removeprefix(f"{part}_")
                details[detail] = details.get(detail, 0.0) + known[name]
    for _, metrics in data.warm_start:
        add("warm start", metrics.get("seconds", 0.0))
    for evaluation in data.evaluations + data.on_the_way:
        add("evaluation", evaluation.metrics.get("seconds", 0.0))
    return sorted(account.values(), key=lambda part: _ORDER.index(part.name) if part.name in _ORDER else len(_ORDER))


def _choose(store: RunStore, folder: Path, name: object) -> RunRecord:
    """The run that the configuration names, else the latest of the folder's own."""
    runs = runs_of(folder, store)
    if not runs:
        raise StoreError(f"{store.place!r} holds no run yet")
    return next((run for run in runs if run.name == name), runs[-1])


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _parse(text: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date such as 2026-99-99 is a ValueError
        return {}
    return tree if isinstance(tree, dict) else {}


def _missing(data: RunData) -> list[str]:
    notes: list[str] = []
    if not data.train:
        notes.append("No training step is recorded yet.")
    elif data.planned is not None and not data.finished:
        notes.append(
            f"The run stands at step {data.last_step} of {data.planned}. If it was interrupted, --resume continues it."
        )
    if not data.evaluations:
        notes.append("No held-out evaluation is recorded.")
    elif data.evaluation("trained") is None:
        notes.append("The trained policy was not evaluated.")
    return notes


def endings(data: RunData) -> list[tuple[StopReason, float, float]]:
    """Why training's episodes ended: reason, its share over all steps and its share at the last, most frequent first.

    Shares are means over the steps that recorded any.
    """
    known = [metrics for _, metrics in data.train if any(f"{_STOP}{reason}" in metrics for reason in StopReason)]
    shares = {reason: [metrics.get(f"{_STOP}{reason}", 0.0) for metrics in known] for reason in StopReason}
    found = [(reason, sum(values) / len(known), values[-1]) for reason, values in shares.items() if any(values)]
    return sorted(found, key=lambda ending: -ending[1])
