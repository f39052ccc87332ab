"""From trajectories to packed rows: what the learner sees of a batch of episodes.

Tokens that carry loss lie flat in one table, row after row; a micro-batch is a set of rows packed into one sequence.
Invariants: each sampled token stands in the table exactly once, with the advantage and the behaviour log-probability
that were recorded for it; observation tokens are in the packed ids and nowhere else; packing changes no number in the
table and is a function of the rows' lengths alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.errors import TrainingError
from agentrl.learner.attention import Segments
from agentrl.trajectory import Row, Trajectory

Columns = Mapping[str, NDArray[np.float64] | float]
"""Numbers of a trajectory's policy tokens by name: shape (L_i,), or one number for all of them."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row to train on: T tokens, n of them with loss."""

    ids: NDArray[np.int64]
    """Shape (T,)."""
    positions: NDArray[np.int64]
    """Where in `ids` the policy tokens with loss stand, shape (n,), ascending, all at least 1."""
    turn_ids: NDArray[np.int64]
    """1-based turn of each policy token, shape (n,)."""
    behaviour: NDArray[np.float64]
    """Recorded log-probability of each policy token, nats, shape (n,)."""
    advantages: NDArray[np.float64]
    """Shape (n,)."""
    trajectory: int
    """Index of the trajectory in the batch."""
    tokens: NDArray[np.int64]
    """Which of the trajectory's policy tokens each one is, from 0, shape (n,)."""
    columns: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Further numbers of each policy token, shape (n,); every row of a batch has the same ones."""

    def __len__(self) -> int:
        return len(self.ids)


def flatten(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[NDArray[np.float64]],
    columns: Sequence[Columns] | None = None,
) -> list[TrainingRow]:
    """Rows with loss of every trajectory, in order.

    `advantages[i]` has shape (L_i,): the policy tokens of all turns of trajectory i in the order of the turns, which
    is `Credit.token_advantages()`. `columns[i]` are further numbers by name, shape (L_i,) or (), which is one number
    for all. Raises `TrainingError` for lengths that differ, advantages or log-probabilities that are not finite, and a
    policy token without context.
    """
    if len(trajectories) != len(advantages):
        raise TrainingError(f"{len(trajectories)} trajectories, but advantages of {len(advantages)}")
    rows: list[TrainingRow] = []
    for index, (trajectory, values) in enumerate(zip(trajectories, advantages, strict=True)):
        lengths = [len(turn.sampled_ids) for turn in trajectory.turns]
        further = {} if columns is None else columns[index]
        table = {name: _column(name, value, sum(lengths), trajectory.task_id) for name, value in further.items()}
        table["advantage"] = _column("advantage", values, sum(lengths), trajectory.task_id)
        starts = [0, *accumulate(lengths)]
        rows += [_training_row(row, starts, table, index, trajectory.task_id) for row in trajectory.rows()]
    return [row for row in rows if len(row.positions)]


def _column(name: str, value: NDArray[np.float64] | float, length: int, task_id: str) -> NDArray[np.float64]:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim and array.shape != (length,):
        raise TrainingError(f"task {task_id}: {length} policy tokens, but {len(array)} of {name}")
    return np.broadcast_to(array, (length,))


def _training_row(
    row: Row, starts: list[int], table: Mapping[str, NDArray[np.float64]], trajectory: int, task_id: str
) -> TrainingRow:
    turns = np.asarray(row.turn_ids, dtype=np.int64)
    positions = np.flatnonzero(turns)
    if len(positions) and positions[0] == 0:
        raise TrainingError(f"task {task_id}: a sampled token without context cannot be trained on")
    # A row holds the whole of each turn that it trains, so token k of turn t stands at starts[t - 1] + k of a column.
    sources = [np.arange(starts[turn - 1], starts[turn]) for turn in dict.fromkeys(turns[positions].tolist())]
    tokens = np.concatenate(sources) if sources else np.zeros(0, dtype=np.int64)
    own = {name: column[tokens] for name, column in table.items()}
    behaviour = np.asarray(row.logprobs, dtype=np.float64)[positions]
    for name, numbers in (("advantage", own["advantage"]), ("recorded log-probability", behaviour)):
        if not np.isfinite(numbers).all():
            raise TrainingError(f"task {task_id}: a policy token's {name} is not finite")
    ids = np.asarray(row.ids, dtype=np.int64)
    advantages = own.pop("advantage")
    return TrainingRow(ids, positions, turns[positions], behaviour, advantages, trajectory, tokens, own)


def pack(
    rows: Sequence[TrainingRow], max_tokens: int, unit: Literal["token", "trajectory", "group"] = "token"
) -> list[list[int]]:
    """Indices of the rows of each micro-batch, at most `max_tokens` tokens where the rows allow it.

    First-fit decreasing; rows of one trajectory stay together where they fit into one bin, a row longer than
    `max_tokens` gets a bin of its own. Above `unit="token"` the rows of a trajectory, or of all trajectories of a group
    (column `group`), share a bin whatever its size. Deterministic: ties go by index.
    """
    members: dict[float, list[int]] = {}
    for index, row in enumerate(rows):
        key = row.columns["group"][0] if unit == "group" else row.trajectory
        members.setdefault(key, []).append(index)
    items: list[list[int]] = []
    for indices in members.values():
        whole = unit != "token" or sum(len(rows[index]) for index in indices) <= max_tokens
        items += [indices] if whole else [[index] for index in indices]
    sizes = [sum(len(rows[index]) for index in item) for item in items]
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(items)), key=lambda item: (-sizes[item], items[item][0])):
        found = next((place for place, free in enumerate(room) if sizes[item] <= free), None)
        if found is None:
            bins.append(list(items[item]))
            room.append(max_tokens - sizes[item])
        else:
            bins[found] += items[item]
            room[found] -= sizes[item]
    return [sorted(indices) for indices in bins]


@dataclass(frozen=True)
class PackedTokens:
    """Rows one after another, as the model reads them: T tokens, n of them to score."""

    input_ids: Tensor
    """int64, shape (1, T)."""
    segments: Segments
    sources: Tensor
    """int64, shape (n,): positions in T whose hidden state predicts a policy token."""
    targets: Tensor
    """int64, shape (n,): the policy tokens."""

    @classmethod
    def of(cls, rows: Sequence[TrainingRow], device: torch.device | str = "cpu") -> PackedTokens:
        """Pack `rows` in the given order."""
        lengths = [len(row) for row in rows]
        starts = [0, *accumulate(lengths)]
        sources = np.concatenate([start + row.positions - 1 for start, row in zip(starts, rows, strict=False)])
        return cls(
            input_ids=_tensor(np.concatenate([row.ids for row in rows]), device)[None],
            segments=Segments.of(lengths, device),
            sources=_tensor(sources, device),
            targets=_tensor(np.concatenate([row.ids[row.positions] for row in rows]), device),
        )


@dataclass(frozen=True)
class TokenTable:
    """The policy tokens of some rows, flat. Every tensor has shape (n,), row after row."""

    behaviour: Tensor
    """float32."""
    advantages: Tensor
    """float32."""
    sequence_ids: Tensor
    """int64."""
    turn_ids: Tensor
    """int64."""
    columns: Mapping[str, Tensor]
    """float32: the rows' columns."""
    offsets: tuple[int, ...]
    """Row r's tokens are `offsets[r]` to `offsets[r + 1]`."""

    @classmethod
    def of(cls, rows: Sequence[TrainingRow], device: torch.device | str = "cpu") -> TokenTable:
        """The table of `rows`, at least one of them."""
        counts = [len(row.positions) for row in rows]
        return cls(
            behaviour=_tensor(np.concatenate([row.behaviour for row in rows]), device).float(),
            advantages=_tensor(np.concatenate([row.advantages for row in rows]), device).float(),
            sequence_ids=_tensor(np.repeat([row.trajectory for row in rows], counts), device),
            turn_ids=_tensor(np.concatenate([row.turn_ids for row in rows]), device),
            columns={
                name: _tensor(np.concatenate([row.columns[name] for row in rows]), device).float()
                for name in rows[0].columns
            },
            offsets=(0, *accumulate(counts)),
        )

    def index(self, rows: Sequence[int]) -> Tensor:
        """int64: where in the table the tokens of `rows` lie, in the order of `rows`."""
        spans = [torch.arange(self.offsets[row], self.offsets[row + 1]) for row in rows]
        return torch.cat(spans).to(self.behaviour.device)


def _tensor(array: NDArray[np.int64] | NDArray[np.float64], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
