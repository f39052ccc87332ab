"""Batch E1 of the specification, and how a component is run on a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from agentrl.objectives import Objective, Regulariser, TokenBatch, TokenLoss, reduce, reduction_weights

ABSENT = float("nan")  # padding: no formula may read it
MASK = [[1, 1, 0, 1, 1], [1, 1, 1, 0, 0]]
TURNS = [[1, 1, 0, 2, 2], [1, 1, 1, 0, 0]]
BEHAVIOUR = [[-1.0, -0.5, -1.0, -2.0, -0.7], [-1.2, -0.3, -0.9, ABSENT, ABSENT]]
POLICY = [[-0.7, -0.6, -9.0, -1.6, -0.7], [-1.5, -0.2, -1.3, ABSENT, ABSENT]]
REFERENCE = [[-1.1, -0.4, -3.0, -1.8, -0.9], [-1.0, -0.5, -0.8, ABSENT, ABSENT]]


def make_e1(
    advantages: list[float],
    reduction: str = "token_mean",
    norm: float | None = None,
    absurd: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> TokenBatch:
    """E1 with one advantage a trajectory; `absurd` replaces every masked value, of all tensors."""

    def flat(rows: list[list[float]]) -> Tensor:
        values = torch.tensor(rows, dtype=dtype).flatten()
        return values if absurd is None else torch.where(mask, values, torch.full_like(values, absurd))

    mask = torch.tensor(MASK, dtype=torch.bool).flatten()
    sequences = torch.tensor([[7] * 5, [3] * 5]).flatten()  # ids need not be dense or sorted
    turns = torch.tensor(TURNS).flatten()
    return TokenBatch(
        logprobs=flat(POLICY).requires_grad_(),
        behaviour=flat(BEHAVIOUR),
        advantages=flat([[advantage] * 5 for advantage in advantages]),
        mask=mask,
        sequence_ids=sequences,
        turn_ids=turns,
        weights=reduction_weights(reduction, sequences, turns, mask, norm=norm),
        columns={"reference": flat(REFERENCE)},
    )


@dataclass
class Outcome:
    """What a component makes of a batch."""

    loss: Tensor
    grad: Tensor
    tokens: TokenLoss

    def mean(self, name: str) -> float:
        total, count = self.tokens.sums[name]
        return float(total / count)


def evaluate(component: Objective | Regulariser, batch: TokenBatch) -> Outcome:
    """Reduced loss and its gradient with respect to the policy's log-probabilities."""
    tokens = component(batch)
    loss = reduce(tokens.loss, batch)
    (grad,) = torch.autograd.grad(loss, batch.logprobs)
    return Outcome(loss.detach(), grad, tokens)


@pytest.fixture
def e1() -> Callable[..., TokenBatch]:
    return make_e1


@pytest.fixture
def run() -> Callable[[Objective | Regulariser, TokenBatch], Outcome]:
    return evaluate
