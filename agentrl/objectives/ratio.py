"""The importance ratio between policy and behaviour, and the gate that bounds what it may do.

A ratio has a level (token, turn, sequence, or the product over a sequence) and a gate (the two-sided clip with optional
dual clip); an objective is a choice of both. Invariants: masked log-ratios are replaced by 0 before anything reads
them, so absurd values change neither loss nor gradient; what is exponentiated is clamped to [-20, 20]: a token's
log-ratio, the mean or the sum of those of a turn or trajectory; every clamp and clip counts how often it acts.
Sources: PPO, arXiv 1707.06347, equation 7; dual clip: arXiv 1912.09729; sequence level and its token form: GSPO,
arXiv 2507.18071, equations 5 to 7 and 13 to 17; turn level: the "segment" ratio of ROLL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.objectives.base import Sums, TokenBatch
from agentrl.objectives.pooling import Pool, Span

MAX_LOG_RATIO = 20.0
"""exp(20) = 5e8: beyond it a float32 loss carries no information."""

Level = Literal["token", "turn", "sequence"]
"""Whose ratio a token has: its own, or the geometric mean over the policy tokens of its turn or trajectory."""


def unit_of(level: Level) -> Literal["token", "trajectory"]:
    """What a micro-batch must hold whole for a ratio of that level (`Component.unit`)."""
    return "token" if level == "token" else "trajectory"


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where `mask`, 0 elsewhere; a masked value has no influence on the gradient, not even as NaN."""
    return torch.where(mask, values, torch.zeros_like(values))


def count(flags: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count for a diagnostic: how many of the tokens in `mask` are flagged, or the sum of their values."""
    return masked(flags.detach().to(torch.float32), mask).sum(), mask.sum().to(torch.float32)


@dataclass(frozen=True)
class Ratio:
    """rho of every token, shape (n,); exactly 1, without gradient, where the mask is False.

    Above token level it is in straight-through form, sg[s] exp(lp - sg[lp]): the value is s of the token's turn or
    trajectory, the gradient in each log-probability is s for the token's own and 0 for all others, so that a token's
    advantage and weight act on that token alone. Summed over a trajectory with one advantage and one weight it is the
    gradient of s itself, times the number of tokens that the mean divides by.
    """

    value: Tensor
    log: Tensor
    """log rho after the clamp."""
    clamped: Tensor
    """bool: where the clamp acted, which leaves no gradient."""
    own: Tensor
    """The token's own clamped log-ratio whatever the level, without gradient; for diagnostics."""

    @classmethod
    def at(cls, level: Level, batch: TokenBatch) -> Ratio:
        """The ratio of each token's turn or trajectory, or its own."""
        if level == "token":
            return cls.of_tokens(batch)
        return cls._pooled(batch, level, total=False)

    @classmethod
    def of_tokens(cls, batch: TokenBatch) -> Ratio:
        """Token level: pi(token) / pi_behaviour(token)."""
        raw = masked(batch.logprobs - batch.behaviour, batch.mask)
        log = raw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return cls(log.exp(), log, raw.detach().abs() > MAX_LOG_RATIO, log.detach())

    @classmethod
    def product(cls, batch: TokenBatch) -> Ratio:
        """pi(trajectory) / pi_behaviour(trajectory): the product of its tokens' ratios."""
        return cls._pooled(batch, "sequence", total=True)

    @classmethod
    def _pooled(cls, batch: TokenBatch, span: Span, *, total: bool) -> Ratio:
        raw = masked(batch.logprobs - batch.behaviour, batch.mask)
        constant = raw.detach()
        pool = Pool(batch, span)
        pooled = pool.sum(constant) if total else pool.mean(constant)
        log = pooled.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        clamped = pooled.abs() > MAX_LOG_RATIO
        through = torch.where(clamped, torch.zeros_like(raw), raw - constant)  # 0, with the gradient of the token
        return cls(log.exp() * through.exp(), log, clamped, constant.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


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

    def __call__(self, ratio: Tensor, advantages: Tensor, bounds: tuple[Tensor, Tensor] | None = None) -> Gated:
        """Ratio and advantages, shape (n,), already free of masked values; `bounds` of each token replace eps."""
        return self.worse(ratio, self.bounded(ratio, bounds), advantages)

    def bounded(self, ratio: Tensor, bounds: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The clipped ratio."""
        low, high = bounds or (1.0 - self.eps_low, 1.0 + self.eps_high)
        return ratio.clamp(low, high)  # type: ignore[arg-type]

    def worse(self, ratio: Tensor, bounded: Tensor, advantages: Tensor) -> Gated:
        """The larger loss of the ratio as it is and as it was `bounded`, then the dual clip."""
        plain, bounded = ratio * advantages, bounded * advantages
        clipped = plain.detach() > bounded.detach()
        loss = -torch.where(clipped, bounded, plain)
        if self.dual is None:
            return Gated(loss, clipped, torch.zeros_like(clipped))
        ceiling = -self.dual * advantages
        dual_clipped = (advantages < 0) & (loss.detach() > ceiling)
        return Gated(torch.where(dual_clipped, ceiling, loss), clipped, dual_clipped)


def ratio_sums(ratio: Ratio, mask: Tensor) -> Sums:
    """Diagnostics of every ratio objective, over the tokens in `mask`.

    `ratio`: mean of rho at its level. `ratio_clamped`: how often its clamp acted. `behaviour_kl`: r - 1 - log r of the
    single token, whatever the level, an estimate of KL(behaviour || policy) in nats that is never negative.
    """
    return {
        "ratio": count(ratio.value, mask),
        "ratio_clamped": count(ratio.clamped, mask),
        "behaviour_kl": count(torch.expm1(ratio.own) - ratio.own, mask),
    }
