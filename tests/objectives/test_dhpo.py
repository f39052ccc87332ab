"""DHPO: 55's numbers, both ends of the mixture, and that an outlier of one branch leaves the other alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.errors import ConfigError
from agentrl.objectives import DHPO, ClippedRatio, TokenBatch, build_objective
from tests.objectives.test_clip import GRPO_A, tokens

Make = Callable[..., TokenBatch]
Run = Callable[..., Any]

WIDE = {"pooled_eps_low": 0.2, "pooled_eps_high": 0.2}
ENTROPY = [[0.2, 1.0, 9.0, 2.0, 0.4], [0.5, 0.1, 1.5, 9.0, 9.0]]


def with_entropy(batch: TokenBatch, rows: list[list[float]]) -> TokenBatch:
    return replace(batch, current={"entropy": torch.tensor(rows, dtype=batch.logprobs.dtype).flatten()})


@pytest.fixture
def mixed(e1: Make) -> TokenBatch:
    return with_entropy(e1(GRPO_A, "seq_mean_token_mean"), ENTROPY)


def test_55a_averaged(mixed: TokenBatch, run: Run) -> None:
    outcome = run(DHPO(**WIDE), mixed)
    assert float(outcome.loss) == pytest.approx(-0.091498, abs=6e-7)
    expected = [[-0.051346, -0.091335, 0, -0.051346, -0.095540], [0.048244, 0.113367, 0.048244, 0, 0]]
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array(expected), abs=6e-7)
    assert float(run(DHPO(), mixed).loss) == pytest.approx(-0.030969, abs=6e-7)


def test_55a_entropy(mixed: TokenBatch, run: Run) -> None:
    outcome = run(DHPO(weights="entropy", **WIDE), mixed)
    assert float(outcome.loss) == pytest.approx(-0.115832, abs=6e-7)
    expected = [[-0.102692, -0.092597, 0, 0, -0.101103], [0.068920, 0.096488, 0, 0, 0]]
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array(expected), abs=6e-7)
    assert outcome.mean("mix_weight") == pytest.approx((0.444444 + 1 + 0.111111 + 0.285714 + 1) / 7, abs=1e-6)
    assert float(run(DHPO(weights="entropy"), mixed).loss) == pytest.approx(-0.044391, abs=6e-7)


def test_the_other_direction_swaps_the_branches(mixed: TokenBatch, run: Run) -> None:
    """w becomes 1 - w: the least certain token takes the trajectory's ratio, the most certain one its own."""
    grad = run(DHPO(weights="entropy", entropy_to="sequence", **WIDE), mixed).grad.reshape(2, 5)
    a, s = GRPO_A[0], 1.161834
    assert float(grad[0, 3]) == pytest.approx(-a * s / 8, abs=1e-6)
    assert float(grad[0, 0]) == 0  # its own ratio is clipped
    assert float(grad[1, 2]) == pytest.approx(a * 0.818731 / 6, abs=1e-6)


def test_both_ends_are_grpo_and_gspo_token_exactly(
    mixed: TokenBatch, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = replace(mixed, advantages=torch.randn(10, generator=torch.Generator().manual_seed(0)).double())
    for weight, plain in ((1.0, ClippedRatio()), (0.0, ClippedRatio(level="sequence"))):
        monkeypatch.setattr(DHPO, "_weights", lambda self, batch, w=weight: torch.full_like(batch.behaviour, w))
        for surrogate in ("outer_min", "branch_min"):
            hybrid, expected = run(DHPO(surrogate=surrogate), batch), run(plain, batch)
            assert torch.equal(hybrid.tokens.loss, expected.tokens.loss)
            assert torch.equal(hybrid.grad, expected.grad)


@pytest.mark.parametrize(("surrogate", "loss"), [("outer_min", -1.0), ("branch_min", -0.85)])
def test_55a_disagreement_of_the_branches(run: Run, surrogate: str, loss: float) -> None:
    """r = 2 and s = 1/2: the second token's ratio is 1/8."""
    batch = replace(tokens([2.0, 0.125], [1.0, 1.0]), sequence_ids=torch.zeros(2, dtype=torch.int64))
    outcome = run(build_objective({"name": "dhpo", "surrogate": surrogate, **WIDE}), batch)
    assert float(outcome.tokens.loss.detach()[0]) == pytest.approx(loss)


def test_turns_in_place_of_trajectories(mixed: TokenBatch, run: Run) -> None:
    outcome = run(DHPO(level="turn", pooled_eps_low=9.0, pooled_eps_high=9.0, eps_low=9.0, eps_high=9.0), mixed)
    first = (np.exp(0.3) + np.exp(0.1)) / 2  # r_1 and the ratio of turn 1
    assert float(outcome.tokens.loss.detach()[0]) == pytest.approx(-GRPO_A[0] * first)


def test_equal_entropies_and_single_tokens_weigh_one_half(mixed: TokenBatch, run: Run) -> None:
    objective = DHPO(weights="entropy")
    for flat in (0.7, 0.0):
        assert run(objective, with_entropy(mixed, [[flat] * 5] * 2)).mean("mix_weight") == 0.5
    noise = [[0.7 + 1e-8 * k for k in range(5)]] * 2
    assert run(objective, with_entropy(mixed, noise)).mean("mix_weight") == 0.5
    alone = replace(tokens([1.0], [1.0]), current={"entropy": torch.ones(1, dtype=torch.float64)})
    assert run(objective, alone).mean("mix_weight") == 0.5


def test_no_gradient_flows_through_the_weight(mixed: TokenBatch) -> None:
    entropy = mixed.current["entropy"].requires_grad_()
    loss = DHPO(weights="entropy")(replace(mixed, current={"entropy": entropy})).loss.sum()
    assert torch.autograd.grad(loss, entropy, allow_unused=True) == (None,)


def test_only_the_guided_mixture_asks_for_entropies() -> None:
    assert DHPO().current == frozenset()
    assert DHPO(weights="entropy").current == {"entropy"}
    assert DHPO().unit == "trajectory"


def test_a_weight_acts_on_its_token_alone(mixed: TokenBatch, run: Run) -> None:
    """With the full s_i, whose gradient spreads, the first token's would be -0.062757."""
    grad = run(DHPO(weights="entropy", **WIDE), mixed).grad
    assert float(grad[0]) == pytest.approx(-0.102692, abs=6e-7)


def test_55b_an_outlier_moves_a_row_by_the_clip_ranges_at_most(run: Run) -> None:
    length = 10
    one = torch.zeros(length, dtype=torch.int64)
    calm = replace(tokens([1.0] * length, [1.0] * length, weight=1 / length), sequence_ids=one)
    outlier = replace(tokens([50.0] + [1.0] * (length - 1), [1.0] * length, weight=1 / length), sequence_ids=one)
    moved = float(run(DHPO(), calm).loss - run(DHPO(), outlier).loss)
    assert 0 < moved <= 0.5 * 0.2 / length + 0.5 * 4e-4 + 1e-9
    s = 50 ** (1 / length)
    mixed_first = np.minimum(0.5 * np.array([50.0] + [1.0] * (length - 1)) + 0.5 * s, 1.2).mean() - 1
    assert mixed_first > 5 * moved


def test_55b_the_mixture_is_calmer_than_tokens_and_livelier_than_trajectories() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (1000, 400)))
    size = noise.numel()
    batch = TokenBatch(
        logprobs=noise.flatten(),
        behaviour=torch.zeros(size, dtype=torch.float64),
        advantages=torch.ones(size, dtype=torch.float64),
        mask=torch.ones(size, dtype=torch.bool),
        sequence_ids=torch.arange(1000).repeat_interleave(400),
        turn_ids=torch.ones(size, dtype=torch.int64),
        weights=torch.ones(size, dtype=torch.float64),
    )
    unclipped = {"eps_low": 9.0, "eps_high": 9.0}
    spread = {
        "token": ClippedRatio(**unclipped)(batch).loss.std(),
        "sequence": ClippedRatio(level="sequence", **unclipped)(batch).loss.std(),
        "mixed": DHPO(**unclipped, pooled_eps_low=9.0, pooled_eps_high=9.0)(batch).loss.std(),
    }
    expected = {"token": 0.0501, "sequence": 0.0025, "mixed": 0.0252}
    assert {name: float(value) for name, value in spread.items()} == pytest.approx(expected, rel=0.05)


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="eps_low is -1"):
        DHPO(pooled_eps_low=-1)
    with pytest.raises(ConfigError, match="'averaged' or 'entropy'"):
        build_objective({"name": "dhpo", "weights": "mean"})
