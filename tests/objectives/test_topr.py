"""TOPR: B12's numbers, whose sign decides, and that failures that have become unlikely stop pushing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentrl import advantages
from agentrl.advantages import TurnTable, attribute
from agentrl.errors import ConfigError
from agentrl.objectives import TOPR, Objective, TokenBatch, build_objective, reduce
from tests.objectives.test_clip import tokens

Make = Callable[..., TokenBatch]
Run = Callable[..., Any]


def test_b12a(e1: Make, run: Run) -> None:
    outcome = run(TOPR(), e1([1.0, -1.0], "seq_mean_token_sum"))
    assert float(outcome.loss) == pytest.approx(0.976783, abs=6e-7)
    expected = [[-0.5, -0.5, 0, -0.5, -0.5], [0.274406] * 3 + [0, 0]]
    assert outcome.grad.reshape(2, 5).numpy() == pytest.approx(np.array(expected), abs=6e-7)
    assert outcome.mean("taper") == pytest.approx(0.548812, abs=6e-7)


def test_b12a_a_failure_that_has_become_likelier_has_weight_one(e1: Make, run: Run) -> None:
    batch = e1([1.0, -1.0], "seq_mean_token_sum")
    nearer = replace(batch, behaviour=torch.where(batch.sequence_ids == 3, batch.behaviour - 0.3, batch.behaviour))
    assert run(TOPR(), nearer).grad.reshape(2, 5)[1, :3].tolist() == pytest.approx([0.5] * 3)


def test_the_product_and_not_each_token_is_tapered(e1: Make, run: Run) -> None:
    """ROLL's variant: the ratios 0.740818, 1.105171 (bounded at 1) and 0.670320 of the second trajectory."""
    outcome = run(TOPR(level="token"), e1([1.0, -1.0], "seq_mean_token_sum"))
    expected = [0.740818 / 2, 0.5, 0.670320 / 2]
    assert outcome.grad.reshape(2, 5)[1, :3].tolist() == pytest.approx(expected, abs=6e-7)
    assert outcome.grad.reshape(2, 5)[0].tolist() == pytest.approx([-0.5, -0.5, 0, -0.5, -0.5])
    assert (TOPR(level="token").unit, TOPR().unit) == ("token", "trajectory")


def test_tapers_are_options(run: Run) -> None:
    batch = tokens([0.1, 5.0, 0.1, 5.0], [1.0, 1.0, -1.0, -1.0])
    both = run(TOPR(positive=(0.0, 2.0), negative=(0.5, 3.0)), batch)
    assert both.grad.tolist() == pytest.approx([-0.1, -2.0, 0.5, 3.0])
    reinforce = run(build_objective({"name": "topr", "negative": [1.0, 1.0]}), batch)
    assert reinforce.grad.tolist() == [-1.0, -1.0, 1.0, 1.0]


def test_reward_zero_has_no_weight_and_a_zero_advantage_no_loss(run: Run) -> None:
    outcome = run(TOPR(), tokens([0.5, 2.0], [0.0, 0.0]))
    assert outcome.grad.tolist() == [0.0, 0.0]
    assert float(outcome.tokens.sums["taper"][1]) == 0


def test_the_sum_is_clamped_and_counted(run: Run) -> None:
    batch = replace(tokens([1.0] * 2, [-1.0] * 2), sequence_ids=torch.zeros(2, dtype=torch.int64))
    far = replace(batch, logprobs=torch.tensor([-15.0, -15.0], dtype=torch.float64, requires_grad=True))
    outcome = run(TOPR(), far)
    assert outcome.grad.tolist() == pytest.approx([np.exp(-20.0)] * 2)
    assert outcome.tokens.sums["ratio_clamped"][0] == 2


def test_the_sign_is_that_of_the_reward_with_its_estimator_and_not_with_a_group_statistic(run: Run) -> None:
    """Rewards 1, 1, 1, 0.2: the last is a success for `reward` and a failure for a group's mean."""
    tables = [TurnTable(np.array([reward]), np.array([1])) for reward in (1.0, 1.0, 1.0, 0.2)]
    weights = {}
    for name in ("reward", "dr_grpo"):
        credit = attribute(advantages.build([name]), [tables])[0]
        a = np.concatenate(credit.token_advantages())
        grad = run(TOPR(), tokens([1.0, 1.0, 1.0, 0.5], a.tolist())).grad
        weights[name] = float(grad[3] / -a[3])
    assert weights == pytest.approx({"reward": 1.0, "dr_grpo": 0.5})


def offline(objective: Objective, steps: int = 2000, lr: float = 0.5) -> torch.Tensor:
    """Logits after steps of exact gradient on data of a uniform policy with rewards 1, -1, -1."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    mask, one = torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.int64)
    for _ in range(steps):
        batch = TokenBatch(
            logprobs=logits.log_softmax(0),
            behaviour=torch.full((3,), 1 / 3, dtype=torch.float64).log(),
            advantages=torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64),
            mask=mask,
            sequence_ids=torch.arange(3),
            turn_ids=one,
            weights=torch.full((3,), 1 / 3, dtype=torch.float64),
        )
        (grad,) = torch.autograd.grad(reduce(objective(batch).loss, batch), logits)
        logits = (logits - lr * grad).detach().requires_grad_()
    return logits.detach()


def test_b12b_offline_data_do_not_diverge() -> None:
    tapered = offline(TOPR())
    assert tapered.abs().max() < 6
    assert tapered.softmax(0)[0] > 0.999
    plain = offline(TOPR(negative=(1.0, 1.0)), steps=200, lr=5.0)  # REINFORCE: linear, so ten times the rate will do
    assert plain.abs().max() > 600


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match=r"negative is \[1.0, 0.0\]"):
        build_objective({"name": "topr", "negative": [1.0, 0.0]})
    with pytest.raises(ConfigError, match="'turn'"):
        build_objective({"name": "topr", "level": "turn"})
