"""An episode to columns and back: a summary, its text as JSON, and its numbers of tokens as compact arrays.

Invariant: what comes back is the same bit for bit, or the episode is refused. Nothing is rounded or cut: numbers take
the fewest bytes that hold every one of them exactly, payloads of not-a-number and negative zeros included.

An array is one byte that says how it is packed, then the numbers by significance (the lowest byte of each, then the
next ...), without the high bytes that are zero in all of them; a long one is compressed besides.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, from_json, to_json

from agentrl.errors import StoreError
from agentrl.trajectory import Trajectory

COMPRESSION = 1  # halves a record; level 6 saves 3 % more at half the speed
SHORT = 1024  # bytes of an array up to which the compressor takes longer than it is worth (0.03 ms for a fifth)
SHOWN = 1000  # characters of an answer or an error in a summary

_PACKED, _FLOATS, _BYTES = 0x80, 0x40, 0x0F  # of the first byte: compressed, not integers, bytes a number
_ARRAYS = ("new_ids", "sampled_ids", "logprobs")
_EXCLUDED: Any = {"turns": {"__all__": set(_ARRAYS)}, "info": True}
_TRAJECTORY: TypeAdapter[Trajectory] = TypeAdapter(Trajectory)


@dataclass(frozen=True, slots=True)
class TurnData:
    """The arrays of a turn, encoded."""

    tokens: int
    """Number of sampled ids."""
    context: bytes
    sampled: bytes
    logprobs: bytes
    advantages: bytes | None = None


@dataclass(frozen=True, slots=True)
class EpisodeData:
    """All of an episode, encoded; the same thing is in no two places."""

    record: bytes
    """The trajectory's JSON without the arrays of its turns, compressed."""
    turns: tuple[TurnData, ...]


def encode(trajectory: Trajectory) -> EpisodeData:
    """Raises `StoreError` for what cannot be kept exactly."""
    try:
        text = _TRAJECTORY.dump_json(trajectory, exclude=_EXCLUDED)[:-1] + b',"info":'
        text += to_json(trajectory.info, inf_nan_mode="constants") + b"}"  # dump_json makes null of a NaN in Any
        turns = tuple(
            TurnData(
                len(turn.sampled_ids),
                encode_ids(turn.new_ids),
                encode_ids(turn.sampled_ids),
                encode_floats(turn.logprobs),
            )
            for turn in trajectory.turns
        )
    except (PydanticSerializationError, ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"the episode of task {trajectory.task_id!r} cannot be written: {reason}") from error
    return EpisodeData(zlib.compress(text, COMPRESSION), turns)


def decode(data: EpisodeData, where: str) -> Trajectory:
    """The episode; `where` names it in the `StoreError` that a damaged one raises."""
    with told(f"the record of episode {where}"):
        tree = from_json(zlib.decompress(data.record))
        for turn, arrays in zip(tree["turns"], data.turns, strict=True):
            columns = (arrays.context, arrays.sampled, arrays.logprobs)
            turn |= {name: decode_array(column) for name, column in zip(_ARRAYS, columns, strict=True)}
        return _TRAJECTORY.validate_python(tree)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Whatever is raised while `what` is read becomes one line, a `StoreError`."""
    try:
        yield
    except (zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{what} is damaged: {reason}") from error


def encode_ids(ids: Sequence[int]) -> bytes:
    """Whole numbers of 64 bits; raises `TypeError` for anything else."""
    if not ids:
        return b""
    array = np.array(ids)
    if array.dtype.kind != "i":
        raise TypeError(f"token ids must be whole numbers of 64 bits, these are {array.dtype.name}")
    top = int(array.max()) if array.min() >= 0 else -1
    return _pack(array.astype("<i8", copy=False), 8 if top < 0 else max(1, (top.bit_length() + 7) // 8))


def encode_floats(values: Sequence[float]) -> bytes:
    """As float32 where every value is one, else as float64."""
    if not values:
        return b""
    wide = np.array(values, dtype="<f8")
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype("<f4")
        exact = narrow.astype("<f8").tobytes() == wide.tobytes()
    return _pack(narrow, 4 | _FLOATS) if exact else _pack(wide, 8 | _FLOATS)


def encode_advantages(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    """Rounded to float32: an advantage is a weight, not a record."""
    return _pack(np.asarray(values, dtype="<f4"), 4 | _FLOATS) if len(values) else b""


def decode_array(column: bytes) -> list[Any]:
    """What an encoder made; raises `ValueError` or `zlib.error` for anything else."""
    if not column:
        return []
    width = column[0] & _BYTES
    planes = zlib.decompress(column[1:]) if column[0] & _PACKED else column[1:]
    found = np.frombuffer(planes, dtype="u1").reshape(width, -1)
    full = width if column[0] & _FLOATS else 8
    numbers = np.zeros((found.shape[1], full), dtype="u1")
    numbers[:, :width] = found.T
    values: list[Any] = numbers.view(f"<f{full}" if column[0] & _FLOATS else "<i8").ravel().tolist()
    return values


def decode_advantages(data: EpisodeData) -> list[list[float]] | None:
    """A list a turn; None where none were set."""
    columns = [turn.advantages for turn in data.turns]
    found = [decode_array(column) for column in columns if column is not None]
    return found if columns and len(found) == len(columns) else None


def _pack(array: NDArray[Any], code: int) -> bytes:
    planes = array.view("u1").reshape(len(array), -1).T[: code & _BYTES].tobytes()
    if len(planes) > SHORT:
        packed = zlib.compress(planes, COMPRESSION)
        if len(packed) < len(planes):
            return bytes([code | _PACKED]) + packed
    return bytes([code]) + planes


def rows_of(episode: int, data: EpisodeData) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of `records` and those of `turns`."""
    turns = [
        {
            "episode": episode,
            "turn": index,
            "tokens": turn.tokens,
            "context": turn.context,
            "sampled": turn.sampled,
            "logprobs": turn.logprobs,
        }
        for index, turn in enumerate(data.turns)
    ]
    return {"episode": episode, "record": data.record}, turns


def summarise(trajectory: Trajectory) -> dict[str, Any]:
    """The columns of `episodes` that the trajectory decides."""
    correct = trajectory.metrics.get("correct")
    judged = correct is not None and not math.isnan(correct) and not trajectory.aborted
    calls = [call for turn in trajectory.turns for call in turn.tool_calls]
    usage = trajectory.info.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    return {
        "task_id": readable(trajectory.task_id),
        "env_id": readable(trajectory.env_id),
        "level": _whole(trajectory.info.get("level")),
        "reward": nullable(trajectory.reward),
        "correct": correct == 1.0 if judged else None,
        "turns": len(trajectory.turns),
        "tokens": trajectory.num_policy_tokens or _whole(counted.get("completion_tokens")) or 0,
        "prompt_tokens": _context_tokens(trajectory) or _whole(counted.get("prompt_tokens")) or 0,
        "tool_calls": len(calls),
        "tool_errors": sum(call.error is not None for call in calls),
        "tool_seconds": nullable(sum(call.seconds for call in calls)),
        "seconds": nullable(trajectory.seconds),
        "stop_reason": str(trajectory.stop_reason),
        "answer": _shown(trajectory.info.get("answer")),
        "error": _shown(trajectory.error),
    }


def readable(text: str) -> str:
    """`text` without what a database refuses or cuts at: NUL and lone surrogates become U+FFFD."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def nullable(value: float) -> float | None:
    """Not-a-number as NULL: SQLite has none, and elsewhere it would sort as a number."""
    return None if math.isnan(value) else float(value)


def number(value: float | None) -> float:
    """The inverse of `nullable`."""
    return math.nan if value is None else value


def _context_tokens(trajectory: Trajectory) -> int:
    lengths: list[int] = []  # of each turn's context
    for turn in trajectory.turns:
        before = turn.prefix_turn
        prefix = 0 if before is None else lengths[before] + len(trajectory.turns[before].sampled_ids)
        lengths.append(prefix + len(turn.new_ids))
    return sum(lengths)


def _whole(value: object) -> int | None:
    """A whole number that a database can hold, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if abs(value) < 1 << 63 else None


def _shown(text: object) -> str | None:
    return readable(text[:SHOWN]) if isinstance(text, str) else None
