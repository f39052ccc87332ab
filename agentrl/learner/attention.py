"""Exact attention over packed rows, without a T x T mask, for every transformers model with the attention interface.

Rows lie one after another in a batch of one. A call that carries `segments` runs causal attention inside each row; any
other call is transformers' own SDPA with the mask that transformers made, so the same module serves an engine with a
key-value cache. Importing this module registers both under the name `agentrl`.

Invariant: no token sees another row; a row's output does not depend on what it is packed with, bit for bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agentrl.errors import ModelError

ATTENTION = "agentrl"
"""The value of `attn_implementation`."""

UNSUPPORTED = ("softcap", "position_bias", "s_aux")
"""What some models pass to their attention and packed attention does not compute."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Where each packed row begins and ends."""

    lengths: tuple[int, ...]
    cu_seq_lens: Tensor
    """int32, shape (rows + 1,): cumulative lengths from 0, on the model's device."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Segments:
        """Segments of the given lengths, tokens."""
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(tuple(lengths), ends)

    def forward_arguments(self) -> dict[str, Any]:
        """Keywords for the model's body. The empty 4-D mask keeps transformers from building a T x T one."""
        device = self.cu_seq_lens.device
        positions = torch.cat([torch.arange(length, device=device) for length in self.lengths])
        return {
            "attention_mask": torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),
            "position_ids": positions[None],
            "segments": self,
            "use_cache": False,
        }


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query (1, heads, T, D), key and value (1, kv_heads, T, D).

    Returns (1, T, heads, D). Without `segments` it is transformers' `sdpa`. Raises `ModelError` for what packed
    attention cannot compute.
    """
    if segments is None:
        output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return output, weights
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise ModelError(f"{type(module).__name__} uses {name}, which packed attention does not compute")
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and _varlen_attention is not None:
        return _by_kernel(query, key, value, segments, scaling, sliding_window), None
    return _row_by_row(query, key, value, segments, scaling, sliding_window), None


def _row_by_row(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, window: int | None
) -> Tensor:
    dtype = query.dtype
    if query.device.type == "cpu":  # the bf16 kernel's backward takes half as long again as the fp32 one
        query, key, value = query.float(), key.float(), value.float()
    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        # split, not slices: its backward is one concatenation, not a full-size addition for each row
        for q, k, v in zip(
            *(torch.split(tensor, list(segments.lengths), dim=2) for tensor in (query, key, value)), strict=True
        ):
            length = q.shape[2]
            mask = None if window is None or length <= window else _band(length, window, q.device)
            outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling))
    return torch.cat(outputs, dim=2).to(dtype).transpose(1, 2).contiguous()


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Causal mask of a sliding window: a token sees itself and the `window - 1` tokens before it."""
    full = torch.ones(length, length, dtype=torch.bool, device=device)
    return full.tril() & full.triu(1 - window)


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, window: int | None
) -> Tensor:
    assert _varlen_attention is not None
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    ends, longest = segments.cu_seq_lens, max(segments.lengths)
    left = -1 if window is None else window - 1
    output: Tensor = _varlen_attention(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(left, 0))
    return output[None]


def _find_varlen_attention() -> Any:
    """torch's variable-length attention where it has the interface of torch 2.13 (earlier ones lack windows)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


_varlen_attention = _find_varlen_attention()

AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
