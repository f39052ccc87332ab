"""Effective rank of a trajectory's hidden states, its velocity and its acceleration (VERL).

The effective rank is exp of the entropy of the centred states' normalised singular values. It is taken through the
eigenvalues of the smaller Gram matrix in float64: a rounding error of a squared singular value shows as its root, so
float32 would add a tail of false directions, and bfloat16 more. Source: arXiv 2509.23808 and its code.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-8


def effective_rank(hidden: Tensor) -> Tensor:
    """ER of states (n, width), shape (), float64: 0 for fewer than two, 1 where all are equal."""
    if len(hidden) < 2:
        return torch.zeros((), dtype=torch.float64, device=hidden.device)
    centred = hidden.double()
    centred = centred - centred.mean(0)
    gram = centred @ centred.T if centred.shape[0] <= centred.shape[1] else centred.T @ centred
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / (singular.sum() + TINY)
    return torch.exp(-(share * (share + TINY).log()).sum())


def ranks_along(hidden: Tensor, stride: int, window: int) -> Tensor:
    """ER of the last `window` states of each prefix of t + 1 tokens, t = stride, 2 stride, ... < n; shape (K,)."""
    ends = range(stride + 1, len(hidden) + 1, stride)
    ranks = [effective_rank(hidden[max(0, end - window) : end]) for end in ends]
    return torch.stack(ranks) if ranks else torch.zeros(0, dtype=torch.float64, device=hidden.device)


def rank_dynamics(hidden: Tensor, *, stride: int = 40, window: int = 512) -> Tensor:
    """(ER, ERV, ERA) of one trajectory's policy tokens, states (L_i, width), shape (3,).

    ER is of all states. With m_1 ... m_K the ranks along the trajectory and delta_j = m_j - mean(m_1 ... m_{j-1}):
    ERV = mean of delta_2 ... delta_K and ERA = mean of their differences; both are 0 for K < 3.
    """
    whole = effective_rank(hidden)
    ranks = ranks_along(hidden, stride, window)
    if len(ranks) < 3:
        return torch.stack([whole, torch.zeros_like(whole), torch.zeros_like(whole)])
    before = ranks.cumsum(0)[:-1] / torch.arange(1, len(ranks), device=ranks.device)
    velocity = ranks[1:] - before
    return torch.stack([whole, velocity.mean(), velocity.diff().mean()])
