"""Key-value cache in slots: one row a sequence, rows that decode kept together at the front.

Every layer has one preallocated tensor for keys and one for values, (rows, heads, columns, width). A forward pass
works on a range of rows as a view, so that nothing is copied while rows decode; a row that joins or leaves the range
changes places with another. Row r holds the keys of `ids[r, :lengths[r]]`; what lies behind is masked.

Invariant: `lengths[r]` columns of row r are the keys and values of exactly the ids recorded for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

COLUMN_STEP = 64
"""Columns are allocated in multiples of this ..."""
GROWTH = 1.5
"""... and at least this factor at a time, so that growing copies each key a bounded number of times."""
FIRST_ROWS = 8


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values; writes a forward pass's new ones where the store's plan says."""

    def __init__(self, store: SlotStore) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.store = store

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = self.store.allocate(key_states), self.store.allocate(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows, columns, visible = self.store.plan
        for stored, new in ((self.keys, key_states), (self.values, value_states)):
            stored[rows, :, columns] = new.transpose(1, 2).to(stored.dtype)
        span = self.store.span
        return self.keys[span, :, :visible], self.values[span, :, :visible]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.store.plan[2], 0

    def get_seq_length(self) -> int:
        return 0  # positions and masks are given explicitly at each call

    def get_max_length(self) -> int:
        return -1


class SlotStore:
    """The cache of one model, and which ids each row holds."""

    def __init__(self, num_layers: int, max_rows: int, device: torch.device) -> None:
        self.max_rows = max_rows
        self.device = device
        self.num_layers = num_layers
        self.plan: tuple[Tensor, Tensor, int]
        self.span = slice(0, 0)
        self.clear()

    def clear(self) -> None:
        """Forget all rows and give the memory back."""
        self.layers = [_Layer(self) for _ in range(self.num_layers)]
        self.cache = Cache(layers=list(self.layers))
        self.ids = np.full((0, 0), -1, dtype=np.int64)
        self.lengths = np.zeros(0, dtype=np.int64)

    def allocate(self, states: Tensor) -> Tensor:
        """A zeroed tensor for a layer whose new states look like `states`; zero, since a masked NaN is still NaN."""
        rows, columns = self.ids.shape
        return torch.zeros(
            rows, states.shape[1], columns, states.shape[3], dtype=states.dtype, device=self.device
        )  # (rows, heads, columns, width)

    @torch.inference_mode()
    def reserve(self, rows: int, columns: int) -> None:
        """Make room for `rows` rows of `columns` ids and one column to spare."""
        have_rows, have_columns = self.ids.shape
        if rows <= have_rows and columns < have_columns:
            return
        if rows > have_rows:
            rows = min(max(rows, 2 * have_rows, FIRST_ROWS), self.max_rows)
        if columns >= have_columns:
            columns = max(columns + 1, int(have_columns * GROWTH))
            columns = -(-columns // COLUMN_STEP) * COLUMN_STEP
        rows, columns = max(rows, have_rows), max(columns, have_columns)
        ids, lengths = np.full((rows, columns), -1, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        ids[:have_rows, :have_columns], lengths[:have_rows] = self.ids, self.lengths
        self.ids, self.lengths = ids, lengths
        used = int(lengths.max(initial=0))
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys = self._grown(layer.keys, have_rows, used)
                layer.values = self._grown(layer.values, have_rows, used)

    def _grown(self, old: Tensor, rows: int, columns: int) -> Tensor:
        new = self.allocate(old)
        new[:rows, :, :columns] = old[:, :, :columns]
        return new

    @torch.inference_mode()
    def swap(self, first: int, second: int) -> None:
        """Exchange two rows."""
        if first == second:
            return
        pair, exchanged = [first, second], [second, first]
        columns = int(self.lengths[pair].max())
        for tensor in self._tensors():
            if self.lengths[second] == 0:
                tensor[second, :, :columns] = tensor[first, :, :columns]
            elif self.lengths[first] == 0:
                tensor[first, :, :columns] = tensor[second, :, :columns]
            else:
                kept = tensor[first, :, :columns].clone()
                tensor[first, :, :columns] = tensor[second, :, :columns]
                tensor[second, :, :columns] = kept
        self.ids[pair] = self.ids[exchanged]
        self.lengths[pair] = self.lengths[exchanged]

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give row `target` the first `length` ids of row `source`, keys and values included."""
        for tensor in self._tensors():
            tensor[target, :, :length] = tensor[source, :, :length]
        self.ids[target, :length] = self.ids[source, :length]
        self.lengths[target] = length

    def shared(self, ids: np.ndarray, rows: int) -> np.ndarray:
        """How many of the first ids each of the first `rows` rows has in common with `ids`."""
        columns = min(len(ids), self.ids.shape[1])
        equal = self.ids[:rows, :columns] == ids[:columns]
        first = np.where(equal.all(axis=1), columns, equal.argmin(axis=1)) if columns else np.zeros(rows, np.int64)
        common: np.ndarray = np.minimum(first, self.lengths[:rows])
        return common

    def _tensors(self) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in (layer.keys, layer.values) if tensor is not None]

    def forward(self, model: Any, start: int, new: list[np.ndarray]) -> Tensor:
        """Append `new[i]` to row `start + i` through the model; returns the last logits, (len(new), vocabulary).

        Shorter rows are padded on the left, so that every row's last token stands last. A padding token sees column 0
        and writes to the first column behind all rows, which the next real token overwrites.
        """
        count, width = len(new), max(len(ids) for ids in new)
        lengths = self.lengths[start : start + count]
        totals = lengths + np.array([len(ids) for ids in new])
        visible = int(totals.max())
        self.reserve(start + count, visible)
        offsets = np.arange(width) - width + totals[:, None]  # column of each query, below `lengths` for padding
        real = offsets >= lengths[:, None]
        tokens = np.zeros((count, width), dtype=np.int64)
        tokens[real] = np.concatenate(new)
        rows = np.arange(start, start + count)
        self.ids[rows[:, None].repeat(width, 1)[real], offsets[real]] = tokens[real]
        positions = np.where(real, offsets, 0)
        mask = np.arange(visible)[None, None, :] <= positions[:, :, None]

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        self.span = slice(start, start + count)
        self.plan = (tensor(rows)[:, None], tensor(np.where(real, offsets, visible)), visible)
        output = model(
            input_ids=tensor(tokens),
            attention_mask=tensor(mask)[:, None],
            position_ids=tensor(positions),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.lengths[start : start + count] = totals
        logits: Tensor = output.logits[:, -1]
        return logits
