"""Bounds of a clipped ratio that differ from token to token: the trust region as a slot of its own.

An objective with `bounds` asks them for the interval of each token's ratio and clips as ever. Invariants: bounds are
constants of the batch, without gradient, made from what was known at rollout; low <= 1 <= high and low > 0; where a
rule reduces to a fixed interval its loss is that of the fixed interval bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import tanh

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.objectives.base import TokenBatch
from agentrl.objectives.ratio import MAX_LOG_RATIO, masked
from agentrl.registry import clip_bounds


class Bounds(ABC):
    """Options are constructor keywords; subclasses are registered by name in `registry.clip_bounds`."""

    needs: frozenset[str] = frozenset()
    """Columns that the scoring pass must fill, as of an objective."""

    @abstractmethod
    def __call__(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of each token's ratio, shape (n,), without gradient; finite on masked tokens too."""


@clip_bounds.register("dac")
class DynamicBounds(Bounds):
    """DCPO's dynamic adaptive clipping: what a step may change is the probability, |(rho - 1) p| <= eps (36).

    With q = exp(behaviour): low = 1/2 + 1/2 sqrt(max(1 - 4 eps_low / q, 0)), never below 1/2;
    high = min(1/2 + 1/2 sqrt(1 + 4 eps_high / q), max_ratio), so that rare tokens may grow several times over.
    The objective's `dual_clip` is to be `max_ratio` too. Source: arXiv 2509.02333; lime-RL/DCPO `get_clip_low_high`.
    """

    def __init__(self, *, eps_low: float = 0.16, eps_high: float = 0.2, max_ratio: float = 10.0) -> None:
        if not (eps_low >= 0 and eps_high >= 0 and max_ratio >= 1):
            raise ConfigError(
                f"dac: eps_low={eps_low!r}, eps_high={eps_high!r}, max_ratio={max_ratio!r}; "
                "the first two must not be negative, the last at least 1"
            )
        self.eps_low, self.eps_high, self.max_ratio = eps_low, eps_high, max_ratio

    @torch.no_grad()
    def __call__(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        inverse = (-masked(batch.behaviour, batch.mask)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        low = 0.5 + 0.5 * (1.0 - 4.0 * self.eps_low * inverse).clamp(min=0.0).sqrt()
        high = 0.5 + 0.5 * (1.0 + 4.0 * self.eps_high * inverse).sqrt()
        return low, high.clamp(max=self.max_ratio)


@clip_bounds.register("etr")
class ElasticBounds(Bounds):
    """ETR: a strong advantage, and a group of middling difficulty, get a wider trust region (31).

    eps = clip(e u w, eps_min, eps_max), u = 1 + micro (tanh |A| - tanh 1) and w = 1 + macro (4 v / (b - a)^2 - 1/2),
    where v is the population variance of the group's rewards, which lie in `rewards` = (a, b): for rewards of 0 and 1
    the second is 4 p (1 - p) of the pass rate p. A group of one has w = 1. With `macro=0` the group still acts, through
    the mean of |A| under a z-score (the "implicit" reading).

    The two levels are those of arXiv 2601.03723; **the formulas and defaults are inferred** from its abstract.
    """

    def __init__(
        self,
        *,
        eps_low: float = 0.2,
        eps_high: float = 0.2,
        micro: float = 0.5,
        macro: float = 0.5,
        eps_min: float = 0.05,
        eps_max: float = 0.6,
        rewards: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not 0 <= eps_min <= eps_max < 1:
            raise ConfigError(f"etr: eps_min={eps_min!r}, eps_max={eps_max!r}; it must be 0 <= eps_min <= eps_max < 1")
        if not (eps_low >= 0 and eps_high >= 0 and micro >= 0 and macro >= 0):
            raise ConfigError("etr: eps_low, eps_high, micro and macro must not be negative")
        if not rewards[0] < rewards[1]:
            raise ConfigError(f"etr: rewards={list(rewards)!r} must be the smallest and the largest reward")
        self.eps_low, self.eps_high, self.micro, self.macro = eps_low, eps_high, micro, macro
        self.eps_min, self.eps_max = eps_min, eps_max
        self.most_variance = (rewards[1] - rewards[0]) ** 2 / 4.0

    @torch.no_grad()
    def __call__(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        # float64, so that a factor of exactly 1 gives the very bounds that an objective makes of its own options.
        strength = masked(batch.advantages, batch.mask).double().abs().tanh()
        spread = masked(batch.column("group_variance"), batch.mask).double() / self.most_variance
        factor = 1.0 + self.micro * (strength - tanh(1.0))
        factor = factor * (1.0 + self.macro * (spread.nan_to_num(0.5).clamp(max=1.0) - 0.5))
        low, high = ((eps * factor).clamp(self.eps_min, self.eps_max) for eps in (self.eps_low, self.eps_high))
        return (1.0 - low).to(batch.behaviour.dtype), (1.0 + high).to(batch.behaviour.dtype)
