"""The reward itself as credit: what off-policy objectives such as TOPR take for the sign of a trajectory (B12)."""

from __future__ import annotations

from dataclasses import replace

from agentrl.advantages.base import Credit, Stage, Transform
from agentrl.registry import advantages


@advantages.register("reward")
class Reward(Transform):
    """A_i = R_i - baseline with one fixed baseline c for the whole run: no peers, so groups of one will do.

    With rewards of +1 and -1, of which a share p is positive, the baseline decides how much positive trajectories
    weigh: p(1 - c) / (1 + (1 - 2p)c). Rewards of 0 and 1 with c = 1/2 are +1 and -1, halved. A group whose rewards are
    all equal has credit too. Source: TOPR, arXiv 2503.14286; with c = 0 it is plain REINFORCE.
    """

    stage = Stage.ESTIMATE

    def __init__(self, *, baseline: float = 0.0) -> None:
        self.baseline = baseline

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return [replace(credit, trajectory=credit.trajectory + credit.rewards - self.baseline) for credit in groups]
