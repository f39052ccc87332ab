"""Masks of a matrix W0: principal and low-magnitude entries, and those made of them for sparse training.

M_princ holds the largest entries of the best rank-k approximation, M_low the smallest of |W0|; M_safe = M_low or not
M_princ is where reinforcement learning was found to act. Invariant: a mask has exactly the entries asked for; among
equal values the first in memory order are taken, so that one matrix has one mask.
Source: arXiv 2511.08567; methods specification, 02, items 6 and 8 (k and alpha inferred there).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from agentrl.probe.spectrum import truncated

MaskName = Literal["safe", "principal", "random"]
RANK_SHARE = 0.1
"""Rank of the approximation over the smaller side of the matrix."""
RANK_CAP = 512


def share_of(count: int, alpha: float) -> int:
    """A fraction of a count: rounded half to even, at least 1."""
    return max(1, round(alpha * count))


def mask_rank(shape: tuple[int, ...], rank: int | None = None) -> int:
    """k of the principal mask: `rank`, else 10 % of the smaller side and at most 512; never more than that side."""
    smaller = min(shape)
    return min(smaller, min(RANK_CAP, share_of(smaller, RANK_SHARE)) if rank is None else rank)


def smallest(values: Tensor, count: int) -> Tensor:
    """The `count` smallest entries, of equal ones the first: bool, the shape of `values`."""
    flat = values.reshape(-1)
    if count >= flat.numel():
        return torch.ones_like(values, dtype=torch.bool)
    limit = flat.kthvalue(count).values
    chosen = flat < limit
    ties = (flat == limit).nonzero()[:, 0]
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.reshape(values.shape)


def low_mask(weights: Tensor, alpha: float) -> Tensor:
    """M_low: the alpha fraction of entries smallest in |W0|."""
    return smallest(weights.abs(), share_of(weights.numel(), alpha))


def principal_mask(approximation: Tensor, alpha: float) -> Tensor:
    """M_princ: the alpha fraction of entries largest in |W0^(k)|, given the rank-k approximation W0^(k)."""
    return smallest(-approximation.abs(), share_of(approximation.numel(), alpha))


def approximation(u: Tensor, s: Tensor, v: Tensor, rank: int) -> Tensor:
    """W^(k) = U_k diag(s_k) V_k^T of a decomposition with at least `rank` columns."""
    return (u[:, :rank] * s[:rank]) @ v[:, :rank].T


def training_mask(
    weights: Tensor, name: MaskName, alpha: float, rank: int | None, generator: torch.Generator
) -> Tensor:
    """The entries of a matrix that sparse training moves: bool, the shape of `weights`.

    `safe`: M_low or not M_princ; `principal`: M_princ alone; `random`: as many entries as `safe` has, drawn by
    `generator` (on the CPU). Zero matrices have no principal entries to protect or to train: all of it is free.
    """
    weights = weights.detach()
    if not bool(weights.any()):
        return torch.ones_like(weights, dtype=torch.bool)
    k = mask_rank(tuple(weights.shape), rank)
    principal = principal_mask(approximation(*truncated(weights, k), k), alpha)
    if name == "principal":
        return principal
    safe = low_mask(weights, alpha) | ~principal
    if name == "safe":
        return safe
    drawn = torch.rand(weights.shape, generator=generator, dtype=torch.float64).to(weights.device)
    return smallest(drawn, int(safe.sum()))
