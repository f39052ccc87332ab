"""A run read from JSON lines into a store: what `agentrl.exchange.jsonl` wrote, or what other programs write.

Invariants: all of a file is read or nothing of it stays in the store (an import that was killed leaves a run that says
`running`); every line is checked against its kind, and what is wrong is told with its number; no line takes the place
of an earlier one. A line without a `kind` that holds a `trajectory` is an episode, so that other programs need nothing
more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json

from agentrl.errors import ConfigError, StoreError
from agentrl.exchange.jsonl import FORMAT
from agentrl.messages import Message
from agentrl.store import RunKind, RunRecord, RunStatus, RunStore, TaskRecord
from agentrl.trajectory import Trajectory

_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What a database can hold."""


def import_run(
    store: RunStore, file: Path, name: str | None = None, advance: Callable[[], object] | None = None
) -> tuple[RunRecord, int]:
    """Read a run from JSON lines into the store; returns it and the number of its episodes.

    `name`: the run's name in the store; default: the one that the file says, else the file's own. An episode without a
    `member` takes its trajectory's, or the next free one of its group. Raises `ConfigError` with file and line for what
    is not in this form, or if the store has a run of that name; the store is then as it was.
    """
    reader = _Reader(store, advance or (lambda: None))
    try:
        for number, tree in _lines(file):
            kind = tree.get("kind", "episode" if "trajectory" in tree else None)
            try:
                reader.take(kind, tree, name, file.stem)
            except (ValueError, IndexError, StoreError) as error:
                raise ConfigError(f"{str(file)!r}, line {number}: {_reason(kind, error)}") from None
        return reader.finish(file)
    except BaseException:
        reader.forget()
        raise


class _Reader:
    """What was read so far."""

    def __init__(self, store: RunStore, advance: Callable[[], object]) -> None:
        self.store, self.advance = store, advance
        self.run: int | None = None
        self.status: RunStatus = "finished"
        self.episodes: set[tuple[str, int, str, int]] = set()
        self.members: dict[tuple[str, int, str], int] = {}
        """The next free member by phase, step and group."""

    def take(self, kind: object, tree: Mapping[str, Any], name: str | None, otherwise: str) -> None:
        """Write what a line says."""
        model = _LINES.get(kind)
        if model is None:
            raise ValueError(f"kind {kind!r} is none of {', '.join(map(str, _LINES))}")
        line = model.model_validate(tree)
        if self.run is None:
            first = line if isinstance(line, _Run) else _Run()
            self.run = self._begin(first, name or first.name or otherwise)
        elif isinstance(line, _Run):
            raise ValueError("a file holds one run, this is a second one")
        if isinstance(line, _Line):
            line.write(self, self.run)

    def place(self, line: _Episode) -> tuple[str, int, str, int]:
        """Where an episode goes; raises `ValueError` for a place that is taken."""
        group = line.phase, line.step, line.trajectory.task_id if line.group is None else str(line.group)
        member = line.trajectory.member if line.member is None else line.member
        if (*group, member) in self.episodes:
            if line.member is not None:
                where = "phase {!r}, step {}, group {!r}".format(*group)
                raise ValueError(f"there was an episode of {where}, member {member} before")
            member = self.members[group]
        self.members[group] = max(self.members.get(group, 0), member + 1)
        self.episodes.add((*group, member))
        return *group, member

    def finish(self, file: Path) -> tuple[RunRecord, int]:
        """The run is whole."""
        if self.run is None:
            raise ConfigError(f"{str(file)!r} holds no run: it is empty")
        self.store.update_run(self.run, status=self.status)
        return self.store.run(self.run), len(self.episodes)

    def forget(self) -> None:
        """Take back what was written."""
        if self.run is not None:
            self.store.remove_run(self.run)

    def _begin(self, line: _Run, name: str) -> int:
        if line.format > FORMAT:
            raise ValueError(f"format {line.format} is newer than this agentrl reads ({FORMAT})")
        if any(run.name == name for run in self.store.runs()):
            raise ConfigError(f"store {self.store.place!r} has a run {name!r} already; give another name")
        self.status = line.status
        return self.store.begin_run(name, line.config, kind=line.run_kind, meta=line.meta | {"imported": True})


class _Run(BaseModel):
    """The first line; keys that a line does not have here say nothing to a store."""

    format: int = FORMAT
    name: str | None = Field(None, min_length=1)
    run_kind: RunKind = "import"
    status: RunStatus = "finished"
    config: str = ""
    meta: dict[str, Any] = Field(default_factory=dict)


class _Line(BaseModel, ABC):
    """Any other line."""

    @abstractmethod
    def write(self, reader: _Reader, run: int) -> None:
        """Into the store."""


class _Metrics(_Line):
    phase: str
    step: _Whole
    metrics: dict[str, float]

    def write(self, reader: _Reader, run: int) -> None:
        reader.store.log(run, self.phase, self.step, self.metrics)


class _Task(_Line):
    env_id: str
    id: str
    split: str = ""
    level: _Whole | None = None
    opening: tuple[Message, ...]
    gold: Any = None

    def write(self, reader: _Reader, run: int) -> None:
        task = TaskRecord(self.id, self.split, self.level, self.opening, self.gold)
        reader.store.add_tasks(run, self.env_id, [task])


class _Episode(_Line):
    phase: str = "import"
    step: _Whole = 0
    group: str | int | None = None
    member: _Whole | None = None
    trajectory: Trajectory
    advantages: list[list[float]] | None = None

    def write(self, reader: _Reader, run: int) -> None:
        place = reader.place(self)
        reader.store.add_episode(run, *place, self.trajectory)
        if self.advantages is not None:
            reader.store.set_advantages(run, *place, self.advantages)
        reader.advance()


class _Judgement(_Line):
    phase: str
    step: _Whole
    group: str
    member: _Whole
    judge: str
    number: _Whole
    verdict: bool | None
    text: str

    def write(self, reader: _Reader, run: int) -> None:
        where = self.phase, self.step, self.group, self.member
        reader.store.add_judgement(run, *where, self.judge, self.number, self.verdict, self.text)


_LINES: dict[object, type[_Run | _Line]] = {
    "run": _Run,
    "metrics": _Metrics,
    "task": _Task,
    "episode": _Episode,
    "judgement": _Judgement,
}


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


def _reason(kind: object, error: Exception) -> str:
    if kind not in _LINES:
        return str(error)
    if not isinstance(error, ValidationError):
        return f"{kind}: {error}"
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{kind}: no {key!r}" if first["type"] == "missing" else f"{kind}: {key}: {first['msg'].lower()}"
