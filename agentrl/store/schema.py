"""The tables of a store, and the version of their form.

Invariants: `episodes` is narrow (what one filters, sorts and lists by), so that looking through a hundred thousand of
them stays quick; what is long stands once, elsewhere: text in `records`, numbers of tokens in `turns`. A table's form
changes only together with `SCHEMA_VERSION` and a migration. Text sorts by its code points in every database.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 2
ORDERED = ("reward", "tokens", "seconds")
"""Orders of episodes that have an index. It holds what such pages are filtered by most, so that leaving out rows of
other phases and verdicts reads no row."""

METADATA = MetaData()
_Whole = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only where the type is INTEGER
_Name = String().with_variant(String(collation="C"), "postgresql")


def _owner(table: str, **options: Any) -> Column[int]:
    """A column that names a row of another table and disappears with it."""
    name = table.removesuffix("s")
    return Column(name, _Whole, ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False, **options)


VERSION = Table("agentrl_schema", METADATA, Column("version", Integer, primary_key=True))
RUNS = Table(
    "runs",
    METADATA,
    Column("id", _Whole, primary_key=True),
    Column("name", _Name, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("status", String, nullable=False),
    Column("config", Text, nullable=False),
    Column("meta", Text, nullable=False),  # JSON of an object
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
)
STEPS = Table(
    "steps",
    METADATA,
    _owner("runs"),
    Column("phase", _Name, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("logged", Double, nullable=False),
    PrimaryKeyConstraint("run", "phase", "step"),
    sqlite_with_rowid=False,
)
METRICS = Table(
    "metrics",
    METADATA,
    _owner("runs"),
    Column("phase", _Name, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("name", _Name, nullable=False),
    Column("value", Double),  # SQLite has no not-a-number: it is kept as NULL
    PrimaryKeyConstraint("run", "phase", "step", "name"),
    sqlite_with_rowid=False,
)
TASKS = Table(
    "tasks",
    METADATA,
    _owner("runs"),
    Column("env_id", _Name, nullable=False),
    Column("id", _Name, nullable=False),
    Column("split", _Name, nullable=False),
    Column("level", BigInteger),
    Column("opening", Text, nullable=False),  # JSON of messages
    Column("gold", Text, nullable=False),  # JSON
    PrimaryKeyConstraint("run", "env_id", "id"),
    sqlite_with_rowid=False,
)
EPISODES = Table(
    "episodes",
    METADATA,
    Column("id", _Whole, primary_key=True),
    _owner("runs"),
    Column("phase", _Name, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("group", _Name, nullable=False),
    Column("member", BigInteger, nullable=False),
    Column("rewritten", Integer, nullable=False),  # times that an episode was put in this one's place
    Column("task_id", _Name, nullable=False),
    Column("env_id", _Name, nullable=False),
    Column("level", BigInteger),
    Column("reward", Double),
    Column("correct", Boolean),
    Column("turns", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("tool_calls", BigInteger, nullable=False),
    Column("tool_errors", BigInteger, nullable=False),
    Column("tool_seconds", Double),
    Column("seconds", Double),
    Column("stop_reason", String, nullable=False),
    Column("created", Double, nullable=False),
    Column("answer", Text),
    Column("error", Text),
    UniqueConstraint("run", "phase", "step", "group", "member", name="episodes_key"),
    Index("episodes_run", "run", "id"),
    Index("episodes_task", "run", "task_id", "id"),
    *(Index(f"episodes_{name}", "run", name, "id", "phase", "correct") for name in ORDERED),
    sqlite_autoincrement=True,  # a link to an episode that is gone never leads to another one
)
RECORDS = Table(
    "records",
    METADATA,
    _owner("episodes", primary_key=True, autoincrement=False),
    Column("record", LargeBinary, nullable=False),
)
TURNS = Table(
    "turns",
    METADATA,
    _owner("episodes"),
    Column("turn", Integer, nullable=False),  # from 0
    Column("tokens", BigInteger, nullable=False),  # sampled ids
    Column("context", LargeBinary, nullable=False),  # ids that are new in the turn's context
    Column("sampled", LargeBinary, nullable=False),
    Column("logprobs", LargeBinary, nullable=False),
    Column("advantages", LargeBinary),
    PrimaryKeyConstraint("episode", "turn"),
)
JUDGEMENTS = Table(
    "judgements",
    METADATA,
    _owner("episodes"),
    Column("judge", _Name, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("verdict", Boolean),
    Column("text", LargeBinary, nullable=False),  # compressed; as bytes, because a judge may write a NUL
    Column("created", Double, nullable=False),
    PrimaryKeyConstraint("episode", "judge", "number"),
)
