"""Turn tables and episodes made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agentrl.advantages import Credit, Transform, TurnTable, attribute
from agentrl.messages import assistant
from agentrl.trajectory import ToolCallRecord, Trajectory, Turn


def table(rewards: Sequence[float], **columns: Any) -> TurnTable:
    """A table with one token a turn, unless `lengths` says otherwise."""
    lengths = columns.pop("lengths", [1] * len(rewards))
    return TurnTable(np.array(rewards, dtype=np.float64), np.array(lengths, dtype=np.int64), **columns)


def credit_of(transform: Transform | Sequence[Transform], group: Sequence[TurnTable]) -> Credit:
    """What the transforms make of one group."""
    transforms = [transform] if isinstance(transform, Transform) else list(transform)
    return attribute(transforms, [group])[0]


def of_turns(credit: Credit) -> list[list[float]]:
    """Advantage of each turn, trajectory and turn layer together."""
    return [(whole + turns).tolist() for whole, turns in zip(credit.trajectory, credit.turns, strict=True)]


def call(name: str = "search", arguments: str = "{}", error: str | None = None) -> ToolCallRecord:
    return ToolCallRecord(name, arguments, "", error)


def turn(*calls: ToolCallRecord, text: str = "words", tokens: int = 1, **fields: Any) -> Turn:
    """A turn with these calls."""
    return Turn(
        [1],
        None,
        [1] * tokens,
        [-1.0] * tokens,
        assistant(text),
        tool_calls=list(calls),
        tool_error=any(item.error is not None for item in calls),
        **fields,
    )


def episode(*turns: Turn, **fields: Any) -> TurnTable:
    """The table of an episode of these turns."""
    return TurnTable.of(Trajectory("task", turns=list(turns), **fields))
