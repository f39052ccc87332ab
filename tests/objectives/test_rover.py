"""ROVER: worked numbers, which token is the next state of which, and that inner steps are bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.objectives import TokenBatch, build_objective, check_reduction, reduce, reduction_weights
from agentrl.objectives.rover import ROVER

NEW = [[0.5, 0, -0.5, 0], [1.0, 0, 0, 0], [0, 0.2, 0.4, 0.6]]
ACTIONS = [0, 1, 3]
TARGET = [0.642626, 0.725140, 0.750000]
GRADIENT = [-0.136324, -0.721676, -0.316573]


def flat(
    logprobs: Tensor,
    behaviour: Tensor,
    now: Tensor,
    before: Tensor,
    advantages: list[float],
    sequences: list[int] | None = None,
    turns: list[int] | None = None,
    mask: list[bool] | None = None,
) -> TokenBatch:
    count = len(logprobs)
    own = torch.tensor(sequences or [0] * count)
    turn_ids = torch.tensor(turns or [1] * count)
    return TokenBatch(
        logprobs=logprobs,
        behaviour=behaviour,
        advantages=torch.tensor(advantages, dtype=torch.float64),
        mask=torch.tensor(mask or [True] * count),
        sequence_ids=own,
        turn_ids=turn_ids,
        weights=reduction_weights("token_mean", own, turn_ids, torch.ones(count, dtype=torch.bool)),
        columns={"uniform": before},
        current={"uniform": now},
    )


def worked(**options: Any) -> TokenBatch:
    new = torch.tensor(NEW, dtype=torch.float64).log_softmax(-1)
    old = torch.zeros(3, 4, dtype=torch.float64).log_softmax(-1)
    chosen = torch.tensor(ACTIONS)[:, None]
    lp = new.gather(1, chosen)[:, 0].requires_grad_()
    return flat(lp, old.gather(1, chosen)[:, 0], new.mean(-1), old.mean(-1), [0.75] * 3, **options)


def outcome(batch: TokenBatch, **options: Any) -> tuple[float, list[float]]:
    loss = reduce(ROVER(**options)(batch).loss, batch)
    return float(loss.detach()), torch.autograd.grad(loss, batch.logprobs)[0].tolist()


def targets(batch: TokenBatch, **options: Any) -> list[float]:
    """y of every token, from the gradient 2 (q - y) / N of the squared error."""
    gradient = torch.tensor(outcome(batch, **options)[1], dtype=torch.float64)
    return ((batch.logprobs - batch.behaviour).detach() - gradient / (2 * batch.weights)).tolist()


def test_the_worked_example() -> None:
    loss, gradient = outcome(worked())
    assert loss == pytest.approx(0.479714, abs=1e-6)
    assert gradient == pytest.approx(GRADIENT, abs=1e-6)
    assert targets(worked()) == pytest.approx(TARGET, abs=1e-6)


def test_before_any_step_it_is_centred_reinforce() -> None:
    lp = torch.tensor([-0.4, -2.0], dtype=torch.float64).requires_grad_()
    value = torch.tensor([-1.5, -1.7], dtype=torch.float64)
    _, gradient = outcome(flat(lp, lp.detach(), value, value, [0.75, -0.25], sequences=[0, 1]), rho=2.0)
    assert gradient == pytest.approx([-2 * 2.0 * 0.75 / 2, 2 * 2.0 * 0.25 / 2], abs=1e-9)


def test_options_are_their_formulas() -> None:
    assert targets(worked(), next_scale=0) == pytest.approx([0.75] * 3, abs=1e-9)
    q = (worked().logprobs - worked().behaviour).detach()
    _, gradient = outcome(worked(), rho=0.5)
    y = torch.tensor([0.75 - 0.5 * 0.107374, 0.75 - 0.5 * 0.024860, 0.75], dtype=torch.float64)
    assert gradient == pytest.approx((2 * 0.5 * (0.5 * q - y) / 3).tolist(), abs=1e-6)


def test_the_next_state_across_turns_is_the_next_turns_first_token() -> None:
    turns = [1, 1, 3]  # turn 2 had no tokens
    assert targets(worked(turns=turns)) == pytest.approx(TARGET, abs=1e-6)
    naive = targets(worked(turns=turns), bootstrap_across_turns=False)
    assert naive == pytest.approx([TARGET[0], 0.75, 0.75], abs=1e-6)


def test_the_next_state_never_belongs_to_another_trajectory() -> None:
    assert targets(worked(sequences=[4, 4, 2])) == pytest.approx([TARGET[0], 0.75, 0.75], abs=1e-6)


def test_rows_of_a_trajectory_may_lie_in_any_order() -> None:
    """A fork puts a later turn into a row that may come first; other trajectories' rows lie between."""
    batch = worked(turns=[1, 1, 2])
    order = torch.tensor([2, 0, 1])  # the row of turn 2, then that of turn 1
    names = ("behaviour", "advantages", "mask", "sequence_ids", "turn_ids", "weights")
    moved = {name: getattr(batch, name)[order] for name in names}
    shuffled = replace(
        batch,
        **moved,
        logprobs=batch.logprobs.detach()[order].requires_grad_(),
        columns={"uniform": batch.column("uniform")[order]},
        current={"uniform": batch.now("uniform")[order]},
    )
    assert targets(shuffled) == pytest.approx([TARGET[2], *TARGET[:2]], abs=1e-6)


def test_masked_tokens_are_never_read_nor_next() -> None:
    bad = float("nan")
    batch = worked(mask=[True, False, True])
    for column in (batch.column("uniform"), batch.now("uniform"), batch.behaviour, batch.advantages):
        column[1] = bad
    value = float(worked().now("uniform")[2] - worked().column("uniform")[2])
    y = [0.75 + value, 0.75]
    _, gradient = outcome(batch)
    q = worked().logprobs.detach() - worked().behaviour
    assert gradient == pytest.approx([2 * (float(q[0]) - y[0]) / 3, 0, 2 * (float(q[2]) - y[1]) / 3], abs=1e-6)
    empty = worked(mask=[False] * 3)
    assert outcome(empty) == (0.0, [0.0] * 3)


def test_inner_steps_stop_at_the_target() -> None:
    """(b): eight actions of ten, two rewarded; the ratio objective without a clip goes on for ever."""

    def moved(step: Any) -> float:
        logits = torch.zeros(10, dtype=torch.float64)
        old = logits.log_softmax(0)[:8]
        advantages = [0.75, 0.75, *[-0.25] * 6]
        zeros = torch.zeros(8, dtype=torch.float64)
        for _ in range(400):
            leaf = logits.clone().requires_grad_()
            batch = flat(leaf.log_softmax(0)[:8], old, zeros, zeros, advantages, sequences=list(range(8)))
            logits -= 2.0 * torch.autograd.grad(reduce(step(batch).loss, batch), leaf)[0]
        return float((logits.log_softmax(0)[:8] - old).abs().max())

    assert moved(ROVER()) == pytest.approx(0.75, abs=0.01)
    unclipped = build_objective({"name": "clip", "eps_low": 1e9, "eps_high": 1e9})
    assert moved(unclipped) > 2.0


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="rho"):
        ROVER(rho=0)
    with pytest.raises(ConfigError, match="next_scale"):
        ROVER(next_scale=-1)
    with pytest.raises(ConfigError, match="token_mean"):
        check_reduction(ROVER(), "seq_mean_token_sum")
