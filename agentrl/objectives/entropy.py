"""An entropy bonus: the policy is paid for staying undecided."""

from __future__ import annotations

from agentrl.errors import ConfigError
from agentrl.objectives.base import Regulariser, TokenBatch, TokenLoss
from agentrl.objectives.ratio import masked
from agentrl.registry import regularisers


@regularisers.register("entropy")
class EntropyBonus(Regulariser):
    """-coefficient times the entropy of the whole distribution at each policy token, by its exact gradient.

    The learner logs the mean as `entropy`. A negative coefficient makes it a penalty.
    """

    current = frozenset({"entropy"})

    def __init__(self, *, coefficient: float = 0.001) -> None:
        """`coefficient` in units of the loss a nat; verl's default is 0.001."""
        if coefficient == 0:
            raise ConfigError("coefficient is 0; leave the entropy regulariser out")
        self.coefficient = coefficient

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        return TokenLoss(-self.coefficient * masked(batch.now("entropy"), batch.mask))
