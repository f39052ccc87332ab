"""RAPO: forward KL from a reference that is flattened where the reward is low (57).

pihat = softmax(phi(R) z_ref), normalised per token, phi rising in the trajectory's reward from phi_min to 1: where the
reference succeeds it is kept, where it fails the policy is drawn towards the uniform distribution, so that it explores.
Invariants: the direction is KL(pihat || policy), which covers what the reference covers; pihat is a constant; phi is of
rewards, never of advantages.

Source: arXiv 2510.03865, objective, reweighting and estimator as quoted by digests; the shape of phi, the coefficients,
the use per token and the clamp are inferred.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.needs import need
from agentrl.objectives.base import Regulariser, Sums, TokenBatch, TokenLoss
from agentrl.objectives.ratio import count, masked
from agentrl.registry import regularisers

LOG_U_RANGE = (-10.0, 5.0)
"""Clamp of log(pihat / policy) of a sampled token: beyond it the estimate has no gradient."""


@regularisers.register("rapo")
class RewardAwareKL(Regulariser):
    """alpha times KL(pihat || policy) of each policy token; RAPO is this, an `entropy` bonus and the clipped ratio.

    It acts where all rewards of a group are equal too: that is the point. Samples of older weights are not reweighted.

    Sums: `rapo/kl` (mean before alpha), and with `sampled` `rapo/clamped` (how often the clamp acted).
    """

    def __init__(
        self,
        *,
        alpha: float = 0.001,
        phi_min: float = 0.5,
        low: float = 0.0,
        high: float = 1.0,
        kl_mode: Literal["sampled", "exact"] = "sampled",
    ) -> None:
        """Options.

        `low`, `high`: the rewards between which phi rises from `phi_min` to 1. `kl_mode`: `sampled` is the paper's
        u log u - u + 1 with u = pihat / policy of the sampled token, unbiased in value under the policy's own samples;
        its gradient leaves the score function out, as k3's does. `exact` sums over the vocabulary, with the exact
        gradient; it costs a pass of the reference in each training pass.
        """
        if not alpha >= 0:
            raise ConfigError(f"alpha is {alpha!r}; it must not be negative")
        if not 0 <= phi_min <= 1:
            raise ConfigError(f"phi_min is {phi_min!r}; it must lie between 0 and 1")
        if not low < high:
            raise ConfigError(f"low is {low!r} and high {high!r}; the range of rewards must not be empty")
        self.alpha = alpha
        self.exact = one_of("kl_mode", kl_mode, ("sampled", "exact")) == "exact"
        name = "forward_kl" if self.exact else "tempered_reference"
        self.divergence = need(name, phi_min=phi_min, low=low, high=high)
        if self.exact:
            self.current = frozenset({self.divergence})
        else:
            self.needs = frozenset({self.divergence})

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        value, sums = self._exact(batch) if self.exact else self._sampled(batch)
        return TokenLoss(self.alpha * value, {"rapo/kl": count(value, batch.mask), **sums})

    def _exact(self, batch: TokenBatch) -> tuple[Tensor, Sums]:
        return masked(batch.now(self.divergence), batch.mask), {}

    def _sampled(self, batch: TokenBatch) -> tuple[Tensor, Sums]:
        raw = masked(batch.column(self.divergence) - batch.logprobs, batch.mask)
        log_u = raw.clamp(*LOG_U_RANGE)
        value = log_u.exp() * (log_u - 1.0) + 1.0
        clamped = (raw.detach() < LOG_U_RANGE[0]) | (raw.detach() > LOG_U_RANGE[1])
        return masked(value, batch.mask), {"rapo/clamped": count(clamped, batch.mask)}
