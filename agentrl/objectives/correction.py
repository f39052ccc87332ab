"""Rollout correction: weights for the gap between the engine that sampled and the learner that trains (B10).

Three policies: mu (the engine's record), pi_prox (the learner's own log-probabilities under the same weights, or those
of now for stale samples) and pi_theta. The ratio of the objective is pi_theta / pi_prox; a correction multiplies the
finished loss of each policy token by a constant made from pi_prox / mu. Invariants: weights carry no gradient;
denominators do not change when tokens are rejected.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from agentrl.objectives.base import Sums, TokenBatch


class Correction(ABC):
    """Options are constructor keywords; subclasses are registered by name in `registry.corrections`."""

    @abstractmethod
    def __call__(self, batch: TokenBatch, recorded: Tensor) -> tuple[Tensor, Sums]:
        """The weight of each policy token, shape (n,), at least 0, and diagnostics.

        `batch.behaviour` is pi_prox, `recorded` is mu, both log-probabilities of shape (n,) of a whole minibatch.
        """
