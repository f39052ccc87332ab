"""ARM (ProGRPO): an answer that the policy is less sure of than of its task gains, one that it is surer of loses.

The confidence of a token string is exp of the mean log-probability of its least certain positions; trivial tokens
would wash out a mean over all. Invariant: where no member of a group is correct nothing is shifted, and the shift is a
constant of the update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.needs import need
from agentrl.registry import advantages


def num_least_certain(length: int, fraction: float) -> int:
    """How many of `length` positions are the `fraction` least certain: rounded up, at least 1 of at least 1."""
    # 0.2 * 35 is 7.000000000000001 in floats; that is seven, not eight.
    return min(length, max(1, math.ceil(fraction * length - 1e-9)))


def confidence(logprobs: Array, fraction: float) -> float:
    """exp(mean of the `fraction` lowest `logprobs`), shape (n,); 1 for n = 0."""
    if not len(logprobs):
        return 1.0
    return float(np.exp(np.sort(logprobs)[: num_least_certain(len(logprobs), fraction)].mean()))


@advantages.register("arm")
class ARM(Transform):
    """A~_i = A_i + alpha (c(q) - c(o_i | q)) in groups with a correct member; a group of one is left alone.

    c(o|q) is taken over the policy tokens of all turns, c(q) over the tokens before the first of them; both by the
    policy that sampled, as the learner scores it at the sampling temperature. A group that is all correct has A = 0 and
    still trains, towards its less confident answers. Source: arXiv 2602.05281 by way of digests that quote the formula
    (secondary); alpha, the rounding and `centre_shift` are inferred.

    Metrics: `arm_shift`, `arm_mean_advantage` (mean over the shifted members: c(q) moves it away from 0),
    `arm_answer_confidence`, `arm_prompt_confidence`.
    """

    stage = Stage.ATTRIBUTE
    undone_by_scaling = True

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        fraction: float = 0.2,
        apply_to: Literal["all", "correct"] = "all",
        centre_shift: bool = False,
        skip_all_correct: bool = False,
    ) -> None:
        """Options.

        `fraction`: share of the positions that count as least certain. `apply_to`: whom the shift moves, every member
        or correct ones. `centre_shift` subtracts the mean of the group's shifts. `skip_all_correct` leaves groups alone
        in which every member is correct.
        """
        if not alpha >= 0:
            raise ConfigError(f"alpha is {alpha!r}; it must not be negative")
        if not 0 < fraction <= 1:
            raise ConfigError(f"fraction is {fraction!r}; it must lie above 0 and up to 1")
        self.alpha, self.fraction = alpha, fraction
        self.only_correct = one_of("apply_to", apply_to, ("all", "correct")) == "correct"
        self.centre_shift, self.skip_all_correct = centre_shift, skip_all_correct
        self.prompt = need("prompt_confidence", fraction=fraction)
        self.needs = frozenset({"logprobs", self.prompt})

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        rows: list[tuple[float, float, float, float]] = []
        result = [self._shifted(credit, rows) for credit in groups]
        self.metrics = _means(rows)
        return result

    def _shifted(self, credit: Credit, rows: list[tuple[float, float, float, float]]) -> Credit:
        """The group with its shifts; appends (shift, advantage, c(o), c(q)) of each shifted member to `rows`."""
        correct = [table.verdict("arm") for table in credit.tables]
        if len(correct) < 2 or not any(correct) or (self.skip_all_correct and all(correct)):
            return credit
        chosen = [
            index
            for index, table in enumerate(credit.tables)
            if table.num_tokens and (correct[index] or not self.only_correct)
        ]
        pairs = np.array([self._confidences(credit.tables[index]) for index in chosen]).reshape(-1, 2)
        shifts = self.alpha * (pairs[:, 1] - pairs[:, 0])
        if self.centre_shift and chosen:
            shifts = shifts - shifts.mean()
        trajectory = credit.trajectory.copy()
        trajectory[chosen] += shifts
        rows += zip(shifts.tolist(), trajectory[chosen].tolist(), *pairs.T.tolist(), strict=True)
        return replace(credit, trajectory=trajectory)

    def _confidences(self, table: TurnTable) -> tuple[float, float]:
        """c(o|q) and c(q)."""
        return confidence(table.column("logprobs"), self.fraction), float(table.column(self.prompt))


def _means(rows: list[tuple[float, float, float, float]]) -> Mapping[str, float]:
    names = ("arm_shift", "arm_mean_advantage", "arm_answer_confidence", "arm_prompt_confidence")
    return dict(zip(names, np.array(rows).mean(axis=0).tolist(), strict=True)) if rows else {}
