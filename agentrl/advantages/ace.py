"""ACE: errors of which the policy has become surer than its reference are pushed down harder.

The confidence shift of a trajectory is the mean over its policy tokens of log pi - log pi_ref, a constant of the
update, pi being the policy that sampled. A negative advantage is multiplied by 1 + alpha softplus(shift).
Invariant: the factor is at least 1 and acts on negative advantages only; what is 0 or positive stays as it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.components import one_of
from agentrl.errors import ConfigError, TrainingError
from agentrl.registry import advantages


@advantages.register("ace")
class ACE(Transform):
    """A' = A (1 + alpha softplus(c)) where A < 0, else A.

    c is taken over the whole trajectory where its advantage is one number, and over each turn (its factor then goes by
    the sign of the turn's, or the token's, own advantage) where turns or tokens have credit of their own. No division
    by a spread may follow: the asymmetry is the method. The reference must be fixed: with one that follows the policy
    c is 0 and the factor a constant. Source: arXiv 2602.21420, Algorithm 1; the turn form and `c_max` are inferred.

    Metrics: `ace_errors` (share of the units with A < 0), and of those `ace_overconfident` (share with c > 0),
    `ace_factor` (mean) and `ace_clamped` (share at `c_max`).
    """

    stage = Stage.ATTRIBUTE
    undone_by_scaling = True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        length_normalise: bool = True,
        c_max: float | None = 10.0,
        policy: Literal["learner", "recorded"] = "learner",
    ) -> None:
        """Options.

        `length_normalise=False` takes the sum instead of the mean (the paper's Definition 1, not what it ran).
        `c_max`: c is clamped to [-c_max, c_max]. `policy`: whose log-probabilities of the sampled tokens stand for pi,
        the learner's own before the update, or the engine's records (one pass fewer).
        """
        if not alpha >= 0:
            raise ConfigError(f"alpha is {alpha!r}; it must not be negative")
        if c_max is not None and not c_max > 0:
            raise ConfigError(f"c_max is {c_max!r}; it must be above 0, or null")
        self.alpha, self.length_normalise, self.c_max = alpha, length_normalise, c_max
        self.recorded = one_of("policy", policy, ("learner", "recorded")) == "recorded"
        self.needs = frozenset({"reference"} if self.recorded else {"reference", "logprobs"})

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        errors: list[Array] = []
        units = [0]
        result = [self._strengthen(credit, errors, units) for credit in groups]
        shifts = np.concatenate([np.zeros(0), *errors])
        self.metrics = {"ace_errors": len(shifts) / max(1, units[0])}
        if len(shifts):
            self.metrics |= {
                "ace_overconfident": float((shifts > 0).mean()),
                "ace_factor": float(self._factor(shifts).mean()),
                "ace_clamped": 0.0 if self.c_max is None else float((np.abs(shifts) > self.c_max).mean()),
            }
        return result

    def _strengthen(self, credit: Credit, errors: list[Array], units: list[int]) -> Credit:
        """New credit of a group; appends the shifts of what is an error, and counts all units."""
        if any(layer.any() for layer in (*credit.turns, *credit.tokens)):
            pieces = [self._by_turn(*pair) for pair in zip(credit.tables, credit.token_advantages(), strict=True)]
            errors += [shifts[values < 0] for _, shifts, values in pieces]
            units[0] += sum(len(values) for _, _, values in pieces)
            return credit.with_token_advantages([advantages for advantages, _, _ in pieces])
        shifts = np.array(
            [self._shifts(table, np.zeros(table.num_tokens, dtype=np.int64), 1)[0] for table in credit.tables]
        )
        values = credit.trajectory
        present = np.array([table.num_tokens > 0 for table in credit.tables], dtype=np.bool_)
        errors.append(shifts[(values < 0) & present])
        units[0] += int(present.sum())
        return replace(credit, trajectory=np.where(values < 0, values * self._factor(shifts), values))

    def _by_turn(self, table: TurnTable, advantages: Array) -> tuple[Array, Array, Array]:
        """New advantages, and each token's shift and old advantage; all of shape (L_i,)."""
        turns = table.turn_of_token
        shifts = self._shifts(table, turns, table.num_turns)[turns]
        return np.where(advantages < 0, advantages * self._factor(shifts), advantages), shifts, advantages

    def _shifts(self, table: TurnTable, units: NDArray[np.int64], count: int) -> Array:
        """c of `count` units, given each token's; 0 for a unit without tokens."""
        if not table.num_tokens:
            return np.zeros(count)
        own = _recorded(table) if self.recorded else table.column("logprobs")
        differences = own - table.column("reference")
        sums = np.bincount(units, differences, minlength=count).astype(np.float64)
        if not self.length_normalise:
            return sums
        return sums / np.maximum(np.bincount(units, minlength=count), 1)

    def _factor(self, shifts: Array) -> Array:
        bounded = shifts if self.c_max is None else np.clip(shifts, -self.c_max, self.c_max)
        return np.asarray(1.0 + self.alpha * np.logaddexp(0.0, bounded))


def _recorded(table: TurnTable) -> Array:
    """The engine's log-probabilities of the policy tokens, shape (L_i,)."""
    if table.record is None:
        raise TrainingError("ace with policy=recorded reads the episode's record, and the table has none")
    return np.array([value for turn in table.record.turns for value in turn.logprobs], dtype=np.float64)
