"""Reduction weights: how the losses of a global batch's tokens become one number.

Invariant: the weight of a token depends on the global optimiser batch and its unfiltered mask only, so sums over
micro-batches or ranks add up to the loss of the whole, and masking k tokens later does not raise the step size.
Source: methods specification, section 0 "Reductions"; turn_mean: T1.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, Reduction


def reduction_weights(
    mode: Reduction | str, sequence_ids: Tensor, turn_ids: Tensor, mask: Tensor, *, norm: float | None = None
) -> Tensor:
    """Weight of every token of the global optimiser batch, float32, shape (n,); 0 where `mask` is False.

    `sequence_ids`, `turn_ids`: int64, shape (n,); `mask`: bool, shape (n,), before any rejection. N counts the
    trajectories with a token in `mask`; turns without one do not count. `norm` is C of `seq_mean_token_sum_norm`.
    Raises `ConfigError` for an unknown mode, for that mode without C, and for a C that no other mode would use.
    """
    constant = reduction_constant(mode, norm)
    weights = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    if not bool(mask.any()):
        return weights
    sequences, tokens_per_sequence = _dense(sequence_ids[mask])
    ones = torch.ones(sequences.shape, dtype=torch.float64, device=mask.device)
    match Reduction(mode):
        case Reduction.TOKEN_MEAN:
            share = ones / len(ones)
        case Reduction.SEQ_MEAN_TOKEN_MEAN:
            share = ones / (tokens_per_sequence[sequences] * len(tokens_per_sequence))
        case Reduction.TURN_MEAN:
            turns, tokens_per_turn = _dense(_turn_keys(sequences, turn_ids[mask]))
            share = ones / (tokens_per_turn[turns] * len(tokens_per_turn))
        case Reduction.SEQ_MEAN_TOKEN_SUM | Reduction.SEQ_MEAN_TOKEN_SUM_NORM:
            share = ones / (len(tokens_per_sequence) * constant)
    weights[mask] = share.to(torch.float32)
    return weights


def reduction_constant(mode: Reduction | str, norm: float | None) -> float:
    """C of `seq_mean_token_sum_norm`, 1 for the other modes; raises `ConfigError` as `reduction_weights` does."""
    reduction = Reduction(one_of("loss.reduction", str(mode), [member.value for member in Reduction]))
    if reduction is not Reduction.SEQ_MEAN_TOKEN_SUM_NORM:
        if norm is not None:
            raise ConfigError(f"loss.norm is {norm:g}, but loss.reduction={reduction.value} has no constant")
        return 1.0
    if norm is None:
        raise ConfigError(
            "loss.norm: seq_mean_token_sum_norm needs the constant C, the most policy tokens an episode has"
        )
    if not 0 < norm < float("inf"):
        raise ConfigError(f"loss.norm is {norm!r}; it must be a positive number")
    return norm


def check_reduction(objective: Objective, mode: Reduction | str) -> None:
    """Raise `ConfigError` if `objective` under that reduction is another method than its name says."""
    if objective.reductions is not None and mode not in objective.reductions:
        valid = " or ".join(sorted(objective.reductions))
        raise ConfigError(f"loss.reduction is {str(mode)!r}; objective {type(objective).__name__} needs {valid}")


def _dense(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's index among the distinct keys, shape (n,), and how many tokens each key has."""
    index: Tensor
    counts: Tensor
    _, index, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    return index, counts.to(torch.float64)


def _turn_keys(sequences: Tensor, turns: Tensor) -> Tensor:
    """One number for each (sequence, turn)."""
    return sequences * (turns.max() + 1) + turns
