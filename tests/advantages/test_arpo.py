"""ARPO's attribution: T4's numbers, soft against hard, and shared turns told by nodes, not by tokens."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from agentrl.advantages import ARPO, GRPO, Credit, TurnTable, build, tables_of
from agentrl.errors import ConfigError
from agentrl.objectives import TokenBatch, build_objective, reduce, reduction_weights
from agentrl.trajectory import Branch, Trajectory
from tests.advantages.hand_made import credit_of, of_turns, table, turn

Z = 0.866024


def sharing(*leaves: int) -> list[TurnTable]:
    """T4 (a): four leaves with R = 1, 1, 0, 0, of which these have one first turn."""
    rewards = [1.0, 1.0, 0.0, 0.0]
    return [
        table([0.0, reward], nodes=("shared" if leaf in leaves else f"{leaf}.0", f"{leaf}.1"))
        for leaf, reward in enumerate(rewards)
    ]


@pytest.mark.parametrize(("leaves", "expected"), [((0, 1, 2), 0.288675), ((0, 1), Z), ((0, 2), 0.0)])
def test_t4a_hard(leaves: tuple[int, ...], expected: float) -> None:
    turns = of_turns(credit_of(ARPO(attribution="hard"), sharing(*leaves)))
    for leaf, own in enumerate(turns):
        exclusive = Z if leaf < 2 else -Z
        assert own == pytest.approx([expected if leaf in leaves else exclusive, exclusive], abs=1e-6)


def test_t4a_soft_is_grpo() -> None:
    group = sharing(0, 1, 2)
    assert credit_of(ARPO(), group).trajectory.tolist() == credit_of(GRPO(), group).trajectory.tolist()


def test_nested_prefixes_have_leaves_of_their_own() -> None:
    nodes = [("a", "b", "1"), ("a", "b", "2"), ("a", "3"), ("4",)]
    group = [
        table([0.0] * (len(own) - 1) + [float(reward)], nodes=own)
        for own, reward in zip(nodes, (1, 1, 0, 0), strict=True)
    ]
    turns = of_turns(credit_of(ARPO(attribution="hard"), group))
    assert turns[0] == pytest.approx([Z / 3, Z, Z], abs=1e-6)
    assert turns[2] == pytest.approx([Z / 3, -Z], abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "soft", "hard"), [(1.1, 0.952626, 0.952626), (1.3, 0.952626, 1.039229), (0.7, 0.519614, 0.606217)]
)
def test_t4a_the_clip_tells_them_apart(ratio: float, soft: float, hard: float) -> None:
    """Objective on the span of three leaves: every copy has the same ratio."""
    for attribution, expected in (("soft", soft), ("hard", hard)):
        credit = credit_of(ARPO(attribution=attribution), sharing(0, 1, 2))  # type: ignore[arg-type]
        advantages = torch.tensor([own[0] for own in of_turns(credit)[:3]], dtype=torch.float64)
        ones = torch.ones(3, dtype=torch.bool)
        batch = TokenBatch(
            logprobs=torch.full((3,), float(np.log(ratio)), dtype=torch.float64),
            behaviour=torch.zeros(3, dtype=torch.float64),
            advantages=advantages,
            mask=ones,
            sequence_ids=torch.arange(3),
            turn_ids=torch.ones(3, dtype=torch.int64),
            weights=torch.ones(3, dtype=torch.float64),
            columns={},
        )
        objective = build_objective({"name": "clip", "eps_low": 0.2, "eps_high": 0.2})
        assert -float(reduce(objective(batch).loss, batch)) == pytest.approx(expected, abs=2e-6)


def random_tree(rng: random.Random) -> list[TurnTable]:
    group: list[TurnTable] = []
    for leaf in range(6):
        shared: tuple[str, ...] = ()
        lengths: list[int] = []
        if group and rng.random() < 0.7:
            parent = rng.choice(group)
            cut = rng.randint(1, parent.num_turns)
            shared, lengths = parent.nodes[:cut], parent.lengths[:cut].tolist()
        own = rng.randint(1, 3)
        lengths += [rng.randint(0, 4) for _ in range(own)]
        nodes = (*shared, *(f"{leaf}.{place}" for place in range(own)))
        rewards = [0.0] * (len(nodes) - 1) + [float(rng.randint(0, 1))]
        group.append(table(rewards, nodes=nodes, lengths=lengths))
    return group


def gradient(credit: Credit, reduction: str) -> dict[tuple[str, int], float]:
    """Gradient at ratio 1 with respect to each token that was sampled, summed over its copies."""
    lengths = torch.tensor([own.num_tokens for own in credit.tables])
    sequences = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    turns = torch.from_numpy(np.concatenate([own.turn_of_token for own in credit.tables]))
    weights = reduction_weights(reduction, sequences, turns, torch.ones(len(turns), dtype=torch.bool)).numpy()
    result: dict[tuple[str, int], float] = {}
    flat = np.concatenate(credit.token_advantages()) * weights
    names = [
        (node, k) for own in credit.tables for node, n in zip(own.nodes, own.lengths, strict=True) for k in range(n)
    ]
    for name, value in zip(names, flat, strict=True):
        result[name] = result.get(name, 0.0) + float(value)
    return result


def test_t4b_soft_and_hard_have_one_gradient_without_clip_and_length() -> None:
    rng, apart = random.Random(0), 0.0
    for _ in range(20):
        group = random_tree(rng)
        soft, hard = credit_of(ARPO(), group), credit_of(ARPO(attribution="hard"), group)
        assert gradient(soft, "token_mean") == pytest.approx(gradient(hard, "token_mean"), abs=1e-6)
        one, other = gradient(soft, "seq_mean_token_mean"), gradient(hard, "seq_mean_token_mean")
        apart = max(apart, max(abs(one[name] - other[name]) for name in one))
    assert apart > 0.01


def test_branches_of_recorded_episodes_share_their_copied_turns() -> None:
    """Equal tokens are no shared turn: all three episodes have the same ids, two of them by a branch."""
    members = [
        Trajectory("task", member=0, turns=[turn(), turn(reward=1.0)]),
        Trajectory("task", member=1, turns=[turn(), turn()], branch=Branch(parent=0, turns=1)),
        Trajectory("task", member=2, turns=[turn(), turn()]),
    ]
    transform = ARPO(attribution="hard")
    turns = of_turns(credit_of(transform, tables_of(members)))
    high, low = 1.154699, -0.577350
    assert turns[0] == pytest.approx([(high + low) / 2, high], abs=1e-5)
    assert turns[1] == pytest.approx([(high + low) / 2, low], abs=1e-5)
    assert turns[2] == pytest.approx([low, low], abs=1e-5)
    assert transform.metrics == {"shared_turns": pytest.approx(2 / 6)}


@pytest.mark.parametrize("attribution", ["soft", "hard"])
def test_degenerate_groups(attribution: str) -> None:
    transform = build([{"name": "arpo", "attribution": attribution}])
    assert of_turns(credit_of(transform, [table([1.0])])) == [[0.0]]
    reward = float(np.float32(0.1))
    assert of_turns(credit_of(transform, [table([reward], nodes=("a",))] * 8)) == [[0.0]] * 8
    empty = TurnTable(np.zeros(0), np.zeros(0, dtype=np.int64))
    tokens = credit_of(transform, [table([0.5, 1.0], lengths=[2, 0]), empty]).token_advantages()
    assert [len(own) for own in tokens] == [2, 0]


def test_wrong_attribution() -> None:
    with pytest.raises(ConfigError, match="attribution"):
        build([{"name": "arpo", "attribution": "medium"}])
