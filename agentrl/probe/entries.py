"""What happened to single entries of a weight: which changed as bfloat16 sees them, which only float32 knows of.

A training run keeps float32 masters; a model is served and published in bfloat16, where an update below half a unit in
the last place of its weight disappears. Invariant: what is unchanged in float32 is unchanged in bfloat16, so
`sparsity(fp32) <= sparsity(bf16)` holds exactly. Source: arXiv 2511.08567 and 2606.07082; methods specification, 02.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ETA = 1e-3
"""Relative tolerance of equality: below 2^-9, hence the same as equality of bits, as distinct normal bfloat16 numbers
differ by 2^-8 of the larger one or more."""
_BF16_PRECISION = 8
"""Bits of a bfloat16 significand."""
_EXPONENT_BITS = 0x7F800000
_SMALLEST_NORMAL = 2.0**-126
"""Below it the spacing stays what it is there."""


def unchanged(before: Tensor, after: Tensor, eta: float = ETA) -> Tensor:
    """Where |a - b| <= eta max(|a|, |b|) once both are bfloat16: bool, the shape of both.

    Never an absolute tolerance: that takes every update of a small weight for none.
    """
    a, b = before.bfloat16().float(), after.bfloat16().float()
    return (a - b).abs() <= eta * torch.maximum(a.abs(), b.abs())


def update_mask(before: Tensor, after: Tensor) -> Tensor:
    """M: where the two differ as bfloat16 numbers (-0 equals 0): bool, the shape of both."""
    return before.bfloat16() != after.bfloat16()


def half_ulp(weights: Tensor) -> Tensor:
    """Half of bfloat16's spacing at each weight: float64, the shape of `weights` (taken as float32)."""
    powers = (weights.float().view(torch.int32) & _EXPONENT_BITS).view(torch.float32)  # 2^floor(log2 |w|)
    return powers.double().clamp(min=_SMALLEST_NORMAL) * 2.0**-_BF16_PRECISION


def hidden_updates(before: Tensor, after: Tensor) -> Tensor:
    """Where 0 < |after - before| < half a unit in the last place of bfloat16(before): gate III, bool."""
    change = (after.double() - before.double()).abs()
    return (change > 0) & (change < half_ulp(before))


def ratio(part: float, whole: float) -> float:
    """`part / whole`; NaN where there is nothing to take a part of."""
    return part / whole if whole else math.nan
