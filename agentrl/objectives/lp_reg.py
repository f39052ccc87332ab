"""Lp-Reg: keeps promising rare tokens alive by a pull towards the policy that sampled, with its noise removed (40)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.needs import need
from agentrl.objectives.base import Objective, TokenBatch, TokenLoss
from agentrl.objectives.kl import k3
from agentrl.objectives.ratio import ClipGate, Ratio, count, masked, ratio_sums
from agentrl.registry import objectives


@objectives.register("lp_reg")
class LpReg(Objective):
    """The clipped ratio with wide bounds, and for the rarest tokens with A < 0: -A rho + beta k3(proxy, policy).

    The proxy is the distribution that sampled without the tokens whose probability is below `kappa` times the largest,
    renormalised; k3 = exp(d) - 1 - d with d = log proxy - log pi, at most 10. It acts on candidates that are less
    likely now than in the proxy, on which the clip does not act; a token that the proxy leaves out is noise and never
    pulled. Candidates are the `fraction` of the minibatch's tokens with A < 0 that have the lowest log-probability now,
    and none if that is one token or fewer. The authors' code takes them of each micro-batch; here they do not depend on
    how batches are cut. On-policy the pull is small; it grows with the optimiser steps of a batch.

    Sums: `clip_fraction`, `protected` (share of tokens that the pull acted on), `proxy_kl` (mean k3 of these),
    `kl_capped`, `ratio`, `ratio_clamped`, `behaviour_kl`. Source: arXiv 2510.03222; CarlanLark/Lp-Reg-dev
    `compute_policy_loss_lp_reg`, `apply_min_p`. The proxy is that of the temperature of the rollout, 1 in the paper.
    """

    prepares: ClassVar[bool] = True

    def __init__(
        self,
        *,
        beta: float = 1.0,
        kappa: float = 0.02,
        fraction: float = 0.01,
        eps_low: float = 1.0,
        eps_high: float = 9.0,
    ) -> None:
        if not beta >= 0:
            raise ConfigError(f"beta is {beta!r}; it must not be negative")
        for key, value in (("kappa", kappa), ("fraction", fraction)):
            if not 0 < value <= 1:
                raise ConfigError(f"{key} is {value!r}; it must be above 0 and at most 1")
        self.beta, self.fraction = beta, fraction
        self.gate = ClipGate(eps_low, eps_high)
        self.proxy = need("min_p_proxy", kappa=kappa)
        self.needs = frozenset({self.proxy})

    def prepare(self, batch: TokenBatch) -> dict[str, Tensor]:
        """`lp_reg_candidate`: 1 for the rarest tokens with A < 0, shape (n,)."""
        negative = batch.mask & (batch.advantages < 0)
        amount = int(self.fraction * int(negative.sum()))
        if amount < 2:
            return {"lp_reg_candidate": torch.zeros_like(batch.behaviour)}
        threshold = batch.logprobs[negative].kthvalue(amount).values  # ties are in, whatever their order
        return {"lp_reg_candidate": (negative & (batch.logprobs <= threshold)).to(batch.behaviour.dtype)}

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        ratio = Ratio.of_tokens(batch)
        advantages = masked(batch.advantages, batch.mask).detach()
        gated = self.gate(ratio.value, advantages)
        log_ratio = masked(batch.logprobs - batch.column(self.proxy).detach(), batch.mask)
        active = batch.mask & (batch.column("lp_reg_candidate") > 0) & (log_ratio.detach() < 0)
        pull, capped = k3(masked(log_ratio, active))
        loss = torch.where(active, -ratio.value * advantages + self.beta * pull, gated.loss)
        sums = {
            "clip_fraction": count(gated.clipped & ~active, batch.mask),
            "protected": count(active, batch.mask),
            "proxy_kl": count(pull, active),
            "kl_capped": count(capped, batch.mask),
            **ratio_sums(ratio, batch.mask),
        }
        return TokenLoss(loss, sums)
