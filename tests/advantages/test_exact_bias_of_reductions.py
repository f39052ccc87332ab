"""Exact expectations of `rloo` under each reduction of the loss: the reduction is part of the estimator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from agentrl import advantages
from agentrl.advantages import Array
from agentrl.objectives.reduction import reduction_weights
from tests.advantages.known_processes import TWO_TOKENS
from tests.advantages.processes import Episode, Weigh, cosine, moments


def weighed_by(reduction: str) -> Weigh:
    """The weights that the trainer gives the tokens of a batch (float32)."""

    def weigh(episodes: Sequence[Episode]) -> Array:
        lengths = torch.tensor([episode.table.num_tokens for episode in episodes])
        sequences = torch.repeat_interleave(torch.arange(len(episodes)), lengths)
        turns = torch.from_numpy(np.concatenate([episode.table.turn_of_token for episode in episodes]))
        everything = torch.ones(len(sequences), dtype=torch.bool)
        return np.asarray(reduction_weights(reduction, sequences, turns, everything).numpy(), dtype=np.float64)

    return weigh


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("seq_mean_token_sum", [0.065, 0.025, 0.012, 0.115500]),
        ("token_mean", [0.026500, 0.011250, 0.003500, 0.041965]),
        ("seq_mean_token_mean", [0.027625, 0.013125, 0.002600, 0.038500]),
        ("turn_mean", [0.022917, 0.010208, 0.002, 0.066413]),
    ],
)
def test_only_a_sum_over_tokens_keeps_rloo_unbiased(reduction: str, expected: list[float]) -> None:
    """Lengths depend on the policy: dividing by one's own bends the gradient, by the batch's less with its size."""
    result = moments(TWO_TOKENS, advantages.build(["rloo"]), 2, weigh=weighed_by(reduction))
    assert result.mean == pytest.approx(expected, abs=1e-6)
    assert (cosine(result.mean, TWO_TOKENS.true_gradient) > 1 - 1e-6) == (reduction == "seq_mean_token_sum")


@pytest.mark.parametrize(
    ("reduction", "cosines"),
    [("token_mean", [0.9979, 0.9995]), ("turn_mean", [0.9816, 0.9751]), ("seq_mean_token_mean", [0.9902, 0.9902])],
)
def test_a_larger_batch_mends_the_token_mean_alone(reduction: str, cosines: list[float]) -> None:
    results = [
        moments(TWO_TOKENS, advantages.build(["rloo"]), 2, batch=b, weigh=weighed_by(reduction)).mean for b in (1, 2)
    ]
    assert [cosine(result, TWO_TOKENS.true_gradient) for result in results] == pytest.approx(cosines, abs=1e-4)
