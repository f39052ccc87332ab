"""KL to a reference: B13's numbers on E1, and exact values and gradients by enumeration of four actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from agentrl.errors import ConfigError, TrainingError
from agentrl.objectives import KL, TokenBatch, reduce

Make = Callable[..., TokenBatch]
Run = Callable[..., Any]
ESTIMATORS = ["k1", "k2", "k3", "k3+"]

LOGITS = torch.tensor([0.5, 0.0, -0.5, 1.0], dtype=torch.float64)
REFERENCE = torch.tensor([0.0, 0.3, 0.2, -0.1], dtype=torch.float64).log_softmax(0)
STALE = torch.tensor([0.2, 0.4, -0.1, 0.3], dtype=torch.float64).log_softmax(0)
KL_VALUE = 0.228678
REVERSE_GRADIENT = [-0.004765, -0.136814, -0.123597, 0.265176]
"""grad KL(p || q), as printed"""
FORWARD_GRADIENT = [0.052596, -0.134165, -0.171336, 0.252906]
"""p - q = grad KL(q || p), as printed"""


def expectation(regulariser: KL, behaviour: Tensor | None = None) -> tuple[float, Tensor]:
    """Exact mean of the loss and of its gradient in the logits, over actions drawn from `behaviour` (or the policy)."""
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    sampled_from = logprobs.detach() if behaviour is None else behaviour
    batch = TokenBatch(
        logprobs=logprobs,
        behaviour=sampled_from,
        advantages=torch.zeros(4),
        mask=torch.ones(4, dtype=torch.bool),
        sequence_ids=torch.arange(4),
        turn_ids=torch.ones(4, dtype=torch.int64),
        weights=sampled_from.exp(),
        columns={"reference": REFERENCE},
    )
    loss = reduce(regulariser(batch).loss, batch)
    (grad,) = torch.autograd.grad(loss, logits)
    return float(loss.detach()), grad


def tokens(log_ratios: list[float], reference: list[float] | None = None) -> TokenBatch:
    size = len(log_ratios)
    return TokenBatch(
        logprobs=torch.tensor(log_ratios, dtype=torch.float64, requires_grad=True),
        behaviour=torch.tensor(log_ratios, dtype=torch.float64),
        advantages=torch.zeros(size),
        mask=torch.ones(size, dtype=torch.bool),
        sequence_ids=torch.arange(size),
        turn_ids=torch.ones(size, dtype=torch.int64),
        weights=torch.ones(size),
        columns={"reference": torch.tensor(reference or [0.0] * size, dtype=torch.float64)},
    )


@pytest.mark.parametrize(
    ("estimator", "value"), [("k1", -0.014286), ("k2", 0.062143), ("k3", 0.066778), ("k3+", 0.066778)]
)
def test_b13a(e1: Make, run: Run, estimator: Any, value: float) -> None:
    outcome = run(KL(beta=1.0, estimator=estimator), e1([1.0, -1.0]))
    assert float(outcome.loss) == pytest.approx(value, abs=6e-7)
    assert outcome.mean("kl") == pytest.approx(value, abs=6e-7)


def test_the_printed_gradients_are_the_true_ones() -> None:
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    reverse = (logprobs.exp() * (logprobs - REFERENCE)).sum()
    forward = (REFERENCE.exp() * (REFERENCE - logprobs)).sum()
    assert torch.autograd.grad(reverse, logits, retain_graph=True)[0].tolist() == pytest.approx(
        REVERSE_GRADIENT, abs=1e-6
    )
    assert torch.autograd.grad(forward, logits)[0].tolist() == pytest.approx(FORWARD_GRADIENT, abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        ("k1", KL_VALUE, [0.0] * 4),
        ("k2", 0.234583, REVERSE_GRADIENT),
        ("k3", KL_VALUE, FORWARD_GRADIENT),
        ("k3+", KL_VALUE, REVERSE_GRADIENT),
    ],
)
def test_b13b_on_policy(estimator: Any, value: float, gradient: list[float]) -> None:
    got, grad = expectation(KL(beta=1.0, estimator=estimator))
    assert got == pytest.approx(value, abs=1e-6)
    assert grad.tolist() == pytest.approx(gradient, abs=1e-6)
    if estimator == "k1":
        assert grad.tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_b13b_stale_samples_bias_plain_k3() -> None:
    value, _ = expectation(KL(beta=1.0), STALE)
    assert value == pytest.approx(0.265792, abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_b13b_importance_weighting_is_unbiased_in_value_and_gradient(estimator: Any) -> None:
    value, grad = expectation(KL(beta=1.0, estimator=estimator, importance_weighted=True), STALE)
    assert value == pytest.approx(KL_VALUE, abs=1e-6)
    assert grad.tolist() == pytest.approx(REVERSE_GRADIENT, abs=1e-6)


def test_beta_multiplies_once(e1: Make, run: Run) -> None:
    batch = e1([1.0, -1.0])
    one, small = run(KL(beta=1.0), batch), run(KL(beta=0.04), batch)
    assert float(small.loss) == pytest.approx(0.04 * float(one.loss))
    assert small.mean("kl") == one.mean("kl")
    assert not run(KL(beta=0.0), batch).grad.any()


def test_k3_is_capped_and_counted(run: Run) -> None:
    outcome = run(KL(beta=1.0), tokens([-2.0, -3.0, 25.0, 9.0]))
    assert outcome.tokens.loss.tolist() == pytest.approx([4.389056, 10.0, 10.0, 8.000123], abs=1e-6)
    assert outcome.tokens.sums["kl_capped"][0] == 2
    assert outcome.grad.tolist() == pytest.approx([-6.389056, 0.0, 0.0, 0.999877], abs=1e-6)


@pytest.mark.parametrize(("estimator", "value"), [("k1", 30.0), ("k2", 450.0)])
def test_the_log_ratio_itself_is_not_clamped(run: Run, estimator: Any, value: float) -> None:
    outcome = run(KL(beta=1.0, estimator=estimator), tokens([30.0]))
    assert float(outcome.loss) == value
    assert "kl_capped" not in outcome.tokens.sums


def test_k3_survives_a_reference_that_excludes_the_token(run: Run) -> None:
    outcome = run(KL(beta=1.0), tokens([-1.0, -1.0], reference=[-float("inf"), -1.0]))
    assert outcome.tokens.loss.tolist() == [10.0, 0.0]
    assert outcome.grad.tolist() == [0.0, 0.0]


def test_exploding_importance_weights_are_counted(run: Run) -> None:
    batch = tokens([-1.0, -1.0], reference=[-1.5, -1.5])
    batch.behaviour[0] = -300.0
    outcome = run(KL(beta=1.0, importance_weighted=True), batch)
    assert outcome.tokens.sums["kl_ratio_clamped"][0] == 1
    assert torch.isfinite(outcome.grad).all()


@pytest.mark.parametrize("absurd", [1e9, -1e9, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_masked_values_change_nothing_bit_for_bit(
    e1: Make, run: Run, estimator: Any, weighted: bool, absurd: float
) -> None:
    regulariser = KL(beta=0.1, estimator=estimator, importance_weighted=weighted)
    expected = run(regulariser, e1([1.0, -1.0], absurd=0.0))
    outcome = run(regulariser, e1([1.0, -1.0], absurd=absurd))
    assert torch.equal(outcome.loss, expected.loss)
    assert torch.equal(outcome.grad, expected.grad)
    assert torch.equal(outcome.tokens.loss, expected.tokens.loss)
    assert outcome.tokens.sums == expected.tokens.sums


def test_what_it_needs_is_declared_and_demanded(e1: Make) -> None:
    assert KL.needs == {"reference"}
    batch = e1([1.0, -1.0])
    batch = TokenBatch(**{**vars(batch), "columns": {}})
    with pytest.raises(TrainingError, match="no 'reference'"):
        KL()(batch)


@pytest.mark.parametrize(
    ("options", "words"), [({"beta": -1.0}, "beta is -1.0"), ({"estimator": "k4"}, "estimator is 'k4'")]
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KL(**options)
