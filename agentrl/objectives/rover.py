"""ROVER: the log-ratio of each token is regressed on the value of the uniformly random policy (15).

Q(s_k, a_k) = rho (log pi - log pi_old) is pulled to y_k = A_k + rho (v(s_k+1) - v_old(s_k+1)), where v(s) is the mean
of the log-probabilities over the *whole vocabulary*. Invariants: the target is a constant and the gradient flows
through Q of the sampled token alone; the next state of a trajectory's last policy token has value 0; where a token's
rows lie in the batch changes nothing.

Source: arXiv 2509.24981 and its code (`DataParallelROVERActor.update_policy`): verified. The next state across turns is
inferred: tools make it stochastic, which breaks the theorem and not the algorithm.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, Reduction, TokenBatch, TokenLoss
from agentrl.objectives.ratio import count, masked
from agentrl.registry import objectives


@objectives.register("rover")
class ROVER(Objective):
    """(Q - y)^2 of each policy token, without a factor 1/2 and without a clip; at pi = pi_old it is REINFORCE times 2.

    Advantages are centred rewards on every token: `dr_grpo` (the paper), or `grpo` (the z-score of its math script);
    `drop_equal` leaves out groups whose rewards are all equal, in which Q would only be pulled to the next state's.
    Behaviour and policy are taken at the rollout's temperature.

    Sums: `rover/q`, `rover/target`, `rover/next_value` (means), `rover/error` (mean of |Q - y|).
    """

    needs = frozenset({"uniform"})
    current = frozenset({"uniform"})
    unit = "trajectory"
    zero_without_advantage = False
    reductions: ClassVar[frozenset[Reduction] | None] = frozenset({Reduction.TOKEN_MEAN})

    def __init__(self, *, rho: float = 1.0, next_scale: float = 1.0, bootstrap_across_turns: bool = True) -> None:
        """Options.

        `rho`: the temperature of Q. `next_scale` multiplies the next state's value; 0 leaves the advantage alone.
        `bootstrap_across_turns`: the state after a turn's last token is the first of the next turn that has policy
        tokens; False takes 0 there, as a shift over the masked row does.
        """
        if not rho > 0:
            raise ConfigError(f"rho is {rho!r}; it must be above 0")
        if not next_scale >= 0:
            raise ConfigError(f"next_scale is {next_scale!r}; it must not be negative")
        self.rho, self.next_scale = rho, next_scale
        self.bootstrap_across_turns = bootstrap_across_turns

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        q = self.rho * masked(batch.logprobs - batch.behaviour, batch.mask)
        gap = masked(batch.now("uniform") - batch.column("uniform"), batch.mask).detach()
        following = self.rho * self._of_next_state(gap, batch)
        target = masked(batch.advantages, batch.mask) + self.next_scale * following
        error = q - target.detach()
        sums = {
            "rover/q": count(q, batch.mask),
            "rover/target": count(target, batch.mask),
            "rover/next_value": count(following, batch.mask),
            "rover/error": count(error.abs(), batch.mask),
        }
        return TokenLoss(error.square(), sums)

    def _of_next_state(self, values: Tensor, batch: TokenBatch) -> Tensor:
        """Each unmasked token's value of the state that it leads to, shape (n,): that of the next policy token."""
        own = batch.mask.nonzero()[:, 0]
        # Stable, by trajectory and turn: rows of one trajectory may be several, a turn lies in one of them in order.
        own = own[batch.turn_ids[own].argsort(stable=True)]
        own = own[batch.sequence_ids[own].argsort(stable=True)]
        here, after = own[:-1], own[1:]
        follows = batch.sequence_ids[here] == batch.sequence_ids[after]
        if not self.bootstrap_across_turns:
            follows &= batch.turn_ids[here] == batch.turn_ids[after]
        result = torch.zeros_like(values)
        result[here] = torch.where(follows, values[after], torch.zeros_like(values[after]))
        return result
