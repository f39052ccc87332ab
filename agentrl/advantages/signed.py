"""PSR, NSR and W-REINFORCE: the verdict's sign as the advantage, without any baseline.

PSR learns from correct trajectories alone, NSR from incorrect ones alone, W-REINFORCE from both with the correct ones
weighted down. Invariant: no statistic of the group enters, so every group counts, also one whose members are all right
or all wrong; what a method does not learn from leaves the batch and its denominators. Source: arXiv 2506.01347.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from agentrl.advantages.base import Credit, Stage, Transform
from agentrl.errors import ConfigError
from agentrl.registry import advantages


class _Signed(Transform):
    """Adds `right` to correct members and `wrong` to the others; drops those whose number is None.

    "Correct" is the verifier's verdict, not a reward of exactly 1, so format bonuses do no harm. A division by a spread
    afterwards would make GRPO of it. Metric: `NAME_kept`, the share of the members that stay in the batch.
    """

    stage = Stage.ESTIMATE
    undone_by_scaling = True
    name: ClassVar[str]
    right: float | None
    wrong: float | None

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        result = [self._add(credit) for credit in groups]
        members = sum(len(credit.tables) for credit in result)
        dropped = sum(len(credit.dropped) for credit in result)
        self.metrics = {f"{self.name}_kept": 1 - dropped / members} if members else {}
        return result

    def _add(self, credit: Credit) -> Credit:
        values = [self.right if table.verdict(self.name) else self.wrong for table in credit.tables]
        return replace(
            credit,
            trajectory=credit.trajectory + np.array([value or 0.0 for value in values]),
            dropped=credit.dropped | {index for index, value in enumerate(values) if value is None},
        )


@advantages.register("psr")
class PSR(_Signed):
    """Positive sample reinforcement: A = 1 on correct trajectories, the others leave the batch."""

    name = "psr"
    right, wrong = 1.0, None


@advantages.register("nsr")
class NSR(_Signed):
    """Negative sample reinforcement: A = -1 on incorrect trajectories, the others leave the batch.

    The mass that an error loses goes to all other tokens along the policy's own prior, and where no error is sampled
    nothing moves.
    """

    name = "nsr"
    right, wrong = None, -1.0


@advantages.register("w_reinforce")
class WReinforce(_Signed):
    """Weighted REINFORCE: A = `positive` on correct trajectories, -1 on the others; 1 is plain +-1 REINFORCE."""

    name = "w_reinforce"

    def __init__(self, *, positive: float = 0.1) -> None:
        if not positive >= 0:
            raise ConfigError(f"positive is {positive!r}; it must not be negative")
        self.right, self.wrong = positive, -1.0
