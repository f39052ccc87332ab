"""DSDR's global term: correct trajectories that are unlike the rest of their group are paid a little more (34).

d_i is half the mean distance of i's embedding from those of all other members and half the share of its formulas that
no other member has; wrong members are part of the comparison and get no bonus. Invariants: no bonus closes the gap to
a wrong answer (lambda sigma < 1); both numbers are constants of the update.

For agents a formula is a tool call in normal form (`call_signatures`; without calls that half is 0), and the embedding
is the mean of the policy's own last hidden states over the trajectory's policy tokens, observations left out. Both
mappings and sigma are inferred.
Source: arXiv 2602.19895, global score, clip and coupling: verified from the text.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.advantages.group import GRPO
from agentrl.advantages.statistics import GroupStatistic, Singleton
from agentrl.errors import ConfigError
from agentrl.registry import advantages

EMBEDDING = "embedding"
WEIGHT = "diversity_weight"
"""Column for the regulariser `dsdr_local`: w_i of each policy token's trajectory."""


@advantages.register("dsdr")
class DiversityBonus(Transform):
    """R_i + scale min(d_i, ceiling) for correct members, and the weights w_i of `dsdr_local`.

    w_i = exp(tau d_i) / sum over the correct members (d clipped): a larger tau concentrates on the most unusual one.
    A member without policy tokens has no embedding: it is compared with nobody. The bonus goes to the last turn.

    Metrics: `diversity`, `diversity_embedding`, `diversity_formulas` (means over all members), `diversity_clipped`
    (share of members above the ceiling).
    """

    stage = Stage.REWARD
    needs = frozenset({EMBEDDING})
    writes = frozenset({WEIGHT})

    def __init__(self, *, scale: float = 0.001, ceiling: float = 0.5, tau: float = 5.0) -> None:
        """The paper's lambda_d, sigma_d and tau."""
        if not scale >= 0:
            raise ConfigError(f"scale is {scale!r}; it must not be negative")
        if not 0 < ceiling <= 1:
            raise ConfigError(f"ceiling is {ceiling!r}; it must lie between 0 and 1")
        if not scale * ceiling < 1:
            raise ConfigError(f"scale x ceiling is {scale * ceiling:g}; at 1 the bonus is worth a correct answer")
        self.scale, self.ceiling, self.tau = scale, ceiling, tau

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        parts = [diversity(credit.tables) for credit in groups]
        raw = np.concatenate([(near + formulas) / 2 for near, formulas in parts] or [np.zeros(0)])
        if len(raw):
            self.metrics = {
                "diversity": float(raw.mean()),
                "diversity_embedding": float(np.concatenate([near for near, _ in parts]).mean()),
                "diversity_formulas": float(np.concatenate([formulas for _, formulas in parts]).mean()),
                "diversity_clipped": float((raw > self.ceiling).mean()),
            }
        return [self._apply(credit, (near + own) / 2) for credit, (near, own) in zip(groups, parts, strict=True)]

    def _apply(self, credit: Credit, score: Array) -> Credit:
        score = np.clip(score, 0.0, self.ceiling)
        correct = np.array([table.verdict("dsdr") for table in credit.tables], dtype=np.bool_)
        weights = self._coupling(score, correct)
        tables = []
        for table, bonus, weight in zip(credit.tables, self.scale * score * correct, weights, strict=True):
            rewards = table.rewards.astype(np.float64)  # a copy
            if len(rewards):
                rewards[-1] += bonus
            # The embedding has done its work, and a vector as long as the trajectory would pass for a token's column.
            columns = {name: values for name, values in table.columns.items() if name != EMBEDDING}
            columns[WEIGHT] = np.full(table.num_tokens, weight)
            tables.append(replace(table, rewards=rewards, columns=columns))
        return replace(credit, tables=tuple(tables))

    def _coupling(self, score: Array, correct: np.ndarray[Any, np.dtype[np.bool_]]) -> Array:
        """w_i, shape (G,)."""
        if not correct.any():
            return np.zeros(len(score))
        powers = np.where(correct, np.exp(self.tau * (score - score[correct].max())), 0.0)
        return np.asarray(powers / powers.sum())


def diversity(tables: tuple[TurnTable, ...]) -> tuple[Array, Array]:
    """D_emb and D_eq of every member against all others, shape (G,) each, between 0 and 1."""
    near, own = np.zeros(len(tables)), np.zeros(len(tables))
    embedded = [index for index, table in enumerate(tables) if table.num_tokens]
    if len(embedded) > 1:
        cosines = _cosines(np.stack([tables[index].column(EMBEDDING) for index in embedded]))
        peers = len(embedded) - 1
        near[embedded] = (1.0 - (cosines.sum(axis=1) - cosines.diagonal()) / peers) / 2
    formulas = [call_signatures(table) for table in tables]
    for index, mine in enumerate(formulas):
        taken = frozenset().union(*(item for other, item in enumerate(formulas) if other != index))
        own[index] = len(mine - taken) / len(mine) if mine else 0.0
    return near, own


def _cosines(vectors: Array) -> Array:
    """Of every pair of rows, shape (m, m); 0 where a vector is 0: it points nowhere."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return np.asarray(np.clip(units @ units.T, -1.0, 1.0))


def call_signatures(table: TurnTable) -> frozenset[str]:
    """The tool calls of a trajectory in normal form, each once: `name` and its arguments as canonical JSON.

    Keys are sorted, text loses its case and the number of its spaces, so that formatting alone is no diversity;
    arguments that are no JSON are normalised as text.
    """
    if table.record is None:
        return frozenset()
    calls = (call for turn in table.record.turns for call in turn.tool_calls)
    return frozenset(f"{call.name}({_canonical(call.arguments)})" for call in calls)


def _canonical(arguments: str) -> str:
    try:
        value: Any = json.loads(arguments)
    except ValueError:
        value = arguments
    return json.dumps(_normal(value), sort_keys=True, ensure_ascii=False)


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _normal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_normal(item) for item in value]
    return " ".join(value.casefold().split()) if isinstance(value, str) else value


@advantages.register("dsdr_grpo")
class DiversityGRPO(GRPO):
    """GRPO whose all-correct groups are centred and not divided by their std.

    In such a group only the bonuses differ, and a std would blow them up to full size: a correct answer would then be
    punished like a wrong one. The paper divides (`grpo`); this is the option "no std in all-correct groups" (inferred).
    """

    def __init__(self, *, ddof: Literal[0, 1] = 1, eps: float = 1e-6, singleton: Singleton = "zero") -> None:
        """As `grpo`."""
        super().__init__(ddof=ddof, eps=eps, singleton=singleton)
        self.centred = GroupStatistic(leave_one_out=False, scale=False, ddof=ddof, eps=eps, singleton=singleton)

    def _estimate(self, credit: Credit) -> Array:
        solved = all(table.verdict("dsdr_grpo") for table in credit.tables)
        return (self.centred if solved else self.statistic).over_trajectories(credit.rewards)
