"""KL divergence to a reference policy as a loss, by the estimators k1, k2, k3 of one sampled token (B13).

With u = log pi - log pi_ref: k1 = u, k2 = u^2 / 2, k3 = exp(-u) - 1 + u. Invariant: the value of each estimates
KL(pi || ref) on samples of pi (k1 and k3 exactly in expectation); the *gradient* does not, see `KL`.
Source: methods specification, B13; k3: J. Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.objectives.base import Regulariser, TokenBatch, TokenLoss
from agentrl.objectives.ratio import MAX_LOG_RATIO, Ratio, count, masked
from agentrl.registry import regularisers

K3_CAP = 10.0
"""Largest k3 of a token; beyond it k3 has no gradient (k3+ keeps that of k2)."""

Estimator = Literal["k1", "k2", "k3", "k3+"]


@regularisers.register("kl")
class KL(Regulariser):
    """beta times an estimator of KL(policy || reference), for each policy token.

    Expected gradients on the policy's own samples: `k2` gives that of KL(pi || ref); `k3` that of the forward
    KL(ref || pi); `k3+` has k3's value and k2's gradient. **`k1` in the loss has expected gradient 0**: it looks like a
    penalty and does nothing but add noise, unless `importance_weighted`; it belongs in the reward. Where samples are
    stale, `importance_weighted` multiplies by rho = pi / behaviour with the gradient through it, which makes value and
    gradient those of KL(pi || ref) for k1 and k3 (DeepSeek-V3.2).

    Sums: `kl` (mean of the value before beta), `kl_capped` (k3 only: how often the cap acted), and with
    `importance_weighted` `kl_ratio_clamped`. GRPO's paper has k3 with beta 0.04, verl 0.001.
    """

    needs = frozenset({"reference"})

    def __init__(self, *, beta: float = 0.001, estimator: Estimator = "k3", importance_weighted: bool = False) -> None:
        if not beta >= 0:
            raise ConfigError(f"beta is {beta!r}; it must not be negative")
        self.beta = beta
        self.estimator = one_of("estimator", estimator, ("k1", "k2", "k3", "k3+"))
        self.importance_weighted = importance_weighted

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        log_ratio = masked(batch.logprobs - batch.column("reference"), batch.mask)
        value, capped = _estimate(self.estimator, log_ratio)
        sums = {}
        if self.estimator in ("k3", "k3+"):
            sums["kl_capped"] = count(capped, batch.mask)
        if self.importance_weighted:
            ratio = Ratio.of_tokens(batch)
            value = ratio.value * value
            sums["kl_ratio_clamped"] = count(ratio.clamped, batch.mask)
        sums["kl"] = count(value, batch.mask)
        return TokenLoss(self.beta * value, sums)


def _estimate(estimator: Estimator, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Value of each token and where the cap acted; both of shape (n,)."""
    if estimator == "k1":
        return log_ratio, torch.zeros_like(log_ratio, dtype=torch.bool)
    if estimator == "k2":
        return log_ratio.square() / 2, torch.zeros_like(log_ratio, dtype=torch.bool)
    value, capped = k3(log_ratio)
    if estimator == "k3+":
        square = log_ratio.square() / 2
        value = value.detach() + (square - square.detach())
    return value, capped


def k3(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """exp(-u) - 1 + u, at most `K3_CAP`, of each u, and where the cap acted (bool); both of shape (n,)."""
    # Outside [-20, 20] k3 is above the cap, so clamping both occurrences of u changes nothing but keeps inf - inf out.
    bounded = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    raw = torch.expm1(-bounded) + bounded
    return raw.clamp(max=K3_CAP), raw.detach() > K3_CAP
