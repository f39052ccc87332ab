"""CANON: a group is split into halves by a metric, and a member is compared with the other half and with its own.

C+ is the half with the higher metric, C- the other (the smaller one where the size is odd). The comparison between the
halves credits whichever value of the metric was worth it, that within a half ignores the metric. Invariant: the split
is by rank, never by value, so ties leave the halves equal; with halves of one size, mu = 1/2 and alpha = 1 the
advantage is that of Dr. GRPO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.advantages.statistics import mean_and_std
from agentrl.components import one_of
from agentrl.errors import ConfigError, TrainingError
from agentrl.registry import advantages

Metric = Literal["entropy", "length", "random", "tool_calls", "turns"]
Schedule = Literal["constant", "accuracy", "accuracy_mirrored", "cosine", "cosine_mirrored"]

COSINE_PEAK = 0.6
"""Largest weight of the comparison within the halves, 1 - mu, under the cosine schedules."""
COSINE_CYCLES = 3
COSINE_WARMUP = 0.2
"""Share of the schedule in which the cosine's factor rises linearly from 0."""


@advantages.register("canon")
class CANON(Transform):
    """A = mu * (R against the other half's mean) + (1 - mu) * (R - own half's mean), without a std.

    alpha < 1 leans to the half that `favours` names: there R is compared with alpha times the other half's mean, and
    the R of the other half counts alpha times. Belongs with `seq_mean_token_sum_norm`; a division by a spread or by the
    actual length afterwards would be another method. A group whose rewards are all equal, and a group of one, get 0.
    Source: arXiv 2509.23962 and its code, whose entropy form favours high and whose length form low.

    Metrics: `canon_mu`, and `canon_high`, `canon_low`: mean reward of the halves.
    """

    stage = Stage.ESTIMATE
    min_group_size = 4
    undone_by_scaling = True

    def __init__(
        self,
        *,
        metric: Metric = "entropy",
        mu: float | None = None,
        alpha: float = 1.0,
        favours: Literal["high", "low"] | None = None,
        schedule: Schedule = "constant",
        schedule_steps: int | None = None,
        keep_directional: bool = False,
    ) -> None:
        """Options.

        `metric`: mean entropy of the policy tokens when they were sampled, number of policy tokens, place in the group
        (`random`), tool calls, or turns. `mu`: with `schedule="constant"`, 1 by default. `favours`: only with
        alpha < 1; by default high for entropy and random, low for what costs (length, tool calls, turns). `schedule`:
        `accuracy` has mu = mean reward of the batch (first within, later between the halves), `cosine` has
        1 - mu = 0.6 times a cosine with warm-up and three restarts over `schedule_steps` (150), `..._mirrored` the
        contrary: 1 - mean reward, and 0.6 minus that. `keep_directional`: with alpha < 1 groups whose rewards are all
        equal keep the preference for the favoured half.
        """
        costs = one_of("metric", metric, ("entropy", "length", "random", "tool_calls", "turns")) in _COSTS
        self.metric: Metric = metric
        self.favours_high = one_of("favours", favours or ("low" if costs else "high"), ("high", "low")) == "high"
        self.alpha, self.keep_directional = alpha, keep_directional
        self.mu = _Mixing(schedule, mu, schedule_steps)
        self.needs = frozenset({"entropy"} if metric == "entropy" else ())
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha is {alpha!r}; it must lie between 0 and 1")
        if alpha == 1 and (favours is not None or keep_directional):
            raise ConfigError("favours and keep_directional act with alpha below 1; alpha is 1, which prefers no half")

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.mu.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mu.step = int(state["step"])

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        self.metrics = {}
        if not groups:
            return groups
        mu = self.mu.next([reward for credit in groups for reward in credit.rewards])
        halves: list[tuple[float, float]] = []
        result = [
            replace(credit, trajectory=credit.trajectory + self._estimate(credit, mu, halves)) for credit in groups
        ]
        self.metrics = {"canon_mu": mu}
        if halves:
            high, low = np.array(halves).mean(axis=0)
            self.metrics |= {"canon_high": float(high), "canon_low": float(low)}
        return result

    def _estimate(self, credit: Credit, mu: float, halves: list[tuple[float, float]]) -> Array:
        """A_i of a group, shape (G,); appends the mean rewards of C+ and C-."""
        rewards, size = credit.rewards, len(credit.tables)
        if size < 2:
            return np.zeros(size)
        order = np.argsort(measured(credit.tables, self.metric), kind="stable")
        high = np.zeros(size, dtype=np.bool_)
        high[order[size // 2 :]] = True
        means = mean_and_std(rewards[high])[0], mean_and_std(rewards[~high])[0]
        halves.append(means)
        if mean_and_std(rewards)[1] == 0 and not self.keep_directional:
            return np.zeros(size)
        own, other = np.where(high, *means), np.where(high, *reversed(means))
        favoured = high == self.favours_high
        between = np.where(favoured, rewards - self.alpha * other, self.alpha * rewards - other)
        return np.asarray(mu * between + (1 - mu) * (rewards - own))


_COSTS = ("length", "tool_calls", "turns")


def measured(tables: Sequence[TurnTable], metric: Metric) -> Array:
    """What the members of a group are ranked by, shape (G,); a member without policy tokens has entropy 0."""
    match metric:
        case "entropy":
            return np.array([table.column("entropy").mean() if table.num_tokens else 0.0 for table in tables])
        case "length":
            return np.array([table.num_tokens for table in tables], dtype=np.float64)
        case "turns":
            return np.array([table.num_turns for table in tables], dtype=np.float64)
        case "tool_calls":
            return np.array([_tool_calls(table) for table in tables], dtype=np.float64)
        case "random":  # members are exchangeable: their places are as good as a draw, and repeatable
            return np.arange(len(tables), dtype=np.float64)


def _tool_calls(table: TurnTable) -> int:
    if table.record is None:
        raise TrainingError("canon with metric=tool_calls reads the episode's record, and the table has none")
    return sum(len(turn.tool_calls) for turn in table.record.turns)


class _Mixing:
    """mu of each batch. The cosine is the usual one with hard restarts; that the code's is, is inferred."""

    def __init__(self, schedule: Schedule, mu: float | None, steps: int | None) -> None:
        valid = ("constant", "accuracy", "accuracy_mirrored", "cosine", "cosine_mirrored")
        self.schedule = one_of("schedule", schedule, valid)
        if mu is not None and schedule != "constant":
            raise ConfigError(f"mu is {mu!r}, but schedule={schedule} sets it; leave one out")
        if steps is not None and not schedule.startswith("cosine"):
            raise ConfigError(f"schedule_steps is {steps!r}, but schedule={schedule} has no end; leave it out")
        self.mu, self.steps = 1.0 if mu is None else mu, 150 if steps is None else steps
        if not 0 <= self.mu <= 1:
            raise ConfigError(f"mu is {mu!r}; it must lie between 0 and 1")
        if self.steps < 1:
            raise ConfigError(f"schedule_steps is {steps!r}; it must be at least 1")
        self.step = 0
        """Batches so far."""

    def next(self, rewards: Sequence[float]) -> float:
        """mu of the next batch, whose rewards these are."""
        mirrored = self.schedule.endswith("_mirrored")
        if self.schedule.startswith("accuracy"):
            share = min(1.0, max(0.0, float(np.mean(rewards))))
            value = 1 - share if mirrored else share
        elif self.schedule.startswith("cosine"):
            factor = _cosine(self.step, self.steps)
            value = 1 - COSINE_PEAK * (1 - factor if mirrored else factor)
        else:
            value = self.mu
        self.step += 1
        return value


def _cosine(step: int, steps: int) -> float:
    """Between 0 and 1: a linear rise, then cycles that fall from 1 to 0; 0 once it is over."""
    rise = COSINE_WARMUP * steps
    if step < rise:
        return step / rise
    progress = (step - rise) / (steps - rise)
    return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * (COSINE_CYCLES * progress % 1)))
