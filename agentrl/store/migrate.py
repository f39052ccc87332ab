"""Older schemas to the present one, inside the transaction that the caller opened: all of it happens, or nothing.

Invariant: an episode comes out of a migration as it went in, bit for bit; one whose record was damaged before stays
there, and stays damaged.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterator
from typing import Any

import yaml
from sqlalchemy import Connection, Row, insert, text, update

from agentrl.errors import StoreError
from agentrl.store.codec import EpisodeData, encode, rows_of, summarise
from agentrl.store.schema import EPISODES, METADATA, RECORDS, RUNS, TURNS, VERSION
from agentrl.trajectory import Trajectory

PAGE = 256  # episodes in memory at one time
LONG = 5_000  # episodes that take more than a few seconds, so that people should know what they wait for
SAY_SECONDS = 10.0

_log = logging.getLogger(__name__)
_TABLES_1 = ("runs", "metrics", "episodes")
_KEY_1 = ("run", "phase", "step", "group", "member")
_KEPT_1 = ("task_id", "env_id", "reward", "correct", "turns", "tokens", "seconds", "stop_reason")


def migrate(connection: Connection, version: int, place: str) -> None:
    """Bring the store in the open transaction from `version` to the present schema."""
    if version != 1 or connection.dialect.name != "sqlite":
        raise StoreError(f"store {place!r} has schema {version}, which this agentrl cannot bring up to date")
    _from_1(connection, place)
    connection.execute(update(VERSION).values(version=2))


def _from_1(connection: Connection, place: str) -> None:
    """Schema 1 kept the whole JSON of an episode in a column of `episodes`, and knew no kinds of runs and no tasks."""
    for name in _TABLES_1:
        connection.execute(text(f"ALTER TABLE {name} RENAME TO {name}_1"))
    METADATA.create_all(connection, [each for each in METADATA.sorted_tables if each is not VERSION], checkfirst=False)
    for run in connection.execute(text("SELECT * FROM runs_1")).all():
        connection.execute(insert(RUNS).values(**_run_from_1(connection, run)))
    connection.execute(text("INSERT INTO metrics SELECT run, phase, step, name, value FROM metrics_1"))
    steps = "SELECT DISTINCT run, phase, step, created FROM metrics_1 JOIN runs_1 ON run = id"
    connection.execute(text(f"INSERT INTO steps {steps}"))
    _episodes_from_1(connection, place)
    for name in reversed(_TABLES_1):
        connection.execute(text(f"DROP TABLE {name}_1"))


def _run_from_1(connection: Connection, run: Row[Any]) -> dict[str, Any]:
    """A run said nothing of how it ended; that its last evaluation or its last step is there tells it."""
    of_run = {"run": run.id}
    trained = connection.scalar(
        text("SELECT 1 FROM metrics_1 WHERE run = :run AND phase = 'eval/trained' LIMIT 1"), of_run
    )
    last = connection.scalar(text("SELECT max(step) FROM metrics_1 WHERE run = :run AND phase = 'train'"), of_run)
    evaluation = last is None and run.name.startswith("eval ")  # how the command named it
    ended = evaluation or trained or (last is not None and last >= _planned(run.config))
    return {
        **run._mapping,
        "kind": "eval" if evaluation else "train",
        "status": "finished" if ended else "interrupted",
        "meta": "{}",
        "updated": run.created,
    }


def _planned(config: str) -> float:
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        tree = None
    steps = tree.get("steps") if isinstance(tree, dict) else None
    return steps if isinstance(steps, int) else float("inf")


def _episodes_from_1(connection: Connection, place: str) -> None:
    total = int(connection.scalar(text("SELECT count(*) FROM episodes_1")) or 0)
    if total >= LONG:
        _log.warning("store %r: bringing %d episodes to a newer schema, once", place, total)
    said, done, damaged = time.monotonic(), 0, 0
    for page in _pages_1(connection):
        summaries, records, turns = [], [], []
        for row in page:
            trajectory = _trajectory_1(row)
            damaged += trajectory is None
            data = EpisodeData(row.record, ()) if trajectory is None else encode(trajectory)
            known = {name: row._mapping[name] for name in _KEPT_1} | _unknown_1(row)
            counted = {} if trajectory is None else summarise(trajectory)
            summaries.append({name: row._mapping[name] for name in _KEY_1} | known | counted)
            record, arrays = rows_of(row.id, data)
            records.append(record)
            turns += arrays
        connection.execute(insert(EPISODES), summaries)
        connection.execute(insert(RECORDS), records)
        if turns:
            connection.execute(insert(TURNS), turns)
        done += len(page)
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            _log.warning("store %r: %d of %d episodes", place, done, total)
    if damaged:
        _log.warning("store %r: %d of %d episodes were damaged before and stay so", place, damaged, total)


def _unknown_1(row: Row[Any]) -> dict[str, Any]:
    """Columns that an episode of schema 1 has only in its record, where that cannot be read."""
    empty = {"prompt_tokens": 0, "tool_calls": 0, "tool_errors": 0}
    missing = dict.fromkeys(("level", "tool_seconds", "answer", "error"))
    return {"id": row.id, "rewritten": 0, "created": row.created, **empty, **missing}


def _pages_1(connection: Connection) -> Iterator[list[Row[Any]]]:
    """Episodes in the order in which they were written; their row numbers become their ids."""
    query = text(
        "SELECT episodes_1.rowid AS id, episodes_1.*, created FROM episodes_1 JOIN runs_1 ON run = runs_1.id "
        "WHERE episodes_1.rowid > :after ORDER BY episodes_1.rowid LIMIT :page"
    )
    after = -1
    while page := list(connection.execute(query, {"after": after, "page": PAGE}).all()):
        yield page
        after = page[-1].id


def _trajectory_1(row: Row[Any]) -> Trajectory | None:
    """None if the record is damaged."""
    try:
        return Trajectory.from_json(zlib.decompress(row.record))
    except (zlib.error, ValueError):
        return None
