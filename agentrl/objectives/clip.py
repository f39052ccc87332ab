"""The clipped ratio objective of PPO and GRPO, token level (B1, steps 3 and 4)."""

from __future__ import annotations

from agentrl.objectives.base import Objective, TokenBatch, TokenLoss
from agentrl.objectives.ratio import ClipGate, Ratio, count, masked, ratio_sums
from agentrl.registry import objectives


@objectives.register("clip")
class ClippedRatio(Objective):
    """-min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A) for each policy token; at rho = 1 it is REINFORCE's gradient.

    Sums: `clip_fraction` (tokens whose gradient the clip removed), `ratio`, `ratio_clamped`, `behaviour_kl`, and with
    `dual_clip` the `dual_clip_fraction`. Source: arXiv 1707.06347, equation 7; 2402.03300, equation 3.
    """

    def __init__(self, *, eps_low: float = 0.2, eps_high: float = 0.2, dual_clip: float | None = None) -> None:
        """`dual_clip`: c > 1 bounds the loss of a token with A < 0 by c |A| (arXiv 1912.09729); off by default."""
        self.gate = ClipGate(eps_low, eps_high, dual_clip)

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        ratio = Ratio.of_tokens(batch)
        gated = self.gate(ratio.value, masked(batch.advantages, batch.mask).detach())
        sums = {"clip_fraction": count(gated.clipped, batch.mask), **ratio_sums(ratio, batch.mask)}
        if self.gate.dual is not None:
            sums["dual_clip_fraction"] = count(gated.dual_clipped, batch.mask)
        return TokenLoss(gated.loss, sums)
