"""Tree-GRPO, TreeRL and value differences: T5's numbers, masks of copies, degenerate trees."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.advantages import GRPO, TreeGRPO, TreeRL, TurnTable, ValueDifference, attribute, build
from agentrl.advantages.base import Credit
from agentrl.errors import ConfigError
from tests.advantages.hand_made import credit_of, of_turns, table


def leaf(reward: float, *nodes: str, lengths: list[int] | None = None) -> TurnTable:
    return table([0.0] * (len(nodes) - 1) + [reward], nodes=nodes, lengths=lengths or [1] * len(nodes))


TWO_TREES = [leaf(1, "a", "a1"), leaf(0, "a", "a2"), leaf(0, "b", "b1"), leaf(0, "b", "b2")]
T5A = [leaf(1, "a", "a1"), leaf(0, "a", "a2"), leaf(0, "b")]


def test_t5a_tree_grpo() -> None:
    credit = credit_of(TreeGRPO(), TWO_TREES)
    assert credit.trajectory == pytest.approx([2.207103, -1.207105, -0.499999, -0.499999], abs=2e-6)


def test_a_tree_of_one_leaf_has_no_comparison_within() -> None:
    """The repository's code would add the reward itself (mean 0, std 1)."""
    group = [leaf(1, "a"), leaf(0, "b"), leaf(0, "c")]
    transform = TreeGRPO()
    assert credit_of(transform, group).trajectory == pytest.approx(credit_of(GRPO(), group).trajectory)
    assert transform.metrics == {"shared_turns": 0.0, "lone_trees": 1.0}


def test_one_tree_counts_once() -> None:
    group = [leaf(1, "a", "1"), leaf(0, "a", "2"), leaf(0, "a", "3")]
    assert credit_of(TreeGRPO(), group).trajectory == pytest.approx(credit_of(GRPO(), group).trajectory)


def test_t5a_tree_rl() -> None:
    turns = of_turns(credit_of(TreeRL(), T5A))
    assert turns[0] == pytest.approx([0.235702, 1.166667], abs=1e-6)
    assert turns[1] == pytest.approx([0.235702, -0.833333], abs=1e-6)
    assert turns[2] == pytest.approx([-0.666667], abs=1e-6)


def test_t5a_value_difference() -> None:
    turns = of_turns(credit_of(ValueDifference(), T5A))
    assert turns[0] == pytest.approx([0.166667, 0.5], abs=1e-6)
    assert turns[1] == pytest.approx([0.166667, -0.5], abs=1e-6)
    assert turns[2] == pytest.approx([-0.333333], abs=1e-6)
    assert [sum(own) for own in turns] == pytest.approx([2 / 3, -1 / 3, -1 / 3])


def test_tree_rl_trains_each_node_once_and_value_difference_in_every_leaf() -> None:
    lengths = [2, 1]
    group = [leaf(1, "a", "a1", lengths=lengths), leaf(0, "a", "a2", lengths=lengths), leaf(0, "b", lengths=[3])]
    once = credit_of(TreeRL(), group)
    assert {member: mask.tolist() for member, mask in once.masked.items()} == {1: [True, True, False]}
    assert not credit_of(TreeRL(shared="every_leaf"), group).masked
    assert not credit_of(ValueDifference(), group).masked
    assert set(credit_of(ValueDifference(shared="once"), group).masked) == {1}


def test_a_node_is_trained_in_a_leaf_that_is_kept() -> None:
    before = Credit(tuple(T5A), np.zeros(3), tuple(np.zeros(t.num_turns) for t in T5A), (), dropped=frozenset({0}))
    assert set(TreeRL()([before])[0].masked) == {0}  # which is dropped: the shared turn is trained in member 1


def test_where_nothing_branches_a_difference_of_values_is_zero() -> None:
    transform = ValueDifference()
    turns = of_turns(credit_of(transform, [leaf(1, "a", "b", "c"), leaf(0.1, "d", "e")]))
    assert turns[0] == pytest.approx([0.45, 0, 0])
    assert turns[0][1:] == [0.0, 0.0]
    assert transform.metrics == {"shared_turns": 0.0}


def sizes(transform: object) -> tuple[float, float]:
    """T5 (b): mean |A| of turn 1 and of turn 2 in trees of 4 x 4 whose outcome is a fair coin at turn 2."""
    rng = np.random.default_rng(0)
    coins = rng.integers(2, size=(800, 16))
    batch = [[leaf(int(c), f"{i // 4}", f"leaf {i}") for i, c in enumerate(group)] for group in coins]
    turns = np.array([of_turns(credit) for credit in attribute([transform], batch)])  # type: ignore[list-item]
    return float(np.abs(turns[:, :, 0]).mean()), float(np.abs(turns[:, :, 1]).mean())


def test_t5b_a_turn_that_decides_nothing_gets_less() -> None:
    first, second = sizes(ValueDifference())
    assert first / second == pytest.approx(0.46, abs=0.03)
    assert (first, second) == pytest.approx((0.172, 0.376), abs=0.01)
    first, second = sizes(GRPO())
    assert first == second


@pytest.mark.parametrize("name", ["tree_grpo", "tree_rl", "value_difference"])
def test_degenerate_groups(name: str) -> None:
    transforms = build([name])
    assert of_turns(credit_of(transforms, [leaf(1, "a", "b")])) == [[0.0, 0.0]]
    reward = float(np.float32(0.1))
    equal = [leaf(reward, "a" if i < 3 else f"{i}", f"{i}.1") for i in range(7)]
    assert of_turns(credit_of(transforms, equal)) == [[0.0, 0.0]] * 7
    empty = TurnTable(np.zeros(0), np.zeros(0, dtype=np.int64))
    tokens = credit_of(transforms, [leaf(1, "a", "b", lengths=[2, 0]), empty, empty, table([0.0])]).token_advantages()
    assert [len(own) for own in tokens] == [2, 0, 0, 1]
    assert all(np.isfinite(own).all() for own in tokens)


@pytest.mark.parametrize("name", ["tree_rl", "value_difference"])
def test_wrong_values(name: str) -> None:
    with pytest.raises(ConfigError, match="shared"):
        build([{"name": name, "shared": "twice"}])
