"""The clipped ratio: B1's and B2's numbers on batch E1, gates, clamps, and masked tokens that must not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.advantages import GRPO, DrGRPO, Transform, TurnTable, attribute
from agentrl.errors import ConfigError
from agentrl.objectives import KL, ClippedRatio, TokenBatch, reduce, reduction_weights

Make = Callable[..., TokenBatch]
Run = Callable[..., Any]


def advantages_of(transform: Transform) -> list[float]:
    tables = [TurnTable(np.array([reward]), np.array([4])) for reward in (1.0, 0.0)]
    return attribute([transform], [tables])[0].trajectory.tolist()


GRPO_A = advantages_of(GRPO())


def tokens(
    ratios: list[float], advantages: list[float], mask: list[int] | None = None, weight: float = 1.0
) -> TokenBatch:
    """Single tokens with the given ratios to behaviour."""
    size = len(ratios)
    flags = torch.tensor(mask or [1] * size, dtype=torch.bool)
    return TokenBatch(
        logprobs=torch.tensor(ratios, dtype=torch.float64).log().requires_grad_(),
        behaviour=torch.zeros(size, dtype=torch.float64),
        advantages=torch.tensor(advantages, dtype=torch.float64),
        mask=flags,
        sequence_ids=torch.arange(size),
        turn_ids=torch.ones(size, dtype=torch.int64),
        weights=torch.full((size,), weight, dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("reduction", "norm", "loss"),
    [
        ("seq_mean_token_mean", None, -0.061690),
        ("token_mean", None, -0.161590),
        ("seq_mean_token_sum", None, -0.565567),
        ("seq_mean_token_sum_norm", 5.0, -0.113113),
    ],
)
def test_b1a_loss(e1: Make, run: Run, reduction: str, norm: float | None, loss: float) -> None:
    outcome = run(ClippedRatio(), e1(GRPO_A, reduction, norm))
    assert float(outcome.loss) == pytest.approx(loss, abs=6e-7)


def test_turn_mean_on_e1(e1: Make, run: Run) -> None:
    """By hand: the three turns' means of the bounded ratio are 1.052419, 1.1 and 0.901724."""
    expected = GRPO_A[0] * (-1.0524187 - 1.1 + 0.9017236) / 3
    assert float(run(ClippedRatio(), e1(GRPO_A, "turn_mean")).loss) == pytest.approx(expected, abs=1e-6)


def test_b1a_gradient(e1: Make, run: Run) -> None:
    grad = run(ClippedRatio(), e1(GRPO_A, "seq_mean_token_mean")).grad.reshape(2, 5)
    expected = [[0, -0.079977, 0, 0, -0.088388], [0, 0.130245, 0, 0, 0]]
    assert grad.numpy() == pytest.approx(np.array(expected), abs=6e-7)
    assert (grad == 0).sum() == 7


def test_b1a_diagnostics(e1: Make, run: Run) -> None:
    outcome = run(ClippedRatio(), e1(GRPO_A))
    ratios = np.array([1.349859, 0.904837, 1.491825, 1, 0.740818, 1.105171, 0.670320])
    assert outcome.tokens.sums["clip_fraction"][0] == 4
    assert outcome.tokens.sums["clip_fraction"][1] == 7
    assert outcome.mean("clip_fraction") == pytest.approx(0.571429, abs=1e-6)
    assert outcome.mean("ratio") == pytest.approx(ratios.mean(), abs=1e-6)
    assert outcome.mean("behaviour_kl") == pytest.approx((ratios - 1 - np.log(ratios)).mean(), abs=1e-6)
    assert outcome.mean("ratio_clamped") == 0
    assert not any(total.requires_grad for total, _ in outcome.tokens.sums.values())


def test_b1a_with_k3(e1: Make) -> None:
    batch = e1(GRPO_A, "seq_mean_token_mean")
    loss = reduce(ClippedRatio()(batch).loss + KL(beta=0.04)(batch).loss, batch)
    assert float(loss.detach()) == pytest.approx(-0.058789, abs=6e-7)


def test_b2a(e1: Make, run: Run) -> None:
    outcome = run(ClippedRatio(), e1(advantages_of(DrGRPO()), "seq_mean_token_sum_norm", 5.0))
    assert float(outcome.loss) == pytest.approx(-0.079983, abs=6e-7)
    expected = [[0, -0.045242, 0, 0, -0.05], [0, 0.055259, 0, 0, 0]]
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array(expected), abs=6e-7)


@pytest.mark.parametrize(
    ("reduction", "norm", "short", "long"),
    [("seq_mean_token_sum_norm", 8.0, 0.0625, 0.0625), ("seq_mean_token_mean", None, 0.25, 0.0625)],
)
def test_b2b_length_bias(run: Run, reduction: str, norm: float | None, short: float, long: float) -> None:
    batch = tokens([1.0] * 10, [-1.0] * 10)
    sequences = torch.tensor([0] * 2 + [1] * 8)
    share = reduction_weights(reduction, sequences, batch.turn_ids, batch.mask, norm=norm)
    grad = run(ClippedRatio(), replace(batch, sequence_ids=sequences, weights=share)).grad
    assert grad.tolist() == [short] * 2 + [long] * 8


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "grad"),
    [
        (0.5, 1.0, -0.5, -0.5),  # safe side: not clipped
        (2.0, -1.0, 2.0, 2.0),  # safe side: not clipped
        (2.0, 1.0, -1.3, 0.0),
        (0.5, -1.0, 0.8, 0.0),
        (1.0, 1.0, -1.0, -1.0),
        (2.0, 0.0, 0.0, 0.0),
    ],
)
def test_the_minimum_clips_one_side_only(run: Run, ratio: float, advantage: float, loss: float, grad: float) -> None:
    outcome = run(ClippedRatio(eps_low=0.2, eps_high=0.3), tokens([ratio], [advantage]))
    assert float(outcome.loss) == pytest.approx(loss)
    assert float(outcome.grad) == pytest.approx(grad)
    assert outcome.mean("clip_fraction") == float(grad == 0 and advantage != 0)


def test_dual_clip_bounds_bad_tokens_only_and_is_off_by_default(run: Run) -> None:
    batch = tokens([10.0, 10.0, 2.0, 0.1], [-2.0, 2.0, -2.0, -2.0])
    plain, dual = run(ClippedRatio(), batch), run(ClippedRatio(dual_clip=3.0), batch)
    assert plain.tokens.loss.tolist() == pytest.approx([20.0, -2.4, 4.0, 1.6])
    assert dual.tokens.loss.tolist() == pytest.approx([6.0, -2.4, 4.0, 1.6])
    assert plain.grad.tolist() == pytest.approx([20.0, 0.0, 4.0, 0.0])
    assert dual.grad.tolist() == pytest.approx([0.0, 0.0, 4.0, 0.0])
    assert dual.mean("dual_clip_fraction") == 0.25
    assert "dual_clip_fraction" not in plain.tokens.sums


def test_exploding_ratios_are_clamped_and_counted(run: Run) -> None:
    batch = tokens([1.0, 1.0, 1.0], [-1.0, -1.0, -1.0])
    logprobs = torch.tensor([300.0, -300.0, 0.0], dtype=torch.float64, requires_grad=True)
    outcome = run(ClippedRatio(), replace(batch, logprobs=logprobs))
    assert outcome.tokens.loss.tolist() == pytest.approx([np.exp(20.0), 0.8, 1.0])
    assert outcome.grad.tolist() == [0.0, 0.0, 1.0]
    assert outcome.tokens.sums["ratio_clamped"][0] == 2


@pytest.mark.parametrize("absurd", [1e9, -1e9, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_values_change_nothing_bit_for_bit(e1: Make, run: Run, absurd: float, dtype: torch.dtype) -> None:
    for reduction in ("token_mean", "seq_mean_token_mean", "turn_mean"):
        objective = ClippedRatio(dual_clip=3.0)
        expected = run(objective, e1(GRPO_A, reduction, dtype=dtype, absurd=0.0))
        outcome = run(objective, e1(GRPO_A, reduction, dtype=dtype, absurd=absurd))
        assert torch.equal(outcome.loss, expected.loss)
        assert torch.equal(outcome.grad, expected.grad)
        assert torch.equal(outcome.tokens.loss, expected.tokens.loss)
        assert outcome.tokens.sums == expected.tokens.sums
        assert not outcome.grad[~e1(GRPO_A).mask].any()


def test_everything_masked_is_zero_without_nan(run: Run) -> None:
    batch = tokens([1.0, 2.0], [1.0, 1.0])
    nothing = torch.zeros(2, dtype=torch.bool)
    outcome = run(ClippedRatio(), replace(batch, mask=nothing, weights=torch.zeros(2)))
    assert float(outcome.loss) == 0.0
    assert outcome.grad.tolist() == [0.0, 0.0]
    assert all(float(total) == float(count) == 0 for total, count in outcome.tokens.sums.values())


def test_an_equal_group_gives_no_policy_gradient_while_kl_still_acts(e1: Make, run: Run) -> None:
    batch = e1([0.0, 0.0])
    assert not run(ClippedRatio(), batch).grad.any()
    assert run(KL(beta=0.1), batch).grad.any()


def test_advantages_are_constants(run: Run) -> None:
    logprobs = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    batch = replace(tokens([1.0], [1.0]), logprobs=logprobs, advantages=logprobs + 1.0)
    assert run(ClippedRatio(), batch).grad.tolist() == [-1.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps_low": -0.1}, "eps_low is -0.1"),
        ({"eps_high": float("nan")}, "eps_high is nan"),
        ({"dual_clip": 1.0}, "dual_clip is 1.0; it must be above 1"),
    ],
)
def test_wrong_options(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ClippedRatio(**options)
