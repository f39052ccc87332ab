"""DAPO's objective (B7) as its recipe builds it: clip-higher on batch E1, and how far a rare arm may grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from agentrl.config import load_config
from agentrl.objectives import ClippedRatio, Objective, TokenBatch, build_objective

A = 0.5 / (0.5**0.5 + 1e-6)


def objective() -> Objective:
    return build_objective(load_config(recipe="dapo").loss.objective)


def test_b7a_on_e1(e1: Callable[..., TokenBatch], run: Callable[..., Any]) -> None:
    assert load_config(recipe="dapo").loss.reduction == "token_mean"
    outcome = run(objective(), e1([A, -A]))
    assert float(outcome.loss) == pytest.approx(-0.177753, abs=6e-7)
    expected = [0, -0.091402, 0, 0, -0.101015, 0, 0.111639, 0, 0, 0]
    assert outcome.grad.tolist() == pytest.approx(expected, abs=1e-6)


def final_ratio(gate: Objective, steps: int = 100) -> float:
    """Of a rare arm that was sampled once with A = 1, after many tiny steps on its own loss."""
    logits = torch.tensor([4.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    old = logits.log_softmax(0)[1:2]
    one = torch.ones(1, dtype=torch.int64)
    ratio = 1.0
    for _ in range(steps):
        leaf = logits.clone().requires_grad_()
        logprobs = leaf.log_softmax(0)[1:2]
        ratio = float((logprobs.detach() - old).exp())
        weight = advantage = torch.ones(1, dtype=torch.float64)
        batch = TokenBatch(logprobs, old, advantage, torch.ones(1, dtype=torch.bool), one, one, weight)
        (grad,) = torch.autograd.grad(gate(batch).loss.sum(), leaf)
        logits = logits - 0.02 * grad
    return ratio


def test_b7b_a_higher_clip_lets_a_rare_arm_grow_further() -> None:
    low, high = final_ratio(ClippedRatio(eps_low=0.2, eps_high=0.2)), final_ratio(objective())
    assert 1.2 < low < 1.23
    assert 1.28 < high < 1.35
