"""Weights of the layers of credit: how much of the final advantage is the trajectory's and how much the turn's (T1.3).

Invariant: the token layer is left alone; weights of 1 change nothing.
Source: our own contract over the transforms of the methods specification (inferred).
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

from agentrl.advantages.base import Credit, Stage, Transform
from agentrl.errors import ConfigError
from agentrl.registry import advantages


@advantages.register("weigh")
class Weigh(Transform):
    """A_{i,k} = w_traj A_traj,i + w_turn A_turn,{i,turn(k)} + A_tok,{i,k}, of the credit that stands before it.

    The defaults leave turn credit alone; behind an estimator of trajectories and one of turns, both weights matter.
    """

    stage = Stage.ATTRIBUTE

    def __init__(self, *, w_traj: float = 0.0, w_turn: float = 1.0) -> None:
        """Raises `ConfigError` for weights that are not finite or both zero."""
        if not (isfinite(w_traj) and isfinite(w_turn) and (w_traj or w_turn)):
            raise ConfigError(f"w_traj={w_traj!r}, w_turn={w_turn!r}: finite numbers, not both 0")
        self.w_traj, self.w_turn = w_traj, w_turn

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return [
            replace(
                credit,
                trajectory=self.w_traj * credit.trajectory,
                turns=tuple(self.w_turn * turns for turns in credit.turns),
            )
            for credit in groups
        ]
