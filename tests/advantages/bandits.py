"""Softmax bandits: one-turn, one-token episodes, so that a test sees what an estimator does to a policy over time.

Many runs go side by side, one group each a step; the tables of arms are made once, and columns that depend on the
policy are views that the run fills in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from agentrl.advantages import Array, Credit, Transform, TurnTable

Runs = Array
"""One row a run."""


def softmax(logits: Runs) -> Runs:
    """Shape (runs, arms)."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def arm_table(correct: bool, **columns: Array) -> TurnTable:
    """The episode that pulled an arm: reward 1 if it is correct, one policy token."""
    return TurnTable(np.array([float(correct)]), np.array([1]), correct=correct, columns=columns)


def bare_credit(tables: Sequence[TurnTable]) -> Credit:
    """`Credit.zeros` of one-token episodes, without making the same zeros again and again."""
    size = len(tables)
    return Credit(tuple(tables), np.zeros(size), (_ZERO,) * size, (_ZERO,) * size)


_ZERO = np.zeros(1)


def train(
    transforms: Sequence[Transform],
    logits: Runs,
    play: Callable[[int, int], TurnTable],
    *,
    group: int,
    steps: int,
    step_size: float,
    see: Callable[[Runs], None] = lambda policy: None,
    seed: int = 0,
) -> Runs:
    """The policies after `steps` updates logits += step_size * mean of A grad log p, shape (runs, arms).

    `play(run, arm)` is the episode; `see(policy)` is told the policies before each step. Members that were dropped are
    in no sum and in no denominator.
    """
    rng = np.random.default_rng(seed)
    logits = logits.copy()
    arms = logits.shape[1]
    for _ in range(steps):
        policy = softmax(logits)
        see(policy)
        draws = (policy.cumsum(axis=1)[:, None] < rng.random((len(logits), group, 1))).sum(axis=2).clip(max=arms - 1)
        credits = [bare_credit([play(run, int(arm)) for arm in row]) for run, row in enumerate(draws)]
        for transform in transforms:
            credits = transform(credits)
        for run, credit in enumerate(credits):
            kept = [index for index in range(group) if index not in credit.dropped]
            advantages = (credit.trajectory + np.concatenate(credit.tokens))[kept]
            total = np.bincount(draws[run, kept], advantages, minlength=arms) - advantages.sum() * policy[run]
            logits[run] += step_size * total / max(1, len(kept))
    return softmax(logits)


def effective_number(policy: Runs, correct: slice) -> Array:
    """exp of the entropy of each policy among its correct arms, shape (runs,)."""
    among = policy[:, correct] / policy[:, correct].sum(axis=1, keepdims=True)
    return np.asarray(np.exp(-(among * np.log(np.maximum(among, 1e-300))).sum(axis=1)))
