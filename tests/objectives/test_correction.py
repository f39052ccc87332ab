"""Rollout correction: B10's and B11's numbers on batch E1, the exact bandit, masks, and what must not be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agentrl.errors import ConfigError, UnknownNameError
from agentrl.objectives import (
    ClippedRatio,
    Correction,
    ImportanceWeights,
    Rejection,
    TokenBatch,
    build_correction,
    reduce,
)

Make = Callable[..., TokenBatch]

ABSURD = float("nan")
ENGINE = torch.tensor([-1.3, -0.5, ABSURD, -1.1, -0.9, -1.2, -1.3, -0.8, ABSURD, ABSURD], dtype=torch.float64)
"""lp_inf of B10, where E1's behaviour is lp_prox."""
GRPO_A = [0.5 / (0.5**0.5 + 1e-6), -0.5 / (0.5**0.5 + 1e-6)]
RAW = [1.349859, 1.0, 0.406570, 1.221403, 1.0, 2.718282, 0.904837]
INF = float("inf")


def weights_of(correction: Correction, batch: TokenBatch, engine: Tensor = ENGINE) -> list[float]:
    """Weights of the policy tokens."""
    weights, sums = correction(batch, engine)
    assert not weights.requires_grad and torch.isfinite(weights).all()
    assert all(torch.isfinite(total) and not total.requires_grad for total, _ in sums.values())
    values: list[float] = weights[batch.mask].tolist()
    return values


def corrected(correction: Correction, batch: TokenBatch, engine: Tensor = ENGINE) -> tuple[float, Tensor]:
    """Loss of B1 (eps 0.2) with the correction, put together as the learner does it, and its gradient."""
    weights, _ = correction(batch, engine)
    loss = reduce(ClippedRatio(eps_low=0.2, eps_high=0.2)(batch).loss * weights, batch)
    (grad,) = torch.autograd.grad(loss, batch.logprobs)
    return float(loss.detach()), grad


def about(values: list[float]) -> Any:
    return pytest.approx(values, abs=1e-6)


def test_b10a_raw_weights_by_level(e1: Make) -> None:
    batch = e1(GRPO_A)
    assert weights_of(ImportanceWeights(high=INF), batch) == about(RAW)
    assert weights_of(ImportanceWeights(level="sequence", high=INF), batch) == about([0.670320] * 4 + [2.459603] * 3)
    geometric = ImportanceWeights(level="sequence", measure="geometric", high=INF)
    assert weights_of(geometric, batch) == about([0.904837] * 4 + [1.349859] * 3)
    # Turns of E1: (0, 1), (3, 4) and the whole second row.
    turns = [RAW[0] * RAW[1]] * 2 + [RAW[2] * RAW[3]] * 2 + [2.459603] * 3
    assert weights_of(ImportanceWeights(level="turn", high=INF), batch) == about(turns)


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({"high": 2.0}, -0.050482),
        ({"mode": "mask", "low": 0.5, "high": 2.0}, -0.224476),
        ({"level": "sequence", "high": 2.0}, 0.255035),
        ({"mode": "mask", "high": 5.0}, 0.029707),  # B11: decoupled PPO
        ({"mode": "mask", "high": 2.0}, -0.273759),
    ],
)
def test_b10a_and_b11a_losses(e1: Make, options: dict[str, Any], loss: float) -> None:
    batch = e1(GRPO_A)
    found, grad = corrected(ImportanceWeights(**options), batch)
    assert found == pytest.approx(loss, abs=6e-7)
    # The weight is a constant outside of min and clip: it scales each token's gradient and moves no clip.
    _, plain = corrected(ImportanceWeights(low=1.0, high=1.0), batch)
    weights, _ = ImportanceWeights(**options)(batch, ENGINE)
    assert torch.allclose(grad, plain * weights, atol=1e-12)
    assert not grad[~batch.mask].any()


def test_the_two_policy_objective_is_another_loss(e1: Make) -> None:
    """B11: with mu in the ratio and no weight the clip is centred on the stale policy."""
    batch = e1(GRPO_A)
    stale = replace(batch, behaviour=ENGINE)
    loss = float(reduce(ClippedRatio(eps_low=0.2, eps_high=0.2)(stale).loss, stale).detach())
    assert loss == pytest.approx(0.069983, abs=6e-7)
    assert abs(loss - corrected(ImportanceWeights(mode="mask", high=5.0), batch)[0]) > 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "correction",
    [
        ImportanceWeights(),
        ImportanceWeights(level="sequence", normalise=True),
        ImportanceWeights(level="turn", measure="geometric", mode="mask", low=0.5),
        Rejection(low=0.999, high=1.001, weights="importance"),
        Rejection(measure="k3", high=1e-9),
    ],
)
def test_b11b_equal_policies_give_b1_bit_for_bit(e1: Make, correction: Correction, dtype: torch.dtype) -> None:
    batch = e1(GRPO_A, dtype=dtype)
    plain = reduce(ClippedRatio(eps_low=0.2, eps_high=0.2)(batch).loss, batch)
    (plain_grad,) = torch.autograd.grad(plain, batch.logprobs)
    loss, grad = corrected(correction, batch, batch.behaviour)
    assert loss == float(plain.detach())
    assert torch.equal(grad, plain_grad)


def test_b10a_geometric_mask_keeps_rows(e1: Make) -> None:
    batch = e1(GRPO_A)
    rejection = Rejection(low=0.8, high=1.2)
    assert weights_of(rejection, batch) == [1.0] * 4 + [0.0] * 3
    _, sums = rejection(batch, ENGINE)
    assert [float(value) for value in sums["rejected_sequence_geometric"]] == [3.0, 7.0]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"low": 0.5, "high": 2.0, "measure": "product"}, [1, 1, 1, 1, 0, 0, 0]),
        ({"level": "turn", "low": 0.8, "high": 1.4}, [1, 1, 0, 0, 1, 1, 1]),  # 1.161834, 0.704688, 1.349859
        ({"low": 0.5, "high": 3.0, "measure": "worst"}, [0, 0, 0, 0, 1, 1, 1]),  # 0.406570 rejects its row
        ({"low": 0.3, "high": 2.0, "measure": "worst"}, [1, 1, 1, 1, 0, 0, 0]),  # 2.718282 does
        ({"level": "token", "low": 0.5, "high": 2.0}, [1, 1, 0, 1, 1, 0, 1]),
        ({"high": 0.15, "measure": "k2"}, [1, 1, 1, 1, 0, 0, 0]),  # 0.1175 and 0.168333
        ({"high": 0.11, "measure": "k3"}, [1, 1, 1, 1, 0, 0, 0]),  # 0.094458 and 0.241040
        ({"level": "turn", "high": 0.05, "measure": "k3"}, [1, 1, 0, 0, 0, 0, 0]),
    ],
)
def test_measures_and_levels_of_rejection(e1: Make, options: dict[str, Any], kept: list[int]) -> None:
    assert weights_of(Rejection(**options), e1(GRPO_A)) == kept


def test_seq_mask_tis_and_masks_that_compose(e1: Make) -> None:
    batch = e1(GRPO_A)
    spec = {"name": "rejection", "low": 0.8, "high": 1.2, "weights": {"name": "importance", "high": 1.3}}
    assert weights_of(build_correction(spec), batch) == about([1.3, 1.0, 0.406570, 1.221403, 0, 0, 0])
    both = build_correction(
        {"name": "rejection", "level": "token", "low": 0.5, "high": 5.0, "weights": {**spec, "weights": None}}
    )
    assert weights_of(both, batch) == [1, 1, 0, 1, 0, 0, 0]
    _, sums = both(batch, ENGINE)
    assert sums["rejected_token_geometric"][0] == 1
    assert sums["rejected_sequence_geometric"][0] == 3


def test_everything_rejected_is_loss_zero(e1: Make) -> None:
    for correction in (Rejection(low=7.0, high=9.0), ImportanceWeights(mode="mask", low=7.0, high=9.0)):
        loss, grad = corrected(correction, e1(GRPO_A))
        assert loss == 0.0
        assert torch.equal(grad, torch.zeros_like(grad))


def test_rejected_tokens_stay_in_the_denominator(e1: Make) -> None:
    """Each kept token's gradient is what it is without the rejection: renormalising would give 7/6 of it."""
    batch, rejection = e1(GRPO_A), Rejection(level="token", high=2.0)
    _, grad = corrected(rejection, batch)
    _, plain = corrected(Rejection(level="token", high=INF), batch)
    weights, _ = rejection(batch, ENGINE)
    kept = batch.mask & (weights > 0)
    assert int(kept.sum()) == 6 and plain[kept].any()
    assert torch.equal(grad[kept], plain[kept])
    assert not grad[~kept].any()


def test_normalised_weights_have_mean_one_over_policy_tokens(e1: Make) -> None:
    batch = e1(GRPO_A)
    normal = weights_of(ImportanceWeights(high=2.0, normalise=True), batch)
    clipped = [min(weight, 2.0) for weight in RAW]
    assert normal == about([weight * 7 / sum(clipped) for weight in clipped])
    nothing = replace(batch, mask=torch.zeros_like(batch.mask))
    weights, _ = ImportanceWeights(normalise=True)(nothing, ENGINE)
    assert torch.isfinite(weights).all()


def test_clamps_act_on_what_is_exponentiated(e1: Make) -> None:
    batch = e1(GRPO_A)
    far = torch.where(batch.mask, batch.behaviour - 15.0, batch.behaviour)
    token, sums = ImportanceWeights(high=INF)(batch, far)
    assert float(token[0]) == pytest.approx(torch.tensor(15.0).exp().item(), rel=1e-6)
    assert sums["correction_clamped"][0] == 0
    sequence, sums = ImportanceWeights(level="sequence", high=INF)(batch, far)
    assert float(sequence[0]) == pytest.approx(torch.tensor(20.0).exp().item(), rel=1e-6)  # of 60
    assert sums["correction_clamped"][0] == 7
    geometric, sums = ImportanceWeights(level="sequence", measure="geometric", high=INF)(batch, far)
    assert float(geometric[0]) == pytest.approx(torch.tensor(15.0).exp().item(), rel=1e-6)
    assert sums["correction_clamped"][0] == 0


def test_diagnostics(e1: Make) -> None:
    _, sums = ImportanceWeights(high=2.0)(e1(GRPO_A), ENGINE)
    means = {name: float(total / number) for name, (total, number) in sums.items()}
    assert means == {
        "correction_weight": pytest.approx(sum(min(weight, 2.0) for weight in RAW) / 7),
        "correction_truncated": pytest.approx(1 / 7),
        "correction_clamped": 0.0,
    }
    _, sums = ImportanceWeights(mode="mask", low=0.5, high=2.0)(e1(GRPO_A), ENGINE)
    assert float(sums["correction_rejected"][0]) == 2


@pytest.mark.parametrize("high", [None, INF, 2.0, 1.2])
def test_b10b_exact_bandit(high: float | None) -> None:
    """The expected gradient under the engine's distribution; too small a cap is worse than no correction."""
    train = torch.tensor([0.2, 0.0, -0.3], dtype=torch.float64)
    engine = (train + torch.tensor([-0.8, 0.3, 0.4], dtype=torch.float64)).log_softmax(0)
    rewards, policy = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64), train.softmax(0)
    truth = policy * (rewards - policy @ rewards)
    logits = train.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    batch = TokenBatch(
        logprobs=logprobs,
        behaviour=logprobs.detach(),
        advantages=rewards - policy @ rewards,
        mask=torch.ones(3, dtype=torch.bool),
        sequence_ids=torch.arange(3),
        turn_ids=torch.ones(3, dtype=torch.int64),
        weights=engine.exp(),  # the expectation over what the engine samples
    )
    loss = ClippedRatio()(batch).loss
    if high is not None:
        loss = loss * ImportanceWeights(high=high)(batch, engine)[0]
    (grad,) = torch.autograd.grad(reduce(loss, batch), logits)
    expected = {None: 0.052505, INF: 0.0, 2.0: 0.015681, 1.2: 0.064529}[high]
    assert float((-grad - truth).norm()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "importance", "low": 3.0}, "0 <= low <= high"),
        ({"name": "importance", "low": -1.0}, "0 <= low <= high"),
        ({"name": "importance", "mode": "clip"}, "mode"),
        ({"name": "importance", "level": "group"}, "level"),
        ({"name": "importance", "measure": "k3"}, "measure"),
        ({"name": "importance", "mode": "mask", "normalise": True}, "rejected"),
        ({"name": "importance", "cap": 2.0}, "cap"),
        ({"name": "rejection"}, "high"),
        ({"name": "rejection", "measure": "k2", "low": 0.1, "high": 1.0}, "no lower bound"),
        ({"name": "rejection", "high": 2.0, "weights": {"name": "importance", "hgh": 2.0}}, "hgh"),
    ],
)
def test_wrong_options_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_correction(spec)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="importance"):
        build_correction("importanc")
    with pytest.raises(UnknownNameError, match="importance"):
        build_correction({"name": "rejection", "high": 2.0, "weights": "importanc"})
