"""DCPO's smoothed advantage: a task's rewards are compared with those of its earlier visits too (36, SAS).

A group whose rewards are all equal says nothing by itself, but it does say something beside what the same task gave
before. Invariants: a group is one visit of its task, whatever it holds, also one that is all equal; visits are counted
for each task, not steps of training; the history is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform
from agentrl.advantages.statistics import is_equal, mean_and_std
from agentrl.registry import advantages


@dataclass(frozen=True)
class _History:
    """What is known of a task's rewards."""

    visits: int = 0
    mean: float = 0.0
    std: float = 0.0

    def merged(self, mean: float, std: float) -> _History:
        """With one more visit, whose rewards have this mean and std."""
        old, new = self.visits, self.visits + 1
        variance = (old * self.std**2 + std**2 + old / new * (mean - self.mean) ** 2) / new
        return _History(new, (old * self.mean + mean) / new, sqrt(variance))


@advantages.register("sas")
class SmoothedAdvantage(Transform):
    """Between the z-score in the group and the z-score in the task's history, whichever mixture is smaller (36).

    At visit i: A_new = (R - m) / s of the group (ddof 1) and A_tot = (R - M) / S of the history, this visit included;
    each is 0 where its std is. SA1 = (i-1)/i A_new + 1/i A_tot, SA2 = 1/i A_new + (i-1)/i A_tot; A is the one with the
    smaller absolute value, trajectory by trajectory. No eps: at the first visit this is GRPO with eps=0. Tasks must
    come back (several epochs) for it to differ; another definition of the reward invalidates the history. A group of
    one has A_new = 0. Metrics: `nonzero` (share of trajectories with credit), `visits` (mean of i).
    Source: arXiv 2509.02333; lime-RL/DCPO `compute_dcpo_outcome_advantage` with `use_old_mean=True`.
    """

    stage = Stage.ESTIMATE
    scales = True

    def __init__(self) -> None:
        self._history: dict[str, _History] = {}

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        estimates, visits = [], []
        for credit in groups:
            estimate, number = self._visit(credit)
            estimates.append(estimate)
            visits.append(number)
        pooled = np.concatenate(estimates or [np.zeros(0)])
        if len(pooled):
            self.metrics = {"nonzero": float((pooled != 0).mean()), "visits": float(np.mean(visits))}
        return [
            replace(credit, trajectory=credit.trajectory + estimate)
            for credit, estimate in zip(groups, estimates, strict=True)
        ]

    def _visit(self, credit: Credit) -> tuple[Array, int]:
        """The estimate of a group, shape (G,), and which visit of its task it is; remembers the visit."""
        rewards = credit.rewards
        task = credit.tables[0].task_id
        mean, std = mean_and_std(rewards)
        history = self._history[task] = self._history.get(task, _History()).merged(mean, std)
        share = 1.0 / history.visits
        new, total = _scores(rewards, mean, std), _scores(rewards, history.mean, history.std)
        first, second = (1 - share) * new + share * total, share * new + (1 - share) * total
        return np.where(np.abs(first) < np.abs(second), first, second), history.visits

    def state_dict(self) -> dict[str, Any]:
        return {"history": {task: [item.visits, item.mean, item.std] for task, item in self._history.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._history = {
            task: _History(int(visits), float(mean), float(std))
            for task, (visits, mean, std) in state["history"].items()
        }


def _scores(rewards: Array, mean: float, std: float) -> Array:
    """z-scores; 0 where the spread is float noise: the mean of equal rewards drifts in its last bits over visits."""
    return np.zeros_like(rewards) if is_equal(np.array(mean), np.array(std)) else (rewards - mean) / std
