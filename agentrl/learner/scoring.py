"""The scoring pass: one reading of a batch by each of policy, reference and critic, for exactly what was asked.

Invariants: a model that no quantity asks about is not run; whole logits never exist, only chunks of them; nothing here
has a gradient, and nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agentrl.learner.batch import PackedTokens, TokenTable, TrainingRow
from agentrl.learner.critic import Critic
from agentrl.learner.policy import Policy, Reader
from agentrl.learner.quantities import Columns, Quantity


@dataclass
class Scored:
    """What a scoring pass found."""

    tokens: dict[str, Tensor] = field(default_factory=dict)
    """Need -> a number a policy token, float32, shape (n,) in the order of the table; 0 for rows that were left out."""
    trajectories: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """Need -> trajectory -> what was computed of it, shape () or (d,)."""


def score(
    policy: Policy,
    rows: Sequence[TrainingRow],
    table: TokenTable,
    bins: Sequence[Sequence[int]],
    quantities: Sequence[Quantity],
    *,
    temperature: float,
    known: Columns,
    critic: Critic | None = None,
) -> Scored:
    """Score the rows of `bins`; `known` are columns of the table that quantities may read, shape (n,).

    A critic that shares the policy's trunk is read in the policy's pass.
    """
    found = Scored()
    for item in quantities:
        if item.of_tokens:
            found.tokens[item.name] = torch.zeros_like(table.behaviour)
        else:
            found.trajectories[item.name] = {}
    ends: dict[int, int] = {}
    for row in rows:
        ends[row.trajectory] = max(ends.get(row.trajectory, -1), int(row.tokens[-1]))
    for model, reference, read in _passes(policy, critic):
        wanted = [item for item in quantities if item.of in read]
        if not wanted:
            continue
        states = _States(rows, [index for members in bins for index in members])
        with model.reading(reference=reference) as reader:
            for members in bins:
                part = _Part(reader, [rows[index] for index in members], table.index(list(members)), temperature)
                part.read_tokens(wanted, found, known)
                part.read_prompts(wanted, found)
                if critic is not None:
                    part.read_values(wanted, found, critic, ends)
                for trajectory, hidden in states.complete(part) if _of(wanted, "states") else ():
                    for item in _of(wanted, "states"):
                        found.trajectories[item.name][trajectory] = item(hidden).float()
    return found


def _passes(policy: Policy, critic: Critic | None) -> list[tuple[Policy, bool, set[str]]]:
    """Which model to read, whether as the reference, and whose quantities that yields."""
    if critic is None or critic.trunk is None:
        return [(policy, False, {"policy", "critic"}), (policy, True, {"reference"})]
    return [(policy, False, {"policy"}), (policy, True, {"reference"}), (critic.trunk, False, {"critic"})]


def _of(quantities: Sequence[Quantity], source: str) -> list[Quantity]:
    return [item for item in quantities if item.source == source]


class _Part:
    """One packed sequence of rows."""

    def __init__(self, reader: Reader, rows: list[TrainingRow], index: Tensor, temperature: float) -> None:
        self.reader, self.rows, self.index, self.temperature = reader, rows, index, temperature
        self.packed = PackedTokens.of(rows, index.device)
        self.hidden = reader.hidden(self.packed)

    def read_tokens(self, quantities: Sequence[Quantity], found: Scored, known: Columns) -> None:
        wanted = _of(quantities, "logits")
        if not wanted:
            return
        predicting = self.hidden.index_select(0, self.packed.sources)
        for chunk, logits in self.reader.logits(predicting, self.temperature):
            place = self.index[chunk]
            columns = {name: column[place] for name, column in known.items()}
            for item in wanted:
                found.tokens[item.name][place] = item(logits, self.packed.targets[chunk], columns).float()

    def read_prompts(self, quantities: Sequence[Quantity], found: Scored) -> None:
        wanted = _of(quantities, "prompt")
        for start, row in self._starts() if wanted else ():
            if row.trajectory in found.trajectories[wanted[0].name]:
                continue  # a later row of the same trajectory
            length = int(row.positions[0])
            ids = self.packed.input_ids[0, start + 1 : start + length]
            logprobs = torch.zeros(len(ids), device=ids.device)
            for chunk, logits in self.reader.logits(self.hidden[start : start + length - 1], self.temperature):
                logprobs[chunk] = logits.gather(1, ids[chunk, None])[:, 0] - logits.logsumexp(-1)
            for item in wanted:
                found.trajectories[item.name][row.trajectory] = item(logprobs).float()

    def read_values(self, quantities: Sequence[Quantity], found: Scored, critic: Critic, ends: dict[int, int]) -> None:
        """`ends`: each trajectory's last policy token, by its place among all of them."""
        for item in _of(quantities, "values"):
            found.tokens[item.name][self.index] = item(critic.values(self.hidden.index_select(0, self.packed.sources)))
        for item in _of(quantities, "value_after"):
            for start, row in self._starts():
                if row.tokens[-1] == ends[row.trajectory]:
                    state = self.hidden[start + int(row.positions[-1])]
                    found.trajectories[item.name][row.trajectory] = item(critic.values(state))

    def _starts(self) -> Iterator[tuple[int, TrainingRow]]:
        start = 0
        for row in self.rows:
            yield start, row
            start += len(row)

    def states(self) -> Iterator[tuple[TrainingRow, Tensor]]:
        """Hidden states of each row's own policy tokens, float32, shape (n, width)."""
        for start, row in self._starts():
            places = torch.from_numpy(row.positions).to(self.hidden.device) + start
            yield row, self.hidden.index_select(0, places).float()


class _States:
    """Collects the states of a trajectory's rows until all are there."""

    def __init__(self, rows: Sequence[TrainingRow], scored: Sequence[int]) -> None:
        self.left: dict[int, int] = {}
        for index in scored:
            self.left[rows[index].trajectory] = self.left.get(rows[index].trajectory, 0) + 1
        self.pending: dict[int, list[tuple[int, Tensor]]] = {}

    def complete(self, part: _Part) -> Iterator[tuple[int, Tensor]]:
        """Trajectories that `part` completes, with their states in the order of their tokens, shape (L_i, width)."""
        for row, hidden in part.states():
            self.pending.setdefault(row.trajectory, []).append((int(row.tokens[0]), hidden))
            self.left[row.trajectory] -= 1
            if not self.left[row.trajectory]:
                pieces = sorted(self.pending.pop(row.trajectory), key=lambda piece: piece[0])
                yield row.trajectory, torch.cat([piece for _, piece in pieces])
