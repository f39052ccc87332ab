"""What holds for every objective: masked tokens, the order of tokens, micro-batches, no credit, nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.objectives import Objective, TokenBatch, build_objective
from tests.learner.test_update import gradient, largest_difference, learner
from tests.learner.tiny_models import make_batch

Make = Callable[..., TokenBatch]
Run = Callable[..., Any]

SPECS: list[Any] = [
    {"name": "clip", "level": "turn", "eps_low": 0.9, "eps_high": 9, "dual_clip": 3.0},
    {"name": "clip", "level": "sequence", "eps_low": 0.9, "eps_high": 9},
    {"name": "clip", "bounds": "dac"},
    {"name": "luspo", "eps_low": 0.9, "eps_high": 9},
    {"name": "luspo", "eps_low": 0.9, "eps_high": 9, "level": "turn"},
    {"name": "cispo", "mask_eps_high": 0.4},
    "topr",
    {"name": "topr", "level": "token"},
    "dhpo",
    {"name": "dhpo", "weights": "entropy", "surrogate": "branch_min"},
    {"name": "lp_reg", "fraction": 1.0},
]
ENTROPY = [0.2, 1.0, 0.7, 2.0, 0.4, 0.5, 0.1, 1.5, 0.3, 0.3]
PROXY = "min_p_proxy(kappa=0.02)"


def label(spec: Any) -> str:
    return spec if isinstance(spec, str) else "-".join(str(value) for value in spec.values())


every_objective = pytest.mark.parametrize("spec", SPECS, ids=label)


def complete(spec: Any, batch: TokenBatch, absurd: float | None = None) -> TokenBatch:
    """E1 with the columns that some objectives read, `absurd` where the mask is False."""

    def of(values: torch.Tensor) -> torch.Tensor:
        values = values.to(batch.behaviour.dtype)
        return values if absurd is None else torch.where(batch.mask, values, torch.full_like(values, absurd))

    clean = torch.where(batch.mask, batch.behaviour, torch.zeros_like(batch.behaviour))
    batch = replace(batch, current={"entropy": of(torch.tensor(ENTROPY))}, columns={PROXY: of(clean + 0.2)})
    detached = replace(batch, logprobs=batch.logprobs.detach())
    return replace(batch, columns={**batch.columns, **build_objective(spec).prepare(detached)})


@every_objective
@pytest.mark.parametrize("absurd", [1e9, -1e9, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_values_change_nothing_bit_for_bit(
    e1: Make, run: Run, spec: Any, absurd: float, dtype: torch.dtype
) -> None:
    objective = build_objective(spec)
    expected, outcome = (
        run(objective, complete(spec, e1([0.7, -0.8], "turn_mean", dtype=dtype, absurd=value), value))
        for value in (0.0, absurd)
    )
    assert torch.equal(outcome.loss, expected.loss)
    assert torch.equal(outcome.grad, expected.grad)
    assert torch.equal(outcome.tokens.loss, expected.tokens.loss)
    assert outcome.tokens.sums == expected.tokens.sums
    assert not outcome.grad[~e1([0.0, 0.0]).mask].any()
    assert outcome.grad.any()


def permuted(batch: TokenBatch, order: torch.Tensor) -> TokenBatch:
    fields = ("behaviour", "advantages", "mask", "sequence_ids", "turn_ids", "weights")
    return TokenBatch(
        logprobs=batch.logprobs.detach()[order].requires_grad_(),
        columns={name: column[order] for name, column in batch.columns.items()},
        current={name: column[order] for name, column in batch.current.items()},
        **{name: getattr(batch, name)[order] for name in fields},
    )


@every_objective
def test_the_order_of_tokens_changes_nothing(e1: Make, run: Run, spec: Any) -> None:
    batch = complete(spec, e1([0.7, -0.8], "seq_mean_token_mean"))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    expected, outcome = (run(build_objective(spec), each) for each in (batch, permuted(batch, order)))
    assert outcome.grad.tolist() == pytest.approx(expected.grad[order].tolist(), abs=1e-12)
    assert float(outcome.loss) == pytest.approx(float(expected.loss), abs=1e-12)


@every_objective
def test_everything_masked_is_zero_without_nan(e1: Make, run: Run, spec: Any) -> None:
    batch = complete(spec, e1([0.7, -0.8]))
    nothing = replace(batch, mask=torch.zeros_like(batch.mask), weights=torch.zeros_like(batch.weights))
    outcome = run(build_objective(spec), nothing)
    assert float(outcome.loss) == 0
    assert not outcome.tokens.loss.any()
    assert not outcome.grad.any()
    assert all(float(total) == float(count) == 0 for total, count in outcome.tokens.sums.values())


@every_objective
def test_without_credit_there_is_no_loss_and_no_gradient(e1: Make, run: Run, spec: Any) -> None:
    objective = build_objective(spec)
    outcome = run(objective, complete(spec, e1([0.0, 0.0])))
    assert objective.zero_without_advantage
    assert not outcome.tokens.loss.any()
    assert not outcome.grad.any()


@every_objective
def test_advantages_are_constants_and_diagnostics_have_no_gradient(e1: Make, run: Run, spec: Any) -> None:
    batch = complete(spec, e1([0.7, -0.8]))
    plain = run(build_objective(spec), batch)
    linked = run(build_objective(spec), replace(batch, advantages=batch.advantages + 0 * batch.logprobs))
    assert torch.equal(plain.grad, linked.grad)
    assert not any(total.requires_grad for total, _ in plain.tokens.sums.values())


def gradients_at(size: int, objective: Objective) -> dict[str, torch.Tensor]:
    """Trajectories of one to three turns, some with a fork and so of several rows; no ratio is 1."""
    trajectories, _ = make_batch()
    advantages = [np.full(item.num_policy_tokens, (-1.0) ** (k // 2)) for k, item in enumerate(trajectories)]
    return gradient(
        learner(objective, micro_batch_tokens=size, reduction="seq_mean_token_sum"), (trajectories, advantages)
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads add a matrix product up in an order of their own, which alone costs some 1e-6."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@every_objective
@pytest.mark.usefixtures("one_thread")
def test_gradients_do_not_depend_on_micro_batches(spec: Any) -> None:
    """Through the learner: micro-batches of one trajectory (or row), and all in one; float32."""
    whole, cut = (gradients_at(size, build_objective(spec)) for size in (10_000, 1))
    largest = max(float(each.abs().max()) for each in whole.values())
    assert largest > 1e-2
    assert largest_difference(whole, cut) < 1e-6 * max(1.0, largest)


@pytest.mark.parametrize("spec", [SPECS[1], "topr"], ids=label)
def test_a_trajectory_that_is_cut_has_another_gradient(spec: Any) -> None:
    """Why the unit is the trajectory: a row's mean or product is not that of all rows."""
    objective = build_objective(spec)
    objective.unit = "token"
    assert largest_difference(gradients_at(10_000, objective), gradients_at(1, objective)) > 1e-3
