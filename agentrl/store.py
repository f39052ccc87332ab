"""Runs in a database: metrics and episodes, written as they finish. SQLite through SQLAlchemy.

Invariants: what a method was asked to write is committed when it returns, and survives the end of the process by any
signal (write-ahead log, synchronous=NORMAL; only a crash of the whole machine can lose the last moments); the same key
is never there twice; an episode's record comes back bit for bit. Several processes may write at once: SQLite gives
them turns, and no transaction stays open while a caller works.
"""

from __future__ import annotations

import math
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    Select,
    String,
    Table,
    and_,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    or_,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from agentrl.errors import StoreError
from agentrl.trajectory import StopReason, Trajectory

SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0  # a writer holds the lock for milliseconds; only a stuck process makes others wait this long
COMPRESSION = 1  # halves a record of token ids and log-probabilities; level 6 saves 3 % more at half the speed
PAGE = 64  # episodes read in one query, so that no reader holds an old view of the write-ahead log open

_METADATA = MetaData()
_VERSION = Table("agentrl_schema", _METADATA, Column("version", Integer, primary_key=True))
_RUNS = Table(
    "runs",
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("config", String, nullable=False),
    Column("created", Float, nullable=False),
)
_METRICS = Table(
    "metrics",
    _METADATA,
    Column("run", ForeignKey("runs.id"), nullable=False),
    Column("phase", String, nullable=False),
    Column("step", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("value", Float),  # SQLite has no not-a-number: it is kept as NULL
    PrimaryKeyConstraint("run", "phase", "step", "name"),
    sqlite_with_rowid=False,
)
_EPISODES = Table(
    "episodes",
    _METADATA,
    Column("run", ForeignKey("runs.id"), nullable=False),
    Column("phase", String, nullable=False),
    Column("step", Integer, nullable=False),
    Column("group", String, nullable=False),
    Column("member", Integer, nullable=False),
    Column("task_id", String, nullable=False),
    Column("env_id", String, nullable=False),
    Column("reward", Float),
    Column("correct", Boolean),
    Column("turns", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("seconds", Float),
    Column("stop_reason", String, nullable=False),
    Column("record", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run", "phase", "step", "group", "member"),
)
_KEY = (_EPISODES.c.phase, _EPISODES.c.step, _EPISODES.c.group, _EPISODES.c.member)


@dataclass(frozen=True)
class RunRecord:
    """A run in the store."""

    id: int
    name: str
    config: str
    """The resolved configuration, YAML."""
    created: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class EpisodeRecord:
    """An episode in the store: what one filters by, and the whole record when it is asked for."""

    phase: str
    step: int
    group: str
    member: int
    task_id: str
    env_id: str
    reward: float
    correct: bool | None
    """None where the episode has no verdict (aborted), or an environment reports none."""
    turns: int
    tokens: int
    """Tokens that the policy sampled."""
    seconds: float
    stop_reason: StopReason
    record: bytes = field(repr=False)
    """`Trajectory.to_json()`, zlib-compressed."""

    @cached_property
    def trajectory(self) -> Trajectory:
        """The episode, bit for bit; parsed on first use. Raises `StoreError` if the record is damaged."""
        try:
            return Trajectory.from_json(zlib.decompress(self.record))
        except (zlib.error, ValueError) as error:
            where = f"{self.phase} step {self.step} group {self.group} member {self.member}"
            raise StoreError(f"the record of episode {where} is damaged: {_line(error)}") from error


class RunStore:
    """Opens or creates a store.

    `path` is a file, or a database URL as text (`sqlite:///runs.db`). Raises `StoreError`, one line, if it cannot be
    opened or written or holds something else. May be used from several threads; a process that is forked off opens
    a store of its own.
    """

    def __init__(self, path: Path | str) -> None:
        self._place = str(path)
        with self._errors("opened"):
            self._engine = _make_engine(_url(path))
            # Writers take the lock at once: a transaction that reads first and then writes cannot wait for it.
            self._writer = self._engine.execution_options(immediate=True)
        try:
            with self._errors("opened or written"), self._writer.begin() as connection:
                self._prepare(connection)
        except StoreError:
            self._engine.dispose()
            raise

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._engine.dispose()

    def begin_run(self, name: str, config: str) -> int:
        """The id of the run of this name; a run that exists goes on, with `config` as its configuration from now on."""
        with self._writing() as connection:
            found: int | None = connection.scalar(select(_RUNS.c.id).where(_RUNS.c.name == name))
            if found is not None:
                connection.execute(update(_RUNS).where(_RUNS.c.id == found).values(config=config))
                return found
            row = insert(_RUNS).values(name=name, config=config, created=time.time()).returning(_RUNS.c.id)
            return int(connection.execute(row).scalar_one())

    def runs(self) -> list[RunRecord]:
        """Every run, the oldest first."""
        with self._reading() as connection:
            return [RunRecord(**row._mapping) for row in connection.execute(select(_RUNS).order_by(_RUNS.c.id))]

    def log(self, run: int, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of a step. Names that the step already has are replaced, others stay."""
        rows = [
            {"run": run, "phase": phase, "step": step, "name": name, "value": _nullable(value)}
            for name, value in metrics.items()
        ]
        if not rows:
            return
        step_of_phase = _METRICS.c.run == run, _METRICS.c.phase == phase, _METRICS.c.step == step
        with self._writing() as connection:
            connection.execute(delete(_METRICS).where(*step_of_phase, _METRICS.c.name.in_(list(metrics))))
            connection.execute(insert(_METRICS), rows)

    def metrics(self, run: int, phase: str) -> list[tuple[int, dict[str, float]]]:
        """Metrics of every step of a phase, by step."""
        columns = _METRICS.c.step, _METRICS.c.name, _METRICS.c.value
        query = select(*columns).where(_METRICS.c.run == run, _METRICS.c.phase == phase)
        steps: dict[int, dict[str, float]] = {}
        with self._reading() as connection:
            for step, name, value in connection.execute(query.order_by(_METRICS.c.step, _METRICS.c.name)):
                steps.setdefault(step, {})[name] = _number(value)
        return list(steps.items())

    def add_episode(self, run: int, phase: str, step: int, group: str, member: int, trajectory: Trajectory) -> None:
        """Record an episode, in place of the one that had the same run, phase, step, group and member."""
        key = {"run": run, "phase": phase, "step": step, "group": group, "member": member}
        values = key | _columns(trajectory)
        with self._writing() as connection:
            connection.execute(delete(_EPISODES).where(*(_EPISODES.c[name] == value for name, value in key.items())))
            connection.execute(insert(_EPISODES), values)

    def episodes(
        self,
        run: int,
        phase: str | None = None,
        step: int | None = None,
        limit: int | None = None,
        correct: bool | None = None,
    ) -> Iterator[EpisodeRecord]:
        """The episodes of a run in the order of (phase, step, group, member), read a page at a time.

        Episodes that are added while one iterates may or may not be seen; none is seen twice.
        """
        query = select(_EPISODES).where(_EPISODES.c.run == run).order_by(*_KEY)
        for column, wanted in ((_EPISODES.c.phase, phase), (_EPISODES.c.step, step), (_EPISODES.c.correct, correct)):
            if wanted is not None:
                query = query.where(column == wanted)
        left = math.inf if limit is None else limit
        while left > 0:
            size = int(min(PAGE, left))
            with self._reading() as connection:
                rows = connection.execute(query.limit(size)).all()
            for row in rows:
                yield _episode(row)
            if len(rows) < size:
                return
            left -= size
            query = _after(query, rows[-1])

    def discard_after(self, run: int, step: int, phases: Sequence[str]) -> None:
        """Forget metrics and episodes of these phases later than `step`: a resumed run does them again."""
        with self._writing() as connection:
            for table in (_METRICS, _EPISODES):
                connection.execute(
                    delete(table).where(table.c.run == run, table.c.step > step, table.c.phase.in_(list(phases)))
                )

    def _prepare(self, connection: Connection) -> None:
        """Make the schema in an empty database; refuse a database that is not ours."""
        names = set(inspect(connection).get_table_names())
        if names and _VERSION.name not in names:
            raise StoreError(
                f"store {self._place!r} is another program's database: it holds {', '.join(sorted(names))}"
            )
        if not names:
            _METADATA.create_all(connection, checkfirst=False)
            connection.execute(insert(_VERSION).values(version=SCHEMA_VERSION))
        version = connection.scalar(select(_VERSION.c.version))
        if version != SCHEMA_VERSION:
            raise StoreError(f"store {self._place!r} has schema {version}; this agentrl reads schema {SCHEMA_VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._errors("written"), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._errors("read"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Whatever the database raises becomes one line."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, ImportError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise StoreError(f"store {self._place!r} cannot be {action}: {_line(reason)}") from error


def _url(path: Path | str) -> URL:
    if isinstance(path, str) and "://" in path:
        return make_url(path)
    return URL.create("sqlite", database=str(path))


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url)
    if url.database in (None, "", ":memory:"):
        raise StoreError(f"store {str(url)!r} is in memory, where nothing would survive the run; name a file")
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver's own transactions begin too late; `_begin` does it
    # Switching to the write-ahead log is the one statement that does not wait for its turn by itself.
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break  # a file system that cannot do it keeps its own mode: slower, equally safe
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _columns(trajectory: Trajectory) -> dict[str, Any]:
    correct = trajectory.metrics.get("correct")
    judged = correct is not None and not math.isnan(correct) and not trajectory.aborted
    try:
        record = trajectory.to_json().encode()
    except PydanticSerializationError as error:
        raise StoreError(f"the episode of task {trajectory.task_id!r} cannot be written: {_line(error)}") from error
    return {
        "task_id": trajectory.task_id,
        "env_id": trajectory.env_id,
        "reward": _nullable(trajectory.reward),
        "correct": correct == 1.0 if judged else None,
        "turns": len(trajectory.turns),
        "tokens": trajectory.num_policy_tokens,
        "seconds": _nullable(trajectory.seconds),
        "stop_reason": str(trajectory.stop_reason),
        "record": zlib.compress(record, COMPRESSION),
    }


def _episode(row: Row[Any]) -> EpisodeRecord:
    values = dict(row._mapping)
    del values["run"]
    values |= {
        "reward": _number(row.reward),
        "seconds": _number(row.seconds),
        "stop_reason": StopReason(row.stop_reason),
    }
    return EpisodeRecord(**values)


def _after(query: Select[Any], row: Row[Any]) -> Select[Any]:
    """`query` from the key of `row` on, written out because not every database compares tuples."""
    values = [row._mapping[column] for column in _KEY]
    later = [
        and_(*(_KEY[before] == values[before] for before in range(index)), _KEY[index] > values[index])
        for index in range(len(_KEY))
    ]
    return query.where(or_(*later))


def _nullable(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _line(error: object) -> str:
    return " ".join(str(error).split())
