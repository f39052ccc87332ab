"""Token-wise clip bounds: DCPO's (36) and ETR's (31) numbers, limits, and what they do to multi-epoch bandits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agentrl.advantages import GRPO, TurnTable, attribute
from agentrl.errors import ConfigError
from agentrl.objectives import (
    ClippedRatio,
    DynamicBounds,
    ElasticBounds,
    TokenBatch,
    build_objective,
    reduce,
    reduction_weights,
)

Make = Callable[..., TokenBatch]
Run = Callable[..., Any]


def tokens(
    old: list[float] | Tensor,
    ratios: list[float] | Tensor,
    advantages: list[float] | Tensor,
    variance: float | Tensor = 0.25,
    lengths: int = 1,
) -> TokenBatch:
    """Tokens with these old probabilities and ratios to them; `lengths` tokens a trajectory."""
    old, ratios, advantages = (torch.as_tensor(item, dtype=torch.float64) for item in (old, ratios, advantages))
    n = len(old)
    sequences, turns = torch.arange(n) // lengths, torch.ones(n, dtype=torch.int64)
    mask = torch.ones(n, dtype=torch.bool)
    behaviour = old.log()
    return TokenBatch(
        logprobs=(behaviour + ratios.log()).requires_grad_(),
        behaviour=behaviour,
        advantages=advantages,
        mask=mask,
        sequence_ids=sequences,
        turn_ids=turns,
        weights=reduction_weights("seq_mean_token_mean", sequences, turns, mask),
        columns={"group_variance": torch.as_tensor(variance, dtype=torch.float64).expand(n)},
    )


# -- DCPO: bounds by the token's probability ---------------------------------------------------------------------------

DCPO = {"name": "clip", "bounds": {"name": "dac", "eps_low": 0.16, "eps_high": 0.2}, "dual_clip": 10}


def test_36a_bounds() -> None:
    old = [0.9, 0.64, 0.5, 0.1, 0.01, 0.001, 0.0, 1.0]
    low, high = DynamicBounds()(tokens(old, [1.0] * 8, [1.0] * 8))
    at_one = [0.5 + 0.5 * (1 - 0.64) ** 0.5, 0.5 + 0.5 * 1.8**0.5]
    assert low.tolist() == pytest.approx([0.768742, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, at_one[0]], abs=1e-6)
    assert high.tolist() == pytest.approx([1.187184, 1.25, 1.306226, 2, 5, 10, 10, at_one[1]], abs=1e-6)


def test_36a_token_losses_and_otm(run: Run) -> None:
    batch = tokens([0.1, 0.01, 0.9, 0.64], [2.5, 2.5, 0.6, 12.0], [1.0, 1.0, -1.0, -1.0], lengths=2)
    outcome = run(build_objective(DCPO), batch)
    assert outcome.tokens.loss.tolist() == pytest.approx([-2.0, -2.5, 0.768742, 10.0], abs=1e-6)
    assert 2 * float(outcome.loss) == pytest.approx(3.134371, abs=1e-6)  # OTM is the sum over the two trajectories
    # Clipped above, within, clipped below, dual clip: only the second has a gradient.
    assert outcome.grad.tolist() == pytest.approx([0, -2.5 / 4, 0, 0], abs=1e-12)
    fixed = run(ClippedRatio(eps_low=0.2, eps_high=0.28), batch)
    assert fixed.tokens.loss.tolist()[:2] == pytest.approx([-1.28, -1.28])


def test_dac_bounds_the_change_of_probability() -> None:
    """They solve |(rho - 1) rho q| = eps where neither limit acts."""
    old = torch.linspace(0.65, 1.0, 8, dtype=torch.float64)
    low, high = DynamicBounds(eps_low=0.16, eps_high=0.2)(tokens(old, torch.ones(8), torch.ones(8)))
    assert (old * low * (1 - low)).tolist() == pytest.approx([0.16] * 8)
    assert (old * high * (high - 1)).tolist() == pytest.approx([0.2] * 8)


def test_dac_reads_the_behaviour_policy_and_no_masked_token(e1: Make) -> None:
    bounds = DynamicBounds()
    batch = e1([1.0, -1.0])
    low, high = bounds(batch)
    assert torch.isfinite(low).all() and torch.isfinite(high).all() and not high.requires_grad
    expected = 0.5 + 0.5 * (1 + 0.8 / batch.behaviour[batch.mask].exp()).sqrt()
    assert high[batch.mask].tolist() == pytest.approx(expected.tolist())
    for absurd in (1e9, -1e9, float("nan")):
        again = bounds(e1([1.0, -1.0], absurd=absurd))
        assert torch.equal(again[0], low) and torch.equal(again[1], high)


# -- ETR: elastic bounds -----------------------------------------------------------------------------------------------


def epsilons(bounds: ElasticBounds, wins: int, size: int = 8) -> list[float]:
    """eps of the winners' and the losers' tokens in a group with so many successes, z-scored with ddof 0."""
    rewards = np.array([1.0] * wins + [0.0] * (size - wins))
    credit = attribute([GRPO(ddof=0, eps=1e-12)], [[TurnTable(np.array([r]), np.array([1])) for r in rewards]])[0]
    batch = tokens([0.5] * size, [1.0] * size, credit.trajectory.tolist(), float(rewards.var()))
    low, high = bounds(batch)
    assert torch.allclose(high - 1, 1 - low)
    values: list[float] = (high - 1).tolist()
    return values


@pytest.mark.parametrize(
    ("macro", "wins", "winner", "loser", "mean"),
    [
        (0.5, 1, 0.215875, 0.154936, 0.162554),
        (0.5, 4, 0.25, 0.25, 0.25),
        (0.0, 1, 0.222839, 0.159934, 0.167797),
        (0.0, 4, 0.2, 0.2, 0.2),
    ],
)
def test_31a(macro: float, wins: int, winner: float, loser: float, mean: float) -> None:
    found = epsilons(ElasticBounds(macro=macro), wins)
    assert found[0] == pytest.approx(winner, abs=1e-6)
    assert found[-1] == pytest.approx(loser, abs=1e-6)
    assert np.mean(found) == pytest.approx(mean, abs=1e-6)


def test_31b_rare_events_end_below_the_base_bound_with_macro() -> None:
    assert epsilons(ElasticBounds(), 1, 16)[0] == pytest.approx(0.194, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("eps_low", "eps_high"), [(0.2, 0.2), (0.2, 0.28)])
def test_31b_without_factors_it_is_grpo_bit_for_bit(
    e1: Make, run: Run, dtype: torch.dtype, eps_low: float, eps_high: float
) -> None:
    batch = e1([0.7, -0.7], dtype=dtype)
    batch.columns["group_variance"] = torch.full_like(batch.behaviour, 0.25)  # type: ignore[index]
    flat = {"name": "etr", "micro": 0, "macro": 0, "eps_low": eps_low, "eps_high": eps_high}
    elastic = run(ClippedRatio(bounds=flat), batch)
    plain = run(ClippedRatio(eps_low=eps_low, eps_high=eps_high), batch)
    assert torch.equal(elastic.loss, plain.loss)
    assert torch.equal(elastic.grad, plain.grad)


def test_31b_monotone_in_strength_and_in_difficulty() -> None:
    strengths = torch.linspace(-3.0, 3.0, 25, dtype=torch.float64)
    for macro in (0.0, 0.5):
        _, high = ElasticBounds(macro=macro)(tokens(torch.full((25,), 0.5), torch.ones(25), strengths))
        order = strengths.abs().argsort()
        assert (high[order].diff() > -1e-12).all() and float(high.max() - high.min()) > 0.05
    variances = torch.linspace(0.0, 0.25, 11, dtype=torch.float64)
    _, high = ElasticBounds()(tokens(torch.full((11,), 0.5), torch.ones(11), torch.ones(11), variances))
    assert (high.diff() > 0).all()
    for macro in (0.0, 0.5):  # the group's mean is larger at p = 1/2 than at 1/8 in either form
        bounds = ElasticBounds(macro=macro)
        assert np.mean(epsilons(bounds, 4)) > np.mean(epsilons(bounds, 1)) + 0.03


def test_etr_limits_other_reward_ranges_and_a_group_of_one() -> None:
    wide = ElasticBounds(eps_low=0.9, eps_high=0.9)
    low, _ = wide(tokens([0.5] * 2, [1.0] * 2, [3.0, 0.0], torch.tensor([0.25, 0.0])))
    assert (1 - low).tolist() == pytest.approx([0.6, 0.9 * (1 - 0.5 * np.tanh(1)) * 0.75])
    assert float(low.min()) > 0
    narrow, _ = ElasticBounds(eps_low=0.01)(tokens([0.5], [1.0], [1.0]))
    assert 1 - float(narrow) == pytest.approx(0.05)
    signed, _ = ElasticBounds(rewards=(-1.0, 1.0))(tokens([0.5], [1.0], [1.0], 1.0))  # half of them +1, half -1
    unit, _ = ElasticBounds()(tokens([0.5], [1.0], [1.0], 0.25))
    assert float(signed) == pytest.approx(float(unit))
    alone, _ = ElasticBounds()(tokens([0.5], [1.0], [1.0], float("nan")))
    assert 1 - float(alone) == pytest.approx(0.2)


def test_etr_does_not_scale_the_advantage(run: Run) -> None:
    batch = tokens([0.5] * 2, [1.1, 0.9], [2.0, -2.0])  # inside of every bound
    assert torch.equal(run(ClippedRatio(bounds="etr"), batch).grad, run(ClippedRatio(), batch).grad)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"name": "etr", "eps_max": 1.0}, "eps_max < 1"),
        ({"name": "etr", "micro": -0.1}, "negative"),
        ({"name": "etr", "rewards": [1.0, 0.0]}, "smallest"),
        ({"name": "dac", "eps_low": -0.1}, "negative"),
        ({"name": "dac", "max_ratio": 0.5}, "at least 1"),
        ({"name": "dac", "r_max": 10}, "r_max"),
        ("dca", "dac"),
    ],
)
def test_wrong_options_are_refused(bounds: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClippedRatio(bounds=bounds)


# -- multi-epoch bandits: one row of logits a seed, all trained at once ------------------------------------------------


def bandit_step(
    objective: ClippedRatio, logits: Tensor, arms: Tensor, advantages: Tensor, variance: Tensor, inner: int, lr: float
) -> tuple[Tensor, Tensor]:
    """`inner` gradient steps of (1/G) sum of losses on each seed's own arms (S, G); new logits and clipped flags."""
    seeds, size = arms.shape
    old = logits.log_softmax(-1).gather(1, arms).flatten()
    flat = advantages.flatten()
    clipped = []
    for _ in range(inner):
        leaf = logits.clone().requires_grad_()
        logprobs = leaf.log_softmax(-1).gather(1, arms).flatten()
        batch = TokenBatch(
            logprobs=logprobs,
            behaviour=old,
            advantages=flat,
            mask=torch.ones(seeds * size, dtype=torch.bool),
            sequence_ids=torch.arange(seeds * size),
            turn_ids=torch.ones(seeds * size, dtype=torch.int64),
            weights=torch.full((seeds * size,), 1.0 / size, dtype=torch.float64),
            columns={"group_variance": variance.repeat_interleave(size)},
        )
        tokens_loss = objective(batch).loss
        (slopes,) = torch.autograd.grad(tokens_loss.sum(), logprobs, retain_graph=True)
        clipped.append((slopes == 0) & (flat != 0))
        (grad,) = torch.autograd.grad(reduce(tokens_loss, batch), leaf)
        logits = logits - lr * grad
    return logits, torch.stack(clipped)


def clipped_shares(objective: ClippedRatio, lr: float, seeds: int = 10, updates: int = 150) -> tuple[float, float]:
    """31 (b): shares of clipped samples among |A| > 1.05 and among |A| < 0.5."""
    start = torch.tensor([0.0, 1.2, 1.2, 1.2, 1.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    logits = start.repeat(seeds, 1)
    counts = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(updates):
        logits = torch.where((logits.softmax(-1)[:, :1] > 0.9), start, logits)
        arms = torch.multinomial(logits.softmax(-1), 16, replacement=True, generator=generator)
        rewards = (arms == 0).double()
        std = rewards.std(1, correction=0, keepdim=True)
        scores = torch.where(std > 0, (rewards - rewards.mean(1, keepdim=True)) / std.clamp(min=1e-9), 0.0)
        logits, clipped = bandit_step(objective, logits, arms, scores, rewards.var(1, correction=0), 6, lr)
        for row, chosen in enumerate((scores.abs() > 1.05, (scores.abs() < 0.5) & (scores != 0))):
            chosen = chosen.flatten().expand_as(clipped)
            counts[row] += torch.stack([clipped[chosen].sum(), chosen.sum()])
    strong, weak = (counts[:, 0] / counts[:, 1].clamp(min=1)).tolist()
    return strong, weak


def test_31b_strong_samples_are_clipped_less() -> None:
    plain, _ = clipped_shares(ClippedRatio(eps_low=0.2, eps_high=0.2), 0.1)
    elastic, _ = clipped_shares(ClippedRatio(bounds={"name": "etr", "macro": 0.0}), 0.1)
    assert plain == pytest.approx(0.113, abs=0.01)
    assert elastic == pytest.approx(0.078, abs=0.01)


def test_31b_weak_samples_pay_for_it() -> None:
    plain, none = clipped_shares(ClippedRatio(eps_low=0.2, eps_high=0.2), 0.2, updates=50)
    elastic, some = clipped_shares(ClippedRatio(bounds={"name": "etr", "macro": 0.0}), 0.2, updates=50)
    assert elastic < plain - 0.015
    assert none < some < 0.05


def updates_to_half(objective: ClippedRatio, seeds: int = 11, most: int = 40) -> float:
    """36 (b ii): median number of updates until the rare, correct arm has p > 0.5."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, 5.0, 3.0, 3.0, 3.0], dtype=torch.float64).repeat(seeds, 1)
    reached = torch.full((seeds,), most, dtype=torch.float64)
    for update in range(1, most + 1):
        arms = torch.multinomial(logits.softmax(-1), 32, replacement=True, generator=generator)
        rewards = (arms == 0).double()
        scores = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
        logits, _ = bandit_step(objective, logits, arms, scores, rewards.var(1, correction=0), 8, 0.5)
        there = logits.softmax(-1)[:, 0] > 0.5
        reached = torch.where(there & (reached == most), torch.full_like(reached, update), reached)
    return float(reached.median())


def test_36b_a_rare_arm_is_found_sooner() -> None:
    """Three times as fast, as in the specification (11 and 34 updates there)."""
    dynamic = updates_to_half(build_objective(DCPO))  # type: ignore[arg-type]
    fixed = updates_to_half(ClippedRatio(eps_low=0.2, eps_high=0.28))
    assert dynamic <= 12 and fixed >= 20
