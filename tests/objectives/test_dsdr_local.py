"""DSDR's local term: worked numbers with the gradient through ratio and log-probability, and modes that survive."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from agentrl import advantages
from agentrl.advantages import TurnTable, attribute
from agentrl.errors import ConfigError, TrainingError
from agentrl.messages import Message
from agentrl.objectives import Regulariser, TokenBatch, build_objective, reduce, reduction_weights
from agentrl.objectives.dsdr import LocalDiversity
from agentrl.trajectory import ToolCallRecord, Trajectory, Turn

OLD = [[-1.0, -0.5], [-0.2, -2.0, -0.7], [-0.4], [-3.0]]
NEW = [[-0.7, -0.6], [-0.2, -1.6, -0.7], [-0.9], [-1.0]]
WEIGHTS = [0.116451, 0.441775, 0.441775, 0.0]
J = 0.811809
GRADIENT = [-0.023579, -0.021074, -0.117807, 0.131810, -0.044177, -0.026795, 0.0]


def flat(reduction: str = "seq_mean_token_mean", copies: int = 1, mask: list[bool] | None = None) -> TokenBatch:
    """The worked example, its last member wrong; `copies` prompts of it."""
    old, new, weights = OLD * copies, NEW * copies, WEIGHTS * copies
    lengths = torch.tensor([len(row) for row in old])
    ids = torch.repeat_interleave(torch.arange(len(old)), lengths)
    turns = torch.ones_like(ids)
    whole = torch.ones(len(ids), dtype=torch.bool)
    return TokenBatch(
        logprobs=torch.tensor([*chain(*new)], dtype=torch.float64).requires_grad_(),
        behaviour=torch.tensor([*chain(*old)], dtype=torch.float64),
        advantages=torch.zeros(len(ids), dtype=torch.float64),
        mask=whole if mask is None else torch.tensor(mask),
        sequence_ids=ids,
        turn_ids=turns,
        weights=reduction_weights(reduction, ids, turns, whole),
        columns={"diversity_weight": torch.repeat_interleave(torch.tensor(weights, dtype=torch.float64), lengths)},
        current={"entropy": torch.linspace(0.5, 1.5, len(ids), dtype=torch.float64).requires_grad_()},
    )


def completed(component: Regulariser, batch: TokenBatch) -> TokenBatch:
    """The batch as the learner hands it over: with the constants of the minibatch."""
    return replace(batch, columns={**batch.columns, **component.constants(batch)})


def outcome(batch: TokenBatch, **options: Any) -> tuple[float, list[float]]:
    component = LocalDiversity(**{"coefficient": 1.0, **options})
    loss = reduce(component(completed(component, batch)).loss, batch)
    return float(loss.detach()), torch.autograd.grad(loss, batch.logprobs)[0].tolist()


@pytest.mark.parametrize("reduction", ["seq_mean_token_mean", "token_mean", "seq_mean_token_sum", "turn_mean"])
@pytest.mark.parametrize("copies", [1, 3])
def test_the_worked_example_under_any_reduction(reduction: str, copies: int) -> None:
    loss, gradient = outcome(flat(reduction, copies))
    assert loss == pytest.approx(-J, abs=2e-6)
    assert gradient == pytest.approx([-value / copies for value in GRADIENT] * copies, abs=2e-6)


def test_the_gradient_flows_through_the_ratio() -> None:
    """With rho a constant every token would be pushed down alike."""
    _, gradient = outcome(flat())
    assert min(gradient) < 0 < max(gradient)


def test_prompts_without_a_correct_member_do_not_count() -> None:
    batch = flat(copies=2)
    weights = batch.column("diversity_weight").clone()
    weights[len(weights) // 2 :] = 0
    loss, gradient = outcome(replace(batch, columns={"diversity_weight": weights}))
    assert loss == pytest.approx(-J, abs=2e-6)
    assert gradient == pytest.approx([-value for value in GRADIENT] + [0.0] * len(GRADIENT), abs=2e-6)
    nothing = replace(batch, columns={"diversity_weight": torch.zeros_like(weights)})
    assert outcome(nothing) == (0.0, [0.0] * 14)


def test_masked_tokens_are_not_read_and_keep_the_length() -> None:
    mask = [True, True, False, True, True, True, True]
    batch = flat(mask=mask)
    with torch.no_grad():
        batch.logprobs[2] = float("nan")
        batch.behaviour[2] = float("inf")
    _, gradient = outcome(batch)
    assert gradient == pytest.approx(
        [-value if kept else 0.0 for value, kept in zip(GRADIENT, mask, strict=True)], abs=2e-6
    )


def test_exact_takes_the_entropy_itself() -> None:
    batch = flat()
    component = LocalDiversity(coefficient=0.5, exact=True)
    loss = reduce(component(completed(component, batch)).loss, batch)
    (gradient,) = torch.autograd.grad(loss, batch.now("entropy"))
    expected = [0.116451 / 2] * 2 + [0.441775 / 3] * 3 + [0.441775, 0.0]
    assert gradient.tolist() == pytest.approx([-0.5 * value for value in expected], abs=2e-6)


def test_rho_max_caps_the_ratio() -> None:
    component = LocalDiversity(coefficient=1.0, rho_max=1.2)
    batch = flat()
    found = component(completed(component, batch))
    total, count = found.sums["dsdr/ratio_capped"]
    assert (float(total), float(count)) == (2.0, 6.0)
    (gradient,) = torch.autograd.grad(reduce(found.loss, batch), batch.logprobs)
    assert float(gradient[0]) == pytest.approx(0.116451 / 2 * 1.2, abs=1e-6)  # of lp alone


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="coefficient"):
        LocalDiversity(coefficient=-1)
    with pytest.raises(ConfigError, match="rho_max"):
        LocalDiversity(rho_max=0.5)
    with pytest.raises(ConfigError, match="exact"):
        LocalDiversity(rho_max=2.0, exact=True)
    with pytest.raises(TrainingError, match="diversity_weight"):
        LocalDiversity().constants(replace(flat(), columns={}))


ARMS = 8
CORRECT = 4


def arm(index: int) -> TurnTable:
    """One token, one call, an embedding that no other arm has."""
    answer = Message(role="assistant", content="")
    turn = Turn([1], None, [index], [-1.0], answer, tool_calls=[ToolCallRecord(f"tool_{index}", "{}", "")])
    return TurnTable(
        rewards=np.array([float(index < CORRECT)]),
        lengths=np.array([1]),
        correct=index < CORRECT,
        columns={"embedding": np.eye(ARMS)[index]},
        record=Trajectory("bandit", turns=[turn]),
    )


def effective_modes(specs: list[Any], local: LocalDiversity | None, steps: int, lr: float) -> tuple[float, float]:
    """exp(entropy over the correct arms) and the mass on them, after training a softmax policy."""
    torch.manual_seed(0)
    table_of = [arm(index) for index in range(ARMS)]
    transforms, objective = advantages.build(specs), build_objective("clip")
    logits = torch.zeros(ARMS)
    logits[0] = 1.0
    ids = torch.arange(8)
    turns, mask = torch.ones_like(ids), torch.ones(8, dtype=torch.bool)
    weights = reduction_weights("seq_mean_token_mean", ids, turns, mask)
    for _ in range(steps):
        arms = torch.multinomial(logits.softmax(0), 8, replacement=True)
        credit = attribute(transforms, [[table_of[index] for index in arms.tolist()]])[0]
        leaf = logits.clone().requires_grad_()
        lp = leaf.log_softmax(0)[arms]
        columns = {}
        if local is not None:
            given = [float(table.columns["diversity_weight"][0]) for table in credit.tables]
            columns["diversity_weight"] = torch.tensor(given)
        advantage = torch.from_numpy(credit.trajectory).float()
        batch = TokenBatch(lp, lp.detach(), advantage, mask, ids, turns, weights, columns)
        loss = reduce(objective(batch).loss, batch)
        if local is not None:
            loss = loss + reduce(local(completed(local, batch)).loss, batch)
        logits -= lr * torch.autograd.grad(loss, leaf)[0]
    policy = logits.softmax(0)[:CORRECT]
    share = policy / policy.sum()
    return float((-(share * share.log()).sum()).exp()), float(policy.sum())


def test_modes_survive_that_plain_grpo_forgets() -> None:
    bonus = {"name": "dsdr", "scale": 0.3, "ceiling": 0.5, "tau": 5.0}
    modes, accuracy = effective_modes([bonus, "dsdr_grpo"], LocalDiversity(coefficient=0.02), steps=350, lr=1.2)
    assert modes > 3.0
    assert accuracy > 0.95
    plain, _ = effective_modes(["grpo"], None, steps=350, lr=1.2)
    assert plain < 1.5
