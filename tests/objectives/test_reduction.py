"""Reductions: what each means, what leaves the denominators, and that cutting a batch changes nothing."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.objectives import KL, ClippedRatio, Reduction, TokenBatch, reduce, reduction_weights

MODES = [(mode.value, 5.0 if mode is Reduction.SEQ_MEAN_TOKEN_SUM_NORM else None) for mode in Reduction]


def weights(mode: str, sequences: list[int], turns: list[int], mask: list[int], norm: float | None = None) -> Tensor:
    return reduction_weights(
        mode, torch.tensor(sequences), torch.tensor(turns), torch.tensor(mask, dtype=torch.bool), norm=norm
    )


@pytest.mark.parametrize(("mode", "expected"), [("turn_mean", 2.5), ("token_mean", 2.0)])
def test_t1a(mode: str, expected: float) -> None:
    share = weights(mode, [0] * 5, [1, 1, 0, 0, 2], [1, 1, 0, 0, 1])
    assert float((share * torch.tensor([1.0, 1.0, 9.0, 9.0, 4.0])).sum()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mode", "norm", "expected"),
    [
        ("token_mean", None, [1 / 6] * 6),
        ("seq_mean_token_mean", None, [1 / 8] * 4 + [1 / 4] * 2),
        ("seq_mean_token_sum", None, [1 / 2] * 6),
        ("seq_mean_token_sum_norm", 10.0, [1 / 20] * 6),
        ("turn_mean", None, [1 / 3] + [1 / 9] * 3 + [1 / 6] * 2),
    ],
)
def test_two_trajectories_of_one_and_two_turns(mode: str, norm: float | None, expected: list[float]) -> None:
    share = weights(mode, [0, 0, 0, 0, 1, 1], [1, 2, 2, 2, 1, 1], [1] * 6, norm)
    assert share.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("mode", "norm"), MODES)
def test_a_trajectory_without_policy_tokens_leaves_n(mode: str, norm: float | None) -> None:
    with_empty = weights(mode, [0, 0, 1, 2, 2], [1, 2, 1, 1, 1], [1, 1, 0, 1, 1], norm)
    without = weights(mode, [0, 0, 2, 2], [1, 2, 1, 1], [1, 1, 1, 1], norm)
    assert with_empty[2] == 0.0
    assert with_empty[[0, 1, 3, 4]].tolist() == without.tolist()


def test_a_turn_whose_tokens_are_all_masked_leaves_turn_mean() -> None:
    assert weights("turn_mean", [0, 0, 0], [1, 2, 3], [1, 0, 1]).tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize(("mode", "norm"), MODES)
@pytest.mark.parametrize("mask", [[], [0, 0, 0]])
def test_no_tokens_give_no_weight_and_no_nan(mode: str, norm: float | None, mask: list[int]) -> None:
    assert weights(mode, [0] * len(mask), [1] * len(mask), mask, norm).tolist() == [0.0] * len(mask)


@pytest.mark.parametrize("norm", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_norm_needs_its_constant(norm: float | None) -> None:
    with pytest.raises(ConfigError, match=r"loss\.norm"):
        weights("seq_mean_token_sum_norm", [0], [1], [1], norm)


def test_a_constant_that_nothing_would_use_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.norm is 5, but loss\.reduction=token_mean has no constant"):
        weights("token_mean", [0], [1], [1], 5.0)


def test_unknown_mode_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"loss\.reduction is 'tokenmean'; did you mean 'token_mean'"):
        weights("tokenmean", [0], [1], [1])


def random_batch(mode: str, norm: float | None) -> TokenBatch:
    """Trajectories of 1, 40, 7 and 0 policy tokens among masked ones."""
    torch.manual_seed(0)
    sequences = torch.tensor([0] * 3 + [1] * 45 + [2] * 9 + [3] * 3)
    turns = torch.arange(60) // 7 % 4 + 1
    mask = torch.rand(60) < 0.8
    mask[sequences == 3] = False
    behaviour = -torch.rand(60)
    return TokenBatch(
        logprobs=(behaviour + 0.3 * torch.randn(60)).requires_grad_(),
        behaviour=behaviour,
        advantages=torch.randn(4)[sequences],
        mask=mask,
        sequence_ids=sequences,
        turn_ids=turns,
        weights=reduction_weights(mode, sequences, turns, mask, norm=norm),
        columns={"reference": behaviour + 0.1 * torch.randn(60)},
    )


def part(batch: TokenBatch, index: Tensor) -> TokenBatch:
    """A micro-batch of the tokens at `index`."""
    cut = {item.name: getattr(batch, item.name) for item in fields(batch)}
    tables = ("columns", "current")
    return TokenBatch(
        **{name: value[index] for name, value in cut.items() if name not in tables},
        **{name: {key: column[index] for key, column in cut[name].items()} for name in tables},
    )


def total(batch: TokenBatch) -> Tensor:
    return reduce(ClippedRatio()(batch).loss + KL(beta=0.1)(batch).loss, batch)


@pytest.mark.parametrize(("mode", "norm"), MODES)
@pytest.mark.parametrize("parts", [2, 7, 60])
def test_micro_batched_equals_whole(mode: str, norm: float | None, parts: int) -> None:
    batch = random_batch(mode, norm)
    whole = total(batch)
    (whole_grad,) = torch.autograd.grad(whole, batch.logprobs)
    pieces = [total(part(batch, index)) for index in torch.randperm(60).chunk(parts)]
    (grad,) = torch.autograd.grad(sum(pieces, torch.zeros(())), batch.logprobs)
    assert sum(piece.item() for piece in pieces) == pytest.approx(whole.item(), abs=1e-6)
    assert grad.tolist() == pytest.approx(whole_grad.tolist(), abs=1e-6)


def test_the_mean_of_micro_batch_means_is_another_loss() -> None:
    """The wrong implementation: the test above must be able to fail."""
    batch = random_batch("token_mean", None)
    means = []
    for index in torch.arange(60).split([10, 50]):
        piece = part(batch, index)
        local = reduction_weights("token_mean", piece.sequence_ids, piece.turn_ids, piece.mask)
        means.append(total(replace(piece, weights=local)))
    assert abs(sum(mean.item() for mean in means) / 2 - total(batch).item()) > 1e-2


def test_rejecting_tokens_later_does_not_raise_the_weight_of_the_others() -> None:
    batch = random_batch("token_mean", None)
    kept = batch.mask.clone()
    kept[:30] = False
    rejected = replace(batch, mask=kept)
    (whole,) = torch.autograd.grad(total(batch), batch.logprobs)
    (grad,) = torch.autograd.grad(total(rejected), batch.logprobs)
    assert torch.equal(grad[30:], whole[30:])
    assert not grad[:30].any()
