"""Rollout correction: weights for the gap between the engine that sampled and the learner that trains (B10, B11).

Three policies: mu (the engine's record), pi_prox (the learner's own log-probabilities under the same weights, or those
of now for stale samples) and pi_theta. The ratio of the objective is pi_theta / pi_prox; a correction multiplies the
finished loss of each policy token by a constant made from pi_prox / mu, which makes the two together pi_theta / mu.
`importance` makes weights, `rejection` lets none but some pass. Invariants: weights carry no gradient and are exactly 1
where pi_prox = mu; a masked token is never read; denominators do not change when tokens are rejected, so a batch that
is rejected as a whole has loss 0.

Sources: verl `rollout_corr_helper.py`; IcePop: arXiv 2510.18855; decoupled PPO: AReaL, arXiv 2505.24298, equation 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from agentrl import registry
from agentrl.components import Spec, construct, one_of
from agentrl.errors import ConfigError
from agentrl.objectives.base import Sums, TokenBatch
from agentrl.objectives.pooling import Pool
from agentrl.objectives.ratio import MAX_LOG_RATIO, Level, count, masked
from agentrl.registry import corrections

Measure = Literal["product", "geometric", "worst", "k2", "k3"]


class Correction(ABC):
    """Options are constructor keywords; subclasses are registered by name in `registry.corrections`."""

    @abstractmethod
    def __call__(self, batch: TokenBatch, recorded: Tensor) -> tuple[Tensor, Sums]:
        """The weight of each policy token, shape (n,), at least 0, and diagnostics.

        `batch.behaviour` is pi_prox, `recorded` is mu, both log-probabilities of shape (n,) of a whole minibatch.
        """


@corrections.register("importance")
class ImportanceWeights(Correction):
    """w = pi_prox / mu of a token, turn or sequence, truncated at bounds or, outside of them, replaced by 0.

    Token truncation is TIS, token masking IcePop and, with the lower bound 0, the weight of decoupled PPO; `sequence`
    with `product` is the exact weight of a trajectory: no bias before truncation, and a variance that grows with its
    length. Too small a bound is worse than no correction (see the exact bandit in the tests).

    Sums: `correction_weight` (mean of w), `correction_truncated` or `correction_rejected` (share of tokens where the
    bounds acted), `correction_clamped` (where the clamp of the log-ratio to [-20, 20] acted).
    """

    def __init__(
        self,
        *,
        level: Level = "token",
        measure: Literal["product", "geometric"] = "product",
        mode: Literal["truncate", "mask"] = "truncate",
        low: float = 0.0,
        high: float = 2.0,
        normalise: bool = False,
    ) -> None:
        """`normalise`: divide the truncated weights by their mean over the minibatch's tokens that are scored."""
        self.gap = Gap(level, one_of("measure", measure, ("product", "geometric")))
        self.masks = one_of("mode", mode, ("truncate", "mask")) == "mask"
        self.low, self.high = _bounds(low, high)
        if normalise and self.masks:
            raise ConfigError(
                "correction: normalise=true with mode=mask would give the kept tokens the weight of the rejected ones"
            )
        self.normalise = normalise

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, recorded: Tensor) -> tuple[Tensor, Sums]:
        raw, clamped = self.gap(batch, recorded)
        outside = (raw < self.low) | (raw > self.high)
        weights = torch.where(outside, torch.zeros_like(raw), raw) if self.masks else raw.clamp(self.low, self.high)
        if self.normalise:
            total, tokens = count(weights, batch.mask)
            if total > 0:
                weights = weights * (tokens / total).to(weights.dtype)
        return weights, {
            "correction_weight": count(weights, batch.mask),
            f"correction_{'rejected' if self.masks else 'truncated'}": count(outside, batch.mask),
            "correction_clamped": count(clamped, batch.mask),
        }


@corrections.register("rejection")
class Rejection(Correction):
    """Weight 0 where the measure lies outside [low, high], elsewhere what `weights` gives, by default 1.

    With d = log pi_prox - log mu of the level's policy tokens, `measure` is `product`: exp(sum d); `geometric`:
    exp(mean d); `worst`: every exp(d) must lie within; `k2`: mean of d^2 / 2 and `k3`: mean of exp(d) - 1 - d, both at
    least 0 and bounded above only. `weights` may be a rejection too: a token passes if every one lets it pass.

    Sums: those of `weights`, and with the level and measure in their names `rejected_sequence_geometric` (share of
    tokens) and `clamped_sequence_geometric` (where the clamp of the log-ratio acted).
    """

    def __init__(
        self,
        *,
        level: Level = "sequence",
        measure: Measure = "geometric",
        low: float = 0.0,
        high: float,
        weights: Spec | None = None,
    ) -> None:
        if measure in ("k2", "k3") and low > 0:
            raise ConfigError(f"low is {low!r}; {measure} measures a distance, which has no lower bound but 0")
        self.gap = Gap(level, measure)
        self.low, self.high = _bounds(low, high)
        inner = None if weights is None else construct(registry.corrections, weights)
        if not isinstance(inner, Correction | None):
            raise ConfigError(f"weights={weights!r} is of class {type(inner).__name__}, not an agentrl Correction")
        self.weights = inner

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, recorded: Tensor) -> tuple[Tensor, Sums]:
        inner: tuple[Tensor, Sums] = (torch.ones_like(recorded), {})
        weights, sums = inner if self.weights is None else self.weights(batch, recorded)
        rejected, clamped = self.gap.outside(batch, recorded, self.low, self.high)
        name = f"{self.gap.level}_{self.gap.measure}"
        return torch.where(rejected, torch.zeros_like(weights), weights), {
            **sums,
            f"rejected_{name}": count(rejected, batch.mask),
            f"clamped_{name}": count(clamped, batch.mask),
        }


class Gap:
    """A measure of pi_prox / mu over the tokens of each token, turn or sequence."""

    def __init__(self, level: Level, measure: Measure) -> None:
        self.level = one_of("level", level, ("token", "turn", "sequence"))
        self.measure = one_of("measure", measure, ("product", "geometric", "worst", "k2", "k3"))

    def __call__(self, batch: TokenBatch, recorded: Tensor) -> tuple[Tensor, Tensor]:
        """What is measured where each token belongs, shape (n,), and whether a clamp acted there (bool).

        `worst` gives each token its own ratio; `outside` looks at all of them.
        """
        log = masked(batch.behaviour - recorded, batch.mask)
        if self.measure in ("product", "geometric"):  # what is exponentiated is clamped: the sum or mean, no token
            log = self._pooled(batch, log)
        bounded = log.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        clamped = log.abs() > MAX_LOG_RATIO
        if self.measure == "k2":
            return self._pooled(batch, bounded.square() / 2), clamped
        if self.measure == "k3":
            return self._pooled(batch, torch.expm1(bounded) - bounded), clamped
        return bounded.exp(), clamped

    def outside(self, batch: TokenBatch, recorded: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Whether each token's turn or sequence lies outside [low, high], and where a clamp acted; bool, shape (n,)."""
        measured, clamped = self(batch, recorded)
        if self.measure == "worst" and self.level != "token":
            least, largest = Pool(batch, self.level).extremes(measured)
            return batch.mask & ((least < low) | (largest > high)), clamped
        return batch.mask & ((measured < low) | (measured > high)), clamped

    def _pooled(self, batch: TokenBatch, values: Tensor) -> Tensor:
        if self.level == "token":
            return values
        pool = Pool(batch, self.level)
        return pool.sum(values) if self.measure == "product" else pool.mean(values)


def _bounds(low: float, high: float) -> tuple[float, float]:
    if not 0.0 <= low <= high:
        raise ConfigError(f"correction: low={low!r}, high={high!r}; it must be 0 <= low <= high")
    return low, high
