"""DSDR's local term: entropy along correct trajectories, weighted by how unlike the others they are (34).

J = mean over prompts of sum_i w_i (1/L_i) sum_k H(i, k) over the correct members, where H is the entropy or its
estimate from the sampled token, -rho lp. Invariants: trajectories that are not correct have no loss; the term is a mean
of its own, whatever the reduction of the policy loss; what is masked still counts in L_i.

Source: arXiv 2602.19895, equations of the local objective and appendices: verified from the text.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.objectives.base import Regulariser, Sums, TokenBatch, TokenLoss
from agentrl.objectives.pooling import Pool
from agentrl.objectives.ratio import Ratio, count, masked
from agentrl.registry import regularisers

WEIGHT = "diversity_weight"
"""Column of the transform `dsdr`: w_i, which sums to 1 over the correct members of a group; 0 elsewhere."""
SHARE = "diversity_share"
"""Column of our own: what a token's term counts in J, over its weight in the reduction."""


@regularisers.register("dsdr_local")
class LocalDiversity(Regulariser):
    """-coefficient times J. Stands beside the transform `dsdr`, which makes the weights.

    The gradient of the estimate flows through both rho and lp: -(w_i / L_i) rho (lp + 1). With rho a constant it would
    push every sampled token down alike. Prompts without a correct member do not count in the mean.

    Sums: `dsdr/local` (mean of the entropy or its estimate over tokens with weight), `dsdr/ratio_clamped`, and with
    `rho_max` `dsdr/ratio_capped`.
    """

    reads = frozenset({WEIGHT})

    def __init__(self, *, coefficient: float = 0.001, exact: bool = False, rho_max: float | None = None) -> None:
        """`exact`: the entropy of the whole distribution in place of -rho lp. `rho_max` caps rho; the paper does not.

        The paper's lambda_l is 0.001; above 0.01 training collapsed.
        """
        if not coefficient >= 0:
            raise ConfigError(f"coefficient is {coefficient!r}; it must not be negative")
        if rho_max is not None and exact:
            raise ConfigError("rho_max caps the ratio of the sampled estimate; exact=true has none")
        if rho_max is not None and not rho_max >= 1:
            raise ConfigError(f"rho_max is {rho_max!r}; it must be at least 1, or null for no cap")
        self.coefficient = coefficient
        self.exact = exact
        self.rho_max = rho_max
        if exact:
            self.current = frozenset({"entropy"})

    def constants(self, batch: TokenBatch) -> dict[str, Tensor]:
        """w_i / (L_i P) over the reduction's weight; P is the sum of the minibatch's w_i: its prompts, if whole."""
        whole = replace(batch, mask=torch.ones_like(batch.mask))
        lengths = Pool(whole, "sequence").sum(torch.ones_like(batch.weights))
        per_token = batch.column(WEIGHT) / lengths
        share = per_token / per_token.sum().clamp(min=torch.finfo(per_token.dtype).tiny)
        return {SHARE: share / batch.weights}

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        share = masked(batch.column(SHARE), batch.mask)
        entropy, sums = self._entropy(batch, share > 0)
        sums["dsdr/local"] = count(entropy, share > 0)
        return TokenLoss(-self.coefficient * share * entropy, sums)

    def _entropy(self, batch: TokenBatch, counted: Tensor) -> tuple[Tensor, Sums]:
        if self.exact:
            return masked(batch.now("entropy"), batch.mask), {}
        ratio = Ratio.of_tokens(batch)
        sums = {"dsdr/ratio_clamped": count(ratio.clamped, counted)}
        value = ratio.value
        if self.rho_max is not None:
            sums["dsdr/ratio_capped"] = count(value > self.rho_max, counted)
            value = value.clamp(max=self.rho_max)
        return -value * masked(batch.logprobs, batch.mask), sums
