"""Statistics over the tokens of a turn or trajectory, within one flat batch, given back to each of these tokens.

Invariants: a masked token is in no statistic and is given 0; what lies where in the batch changes nothing but rounding.
The tokens of a turn or trajectory must all be in the batch: who pools says so by its `unit`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from agentrl.objectives.base import TokenBatch

Span = Literal["turn", "sequence"]


class Pool:
    """The tokens of a batch by turn or by trajectory. Methods take values of shape (n,) and give back shape (n,)."""

    def __init__(self, batch: TokenBatch, span: Span) -> None:
        self.mask = batch.mask
        keys = batch.sequence_ids
        if span == "turn" and len(keys):
            keys = keys * (batch.turn_ids.max() + 1) + batch.turn_ids
        _, self._index = torch.unique(keys, return_inverse=True)
        self._size = int(self._index.max()) + 1 if len(keys) else 0

    def sum(self, values: Tensor) -> Tensor:
        """Added up in float64, so that a long trajectory loses nothing and the order shows in the last bit at most."""
        kept = torch.where(self.mask, values, torch.zeros_like(values)).double()
        total = torch.zeros(self._size, dtype=torch.float64, device=values.device).index_add(0, self._index, kept)
        return self._spread(total).to(values.dtype)

    def mean(self, values: Tensor) -> Tensor:
        """Over the tokens in the mask."""
        tokens = self.sum(torch.ones_like(values, dtype=torch.float64)).clamp(min=1.0)
        return (self.sum(values.double()) / tokens).to(values.dtype)

    def extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest."""
        return self._extreme(values, "amin", float("inf")), self._extreme(values, "amax", -float("inf"))

    def _extreme(self, values: Tensor, kind: str, start: float) -> Tensor:
        kept = torch.where(self.mask, values, torch.full_like(values, start))
        empty = torch.full((self._size,), start, dtype=values.dtype, device=values.device)
        return self._spread(empty.scatter_reduce(0, self._index, kept, kind))

    def _spread(self, found: Tensor) -> Tensor:
        values = found[self._index]
        return torch.where(self.mask, values, torch.zeros_like(values))
