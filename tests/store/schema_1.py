"""Stores as version 1 of the schema left them, made without any of the present code."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agentrl.trajectory import Trajectory

_SCHEMA = """
CREATE TABLE agentrl_schema (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE runs (
    id INTEGER NOT NULL, name VARCHAR NOT NULL, config VARCHAR NOT NULL, created FLOAT NOT NULL,
    PRIMARY KEY (id), UNIQUE (name)
);
CREATE TABLE metrics (
    run INTEGER NOT NULL, phase VARCHAR NOT NULL, step INTEGER NOT NULL, name VARCHAR NOT NULL, value FLOAT,
    PRIMARY KEY (run, phase, step, name), FOREIGN KEY(run) REFERENCES runs (id)
) WITHOUT ROWID;
CREATE TABLE episodes (
    run INTEGER NOT NULL, phase VARCHAR NOT NULL, step INTEGER NOT NULL, "group" VARCHAR NOT NULL,
    member INTEGER NOT NULL, task_id VARCHAR NOT NULL, env_id VARCHAR NOT NULL, reward FLOAT, correct BOOLEAN,
    turns INTEGER NOT NULL, tokens INTEGER NOT NULL, seconds FLOAT, stop_reason VARCHAR NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (run, phase, step, "group", member), FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO agentrl_schema VALUES (1);
"""

Key = tuple[int, str, int, str, int]
"""Run, phase, step, group, member."""


def make(
    file: Path,
    runs: Iterable[tuple[int, str, str]],
    metrics: Iterable[tuple[int, str, int, str, float | None]] = (),
    episodes: Iterable[tuple[Key, Trajectory]] = (),
) -> None:
    """A version-1 file with runs (id, name, config), metrics and episodes."""
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(_SCHEMA)
    connection.executemany("INSERT INTO runs VALUES (?, ?, ?, 1000.5)", runs)
    connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", metrics)
    for key, trajectory in episodes:
        _insert(connection, key, trajectory)
    connection.commit()
    connection.close()


def _insert(connection: sqlite3.Connection, key: Key, trajectory: Trajectory) -> None:
    columns: tuple[Any, ...] = (
        trajectory.task_id,
        trajectory.env_id,
        trajectory.reward,
        trajectory.metrics.get("correct"),
        len(trajectory.turns),
        trajectory.num_policy_tokens,
        trajectory.seconds,
        str(trajectory.stop_reason),
        zlib.compress(trajectory.to_json().encode(), 1),
    )
    marks = ", ".join("?" * (len(key) + len(columns)))
    connection.execute(f"INSERT INTO episodes VALUES ({marks})", (*key, *columns))
