"""The clipped ratio objective: PPO and GRPO (B1), GSPO, its token and its turn form (B8), and LUSPO (59).

One formula; what differs is the level of the ratio, the bounds and, outside, the reduction. Invariant: with one
advantage a trajectory, level `sequence` under `seq_mean_token_mean` has the value and the gradient of GSPO; with
advantages of turns or tokens it is GSPO-token.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from agentrl import registry
from agentrl.components import Spec, construct, one_of, split_spec
from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, Reduction, TokenBatch, TokenLoss
from agentrl.objectives.bounds import Bounds
from agentrl.objectives.ratio import ClipGate, Level, Ratio, count, masked, ratio_sums, unit_of
from agentrl.registry import objectives

EPS = {"token": (0.2, 0.2), "turn": (3e-4, 4e-4), "sequence": (3e-4, 4e-4)}
"""eps_low and eps_high of a level: a mean over hundreds of tokens moves a hundred times less than a token."""


@objectives.register("clip")
class ClippedRatio(Objective):
    """-min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A) for each policy token; at rho = 1 it is REINFORCE's gradient.

    Sums: `clip_fraction` (tokens whose gradient the clip removed), `ratio`, `ratio_clamped`, `behaviour_kl`, and with
    `dual_clip` the `dual_clip_fraction`. Sources: arXiv 1707.06347, equation 7; 2402.03300, equation 3; level
    `sequence`: 2507.18071, equations 5 and 13; level `turn`: the "segment" ratio of ROLL, whose eps is inferred.
    """

    def __init__(
        self,
        *,
        eps_low: float | None = None,
        eps_high: float | None = None,
        dual_clip: float | None = None,
        level: Level = "token",
        bounds: Spec | None = None,
    ) -> None:
        """`eps_low`, `eps_high`: by default 0.2 for the token's ratio, 3e-4 and 4e-4 above it, where 0.2 clips nothing.

        `dual_clip`: c > 1 bounds the loss of a token with A < 0 by c |A| (arXiv 1912.09729); off by default. `level`:
        whose ratio it is. `bounds`: an interval of each token's own, by name (`registry.clip_bounds`), instead of eps.
        """
        self.level = one_of("level", level, ("token", "turn", "sequence"))
        self.unit = unit_of(level)
        if bounds is not None and (eps_low is not None or eps_high is not None):
            raise ConfigError("eps_low and eps_high have no effect beside `bounds`; give them to the bounds")
        default_low, default_high = EPS[level]
        self.gate = ClipGate(
            default_low if eps_low is None else eps_low, default_high if eps_high is None else eps_high, dual_clip
        )
        self.bounds = None if bounds is None else _build_bounds(bounds)
        if self.bounds is not None:
            self.needs = self.bounds.needs

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        ratio = Ratio.at(self.level, batch)
        bounds = None
        if self.bounds is not None:
            low, high = self.bounds(batch)
            bounds = masked(low.detach(), batch.mask), masked(high.detach(), batch.mask)
        gated = self.gate(ratio.value, masked(batch.advantages, batch.mask).detach(), bounds)
        sums = {"clip_fraction": count(gated.clipped, batch.mask), **ratio_sums(ratio, batch.mask)}
        if bounds is not None:
            sums |= {"clip_low": count(bounds[0], batch.mask), "clip_high": count(bounds[1], batch.mask)}
        if self.gate.dual is not None:
            sums["dual_clip_fraction"] = count(gated.dual_clipped, batch.mask)
        return TokenLoss(gated.loss, sums)


@objectives.register("luspo")
class LUSPO(ClippedRatio):
    """GSPO with each trajectory's loss times its length: every token then weighs the same in short and long answers.

    -L_i min(s_i A_i, clip(s_i) A_i), the mean over trajectories: that is the token form of GSPO under
    `seq_mean_token_sum`, the one reduction that it takes (under `seq_mean_token_mean` it would be GSPO itself). Token
    ratios have no 1/L_i to cancel and are refused. Gradient norms grow with the mean length. Source: arXiv 2602.05261
    and TRL's `loss_type="luspo"`; the form for turn credit is inferred.
    """

    reductions: ClassVar[frozenset[Reduction]] = frozenset({Reduction.SEQ_MEAN_TOKEN_SUM})

    def __init__(
        self, *, eps_low: float = 2e-3, eps_high: float = 2.5e-3, level: Literal["turn", "sequence"] = "sequence"
    ) -> None:
        """`level`: the trajectory's ratio, or each turn's."""
        super().__init__(eps_low=eps_low, eps_high=eps_high, level=one_of("level", level, ("turn", "sequence")))


def _build_bounds(spec: Spec) -> Bounds:
    made = construct(registry.clip_bounds, spec)
    if not isinstance(made, Bounds):
        raise ConfigError(f"bounds {split_spec(spec)[0]!r} is of class {type(made).__name__}, not an agentrl Bounds")
    return made
