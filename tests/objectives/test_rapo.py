"""RAPO's divergence, sampled and exact, and the entropy bonus: worked numbers, the direction, phi, the clamp."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agentrl.errors import ConfigError
from agentrl.learner.divergence import forward_kl
from agentrl.learner.quantities import build as build_quantity
from agentrl.objectives import TokenBatch, build_regulariser, reduce, reduction_weights
from agentrl.objectives.rapo import RewardAwareKL

REFERENCE = torch.tensor([2.0, 0.0, -1.0])
POLICY = torch.tensor([1.0, 0.5, 0.0])


def sampled(column: Tensor, logprobs: Tensor, mask: list[bool] | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient of each token."""
    component = RewardAwareKL(**{"alpha": 1.0, **options})
    count = len(column)
    lp = logprobs.detach().clone().requires_grad_()
    ids = torch.arange(count)
    batch = TokenBatch(
        logprobs=lp,
        behaviour=lp.detach(),
        advantages=torch.zeros(count),
        mask=torch.ones(count, dtype=torch.bool) if mask is None else torch.tensor(mask),
        sequence_ids=ids,
        turn_ids=torch.ones_like(ids),
        weights=torch.ones(count),
        columns={component.divergence: column},
    )
    loss = component(batch).loss
    return loss.detach(), torch.autograd.grad(reduce(loss, batch), lp)[0]


def tempered(reward: float, phi_min: float = 0.0) -> Tensor:
    """log pihat of all three tokens, by the quantity of the scoring pass."""
    quantity = build_quantity(RewardAwareKL(phi_min=phi_min).divergence)
    columns = {"reward": torch.full((3,), reward)}
    return quantity(REFERENCE.expand(3, 3).clone(), torch.arange(3), columns)


@pytest.mark.parametrize(
    ("phi", "pihat", "values", "kl"),
    [
        (1.0, [0.843795, 0.114195, 0.042010], [0.184367, 0.260407, 0.438680], 0.255111),
        (0.5, [0.628532, 0.231224, 0.140244], [0.026949, 0.033469, 0.033469], 0.030167),
        (0.0, [1 / 3] * 3, [0.066537, 0.003521, 0.251585], 0.081657),
    ],
)
def test_the_worked_example(phi: float, pihat: list[float], values: list[float], kl: float) -> None:
    column, policy = tempered(phi), POLICY.log_softmax(0)
    assert column.exp().tolist() == pytest.approx(pihat, abs=1e-6)
    loss, gradient = sampled(column, policy)
    assert loss.tolist() == pytest.approx(values, abs=1e-6)
    assert float((policy.exp() * loss).sum()) == pytest.approx(kl, abs=1e-6)  # unbiased under the policy
    if phi == 1.0:
        assert gradient.tolist() == pytest.approx([-0.850364, 0.367859, 0.335852], abs=1e-6)
    assert exact(phi)[0].tolist() == pytest.approx([kl], abs=1e-6)
    assert exact(phi)[1].tolist() == pytest.approx((policy.exp() - column.exp()).tolist(), abs=1e-6)


def heads(*logits: Tensor) -> list[nn.Linear]:
    """Heads of width 1 without bias whose logits of the state 1 are these."""
    made = []
    for values in logits:
        head = nn.Linear(1, len(values), bias=False)
        head.weight.data = values.detach().clone().view(-1, 1).to(torch.float32)
        made.append(head)
    return made


def exact(phi: float, policy: Tensor = POLICY, reference: Tensor = REFERENCE) -> tuple[Tensor, Tensor]:
    """The exact form and its gradient in the policy's logits."""
    own, other = heads(policy, reference)
    value = forward_kl(torch.ones(1, 1), own, torch.ones(1, 1), other, torch.tensor([phi]), 1.0)
    (gradient,) = torch.autograd.grad(value.sum(), own.weight)
    return value.detach(), gradient[:, 0]


def test_a_high_reward_keeps_the_reference_and_a_low_one_flattens_it_only_to_phi_min() -> None:
    plain = REFERENCE.log_softmax(0)
    assert tempered(1.0, 0.5).tolist() == pytest.approx(plain.tolist(), abs=1e-6)
    assert tempered(7.0, 0.5).tolist() == pytest.approx(plain.tolist(), abs=1e-6)
    floor = (0.5 * REFERENCE).log_softmax(0).tolist()
    assert tempered(0.0, 0.5).tolist() == pytest.approx(floor, abs=1e-6)
    assert tempered(-3.0, 0.5).tolist() == pytest.approx(floor, abs=1e-6)


def test_pihat_is_normalised_at_every_token() -> None:
    """phi times the log-probability alone is no distribution."""
    assert float(tempered(0.3).exp().sum()) == pytest.approx(1.0, abs=1e-6)
    assert float((0.3 * REFERENCE.log_softmax(0)).exp().sum()) > 1.3


def test_the_clamp_bounds_u_and_is_counted() -> None:
    column = torch.tensor([-0.1, -0.1, -0.1, -0.1])
    policy = torch.tensor([-30.0, -0.1, -4.0, -0.2])
    loss, gradient = sampled(column, policy)
    assert float(loss[0]) == pytest.approx(4 * 148.413159 + 1, abs=1e-3)  # u = e^5: u log u - u + 1
    assert gradient.tolist() == pytest.approx([0, 0, -49.402449 * 3.9, -0.1 * 1.105171], abs=1e-4)
    far = sampled(torch.tensor([-40.0]), torch.tensor([-0.5]))
    assert float(far[0]) == pytest.approx(1.0 - 11 * 4.54e-5, abs=1e-4)


def test_masked_tokens_have_no_influence() -> None:
    nan = float("nan")
    loss, gradient = sampled(torch.tensor([-0.1, nan]), torch.tensor([-0.4, nan]), mask=[True, False])
    assert loss.tolist()[1] == 0
    assert gradient.tolist()[1] == 0
    assert float(gradient[0]) == pytest.approx(-1.349859 * 0.3, abs=1e-6)


def test_alpha_scales() -> None:
    whole, half = (sampled(tempered(1.0), POLICY.log_softmax(0), alpha=alpha)[1] for alpha in (1.0, 0.5))
    assert (whole / 2).tolist() == pytest.approx(half.tolist())


def test_the_direction_is_forward() -> None:
    """(b): ten arms, one rewarded, the reference hardly knows it. Reverse KL would stay near 0.13."""
    reference = torch.full((10,), 0.999 / 9)
    reference[0] = 0.001
    component = RewardAwareKL(alpha=0.2, phi_min=1.0, kl_mode="exact")
    reward = torch.zeros(10)
    reward[0] = 1.0
    logits = reference.log()
    for _ in range(300):
        own, other = heads(logits, reference.log())
        value = forward_kl(torch.ones(1, 1), own, torch.ones(1, 1), other, torch.ones(1), 1.0)
        batch = TokenBatch(
            logprobs=torch.zeros(1),
            behaviour=torch.zeros(1),
            advantages=torch.zeros(1),
            mask=torch.ones(1, dtype=torch.bool),
            sequence_ids=torch.zeros(1, dtype=torch.int64),
            turn_ids=torch.ones(1, dtype=torch.int64),
            weights=torch.ones(1),
            current={component.divergence: value},
        )
        loss = reduce(component(batch).loss, batch) - (own.weight[:, 0].softmax(0) * reward).sum()
        logits = logits - 4.0 * torch.autograd.grad(loss, own.weight)[0][:, 0]
    assert float(logits.softmax(0)[0]) == pytest.approx(0.80, abs=0.02)


def test_what_each_mode_asks_for() -> None:
    paper, full = RewardAwareKL(phi_min=0.25), RewardAwareKL(phi_min=0.25, high=2.0, kl_mode="exact")
    assert paper.needs == {"tempered_reference(high=1, low=0, phi_min=0.25)"}
    assert not paper.current
    assert full.current == {"forward_kl(high=2, low=0, phi_min=0.25)"}
    assert not full.needs


def test_the_entropy_bonus_raises_entropy_by_its_gradient() -> None:
    logits = POLICY.double().clone().requires_grad_()
    entropy = -(logits.softmax(0) * logits.log_softmax(0)).sum()
    assert float(entropy.detach()) == pytest.approx(1.020191, abs=1e-6)
    ids = torch.zeros(1, dtype=torch.int64)
    mask = torch.tensor([True])
    batch = TokenBatch(
        logprobs=logits[:1],
        behaviour=torch.zeros(1),
        advantages=torch.zeros(1),
        mask=mask,
        sequence_ids=ids,
        turn_ids=ids + 1,
        weights=reduction_weights("token_mean", ids, ids + 1, mask),
        current={"entropy": entropy[None]},
    )
    bonus = build_regulariser({"name": "entropy", "coefficient": 0.01})
    (gradient,) = torch.autograd.grad(reduce(bonus(batch).loss, batch), logits)
    p = logits.detach().softmax(0)
    assert gradient.tolist() == pytest.approx((0.01 * p * (p.log() + 1.020191)).tolist(), abs=1e-7)


def test_mistakes_are_refused() -> None:
    for options, key in (
        ({"alpha": -1}, "alpha"),
        ({"phi_min": 1.5}, "phi_min"),
        ({"low": 1.0}, "range of rewards"),
        ({"kl_mode": "full"}, "kl_mode"),
    ):
        with pytest.raises(ConfigError, match=key):
            RewardAwareKL(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="coefficient"):
        build_regulariser({"name": "entropy", "coefficient": 0})
