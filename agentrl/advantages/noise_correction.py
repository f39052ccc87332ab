"""Corrections for a verifier that errs at known rates, applied as the advantage itself.

rho0 is the probability that a wrong answer is accepted, rho1 that a right one is rejected. `noise_backward` makes of
each verdict an unbiased estimate of the true one; `noise_forward` needs rho1 alone and gives the clean gradient times
1 - rho0 - rho1. Invariant: nothing divides by the spread of a group. Both maps are affine in the verdict, so a z-score
would erase them without a trace, and such a list is refused at start.

Source: arXiv 2510.00915 by way of digests that quote both formulas (secondary; their expectations are exact); the
running scale, the running rate, its bounds and the floor are inferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.advantages.statistics import GroupStatistic, mean_and_std
from agentrl.components import one_of
from agentrl.errors import ConfigError, TrainingError
from agentrl.registry import advantages

MAX_RATE = 0.5
"""Largest rho1 that appeals may estimate."""
KEEP = 0.9
"""Weight of the past in the running rate and the running scale."""


def estimated_rate(positives: int, overturned: int, share: float) -> float:
    """rho1 from appeals: a second verifier re-checked each rejection with probability `share` and overturned some.

    Overturned rejections stand for overturned / share false negatives among all that are right, the accepted ones taken
    as such (rho0 near 0). 0 if nothing was right.
    """
    missed = overturned / share
    return missed / (missed + positives) if missed + positives else 0.0


def is_certain_negative(table: TurnTable, who: str) -> bool:
    """Rejected because it was cut off and holds no answer: there was nothing the verifier could have misjudged."""
    stopped = table.record is not None and table.record.stop_reason.cut
    return not table.verdict(who) and (stopped or bool(table.truncated and table.truncated[-1]))


class _Correction(Transform):
    """Adds a corrected verdict to the trajectory layer; what both forms remember between batches."""

    stage = Stage.ESTIMATE
    undone_by_scaling = True
    name: str

    def __init__(self, rho1: float, rates: Mapping[str, Any], appeals: float | None, scale: str) -> None:
        if appeals is not None and not 0 < appeals <= 1:
            raise ConfigError(f"appeals is {appeals!r}; it is the share of rejections that are appealed, up to 1")
        if appeals is not None and rates:
            raise ConfigError("appeals estimates one rate for all; rates gives one a verifier; leave one out")
        self.rho1, self.appeals = rho1, appeals
        self.running_scale = one_of("scale", scale, ("none", "running")) == "running"
        self.spread: float | None = None
        """Running std of the corrected verdicts, with `scale="running"`."""

    def state_dict(self) -> dict[str, Any]:
        return {"rho1": self.rho1, "spread": self.spread}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rho1 = float(state["rho1"])
        self.spread = None if state["spread"] is None else float(state["spread"])

    def _scaled(self, estimates: list[Array]) -> list[Array]:
        """By the running std of the batches before, so that no batch sets its own scale (but the first)."""
        if not self.running_scale:
            return estimates
        now = mean_and_std(np.concatenate([np.zeros(0), *estimates]))[1] if any(map(len, estimates)) else 0.0
        scale = self.spread or now or 1.0
        if now:
            self.spread = now if self.spread is None else KEEP * self.spread + (1 - KEEP) * now
        return [estimate / scale for estimate in estimates]

    def _observe(self, tables: Sequence[TurnTable]) -> None:
        """Let the appeals of this batch move the rate that the next one is corrected with."""
        if self.appeals is None or not tables:
            return
        positives = sum(table.verdict(self.name) for table in tables)
        overturned = sum(self._overturned(table) for table in tables if not table.verdict(self.name))
        found = min(estimated_rate(positives, overturned, self.appeals), MAX_RATE)
        self.rho1 = KEEP * self.rho1 + (1 - KEEP) * found

    def _overturned(self, table: TurnTable) -> bool:
        metrics = {} if table.record is None else table.record.metrics
        if "overturned" not in metrics:
            raise TrainingError(
                f"{self.name} with appeals: the environment's metrics have no 'overturned' (task {table.task_id!r}); "
                "its second verifier must report 0.0 or 1.0 for every rejection"
            )
        return metrics["overturned"] >= 0.5

    def _verifier(self, table: TurnTable) -> str:
        """Whose rates count for an episode: `verifier` of its info, else its environment's id."""
        return "" if table.record is None else str(table.record.info.get("verifier", table.record.env_id))


@advantages.register("noise_backward")
class BackwardCorrection(_Correction):
    """A = (R^ - baseline) / scale with R^ = (R~ - rho0) / (1 - rho0 - rho1), which is right in expectation.

    With one pair of rates for all, the baseline leaves of it no more than the factor 1 / (1 - rho0 - rho1): it matters
    where verifiers differ, beside other loss terms, and for the estimated success rate. A trajectory that was cut off
    and rejected has R^ = 0. Metrics: `noise_success` (mean R^, which estimates the true success rate), `noise_rho1`,
    `noise_floored` (share of the members whose denominator the floor raised).
    """

    name = "noise_backward"

    def __init__(
        self,
        *,
        rho0: float = 0.0,
        rho1: float = 0.1,
        rates: dict[str, tuple[float, float]] | None = None,
        appeals: float | None = None,
        baseline: Literal["mean", "leave_one_out"] = "mean",
        scale: Literal["none", "running"] = "none",
        floor: float = 0.2,
    ) -> None:
        """Options.

        `rates`: (rho0, rho1) of single verifiers by name (`info["verifier"]` of an episode, else its environment's id);
        `rho0` and `rho1` are those of all others. `appeals`: share of rejections that the environment has re-checked
        at random by a second verifier, whose finding is the metric `overturned`; `rho1` is then where its running
        estimate starts. `scale`: divide by nothing, or by the running std of R^ - baseline over the batches before.
        `floor`: least denominator.
        """
        super().__init__(rho1, rates or {}, appeals, scale)
        self.rho0, self.rates, self.floor = rho0, dict(rates or {}), floor
        for pair in [(rho0, rho1), *self.rates.values()]:
            _check_rates(*pair)
        if not 0 < floor <= 1:
            raise ConfigError(f"floor is {floor!r}; it must lie above 0 and up to 1")
        leave_one_out = one_of("baseline", baseline, ("mean", "leave_one_out")) == "leave_one_out"
        self.statistic = GroupStatistic(leave_one_out=leave_one_out, scale=False)
        self.min_group_size = 2

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        corrected = [np.array([self._correct(table) for table in credit.tables]) for credit in groups]
        tables = [table for credit in groups for table in credit.tables]
        self.metrics = {"noise_rho1": self.rho1}
        if tables:
            floored = [1 - sum(self._rates(table)) < self.floor for table in tables]
            self.metrics |= {
                "noise_success": float(np.concatenate(corrected).mean()),
                "noise_floored": float(np.mean(floored)),
            }
        estimates = self._scaled([self.statistic.over_trajectories(values) for values in corrected])
        self._observe(tables)
        return [
            replace(credit, trajectory=credit.trajectory + estimate)
            for credit, estimate in zip(groups, estimates, strict=True)
        ]

    def _rates(self, table: TurnTable) -> tuple[float, float]:
        return self.rates.get(self._verifier(table), (self.rho0, self.rho1))

    def _correct(self, table: TurnTable) -> float:
        """R^ of a member."""
        if is_certain_negative(table, self.name):
            return 0.0
        rho0, rho1 = self._rates(table)
        return (table.verdict(self.name) - rho0) / max(1 - rho0 - rho1, self.floor)


@advantages.register("noise_forward")
class ForwardCorrection(_Correction):
    """A = w / scale with w = rho1 for an accepted trajectory and rho1 - 1 for a rejected one; no group statistic.

    In expectation a right answer gets 0 and a wrong one -(1 - rho0 - rho1). A group that was all rejected is pushed
    down as a whole, as intended, which can be unstable at high learning rates. A trajectory that was cut off and
    rejected has w = -1. Metric: `noise_rho1`.
    """

    name = "noise_forward"

    def __init__(
        self,
        *,
        rho1: float = 0.1,
        rates: dict[str, float] | None = None,
        appeals: float | None = None,
        scale: Literal["none", "running"] = "none",
        drop_all_negative: bool = False,
    ) -> None:
        """Options: as of `noise_backward`, with rho1 alone; `drop_all_negative` drops groups that were all rejected."""
        super().__init__(rho1, rates or {}, appeals, scale)
        self.rates, self.drop_all_negative = dict(rates or {}), drop_all_negative
        for rate in (rho1, *self.rates.values()):
            _check_rates(0.0, rate)

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        self.metrics = {"noise_rho1": self.rho1}
        estimates = self._scaled([np.array([self._weight(table) for table in credit.tables]) for credit in groups])
        self._observe([table for credit in groups for table in credit.tables])
        return [
            replace(credit, trajectory=credit.trajectory + estimate, dropped=credit.dropped | self._leaving(credit))
            for credit, estimate in zip(groups, estimates, strict=True)
        ]

    def _weight(self, table: TurnTable) -> float:
        if is_certain_negative(table, self.name):
            return -1.0
        return self.rates.get(self._verifier(table), self.rho1) - (0.0 if table.verdict(self.name) else 1.0)

    def _leaving(self, credit: Credit) -> frozenset[int]:
        rejected = not any(table.verdict(self.name) for table in credit.tables)
        return frozenset(range(len(credit.tables))) if self.drop_all_negative and rejected else frozenset()


def _check_rates(rho0: float, rho1: float) -> None:
    if not (rho0 >= 0 and rho1 >= 0 and rho0 + rho1 < 1):
        raise ConfigError(
            f"rho0={rho0:g}, rho1={rho1:g}: rates must not be negative, and with a sum of 1 or more the verdict says "
            "nothing, or the contrary"
        )
