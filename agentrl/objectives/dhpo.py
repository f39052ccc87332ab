"""DHPO: a token's own ratio and that of its trajectory, each clipped in a range of its own, then mixed (55)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from agentrl.components import one_of
from agentrl.objectives.base import Objective, TokenBatch, TokenLoss
from agentrl.objectives.pooling import Pool
from agentrl.objectives.ratio import ClipGate, Ratio, count, masked, ratio_sums
from agentrl.registry import objectives

FLAT = 1e-6
"""Entropies of a trajectory that differ by less than this (nats, relative above 1) rank nothing."""


@objectives.register("dhpo")
class DHPO(Objective):
    """-min(u A, v A) with u = w r + (1 - w) s, and v the same of the clipped r and s; r is the token's ratio, s its
    trajectory's in straight-through form.

    Clipping comes before mixing, so that an outlier in one branch cannot switch off the other. w = 1 is GRPO's loss,
    w = 0 that of GSPO-token; the paper reduces by `seq_mean_token_mean`.

    Sums: `clip_fraction` (tokens where the clipped mixture is the larger loss; with `branch_min` where either branch
    was), `mix_weight` (mean w), `sequence_ratio` (mean s), `ratio` (mean r), `ratio_clamped`, `behaviour_kl`.

    Source: arXiv 2601.05607, of which the clipping of each branch and both weightings are known from secondary texts;
    **the exact surrogate, the scope of the minimum and maximum (the trajectory) and eps are inferred**.
    """

    def __init__(
        self,
        *,
        weights: Literal["averaged", "entropy"] = "averaged",
        entropy_to: Literal["token", "sequence"] = "token",
        surrogate: Literal["outer_min", "branch_min"] = "outer_min",
        level: Literal["turn", "sequence"] = "sequence",
        eps_low: float = 0.2,
        eps_high: float = 0.2,
        pooled_eps_low: float = 3e-4,
        pooled_eps_high: float = 4e-4,
    ) -> None:
        """`weights`: `averaged` is w = 1/2; `entropy` is the token's entropy under the current policy, without
        gradient, scaled to [0, 1] by the least and largest of its trajectory (1/2 where all are equal); `entropy_to`
        says which ratio uncertain tokens take. `surrogate`: `branch_min` mixes the worse of each branch instead of
        taking the worse of the mixtures. `level`: whose ratio s is. `eps_*` bound r, `pooled_eps_*` s.
        """
        self.entropy_guided = one_of("weights", weights, ("averaged", "entropy")) == "entropy"
        self.to_sequence = one_of("entropy_to", entropy_to, ("token", "sequence")) == "sequence"
        self.by_branch = one_of("surrogate", surrogate, ("outer_min", "branch_min")) == "branch_min"
        self.level = one_of("level", level, ("turn", "sequence"))
        self.unit = "trajectory"
        self.token_gate, self.pooled_gate = ClipGate(eps_low, eps_high), ClipGate(pooled_eps_low, pooled_eps_high)
        if self.entropy_guided:
            self.current = frozenset({"entropy"})

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        own, pooled = Ratio.of_tokens(batch), Ratio.at(self.level, batch)
        advantages = masked(batch.advantages, batch.mask).detach()
        w = self._weights(batch)
        if self.by_branch:
            token, sequence = self.token_gate(own.value, advantages), self.pooled_gate(pooled.value, advantages)
            loss = w * token.loss + (1.0 - w) * sequence.loss
            clipped = token.clipped | sequence.clipped
        else:
            plain = w * own.value + (1.0 - w) * pooled.value
            bounded = w * self.token_gate.bounded(own.value) + (1.0 - w) * self.pooled_gate.bounded(pooled.value)
            gated = self.token_gate.worse(plain, bounded, advantages)
            loss, clipped = gated.loss, gated.clipped
        sums = {
            "clip_fraction": count(clipped, batch.mask),
            "mix_weight": count(w, batch.mask),
            "sequence_ratio": count(pooled.value, batch.mask),
            **ratio_sums(own, batch.mask),
        }
        return TokenLoss(loss, sums)

    def _weights(self, batch: TokenBatch) -> Tensor:
        """w of each token, shape (n,), without gradient."""
        if not self.entropy_guided:
            return torch.full_like(batch.behaviour, 0.5)
        entropy = masked(batch.now("entropy").detach(), batch.mask)
        least, largest = Pool(batch, "sequence").extremes(entropy)
        span = largest - least
        flat = span <= FLAT * largest.clamp(min=1.0)
        share = torch.where(flat, 0.5, (entropy - least) / torch.where(flat, 1.0, span))
        return 1.0 - share if self.to_sequence else share
