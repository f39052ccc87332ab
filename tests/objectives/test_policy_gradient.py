"""From rewards to the gradient in the logits: the whole chain of credit, objective and reduction, exactly.

The three-armed bandit of B1 (b) and B3 (b), enumerated; equality and not closeness catches the (G-1)/G error.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from agentrl import advantages
from agentrl.advantages import TurnTable, attribute
from agentrl.objectives import TokenBatch, build_objective, reduce, reduction_weights

REWARDS = [1.0, 0.0, 0.5]
LOGITS = torch.tensor([0.2, 0.0, -0.3], dtype=torch.float64)
TRUE_GRADIENT = LOGITS.softmax(0) * (
    torch.tensor(REWARDS, dtype=torch.float64) - (LOGITS.softmax(0) * torch.tensor(REWARDS)).sum()
)


def ascent_of(estimator: str, group: tuple[int, ...]) -> torch.Tensor:
    """Minus the loss's gradient in the logits for one sampled group."""
    tables = [TurnTable(np.array([REWARDS[arm]]), np.array([1])) for arm in group]
    credit = attribute(advantages.build([estimator]), [tables])[0]
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(0)[list(group)]
    sequences = torch.arange(len(group))
    turns, mask = torch.ones_like(sequences), torch.ones(len(group), dtype=torch.bool)
    batch = TokenBatch(
        logprobs=logprobs,
        behaviour=logprobs.detach(),
        advantages=torch.from_numpy(np.concatenate(credit.token_advantages())),
        mask=mask,
        sequence_ids=sequences,
        turn_ids=turns,
        weights=reduction_weights("seq_mean_token_sum", sequences, turns, mask),
    )
    (grad,) = torch.autograd.grad(reduce(build_objective("clip")(batch).loss, batch), logits)
    return -grad


def expected_ascent(estimator: str, size: int) -> torch.Tensor:
    policy = LOGITS.softmax(0)
    groups = product(range(3), repeat=size)
    return torch.stack([policy[list(group)].prod() * ascent_of(estimator, group) for group in groups]).sum(0)


def test_rloo_gives_the_true_gradient() -> None:
    assert expected_ascent("rloo", 2).tolist() == pytest.approx([0.190754, -0.181408, -0.009346], abs=1e-6)
    assert expected_ascent("rloo", 2).tolist() == pytest.approx(TRUE_GRADIENT.tolist(), abs=1e-9)


def test_the_mean_baseline_gives_exactly_half() -> None:
    assert expected_ascent("dr_grpo", 2).tolist() == pytest.approx((TRUE_GRADIENT / 2).tolist(), abs=1e-9)
