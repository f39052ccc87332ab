"""The rows of one optimiser step and what is known of their tokens: what an update works on, and what it reports.

Invariant: denominators and columns are of the whole step, whatever micro-batches it is read in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from agentrl.advantages.batch import reward_variance
from agentrl.config import OptimiserConfig
from agentrl.errors import TrainingError
from agentrl.learner.batch import Columns, TokenTable, TrainingRow
from agentrl.trajectory import Trajectory


@dataclass
class Step:
    """The rows of one optimiser step. Tensors have shape (n,), over all of its policy tokens."""

    rows: list[TrainingRow]
    bins: list[list[int]]
    """Rows of each micro-batch; rows whose gradient is zero for certain are in none."""
    table: TokenTable
    weights: Tensor
    mask: Tensor
    behaviour: Tensor
    columns: dict[str, Tensor]
    credited: bool
    """There is a gradient for the policy; else only a critic learns here."""
    correction: Tensor | None = None
    """Weight of each token's policy loss for the gap between engine and learner (B10)."""


def counts(steps: Sequence[Step], config: OptimiserConfig) -> dict[str, float]:
    """What the passes of one epoch were made of."""
    acting = [step.rows[index] for step in steps for members in step.bins for index in members]
    tokens = sum(len(row) for row in acting)
    bins = sum(len(step.bins) for step in steps)
    return {
        "update/rows": len(acting),
        "update/tokens": tokens,
        "update/policy_tokens": sum(len(row.positions) for row in acting),
        "update/micro_batches": bins,
        "update/packing_efficiency": tokens / max(1, bins * config.micro_batch_tokens),
        "update/skipped_rows": sum(len(step.rows) for step in steps) - len(acting),
        "update/skipped_steps": config.epochs * sum(not step.credited for step in steps),
    }


def targets_of(row: TrainingRow) -> NDArray[np.float64]:
    """What the critic is to predict, shape (n,)."""
    try:
        return row.columns["returns"]
    except KeyError:
        raise TrainingError(
            "the batch has no returns to train the critic on; an estimator such as gae sets them"
        ) from None


def with_defaults(trajectories: Sequence[Trajectory], columns: Sequence[Columns] | None) -> list[Columns]:
    """Reward, verdict, and group with its variance of every trajectory, unless they are given."""
    rewards: dict[str, list[float]] = {}
    for trajectory in trajectories:
        rewards.setdefault(trajectory.task_id, []).append(trajectory.reward)
    groups = {task: (float(n), reward_variance(np.array(own))) for n, (task, own) in enumerate(rewards.items())}
    filled: list[Columns] = []
    for index, trajectory in enumerate(trajectories):
        given = {} if columns is None else columns[index]
        number, variance = groups[trajectory.task_id]
        group = {} if "group" in given else {"group": number, "group_variance": variance}
        verdict = trajectory.metrics.get("correct", float("nan"))
        filled.append({"reward": trajectory.reward, "correct": verdict, **group, **given})
    return filled
