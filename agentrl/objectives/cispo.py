"""CISPO: REINFORCE with a bounded importance weight in place of a clip (B9). No token is dropped for its ratio."""

from __future__ import annotations

from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, TokenBatch, TokenLoss
from agentrl.objectives.ratio import Ratio, count, masked, ratio_sums
from agentrl.registry import objectives


@objectives.register("cispo")
class CISPO(Objective):
    """-sg[clip(rho, is_weight_min, is_weight_max)] A log pi for each policy token.

    The weight is a constant: a token beyond the bound keeps its gradient, with the bound as its weight. The value holds
    log pi, so it cannot be compared with that of `clip`. A token with A < 0 is pushed down however rare it has become,
    with its weight fading.

    Sums: `weight_bounded` (share of tokens where a bound acted), `ratio`, `ratio_clamped`, `behaviour_kl`, and with a
    mask `dropped`. Source: MiniMax-M1, arXiv 2506.13585, equations 4 to 7; `is_weight_max` is `epsilon_high` of TRL
    (5 in the ScaleRL recipe) and 1 + `clip_ratio_high` of verl.
    """

    def __init__(
        self,
        *,
        is_weight_max: float = 5.0,
        is_weight_min: float = 0.0,
        mask_eps_low: float | None = None,
        mask_eps_high: float | None = None,
    ) -> None:
        """`mask_eps_low`, `mask_eps_high`: the mask of the paper's unified form, both off by default. Tokens with A < 0
        and rho < 1 - mask_eps_low, or with A > 0 and rho > 1 + mask_eps_high, get no gradient, as from PPO's clip."""
        if not 0 <= is_weight_min <= 1 <= is_weight_max:
            raise ConfigError(
                f"is_weight_min is {is_weight_min!r}, is_weight_max is {is_weight_max!r}; the weight 1 must lie between"
            )
        for key, value in (("mask_eps_low", mask_eps_low), ("mask_eps_high", mask_eps_high)):
            if value is not None and not value >= 0:
                raise ConfigError(f"{key} is {value!r}; it must not be negative, or null for none")
        self.low, self.high = is_weight_min, is_weight_max
        self.mask_low = None if mask_eps_low is None else 1.0 - mask_eps_low
        self.mask_high = None if mask_eps_high is None else 1.0 + mask_eps_high

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        ratio = Ratio.of_tokens(batch)
        advantages = masked(batch.advantages, batch.mask).detach()
        rho = ratio.value.detach()
        weight = rho.clamp(self.low, self.high)
        sums = {"weight_bounded": count(weight != rho, batch.mask), **ratio_sums(ratio, batch.mask)}
        if self.mask_low is not None or self.mask_high is not None:
            dropped = (advantages < 0) & (rho < (self.mask_low or 0.0))
            if self.mask_high is not None:
                dropped |= (advantages > 0) & (rho > self.mask_high)
            weight = weight.masked_fill(dropped, 0.0)
            sums["dropped"] = count(dropped, batch.mask)
        return TokenLoss(-weight * advantages * masked(batch.logprobs, batch.mask), sums)
