"""CISPO: B9's numbers, that no token loses its gradient, and the mask that makes it PPO again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.errors import ConfigError
from agentrl.objectives import CISPO, ClippedRatio, Objective, TokenBatch, build_objective, reduce
from tests.objectives.test_clip import GRPO_A, tokens

Make = Callable[..., TokenBatch]
Run = Callable[..., Any]


def test_b9a(e1: Make, run: Run) -> None:
    outcome = run(CISPO(is_weight_max=1.28), e1(GRPO_A))
    assert float(outcome.loss) == pytest.approx(0.200336, abs=6e-7)
    expected = [[-0.129299, -0.091402, 0, -0.129299, -0.101015], [0.074834, 0.111639, 0.067712, 0, 0]]
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array(expected), abs=6e-7)
    assert outcome.mean("weight_bounded") == pytest.approx(2 / 7)
    assert "dropped" not in outcome.tokens.sums


def test_tokens_that_the_clip_drops_keep_their_gradient(e1: Make, run: Run) -> None:
    batch = e1(GRPO_A)
    clipped = run(ClippedRatio(eps_low=0.2, eps_high=0.28), batch).grad
    kept = run(CISPO(is_weight_max=1.28), batch).grad
    lost = batch.mask & (clipped == 0)
    assert int(lost.sum()) == 4
    assert kept[lost].all()
    same = batch.mask & ~lost
    assert kept[same].tolist() == pytest.approx(clipped[same].tolist())


def test_the_weight_has_no_gradient(run: Run) -> None:
    """Otherwise the derivative at rho = 2, log pi = log 2 were 2 (1 + log 2) A."""
    assert run(CISPO(), tokens([2.0], [1.0])).grad.tolist() == pytest.approx([-2.0])


def test_bounds_of_the_weight(run: Run) -> None:
    batch = tokens([0.1, 9.0, 0.1, 9.0], [1.0, 1.0, -1.0, -1.0])
    assert run(CISPO(), batch).grad.tolist() == pytest.approx([-0.1, -5.0, 0.1, 5.0])
    both = run(CISPO(is_weight_min=0.5, is_weight_max=2.0), batch)
    assert both.grad.tolist() == pytest.approx([-0.5, -2.0, 0.5, 2.0])
    assert both.mean("weight_bounded") == 1


def test_the_mask_of_the_unified_form_gives_ppos_gradient(e1: Make, run: Run) -> None:
    ppo = run(ClippedRatio(), e1(GRPO_A)).grad
    masked = run(CISPO(is_weight_max=100.0, mask_eps_low=0.2, mask_eps_high=0.2), e1(GRPO_A))
    assert masked.grad.tolist() == pytest.approx(ppo.tolist())
    assert masked.mean("dropped") == pytest.approx(4 / 7)
    batch = tokens([0.5, 2.0, 0.5, 2.0], [1.0, 1.0, -1.0, -1.0])
    assert run(CISPO(mask_eps_low=0.2), batch).grad.tolist() == pytest.approx([-0.5, -2.0, 0.0, 2.0])
    assert run(CISPO(mask_eps_high=0.2), batch).grad.tolist() == pytest.approx([-0.5, 0.0, 0.5, 2.0])


def growth(objective: Objective) -> float:
    """How much likelier a rare sampled arm with A = 1 becomes in 20 inner steps of lr 0.4."""
    logits = torch.tensor([3.0, 0, 0, 0, 0], dtype=torch.float64, requires_grad=True)
    start = logits.detach().log_softmax(0)[1:2]
    for _ in range(20):
        batch = TokenBatch(
            logprobs=logits.log_softmax(0)[1:2],
            behaviour=start,
            advantages=torch.ones(1, dtype=torch.float64),
            mask=torch.ones(1, dtype=torch.bool),
            sequence_ids=torch.zeros(1, dtype=torch.int64),
            turn_ids=torch.ones(1, dtype=torch.int64),
            weights=torch.ones(1, dtype=torch.float64),
        )
        (grad,) = torch.autograd.grad(reduce(objective(batch).loss, batch), logits)
        logits = (logits - 0.4 * grad).detach().requires_grad_()
    return float((logits.detach().log_softmax(0)[1] - start[0]).exp())


def test_b9b_a_rare_token_may_grow() -> None:
    assert growth(ClippedRatio()) < 1.9
    assert growth(CISPO(is_weight_max=5.0)) > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"is_weight_max": 0.5}, "is_weight_max is 0.5"),
        ({"is_weight_min": -1}, "is_weight_min is -1"),
        ({"mask_eps_low": -0.2}, "mask_eps_low is -0.2"),
        ({"epsilon_high": 5}, "no option 'epsilon_high'"),
    ],
)
def test_wrong_options(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_objective({"name": "cispo", **options})
