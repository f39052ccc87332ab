"""Rollout correction through the learner: the weight by hand, over micro-batches, steps, masks and rows left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agentrl.errors import ConfigError
from agentrl.objectives import ImportanceWeights, Rejection
from agentrl.objectives.clip import ClippedRatio
from tests.learner.test_update import gradient, largest_difference, learner, weights
from tests.learner.tiny_models import Batch, make_batch, make_model

Gradients = dict[str, torch.Tensor]


def by_hand(batch: Batch, level: str, cap: float, kept: list[int] | None = None) -> tuple[Gradients, float]:
    """Gradient of -sum w A log pi / tokens, by plain autograd over single rows, and the mean of w over `kept`."""
    model = make_model()
    total, used = torch.zeros(()), []
    for index, (trajectory, values) in enumerate(zip(*batch, strict=True)):
        pieces = []
        for turn in range(len(trajectory.turns)):
            ids, n = torch.tensor(trajectory.full_ids(turn)), len(trajectory.turns[turn].sampled_ids)
            rows = torch.log_softmax(model(ids[None]).logits[0], -1)[-n - 1 : -1]
            pieces.append(rows.gather(1, ids[-n:, None])[:, 0])
        logprobs = torch.cat(pieces)
        recorded = torch.tensor([value for turn in trajectory.turns for value in turn.logprobs])
        gap = (logprobs - recorded).detach()
        w = (gap if level == "token" else gap.sum().expand_as(gap)).exp().clamp(max=cap)
        if kept is None or index in kept:
            used.append(w)
        total = total - (w * torch.from_numpy(values).float() * logprobs).sum()
    total = total / sum(item.num_policy_tokens for item in batch[0])
    total.backward()
    grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return grads, float(torch.cat(used).mean())


@pytest.mark.parametrize(("level", "cap"), [("token", 2.0), ("token", 1.2), ("sequence", 2.0)])
@pytest.mark.parametrize("micro_batch_tokens", [10_000, 60, 1])
def test_the_gradient_is_that_of_the_weighted_loss(level: Any, cap: float, micro_batch_tokens: int) -> None:
    correction = ImportanceWeights(level=level, high=cap)
    own = learner(behaviour="recomputed", correction=correction, micro_batch_tokens=micro_batch_tokens)
    expected, _ = by_hand(make_batch(), level, cap)
    found = gradient(own, make_batch())
    assert largest_difference(found, expected) < 1e-6
    plain = gradient(learner(behaviour="recomputed"), make_batch())
    assert largest_difference(found, plain) > 1e-3


def test_statistics_leave_out_rows_without_credit() -> None:
    """Nothing is known of those rows' own log-probabilities: in the mean they would count as weight 1."""
    batch = make_batch()
    batch[1][1], batch[1][4] = np.zeros_like(batch[1][1]), np.zeros_like(batch[1][4])
    kept = [index for index in range(8) if index not in (1, 4)]
    plain, mean = by_hand(batch, "token", 2.0, kept)
    own = learner(behaviour="recomputed", correction=ImportanceWeights(high=2.0, normalise=True), micro_batch_tokens=60)
    found = gradient(own, batch)
    assert largest_difference(found, {name: grad / mean for name, grad in plain.items()}) < 1e-6
    assert mean != pytest.approx(1.0, abs=0.05)
    metrics = learner(behaviour="recomputed", correction=ImportanceWeights(high=2.0)).update(*batch)
    assert metrics["correction_weight"] == pytest.approx(mean, rel=1e-5)


def test_a_batch_that_is_rejected_as_a_whole_has_loss_zero() -> None:
    own = learner(behaviour="recomputed", correction=Rejection(low=1e8, high=1e9))
    before = weights(own)
    metrics = own.update(*make_batch())
    assert metrics["loss"] == 0.0 and metrics["grad_norm"] == 0.0
    assert metrics["rejected_sequence_geometric"] == 1.0
    assert largest_difference(before, weights(own)) == 0


def test_weights_come_from_the_policy_before_the_first_of_several_steps() -> None:
    """lp_prox is not read again after a minibatch has moved the weights: the mean weight is that of one pass."""
    single = learner(behaviour="recomputed", correction=ImportanceWeights(high=2.0)).update(*make_batch())
    several = learner(
        behaviour="recomputed", correction=ImportanceWeights(high=2.0), minibatches=4, epochs=2, lr=0.1
    ).update(*make_batch())
    assert several["correction_weight"] == pytest.approx(single["correction_weight"], rel=1e-6)
    assert several["ratio"] != pytest.approx(1.0, abs=1e-3)


def test_equal_policies_give_the_same_bits_as_no_correction() -> None:
    trajectories, advantages = make_batch(size=4)
    own = learner(behaviour="recomputed", minibatches=2)
    for trajectory, columns in zip(trajectories, own.score(trajectories, frozenset({"logprobs"})), strict=True):
        values = iter(columns["logprobs"].tolist())
        for turn in trajectory.turns:
            turn.logprobs = [next(values) for _ in turn.sampled_ids]
    corrected = learner(
        behaviour="recomputed", minibatches=2, correction=ImportanceWeights(mode="mask", low=0.5, high=5.0)
    )
    own.update(trajectories, advantages)
    metrics = corrected.update(trajectories, advantages)
    assert metrics["mismatch/max_abs"] == 0.0
    assert largest_difference(weights(own), weights(corrected)) == 0


def test_a_correction_without_recomputed_behaviour_is_refused() -> None:
    with pytest.raises(ConfigError, match="recomputed"):
        learner(correction=ImportanceWeights())


@pytest.mark.parametrize("micro_batch_tokens", [10_000, 1])
def test_bounds_of_a_group_do_not_depend_on_micro_batches(micro_batch_tokens: int) -> None:
    """ETR's macro factor is of the whole group, though a micro-batch holds one member."""
    trajectories, advantages = make_batch()
    columns = [
        {"reward": float(index % 2), "group": float(index // 4), "group_variance": 0.25 if index < 4 else 0.0}
        for index in range(8)
    ]
    own = learner(
        ClippedRatio(bounds={"name": "etr", "micro": 0.0, "macro": 0.5, "eps_low": 0.2, "eps_high": 0.2}),
        micro_batch_tokens=micro_batch_tokens,
    )
    metrics = own.update(trajectories, advantages, columns=columns)
    tokens = [item.num_policy_tokens for item in trajectories]
    eps = (sum(tokens[:4]) * 0.25 + sum(tokens[4:]) * 0.15) / sum(tokens)
    assert metrics["clip_high"] == pytest.approx(1 + eps, rel=1e-6)
    assert metrics["clip_low"] == pytest.approx(1 - eps, rel=1e-6)


def test_group_variance_is_filled_in_by_task() -> None:
    trajectories, advantages = make_batch(size=4)
    for index, trajectory in enumerate(trajectories):
        trajectory.task_id = "one" if index < 3 else "other"
        trajectory.turns[-1].reward = float(index == 0)
    own = learner(ClippedRatio(bounds={"name": "etr", "micro": 0.0, "macro": 1.0}))
    metrics = own.update(trajectories, advantages)
    tokens = [item.num_policy_tokens for item in trajectories]
    wide = 0.2 * (1 + 4 * 2 / 9 - 0.5)  # p = 1/3; a group of one keeps 0.2
    eps = (sum(tokens[:3]) * wide + tokens[3] * 0.2) / sum(tokens)
    assert metrics["clip_high"] == pytest.approx(1 + eps, rel=1e-6)
