"""MSSR's credit: a baseline for each task that outlives the batch, so that one episode a task is enough.

Each task has a Beta(a, b) tracker of its success rate v = a / (a + b), read before and updated after each batch, which
forgets at a rate rho that the drift from the reference policy sets. The differences from v are whitened over the batch
and shaped by the tokens' entropy. Invariants: a batch is judged by trackers from before it, also where a task stands in
it twice; shaping never changes a sign while `kappa` is above 1.

Source: "Stable and Efficient Single-Rollout RL for Multimodal Reasoning", arXiv 2512.18215, read in its repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform
from agentrl.components import one_of
from agentrl.errors import ConfigError
from agentrl.registry import advantages

VARIANCE_FLOOR = 1e-6


@advantages.register("beta_baseline")
class BetaBaseline(Transform):
    """A_i = (R_i - v(task_i)) whitened over the batch's trajectories (population variance).

    A task that was never seen starts at `start`, with the weight N_0 = 1 / (1 - rho_min) of that many episodes. The
    tracker counts a reward above 0.5 as a success; the advantage takes the reward as it is. `drift` is `k3`, the mean
    of KL(policy || reference) over the last `window` batches, nats a token: `rho_rule="monotone"` forgets faster the
    further the policy drifts, `"paper"` is the released rule, which also forgets fastest at no drift at all.
    Credit metrics: `tracker_rho`, `tracker_tasks`, `drift`.
    """

    stage = Stage.ESTIMATE
    scales = True

    def __init__(
        self,
        *,
        rho_min: float = 0.875,
        rho_max: float = 0.96,
        target: float = 0.01,
        window: int = 10,
        start: float = 0.5,
        rho_rule: Literal["monotone", "paper"] = "monotone",
    ) -> None:
        if not 0 < rho_min <= rho_max < 1:
            raise ConfigError(f"rho_min is {rho_min!r} and rho_max {rho_max!r}; 0 < rho_min <= rho_max < 1 must hold")
        if not 0 <= start <= 1:
            raise ConfigError(f"start is {start!r}; it must lie between 0 and 1")
        if not target > 0 or window < 1:
            raise ConfigError(f"target is {target!r} and window {window!r}; both must be positive")
        self.rho_min, self.rho_max, self.target, self.window, self.start = rho_min, rho_max, target, window, start
        self.rho_rule = one_of("rho_rule", rho_rule, ("monotone", "paper"))
        self.needs = frozenset({"reference", "logprobs"})
        self.trackers: dict[str, tuple[float, float]] = {}
        self.drifts: list[float] = []

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        baselines = [np.array([self.value(table.task_id) for table in credit.tables]) for credit in groups]
        raw = [credit.rewards - baseline for credit, baseline in zip(groups, baselines, strict=True)]
        pooled = np.concatenate(raw) if raw else np.zeros(0)
        if len(pooled) < 2:
            whitened = [np.zeros_like(values) for values in raw]
        else:
            scale = np.sqrt(max(float(pooled.var()), VARIANCE_FLOOR))
            whitened = [(values - pooled.mean()) / scale for values in raw]
        self._observe(groups)
        return [
            replace(credit, trajectory=credit.trajectory + values)
            for credit, values in zip(groups, whitened, strict=True)
        ]

    def value(self, task_id: str) -> float:
        """v of a task: the success rate that its tracker expects."""
        wins, losses = self.trackers.get(task_id, self._fresh())
        return wins / (wins + losses)

    def rho(self) -> float:
        """Share of the past that an update keeps, from the mean drift of the last batches."""
        drift = float(np.mean(self.drifts)) if self.drifts else 0.0
        share, span = drift / self.target, self.rho_max - self.rho_min
        if self.rho_rule == "paper" and share <= 1:
            return self.rho_min + share * span
        return self.rho_max - min(share, 1.0) * span

    def _fresh(self) -> tuple[float, float]:
        weight = 1 / (1 - self.rho_min)
        return weight * self.start, weight * (1 - self.start)

    def _observe(self, groups: list[Credit]) -> None:
        """One decay for each task of the batch, then all of its outcomes."""
        tables = [table for credit in groups for table in credit.tables]
        ratios = [table.column("reference") - table.column("logprobs") for table in tables if table.num_tokens]
        if ratios:
            log_ratio = np.concatenate(ratios).clip(-20, 20)
            self.drifts = [*self.drifts, float((np.expm1(log_ratio) - log_ratio).mean())][-self.window :]
        rho = self.rho()
        decayed: set[str] = set()
        for table in tables:
            wins, losses = self.trackers.get(table.task_id, self._fresh())
            keep = 1.0 if table.task_id in decayed else rho
            won = float(table.total > 0.5)
            self.trackers[table.task_id] = (keep * wins + won, keep * losses + 1 - won)
            decayed.add(table.task_id)
        drift = self.drifts[-1] if self.drifts else 0.0
        self.metrics = {"tracker_rho": rho, "tracker_tasks": float(len(self.trackers)), "drift": drift}

    def state_dict(self) -> dict[str, Any]:
        """Trackers and the last drifts."""
        return {"trackers": {task: list(pair) for task, pair in self.trackers.items()}, "drifts": self.drifts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.trackers = {task: (wins, losses) for task, (wins, losses) in state["trackers"].items()}
        self.drifts = list(state["drifts"])


@advantages.register("entropy_shaping")
class EntropyShaping(Transform):
    """A_k + min(strength H_k, |A_k| / kappa) of every policy token: what was uncertain is pulled up, signs stay.

    `entropy="full"` takes the entropy of the distribution that was sampled from, `"sampled"` the term -p log p of the
    sampled token alone, as the released code does. Credit metric: `shaped_tokens`, the share of tokens whose bonus the
    bound cut.
    """

    stage = Stage.ATTRIBUTE

    def __init__(
        self, *, strength: float = 0.4, kappa: float = 2.0, entropy: Literal["full", "sampled"] = "full"
    ) -> None:
        if not strength >= 0:
            raise ConfigError(f"strength is {strength!r}; it must not be negative")
        if not kappa > 1:
            raise ConfigError(f"kappa is {kappa!r}; above 1 no advantage changes its sign")
        self.strength, self.kappa = strength, kappa
        self.column = {"full": "entropy", "sampled": "logprobs"}[one_of("entropy", entropy, ("full", "sampled"))]
        self.needs = frozenset({self.column})

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        cut = tokens = 0
        shaped = []
        for credit in groups:
            values = []
            for table, before in zip(credit.tables, credit.token_advantages(), strict=True):
                wanted, bound = self.strength * self._entropy(table.column(self.column)), np.abs(before) / self.kappa
                cut, tokens = cut + int((wanted > bound).sum()), tokens + len(before)
                values.append(before + np.minimum(wanted, bound))
            shaped.append(credit.with_token_advantages(values))
        self.metrics = {"shaped_tokens": cut / max(1, tokens)}
        return shaped

    def _entropy(self, column: Array) -> Array:
        return column if self.column == "entropy" else -np.exp(column) * column
