"""TOPR: REINFORCE for off-policy data that tapers what is negative and has become unlikely (B12)."""

from __future__ import annotations

from typing import Literal

import torch

from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, TokenBatch, TokenLoss
from agentrl.objectives.ratio import Ratio, count, masked, ratio_sums
from agentrl.registry import objectives


@objectives.register("topr")
class TOPR(Objective):
    """-w A log pi for each policy token, with w = 1 if A >= 0, else sg[min(pi(trajectory) / mu(trajectory), 1)].

    What succeeded is imitated without correction, also where it is unlikely by now; what failed fades as it becomes
    unlikely, so the loss is bounded below without a KL term. A is meant to be the signed reward R - c of the estimator
    `reward`, and its sign is the one that decides: with a group statistic, or with credit of turns, where one
    trajectory has tokens of both signs, it is another method than the paper's. Under `seq_mean_token_sum` a trajectory
    has the loss -w R log pi(trajectory).

    Sums: `taper` (mean weight of the tokens with A < 0), `ratio` (of the level), `ratio_clamped`, `behaviour_kl`.
    Source: arXiv 2503.14286; `level="token"` with each token's own ratio is the variant of ROLL.
    """

    def __init__(
        self,
        *,
        positive: tuple[float, float] = (1.0, 1.0),
        negative: tuple[float, float] = (0.0, 1.0),
        level: Literal["token", "sequence"] = "sequence",
    ) -> None:
        """`positive`, `negative`: the interval [a, b] into which the ratio is clipped to be the weight, for either sign
        of A; (1, 1) is no correction at all."""
        for key, (low, high) in (("positive", positive), ("negative", negative)):
            if not 0 <= low <= high:
                raise ConfigError(f"{key} is {[low, high]!r}; it must be two numbers a, b with 0 <= a <= b")
        self.positive, self.negative = positive, negative
        self.level = one_of("level", level, ("token", "sequence"))
        self.unit = "token" if level == "token" else "trajectory"

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        ratio = Ratio.of_tokens(batch) if self.level == "token" else Ratio.product(batch)
        advantages = masked(batch.advantages, batch.mask).detach()
        rho, negative = ratio.value.detach(), advantages < 0
        weight = torch.where(negative, rho.clamp(*self.negative), rho.clamp(*self.positive))
        sums = {"taper": count(weight, batch.mask & negative), **ratio_sums(ratio, batch.mask)}
        return TokenLoss(-weight * advantages * masked(batch.logprobs, batch.mask), sums)
