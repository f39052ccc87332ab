"""KL to the reference policy as a reward of each token (B3, B4, B13): r_k -= beta (log pi - log pi_ref).

Invariant: it stands before every statistic, so baselines are those of the penalised rewards. On the policy's own
samples, with return-to-go or whole-sequence credit, k1 in the reward gives the true gradient of the reverse KL; k3
would not. Never combine it with the regulariser `kl`: beta would act twice.

log pi is the learner's own (`logprobs`, under the weights that sampled), not the engine's record: the reference is
computed by the learner too, so both sides have one arithmetic and one temperature, and an engine's rounding is not
turned into a reward; a policy that has not moved from its reference is penalised by exactly 0.
Sources: verl `apply_kl_penalty`, `AdaptiveKLController`; OpenRLHF `compute_reward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import advantages

MAX_ERROR = 0.2
"""Most that the relative distance from the target counts for in one adaptation."""
HORIZON = 10_000.0
"""Trajectories over which an error of 1 would double the coefficient; verl's and InstructGPT's figure."""


@advantages.register("kl_in_reward")
class KLInReward(Transform):
    """The token reward -beta (lp - lp_ref) for every policy token.

    With `target` the coefficient follows the measured KL (B5): after each batch
    beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), where KL is the mean over the n trajectories with
    policy tokens of their mean a token. The batch itself is penalised with the coefficient before that.
    """

    stage = Stage.REWARD
    needs = frozenset({"logprobs", "reference"})

    def __init__(self, *, beta: float = 0.01, target: float | None = None, horizon: float | None = None) -> None:
        """`target`: nats a token, null for a constant coefficient. `horizon` (10000): trajectories, with `target`."""
        if not beta > 0:
            raise ConfigError(f"beta is {beta!r}; it must be above 0")
        if target is not None and not target > 0:
            raise ConfigError(f"target is {target!r}; it must be above 0")
        if horizon is not None and target is None:
            raise ConfigError(f"horizon is {horizon!r}, but without a target the coefficient does not change")
        if horizon is not None and not horizon > 0:
            raise ConfigError(f"horizon is {horizon!r}; it must be above 0")
        self.beta, self.target = beta, target
        self.horizon = HORIZON if horizon is None else horizon

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        penalised = [
            replace(credit, tables=tuple(self._penalise(table) for table in credit.tables)) for credit in groups
        ]
        means = [_log_ratio(table).mean() for credit in groups for table in credit.tables if table.num_tokens]
        kl = float(np.mean(means)) if means else 0.0
        self.metrics = {"reward_kl": kl, "reward_kl_beta": self.beta}
        if self.target is not None:
            error = float(np.clip(kl / self.target - 1.0, -MAX_ERROR, MAX_ERROR))
            self.beta *= 1.0 + error * len(means) / self.horizon
        return penalised

    def _penalise(self, table: TurnTable) -> TurnTable:
        before = np.zeros(table.num_tokens) if table.token_rewards is None else table.token_rewards
        return replace(table, token_rewards=before - self.beta * _log_ratio(table))

    def state_dict(self) -> dict[str, Any]:
        """The adapted coefficient."""
        return {} if self.target is None else {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self.beta = float(state.get("beta", self.beta))


def _log_ratio(table: TurnTable) -> Array:
    return table.column("logprobs") - table.column("reference")
