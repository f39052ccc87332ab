"""The importance ratio between policy and behaviour, and the gate that bounds what it may do.

A ratio has a level (here: the token) and a gate (here: the two-sided clip with optional dual clip); an objective is a
choice of both. Invariants: masked log-ratios are replaced by 0 before anything reads them, so absurd values change
neither loss nor gradient; what is exponentiated is clamped to [-20, 20]; every clamp and clip counts how often it acts.
Source: PPO, arXiv 1707.06347, equation 7; dual clip: arXiv 1912.09729.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.objectives.base import Sums, TokenBatch

MAX_LOG_RATIO = 20.0
"""exp(20) = 5e8: beyond it a float32 loss carries no information."""


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where `mask`, 0 elsewhere; a masked value has no influence on the gradient, not even as NaN."""
    return torch.where(mask, values, torch.zeros_like(values))


def count(flags: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count for a diagnostic: how many of the tokens in `mask` are flagged, or the sum of their values."""
    return masked(flags.detach().to(torch.float32), mask).sum(), mask.sum().to(torch.float32)


@dataclass(frozen=True)
class Ratio:
    """rho of every token, shape (n,); exactly 1, without gradient, where the mask is False."""

    value: Tensor
    log: Tensor
    """log rho after the clamp."""
    clamped: Tensor
    """bool: where the clamp of the log-ratio acted."""

    @classmethod
    def of_tokens(cls, batch: TokenBatch) -> Ratio:
        """Token level: pi(token) / pi_behaviour(token)."""
        raw = masked(batch.logprobs - batch.behaviour, batch.mask)
        log = raw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return cls(log.exp(), log, raw.detach().abs() > MAX_LOG_RATIO)


@dataclass(frozen=True)
class Gated:
    """The loss of each token behind a gate, shape (n,), and where the gate cut the gradient (bool)."""

    loss: Tensor
    clipped: Tensor
    dual_clipped: Tensor


@dataclass(frozen=True)
class ClipGate:
    """-min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A), and for A < 0 at most -dual A.

    The minimum keeps the gradient of a ratio that has moved to the safe side: A > 0 and rho < 1 - eps_low, or A < 0 and
    rho > 1 + eps_high.
    """

    eps_low: float
    eps_high: float
    dual: float | None = None

    def __post_init__(self) -> None:
        for key in ("eps_low", "eps_high"):
            if not getattr(self, key) >= 0:
                raise ConfigError(f"{key} is {getattr(self, key)!r}; it must not be negative")
        if self.dual is not None and not self.dual > 1:
            raise ConfigError(f"dual_clip is {self.dual!r}; it must be above 1, or null for none")

    def __call__(self, ratio: Tensor, advantages: Tensor) -> Gated:
        """Ratio and advantages, shape (n,), already free of masked values."""
        plain = ratio * advantages
        bounded = ratio.clamp(1.0 - self.eps_low, 1.0 + self.eps_high) * advantages
        clipped = plain.detach() > bounded.detach()
        loss = -torch.where(clipped, bounded, plain)
        if self.dual is None:
            return Gated(loss, clipped, torch.zeros_like(clipped))
        ceiling = -self.dual * advantages
        dual_clipped = (advantages < 0) & (loss.detach() > ceiling)
        return Gated(torch.where(dual_clipped, ceiling, loss), clipped, dual_clipped)


def ratio_sums(ratio: Ratio, mask: Tensor) -> Sums:
    """Diagnostics of every ratio objective, over the tokens in `mask`.

    `ratio`: mean of rho. `ratio_clamped`: how often the log-ratio's clamp acted. `behaviour_kl`: rho - 1 - log rho, an
    estimate of KL(behaviour || policy) in nats that is never negative.
    """
    return {
        "ratio": count(ratio.value, mask),
        "ratio_clamped": count(ratio.clamped, mask),
        "behaviour_kl": count(ratio.value - 1.0 - ratio.log, mask),
    }
