"""Runs in a database: metrics, tasks, episodes, judgements, written as they finish. SQLite or PostgreSQL.

Invariants: what a method was asked to write is committed when it returns, and survives the end of the process by any
signal (write-ahead log, synchronous=NORMAL; only a crash of the whole machine can lose the last moments); the same key
is never there twice; an episode's record comes back bit for bit. Several processes may write at once: the database
gives them turns, and no transaction stays open while a caller works.
"""

from __future__ import annotations

from agentrl.store.episodes import PAGE, EpisodeTables
from agentrl.store.records import (
    EpisodeQuery,
    EpisodeRecord,
    EpisodeSummary,
    JudgementRecord,
    PhaseRecord,
    RunKind,
    RunRecord,
    RunStatus,
    TaskRecord,
)
from agentrl.store.runs import RunTables
from agentrl.store.schema import SCHEMA_VERSION

__all__ = [
    "PAGE",
    "SCHEMA_VERSION",
    "EpisodeQuery",
    "EpisodeRecord",
    "EpisodeSummary",
    "JudgementRecord",
    "PhaseRecord",
    "RunKind",
    "RunRecord",
    "RunStatus",
    "RunStore",
    "TaskRecord",
]


class RunStore(RunTables, EpisodeTables):
    """Opens or creates a store; one of an older schema is brought up to date.

    `place` is a file, or a database URL as text (`sqlite:///runs.db`, `postgresql://user@host/database`). Raises
    `StoreError`, one line, if it cannot be opened or written or holds something else. May be used from several
    threads; a process that is forked off opens a store of its own. `make=False`: an empty database is an error
    and not made a store.
    """

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
