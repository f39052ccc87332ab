"""Imitation: the loss is cross-entropy on policy tokens, cut as one likes, and it goes down."""

from __future__ import annotations

import pytest
import torch

from agentrl.config import OptimiserConfig
from agentrl.errors import TrainingError
from agentrl.learner import Learner, Policy
from agentrl.learner.supervised import supervised_step
from agentrl.objectives.clip import ClippedRatio
from tests.learner.tiny_models import make_batch, make_model


def make_learner(micro_batch_tokens: int = 4096) -> Learner:
    settings = OptimiserConfig(micro_batch_tokens=micro_batch_tokens)
    return Learner(Policy(make_model(), precision="fp32"), objective=ClippedRatio(), optimiser=settings)


def test_loss_and_accuracy_are_those_of_plain_cross_entropy() -> None:
    own, model, trajectories = make_learner(), make_model(), make_batch()[0]
    logits, targets = [], []
    for trajectory in trajectories:
        for index, turn in enumerate(trajectory.turns):
            ids, n = torch.tensor(trajectory.full_ids(index)), len(turn.sampled_ids)
            with torch.no_grad():
                logits.append(model(ids[None]).logits[0][-n - 1 : -1])
            targets.append(ids[-n:])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets))
    hits = (torch.cat(logits).argmax(-1) == torch.cat(targets)).float().mean()
    metrics = own.supervised_step(trajectories, own.supervised_optimiser(1e-3))
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(float(hits))


def test_micro_batches_change_nothing() -> None:
    losses = []
    for tokens in (10_000, 40):
        own = make_learner(tokens)
        optimiser = own.supervised_optimiser(1e-3)
        losses.append([own.supervised_step(make_batch()[0], optimiser)["loss"] for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_demonstration_is_learnt_by_heart_and_the_reinforcement_optimiser_is_untouched() -> None:
    own = make_learner()
    optimiser = own.supervised_optimiser(1e-2)
    trajectories = make_batch(size=2)[0]
    for _ in range(40):
        metrics = own.supervised_step(trajectories, optimiser)
    assert metrics["loss"] < 0.1
    assert metrics["accuracy"] == 1.0
    assert not own.optimiser.state
    assert own.steps == 0


def test_nothing_to_imitate_is_an_error() -> None:
    own = make_learner()
    with pytest.raises(TrainingError, match="no policy tokens"):
        supervised_step(own.policy, [], own.optimiser)
