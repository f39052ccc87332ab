"""REINFORCE++ credit: the return-to-go of every policy token, without a baseline (B4).

Invariant: gamma counts policy tokens; observations are skipped, neither discounted nor a reset. The baseline is the
batch: `whiten` (unit token) follows in the list.
Source: arXiv 2501.03262; verl `compute_reinforce_plus_plus_outcome_advantage`.
"""

from __future__ import annotations

from dataclasses import replace

from agentrl.advantages.base import Credit, Stage, Transform
from agentrl.advantages.gae import discount
from agentrl.advantages.turn_returns import discounted_returns
from agentrl.registry import advantages


@advantages.register("token_returns")
class TokenReturns(Transform):
    """A_k = r_k + gamma A_{next policy token}; r_k is the token's KL penalty and, at a turn's end, the turn's reward.

    With gamma < 1 a token, early turns of long episodes vanish.
    """

    stage = Stage.ESTIMATE

    def __init__(self, *, gamma: float = 1.0) -> None:
        self.gamma = discount("gamma", gamma)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return [self._credit(credit) for credit in groups]

    def _credit(self, credit: Credit) -> Credit:
        returns = [discounted_returns(table.rewards_of_tokens(), self.gamma) for table in credit.tables]
        return replace(credit, tokens=tuple(old + new for old, new in zip(credit.tokens, returns, strict=True)))
