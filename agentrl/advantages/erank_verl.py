"""VERL: a bonus for trajectories whose hidden states spread faster than is usual, gated by how that speed changes.

ER is the effective rank of the states of a trajectory's policy tokens, ERV its mean growth along the trajectory, ERA
the growth of that (`agentrl.learner.effective_rank`). Each is compared with its running mean over the batches before.
Invariant: the bonus is never negative and at most |A| / kappa, so with kappa >= 1 no advantage changes its sign, and 0
stays 0. Not the library of that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.needs import need
from agentrl.registry import advantages

MAX_DEVIATION = 5.0
"""Relative deviations from the running mean are clipped to this."""


@advantages.register("erank_verl")
class EffectiveRankShaping(Transform):
    """A' = A + min(max(0, Phi), |A| / kappa).

    With d_x the relative deviation of x from its running mean: Phi = scale (g tanh d_ER + (1 - g) tanh d_ERV), where
    g = sigmoid(gain d_ERA). The first batch sets the running means and is not shaped. The released code writes the
    bonus at the last token only and starts the means at 0; the paper's formula is one number a trajectory, hence
    `apply_to="all"`. Source: arXiv 2509.23808 and its code; broadcast and start are inferred.

    Metrics: `effective_rank`, `effective_rank_velocity`, `effective_rank_acceleration` (means of the batch),
    `erank_gate`, `erank_bonus` (mean of min(max(0, Phi), |A| / kappa) over tokens).
    """

    stage = Stage.ATTRIBUTE
    undone_by_scaling = True

    def __init__(
        self,
        *,
        stride: int = 40,
        window: int = 512,
        rate: float = 0.3,
        gain: float = 2.0,
        kappa: float = 2.0,
        scale: float = 1.0,
        apply_to: Literal["all", "last"] = "all",
    ) -> None:
        """Options.

        `stride`, `window`: of the ranks along the trajectory, in tokens. `rate`: weight of the latest batch in the
        running means. `apply_to`: all policy tokens, or the last one of the trajectory.
        """
        for name, value in {"stride": stride, "window": window, "gain": gain, "scale": scale}.items():
            if not value > 0:
                raise ConfigError(f"{name} is {value!r}; it must be above 0")
        if not kappa >= 1:
            raise ConfigError(f"kappa is {kappa!r}; below 1 the bonus could change an advantage's sign")
        if not 0 < rate <= 1:
            raise ConfigError(f"rate is {rate!r}; it must lie above 0 and up to 1")
        self.rate, self.gain, self.kappa, self.scale = rate, gain, kappa, scale
        self.only_last = one_of("apply_to", apply_to, ("all", "last")) == "last"
        self.column = need("effective_rank", stride=stride, window=window)
        self.needs = frozenset({self.column})
        self.means: Array | None = None
        """Running means of (ER, ERV, ERA) over the batches before, shape (3,)."""

    def state_dict(self) -> dict[str, Any]:
        return {"means": None if self.means is None else self.means.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.means = None if state["means"] is None else np.array(state["means"], dtype=np.float64)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        self.metrics = {}
        found = [table.column(self.column) for credit in groups for table in credit.tables if table.num_tokens]
        if not found:
            return groups
        mean = np.mean(found, axis=0)
        names = ("effective_rank", "effective_rank_velocity", "effective_rank_acceleration")
        self.metrics = dict(zip(names, mean.tolist(), strict=True))
        if self.means is None:
            self.means = mean
            return groups
        result, bonuses = zip(*(self._shaped(credit, self.means) for credit in groups), strict=True)
        gates = self.gates(np.array(found), self.means)
        self.metrics |= {"erank_bonus": float(np.concatenate(bonuses).mean()), "erank_gate": float(gates.mean())}
        self.means = (1 - self.rate) * self.means + self.rate * mean
        return list(result)

    def gates(self, ranks: Array, means: Array) -> Array:
        """g of rows (ER, ERV, ERA), shape (k, 3): near 1 where exploring pays, near 0 where consolidating does."""
        return np.asarray(1 / (1 + np.exp(-self.gain * _deviations(ranks, means)[:, 2])))

    def potentials(self, ranks: Array, means: Array) -> Array:
        """Phi of rows (ER, ERV, ERA), shape (k, 3), against the running `means` (3,)."""
        spread, speed = np.tanh(_deviations(ranks, means)[:, :2]).T
        gate = self.gates(ranks, means)
        return np.asarray(self.scale * (gate * spread + (1 - gate) * speed))

    def _shaped(self, credit: Credit, means: Array) -> tuple[Credit, Array]:
        """The group with its bonuses in the token layer, and all bonuses."""
        pairs = zip(credit.tables, credit.token_advantages(), strict=True)
        bonuses = [self._bonus(table, advantages, means) for table, advantages in pairs]
        tokens = tuple(old + bonus for old, bonus in zip(credit.tokens, bonuses, strict=True))
        return replace(credit, tokens=tokens), np.concatenate(bonuses)

    def _bonus(self, table: TurnTable, advantages: Array, means: Array) -> Array:
        """Shape (L_i,)."""
        if not table.num_tokens:
            return np.zeros(0)
        potential = float(self.potentials(table.column(self.column)[None], means)[0])
        bonus = np.minimum(max(0.0, potential), np.abs(advantages) / self.kappa)
        if self.only_last:
            bonus[:-1] = 0.0
        return bonus


def _deviations(ranks: Array, means: Array) -> Array:
    """Relative to the running means, clipped; shape (k, 3)."""
    return np.asarray(np.clip((ranks - means) / (np.abs(means) + 1e-8), -MAX_DEVIATION, MAX_DEVIATION))
