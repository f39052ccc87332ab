"""Ratios of turns and trajectories: B8's and 59's numbers, the straight-through form, clamps, and what length does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.assembly import build_loss
from agentrl.config import load_config
from agentrl.errors import ConfigError
from agentrl.objectives import (
    LUSPO,
    ClippedRatio,
    Objective,
    Ratio,
    TokenBatch,
    build_objective,
    check_reduction,
    reduce,
    reduction_weights,
)
from tests.learner.test_update import learner
from tests.objectives.test_clip import GRPO_A, tokens

Make = Callable[..., TokenBatch]
Run = Callable[..., Any]

SEQUENCE = [1.161834, 0.818731]
"""s_i of E1."""


def gspo(**eps: float) -> ClippedRatio:
    return ClippedRatio(level="sequence", **eps)


def with_advantages(batch: TokenBatch, rows: list[list[float]]) -> TokenBatch:
    return replace(batch, advantages=torch.tensor(rows, dtype=batch.advantages.dtype).flatten())


def test_ratios_of_e1(e1: Make) -> None:
    batch = e1(GRPO_A)
    ratio = Ratio.at("sequence", batch).value.detach().reshape(2, 5)
    assert ratio[0].tolist() == pytest.approx([SEQUENCE[0], SEQUENCE[0], 1, SEQUENCE[0], SEQUENCE[0]], abs=1e-6)
    assert ratio[1].tolist() == pytest.approx([SEQUENCE[1]] * 3 + [1, 1], abs=1e-6)
    turns = Ratio.at("turn", batch).value.detach().reshape(2, 5)
    first, second = np.exp((0.3 - 0.1) / 2), np.exp((0.4 + 0.0) / 2)
    assert turns[0].tolist() == pytest.approx([first, first, 1, second, second])
    assert turns[1, :3].tolist() == pytest.approx([SEQUENCE[1]] * 3, abs=1e-6)
    product = Ratio.product(batch).value.detach().reshape(2, 5)
    assert product[0, 0] == pytest.approx(np.exp(0.6))
    assert product[1, 0] == pytest.approx(np.exp(-0.6))
    assert product[~batch.mask.reshape(2, 5)].tolist() == [1, 1, 1]


def test_b8a_gspo(e1: Make, run: Run) -> None:
    outcome = run(gspo(eps_low=0.2, eps_high=0.2), e1(GRPO_A, "seq_mean_token_mean"))
    assert float(outcome.loss) == pytest.approx(-0.121305, abs=6e-7)
    a, b = -0.102692, 0.096488
    expected = [[a, a, 0, a, a], [b, b, b, 0, 0]]
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array(expected), abs=6e-7)
    assert outcome.mean("clip_fraction") == 0


def test_b8a_small_eps_is_the_default_and_clips_whole_trajectories(e1: Make, run: Run) -> None:
    outcome = run(gspo(), e1(GRPO_A, "seq_mean_token_mean"))
    assert float(outcome.loss) == pytest.approx(-0.000247, abs=6e-7)
    assert not outcome.grad.any()
    assert outcome.mean("clip_fraction") == 1
    again = run(gspo(eps_low=3e-4, eps_high=4e-4), e1(GRPO_A, "seq_mean_token_mean"))
    assert torch.equal(again.loss, outcome.loss)


def test_b8a_gspo_token(e1: Make, run: Run) -> None:
    batch = with_advantages(e1(GRPO_A, "seq_mean_token_mean"), [[1, 1, 9, 0.25, 0.25], [-0.5, -0.5, -1, 9, 9]])
    outcome = run(gspo(eps_low=0.2, eps_high=0.2), batch)
    assert float(outcome.loss) == pytest.approx(-0.090163, abs=6e-7)
    expected = [[-0.145229, -0.145229, 0, -0.036307, -0.036307], [0.068228, 0.068228, 0.136455, 0, 0]]
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array(expected), abs=6e-7)


def test_with_one_advantage_a_trajectory_the_gradient_is_that_of_the_geometric_mean(e1: Make, run: Run) -> None:
    """GSPO written out: -mean_i min(s_i A_i, clip(s_i) A_i), by autograd through s_i."""
    batch = e1(GRPO_A, "seq_mean_token_mean")
    rows = [batch.mask & (batch.sequence_ids == key) for key in (7, 3)]
    s = torch.stack([(batch.logprobs[row] - batch.behaviour[row]).mean().exp() for row in rows])
    a = torch.tensor(GRPO_A, dtype=torch.float64)
    (plain,) = torch.autograd.grad(-torch.minimum(s * a, s.clamp(0.8, 1.2) * a).mean(), batch.logprobs)
    assert run(gspo(eps_low=0.2, eps_high=0.2), batch).grad.tolist() == pytest.approx(plain.tolist(), abs=1e-7)


def test_turn_form_by_hand(e1: Make, run: Run) -> None:
    a = GRPO_A[0]
    batch = with_advantages(e1(GRPO_A, "turn_mean"), [[a, a, 9, -a, -a], [-a, -a, -a, 9, 9]])
    outcome = run(ClippedRatio(level="turn", eps_low=0.2, eps_high=0.15), batch)
    s = [np.exp(0.1), np.exp(0.2), np.exp(-0.2)]
    assert float(outcome.loss) == pytest.approx(-a * (s[0] - s[1] - s[2]) / 3)
    expected = [[-a * s[0] / 6] * 2 + [0] + [a * s[1] / 6] * 2, [a * s[2] / 9] * 3 + [0, 0]]
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array(expected))
    assert outcome.mean("clip_fraction") == 0


def test_a_turn_is_clipped_alone(e1: Make, run: Run) -> None:
    """Bound 1.15: turn 1 (ratio 1.105) keeps its gradient, turn 2 (1.221) loses it; so does the trajectory (1.162)."""
    turn = run(ClippedRatio(level="turn", eps_high=0.15, eps_low=0.5), e1(GRPO_A)).grad.reshape(2, 5)
    assert (turn[0] != 0).tolist() == [True, True, False, False, False]
    assert not run(gspo(eps_high=0.15, eps_low=0.5), e1(GRPO_A)).grad.reshape(2, 5)[0].any()


def test_b8b_a_mean_is_calm_where_tokens_are_noisy() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (500, 400)))
    size, length = noise.shape
    batch = TokenBatch(
        logprobs=noise.flatten(),
        behaviour=torch.zeros(noise.numel(), dtype=torch.float64),
        advantages=torch.ones(noise.numel(), dtype=torch.float64),
        mask=torch.ones(noise.numel(), dtype=torch.bool),
        sequence_ids=torch.arange(size).repeat_interleave(length),
        turn_ids=torch.ones(noise.numel(), dtype=torch.int64),
        weights=torch.ones(noise.numel()),
    )
    near = (Ratio.at("sequence", batch).value - 1).abs() < 0.01
    assert near.double().mean() > 0.95
    outside = (Ratio.of_tokens(batch).value - 1).abs() > 0.1
    assert 0.04 < outside.double().mean() < 0.06


@pytest.mark.parametrize(
    ("level", "expected"), [("sequence", np.exp(20.0)), ("turn", np.exp(20.0)), ("token", np.exp(20.0))]
)
def test_what_is_exponentiated_is_clamped_and_counted(run: Run, level: Any, expected: float) -> None:
    batch = replace(tokens([1.0, 1.0], [-1.0, -1.0]), sequence_ids=torch.zeros(2, dtype=torch.int64))
    logprobs = torch.tensor([300.0, 300.0], dtype=torch.float64, requires_grad=True)
    outcome = run(ClippedRatio(level=level), replace(batch, logprobs=logprobs))
    assert outcome.tokens.loss.tolist() == pytest.approx([expected] * 2)
    assert outcome.grad.tolist() == [0.0, 0.0]
    assert outcome.tokens.sums["ratio_clamped"][0] == 2


def test_the_mean_and_not_the_single_token_is_clamped(run: Run) -> None:
    batch = replace(tokens([1.0, 1.0], [-1.0, -1.0]), sequence_ids=torch.zeros(2, dtype=torch.int64))
    logprobs = torch.tensor([30.0, -29.0], dtype=torch.float64, requires_grad=True)
    outcome = run(gspo(eps_low=0.2, eps_high=0.2), replace(batch, logprobs=logprobs))
    assert outcome.tokens.loss.tolist() == pytest.approx([np.exp(0.5)] * 2)
    assert outcome.tokens.sums["ratio_clamped"][0] == 0


def test_a_masked_token_is_not_counted_in_the_length(run: Run) -> None:
    batch = replace(tokens([4.0, 1.0, 9.0], [1.0] * 3, mask=[1, 1, 0]), sequence_ids=torch.zeros(3, dtype=torch.int64))
    assert run(gspo(eps_high=9.0), batch).tokens.loss.tolist() == pytest.approx([-2.0, -2.0, 0.0])


def test_dual_clip_bounds_a_trajectory_too(run: Run) -> None:
    batch = tokens([10.0, 2.0], [-2.0, -2.0])
    assert run(gspo(dual_clip=3.0), batch).tokens.loss.tolist() == pytest.approx([6.0, 4.0])


def test_micro_batches_must_hold_trajectories_whole() -> None:
    assert ClippedRatio().unit == "token"
    assert ClippedRatio(level="turn").unit == gspo().unit == LUSPO().unit == "trajectory"


# -- bounds of each token ------------------------------------------------------------------------------------------


def test_bounds_of_each_token_take_the_place_of_eps(run: Run) -> None:
    """DCPO's of q = 1/2 and q = 0.01 (36 (a)): 1.306226 and 5, and dual clip for A < 0."""
    behaviour = torch.tensor([0.5, 0.01, 0.9], dtype=torch.float64).log()
    batch = tokens([1.0] * 3, [1.0, 1.0, -1.0])
    logprobs = (behaviour + torch.tensor([2.0, 6.0, 0.6], dtype=torch.float64).log()).requires_grad_()
    batch = replace(batch, behaviour=behaviour, logprobs=logprobs)
    outcome = run(build_objective({"name": "clip", "bounds": "dac"}), batch)
    assert outcome.tokens.loss.tolist() == pytest.approx([-1.306226, -5.0, 0.768742], abs=1e-6)
    assert outcome.grad.tolist() == [0, 0, 0]
    assert outcome.mean("clip_high") == pytest.approx((1.306226 + 5.0 + 1.187184) / 3, abs=1e-6)


def test_bounds_and_eps_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="no effect beside `bounds`"):
        build_objective({"name": "clip", "bounds": "dac", "eps_high": 0.28})
    with pytest.raises(ConfigError, match="clip bounds 'dacc' is unknown; did you mean 'dac'"):
        build_objective({"name": "clip", "bounds": "dacc"})


# -- LUSPO -------------------------------------------------------------------------------------------------------------


def test_59a(e1: Make, run: Run) -> None:
    batch = e1(GRPO_A, "seq_mean_token_sum")
    outcome = run(LUSPO(eps_low=0.2, eps_high=0.2), batch)
    assert float(outcome.loss) == pytest.approx(-0.774686, abs=6e-7)
    a, b = -0.410770, 0.289465
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array([[a, a, 0, a, a], [b, b, b, 0, 0]]), abs=6e-7)
    assert float(run(LUSPO(), batch).loss) == pytest.approx(-0.359210, abs=6e-7)


def test_luspo_refuses_what_would_be_another_method() -> None:
    with pytest.raises(ConfigError, match=r"level.*'token'"):
        build_objective({"name": "luspo", "level": "token"})
    with pytest.raises(ConfigError, match=r"seq_mean_token_mean.*LUSPO needs seq_mean_token_sum"):
        check_reduction(LUSPO(), "seq_mean_token_mean")
    check_reduction(LUSPO(), "seq_mean_token_sum")
    check_reduction(gspo(), "token_mean")


def test_the_wrong_reduction_is_found_at_start() -> None:
    with pytest.raises(ConfigError, match="LUSPO needs"):
        build_loss(load_config(recipe="luspo", overrides=["loss.reduction=token_mean"]))
    with pytest.raises(ConfigError, match="LUSPO needs"):
        learner(LUSPO(), reduction="token_mean")


@pytest.mark.parametrize("recipe", ["gspo", "gspo_token", "gspo_turn", "luspo"])
def test_recipes_pool_their_ratio(recipe: str) -> None:
    objective, regularisers, correction = build_loss(load_config(recipe=recipe))
    assert isinstance(objective, ClippedRatio)
    assert objective.level == ("turn" if recipe == "gspo_turn" else "sequence")
    assert not regularisers
    assert correction is None


LENGTHS = [2, 8, 4]
"""Three answers, chosen by their first token; the others are certain given it. The first two are right."""


def final_probabilities(objective: Objective, reduction: str) -> list[float]:
    """300 steps of exact expected gradient over one sampled answer, lr 0.5, A = R - mean (59 (b), as ruled)."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    sequences = torch.arange(3).repeat_interleave(torch.tensor(LENGTHS))
    starts = torch.tensor([0, *np.cumsum(LENGTHS)[:-1]])
    first = torch.zeros(len(sequences), dtype=torch.bool)
    first[starts] = True
    mask = torch.ones(len(sequences), dtype=torch.bool)
    share = reduction_weights(reduction, sequences, mask.long(), mask).double() * 3  # an expectation, no mean of three
    for _ in range(300):
        policy = logits.softmax(0).detach()
        logprobs = torch.where(first, logits.log_softmax(0)[sequences], 0.0)
        batch = TokenBatch(
            logprobs=logprobs,
            behaviour=logprobs.detach(),
            advantages=(rewards - (policy * rewards).sum())[sequences],
            mask=mask,
            sequence_ids=sequences,
            turn_ids=mask.long(),
            weights=share * policy[sequences],
        )
        (grad,) = torch.autograd.grad(reduce(objective(batch).loss, batch), logits)
        logits = (logits - 0.5 * grad).detach().requires_grad_()
    return logits.softmax(0).tolist()  # type: ignore[no-any-return]


def test_59b_short_answers_are_not_preferred() -> None:
    short = final_probabilities(gspo(), "seq_mean_token_mean")
    fair = final_probabilities(LUSPO(), "seq_mean_token_sum")
    assert short == pytest.approx([0.862349, 0.122385, 0.015266], abs=2e-6)
    assert fair == pytest.approx([0.497723, 0.497723, 0.004554], abs=2e-6)
    assert short[0] / short[1] > 3
    assert fair[0] / fair[1] == pytest.approx(1.0, abs=0.02)


def test_every_token_of_an_unclipped_trajectory_weighs_the_same(run: Run) -> None:
    """Lengths 1, 3 and 9 at ratio 1: A / N for each token, where GSPO has A / (N L)."""
    lengths = [1, 3, 9]
    sequences = torch.arange(3).repeat_interleave(torch.tensor(lengths))
    batch = tokens([1.0] * 13, [1.0] * 13)
    share = reduction_weights("seq_mean_token_sum", sequences, batch.turn_ids, batch.mask)
    grad = run(LUSPO(), replace(batch, sequence_ids=sequences, weights=share)).grad.tolist()
    assert grad == pytest.approx([-1 / 3] * 13)
    assert all(left == right for left, right in pairwise(grad))
