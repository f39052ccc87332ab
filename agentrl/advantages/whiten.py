"""Whitening: the final credit of a batch gets mean 0 and variance 1 (B4, B5, B6).

Statistics are over the whole batch of a step, never over a micro-batch. Invariants: tokens without loss (masked, or of
dropped members) are in no statistic; at most one value, or values that are all equal, give exactly 0; a group without
signal of its own gets the constant -mean/std, which is the method (B4), not a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform
from agentrl.advantages.statistics import is_equal
from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.registry import advantages

Unit = Literal["token", "turn", "trajectory"]


@advantages.register("whiten")
class Whiten(Transform):
    """A_k <- (A_k - mean) / sqrt(var + eps), mean and variance over all units of the batch."""

    stage = Stage.NORMALISE
    scales = True

    def __init__(self, *, unit: Unit = "token", ddof: Literal[0, 1] = 1, eps: float = 1e-8) -> None:
        """`unit`: what counts once in the statistics; all tokens are shifted and scaled by them.

        token: a long trajectory counts L_i times (REINFORCE++, PPO). turn: the advantage at each turn's last token, for
        turn-wise GAE. trajectory: the mean over each trajectory's tokens. `ddof`: 1 in verl, 0 in OpenRLHF.
        """
        self.unit = one_of("unit", unit, ("token", "turn", "trajectory"))
        self.ddof = one_of("ddof", ddof, (0, 1))
        if not eps > 0:
            raise ConfigError(f"eps is {eps!r}; it must be above 0")
        self.eps = eps

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        pooled = np.concatenate([np.zeros(0), *(values for credit in groups for values in self._values(credit))])
        mean, scale = self._statistics(pooled)
        self.metrics = {"whiten_mean": mean, "whiten_scale": scale}
        return [
            credit.with_token_advantages([(values - mean) * scale for values in credit.token_advantages()])
            for credit in groups
        ]

    def _statistics(self, pooled: Array) -> tuple[float, float]:
        """Mean, and what to multiply the distance from it by: 0 where there is nothing to tell apart."""
        if len(pooled) < 2:
            return 0.0, 0.0
        mean, variance = pooled.mean(), pooled.var(ddof=self.ddof)
        if is_equal(mean, np.sqrt(variance)):
            return float(mean), 0.0
        return float(mean), float(1.0 / np.sqrt(variance + self.eps))

    def _values(self, credit: Credit) -> Iterator[Array]:
        """What each kept member gives to the statistics."""
        for index, (table, values) in enumerate(zip(credit.tables, credit.token_advantages(), strict=True)):
            if index in credit.dropped:
                continue
            masked = credit.masked.get(index)
            counted = np.ones(len(values), dtype=np.bool_) if masked is None else ~masked
            if self.unit == "turn":
                ends = table.ends[table.lengths > 0]
                yield values[ends][counted[ends]]
            elif self.unit == "trajectory":
                yield values[counted].mean(keepdims=True) if counted.any() else np.zeros(0)
            else:
                yield values[counted]
