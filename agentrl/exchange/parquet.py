"""A run's episodes as a Parquet table: one row an episode, for data frames and query engines.

Columns: what one filters by (`EpisodeSummary`), the conversation as JSON text, and lists with one entry a turn:
rewards, token ids, log-probabilities, advantages. Invariant: no number is rounded; advantages are what the store keeps
(float32).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from agentrl.errors import ConfigError
from agentrl.store import EpisodeRecord, EpisodeSummary, RunRecord, RunStore

ROWS = 512  # episodes in a row group: some megabytes of tokens

_SUMMARY = tuple(field.name for field in fields(EpisodeSummary) if field.name != "id")
_INTEGERS = frozenset({"step", "member", "level", "turns", "tokens", "prompt_tokens", "tool_calls", "tool_errors"})
_NUMBERS = frozenset({"reward", "tool_seconds", "seconds", "created"})


def write_table(store: RunStore, run: RunRecord, file: Path, phase: str | None, advance: Callable[[], object]) -> int:
    """Write the episodes of a run, or of one phase, to `file`; returns their number.

    Raises `ConfigError` if pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("form parquet needs the package pyarrow: pip install 'agentrl[parquet]'") from None
    schema = _schema(pa, run)
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _batches(store.episodes(run.id, phase)):
            writer.write_table(pa.Table.from_pylist([_row(record, advance) for record in rows], schema=schema))
            count += len(rows)
    return count


def _schema(pa: Any, run: RunRecord) -> Any:
    columns = {
        name: pa.int64() if name in _INTEGERS else pa.float64() if name in _NUMBERS else pa.string()
        for name in _SUMMARY
    }
    columns["correct"] = pa.bool_()
    columns |= {"seed": pa.string(), "messages": pa.string(), "metrics": pa.string()}
    columns |= {"turn_rewards": pa.list_(pa.float64())}
    columns |= {"sampled_ids": pa.list_(pa.list_(pa.int64())), "logprobs": pa.list_(pa.list_(pa.float64()))}
    columns |= {"advantages": pa.list_(pa.list_(pa.float32()))}
    about: Mapping[str, str] = {"run": run.name, "config": run.config}
    return pa.schema(list(columns.items()), metadata=about)


def _row(record: EpisodeRecord, advance: Callable[[], object]) -> dict[str, Any]:
    trajectory = record.trajectory
    row: dict[str, Any] = {name: getattr(record, name) for name in _SUMMARY}
    row["stop_reason"] = str(record.stop_reason)
    row["seed"] = str(trajectory.seed)  # derived seeds need more than 64 bits of some readers
    row["messages"] = json.dumps([message.to_wire() for message in trajectory.messages])
    row["metrics"] = json.dumps(trajectory.metrics)
    row["turn_rewards"] = [turn.reward for turn in trajectory.turns]
    row["sampled_ids"] = [turn.sampled_ids for turn in trajectory.turns]
    row["logprobs"] = [turn.logprobs for turn in trajectory.turns]
    row["advantages"] = record.advantages
    advance()
    return row


def _batches(records: Iterator[EpisodeRecord]) -> Iterator[list[EpisodeRecord]]:
    batch: list[EpisodeRecord] = []
    for record in records:
        batch.append(record)
        if len(batch) == ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
