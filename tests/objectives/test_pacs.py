"""PACS: worked numbers, the gradient through all members, and what must not change it."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from agentrl.errors import ConfigError, TrainingError
from agentrl.objectives import TokenBatch, build_objective, check_reduction, reduce, reduction_weights
from agentrl.objectives.pacs import PACS

LOG_RATIOS = [0.30, -0.20, 0.10, -0.40]
GRADIENT = [-0.269670, 0.087304, 0.109453, 0.072913]


def flat(
    log_ratios: list[list[float]],
    labels: list[float],
    groups: list[int],
    mask: list[list[int]] | None = None,
    reward: list[float] | None = None,
) -> TokenBatch:
    """A batch of trajectories with these log-ratios a token."""
    lengths = torch.tensor([len(row) for row in log_ratios])
    sequences = torch.repeat_interleave(torch.arange(len(log_ratios)) * 3 + 1, lengths)
    values = torch.tensor([*chain(*log_ratios)], dtype=torch.float64)
    behaviour = torch.full_like(values, -1.3)
    whole = torch.ones(len(values), dtype=torch.bool)

    def of_trajectory(numbers: list[float] | list[int]) -> Tensor:
        return torch.repeat_interleave(torch.tensor(numbers, dtype=torch.float64), lengths)

    return TokenBatch(
        logprobs=(behaviour + values).requires_grad_(),
        behaviour=behaviour,
        advantages=torch.zeros_like(values),
        mask=whole if mask is None else torch.tensor([*chain(*mask)]).bool(),
        sequence_ids=sequences,
        turn_ids=torch.ones_like(sequences),
        weights=reduction_weights("seq_mean_token_mean", sequences, torch.ones_like(sequences), whole),
        columns={
            "group": of_trajectory(groups),
            "correct": of_trajectory(labels),
            "reward": of_trajectory(labels if reward is None else reward),
        },
    )


def outcome(batch: TokenBatch, **options: Any) -> tuple[float, list[float]]:
    """Loss and its gradient in each token's log-probability."""
    loss = reduce(PACS(**options)(batch).loss, batch)
    return float(loss.detach()), torch.autograd.grad(loss, batch.logprobs)[0].tolist()


def ones(numbers: list[float]) -> list[list[float]]:
    return [[number] for number in numbers]


def test_the_worked_example() -> None:
    loss, gradient = outcome(flat(ones(LOG_RATIOS), [1, 0, 0, 0], [0] * 4))
    assert loss == pytest.approx(0.557241, abs=1e-6)
    assert gradient == pytest.approx(GRADIENT, abs=1e-6)
    _, start = outcome(flat(ones([0.0] * 4), [1, 0, 0, 0], [0] * 4))
    assert start == pytest.approx([-0.333333, 0.111111, 0.111111, 0.111111], abs=1e-6)


def test_the_loss_is_a_mean_over_trajectories_of_any_length() -> None:
    """A token mean, or a mean of rhat over tokens, would give other numbers."""
    long = [[0.1, 0.1, 0.1], [-0.2], [0.3, -0.1, -0.1, 0.0], [-0.2, -0.2]]
    loss, gradient = outcome(flat(long, [1, 0, 0, 0], [0] * 4))
    assert loss == pytest.approx(0.557241, abs=1e-6)
    expected = [GRADIENT[0]] * 3 + [GRADIENT[1]] + [GRADIENT[2]] * 4 + [GRADIENT[3]] * 2
    assert gradient == pytest.approx(expected, abs=1e-6)


def test_masked_tokens_have_no_influence_and_cost_their_trajectory_nothing() -> None:
    rows = [[0.3, float("nan")], [-0.2, 9.0], [0.1], [-0.4]]
    loss, gradient = outcome(flat(rows, [1, 0, 0, 0], [0] * 4, mask=[[1, 0], [1, 0], [1], [1]]))
    assert loss == pytest.approx(0.557241, abs=1e-6)
    assert gradient == pytest.approx([GRADIENT[0], 0, GRADIENT[1], 0, *GRADIENT[2:]], abs=1e-6)


def test_a_masked_trajectory_is_no_peer_and_an_empty_batch_has_no_loss() -> None:
    batch = flat([[0.3], [-0.2], [0.1], [-0.4], [7.0]], [1, 0, 0, 0, 1], [0] * 5, mask=[[1], [1], [1], [1], [0]])
    loss, gradient = outcome(batch)
    assert loss == pytest.approx(0.557241 * 4 / 5, abs=1e-6)  # the denominator stays that of the unfiltered mask
    assert gradient == pytest.approx([*(value * 4 / 5 for value in GRADIENT), 0], abs=1e-6)
    empty = flat([[0.3], [float("inf")]], [1, 0], [0, 0], mask=[[0], [0]])
    assert outcome(empty) == (0.0, [0.0, 0.0])


def test_groups_are_independent_of_each_other_and_of_the_order() -> None:
    rows, labels, groups = [0.3, 0.5, -0.2, 0.1, -0.1, -0.4], [1.0, 1, 0, 0, 0, 0], [5, 2, 5, 5, 2, 5]
    _, gradient = outcome(flat(ones(rows), labels, groups))
    alone = [gradient[index] * 6 / 4 for index in (0, 2, 3, 5)]
    assert alone == pytest.approx(GRADIENT, abs=1e-6)


def test_equal_labels_have_no_gradient_until_the_policy_moves() -> None:
    for label in (0.0, 1.0):
        _, gradient = outcome(flat(ones([0.0] * 4), [label] * 4, [0] * 4))
        assert gradient == pytest.approx([0] * 4, abs=1e-12)
        _, gradient = outcome(flat(ones(LOG_RATIOS), [label] * 4, [0] * 4))
        assert max(map(abs, gradient)) > 0.01
        assert sum(gradient) == pytest.approx(0, abs=1e-12)


def test_a_group_of_one_has_no_score_unless_naive() -> None:
    batch = flat([[0.4]], [1], [0])
    assert outcome(batch) == (0.0, [0.0])
    loss, gradient = outcome(batch, score="naive")
    assert loss == pytest.approx(0.513015, abs=1e-6)  # log(1 + exp(-0.4))
    assert gradient == pytest.approx([-0.401312], abs=1e-6)


@pytest.mark.parametrize("weights", ["question", "only_positive", "only_negative", "none"])
@pytest.mark.parametrize(
    ("score", "proxy"),
    [("rloo", "log_ratio"), ("naive", "log_ratio"), ("rloo", "mean_logprob"), ("grpo", "mean_logprob")],
)
def test_every_form_is_its_definition(weights: str, score: str, proxy: str) -> None:
    rows, labels = [[0.3, -0.1], [-0.2], [0.1, 0.3, 0.2], [-0.4]], [1.0, 0.0, 1.0, 0.0]
    batch = flat(rows, labels, [0] * 4)
    loss, gradient = outcome(batch, weights=weights, score=score, proxy=proxy, beta=1.5)
    leaf = batch.logprobs.detach().clone().requires_grad_()
    parts = leaf.split([len(row) for row in rows])
    old = batch.behaviour.split([len(row) for row in rows])
    if proxy == "log_ratio":
        rhat = torch.stack([1.5 * (new - before).sum() for new, before in zip(parts, old, strict=True)])
    else:
        rhat = torch.stack([1.5 * new.mean() for new in parts])
    psi = {
        "rloo": (rhat - rhat.mean()) * 4 / 3,
        "naive": rhat,
        "grpo": (rhat - rhat.mean()) / (rhat.std() + 1e-6),
    }[score]
    w = {"only_positive": [1.0, 0, 1, 0], "only_negative": [0.0, 1, 0, 1]}.get(weights, [1.0] * 4)
    y = torch.tensor(labels, dtype=torch.float64)
    own = (torch.tensor(w, dtype=torch.float64) * binary_cross_entropy_with_logits(psi, y, reduction="none")).mean()
    assert loss == pytest.approx(float(own.detach()), abs=1e-7)
    assert gradient == pytest.approx(torch.autograd.grad(own, leaf)[0].tolist(), abs=1e-7)


def test_equal_proxies_give_the_z_score_no_gradient() -> None:
    batch = flat(ones([0.2] * 3), [1, 0, 0], [0] * 3)
    _, gradient = outcome(batch, score="grpo", proxy="mean_logprob")
    assert gradient == [0.0] * 3


def test_graded_rewards_are_soft_labels_without_class_weights() -> None:
    batch = flat(ones(LOG_RATIOS), [1, 0, 0, 0], [0] * 4, reward=[0.8, 0.0, 0.3, 0.0])
    loss, _ = outcome(batch, label="reward")
    psi = torch.tensor([0.466667, -0.2, 0.2, -0.466667])
    assert loss == pytest.approx(
        float(binary_cross_entropy_with_logits(psi, torch.tensor([0.8, 0.0, 0.3, 0.0]))), abs=1e-6
    )
    binary = flat(ones(LOG_RATIOS), [0, 0, 0, 0], [0] * 4, reward=[1, 0, 0, 0])
    assert outcome(binary, label="reward")[0] == pytest.approx(0.557241, abs=1e-6)


def test_the_pull_on_a_correct_trajectory_fades_as_its_score_grows() -> None:
    found = []
    for psi in (0.0, 2.0, 4.0):
        _, gradient = outcome(flat([[psi]], [1], [0]), score="naive", weights="none")
        found.append(gradient[0])
    assert found == pytest.approx([-0.5, -0.119203, -0.017986], abs=1e-6)


def test_a_bandit_is_solved() -> None:
    torch.manual_seed(0)
    logits = torch.zeros(10, dtype=torch.float64)
    objective = PACS()
    for _ in range(300):
        arms = torch.multinomial(logits.softmax(0), 8, replacement=True)
        leaf = logits.clone().requires_grad_()
        batch = flat(ones([0.0] * 8), (arms == 3).double().tolist(), [0] * 8)
        lp = leaf.log_softmax(0)[arms]
        batch = TokenBatch(**{**vars(batch), "logprobs": lp, "behaviour": lp.detach()})
        logits -= 0.5 * torch.autograd.grad(reduce(objective(batch).loss, batch), leaf)[0]
    assert float(logits.softmax(0)[3]) >= 0.95


def test_diagnostics() -> None:
    sums = PACS()(flat(ones(LOG_RATIOS), [1, 0, 0, 0], [0] * 4)).sums
    means = {name: float(total / count) for name, (total, count) in sums.items()}
    assert means["pacs/accuracy"] == pytest.approx(0.75)
    assert means["pacs/score_correct"] == pytest.approx(0.466667, abs=1e-6)
    assert means["pacs/score_wrong"] == pytest.approx(-0.155556, abs=1e-6)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="spread of the log-ratios"):
        PACS(score="grpo")
    with pytest.raises(ConfigError, match="beta"):
        PACS(beta=0)
    with pytest.raises(ConfigError, match="seq_mean_token_mean"):
        check_reduction(PACS(), "token_mean")
    check_reduction(build_objective("pacs"), "seq_mean_token_mean")
    with pytest.raises(TrainingError, match="verdict"):
        PACS()(flat(ones([0.1, 0.2]), [float("nan"), 0], [0, 0]))
    with pytest.raises(TrainingError, match="between 0 and 1"):
        PACS(label="reward")(flat(ones([0.1, 0.2]), [1, 0], [0, 0], reward=[2.0, 0.0]))
