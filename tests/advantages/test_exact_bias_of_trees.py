"""Exact expectations over branched rollouts (T4, T5): leaves of one tree share their first turn.

Leaves that share a turn are no independent peers of it: a baseline that counts them takes away what the turn earned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import Array, Transform
from agentrl.advantages.arpo import ARPO
from agentrl.advantages.trees import TreeGRPO, TreeRL, ValueDifference
from tests.advantages.credit_page import cell, printed
from tests.advantages.known_processes import PROCESSES, SEARCH, STOP_OR_TRY, TWO_FAIR_TURNS
from tests.advantages.processes import Process, moments
from tests.advantages.trees import forests, tables, tree_moments

EXACT = 1e-9
SHAPES = [(2, 2), (3, 2), (2, 3)]
"""Trees and leaves of each."""


def rloo() -> list[Transform]:
    return advantages.build(["rloo"])


def of_trees(transforms: Sequence[Transform], process: Process, roots: int = 2, leaves: int = 2) -> Array:
    return tree_moments(process, transforms, roots, leaves).mean


@pytest.mark.parametrize("process", [STOP_OR_TRY, TWO_FAIR_TURNS], ids=["stop_or_try", "two_fair_turns"])
def test_forests_are_all_there_and_share_their_first_turn(process: Process) -> None:
    listed = list(forests(process, 2, 2))
    assert sum(weight for weight, _ in listed) == pytest.approx(1.0, abs=1e-12)
    for _, forest in listed:
        nodes = [table.nodes[0] for table in tables(forest)]
        assert nodes == [str(number) for number, tree in enumerate(forest) for _ in tree]


@pytest.mark.parametrize("process", [STOP_OR_TRY, SEARCH], ids=["stop_or_try", "search"])
def test_trees_of_one_leaf_are_independent_episodes(process: Process) -> None:
    assert of_trees(rloo(), process, 2, 1) == pytest.approx(moments(process, rloo(), 2).mean, abs=EXACT)


@pytest.mark.parametrize(("roots", "leaves"), SHAPES)
def test_rloo_over_leaves_loses_the_siblings_share_of_the_first_turn(roots: int, leaves: int) -> None:
    others = (roots - 1) * leaves / (roots * leaves - 1)  # of a leaf's peers, those that are not of its tree
    assert of_trees(rloo(), TWO_FAIR_TURNS, roots, leaves) == pytest.approx([0.25 * others, 0.25], abs=EXACT)


@pytest.mark.parametrize(("roots", "leaves"), SHAPES)
def test_value_differences_shrink_each_turn_by_its_own_branching(roots: int, leaves: int) -> None:
    """(n-1)/n at each branching, as the mean over a node's children includes the child itself."""
    shrunk = [0.25 * (roots - 1) / roots, 0.25 * (leaves - 1) / leaves]
    assert of_trees([ValueDifference()], TWO_FAIR_TURNS, roots, leaves) == pytest.approx(shrunk, abs=EXACT)
    once = [shrunk[0] / leaves, shrunk[1]]
    assert of_trees([ValueDifference(shared="once")], TWO_FAIR_TURNS, roots, leaves) == pytest.approx(once, abs=EXACT)


def test_value_differences_of_chains_credit_the_first_turn_only() -> None:
    assert of_trees([ValueDifference()], TWO_FAIR_TURNS, 3, 1) == pytest.approx([0.25 * 2 / 3, 0.0], abs=EXACT)


def test_soft_and_hard_attribution_are_one_gradient_where_tokens_weigh_the_same() -> None:
    soft, hard = (of_trees([ARPO(attribution=a)], STOP_OR_TRY) for a in ("soft", "hard"))  # type: ignore[arg-type]
    assert soft == pytest.approx(hard, abs=EXACT)


ON_THE_PAGE: dict[str, tuple[list[Transform], Mapping[str, Sequence[float]]]] = {
    "`rloo`, over leaves": (rloo(), {"two_fair_turns": [1 / 6, 0.25], "stop_or_try": [0.0, 0.1428]}),
    "`value_difference`": ([ValueDifference()], {"two_fair_turns": [0.125, 0.125], "stop_or_try": [0.0, 0.0714]}),
    "`tree_rl`": ([TreeRL()], {"two_fair_turns": [0.0883883476, 0.3125], "stop_or_try": [0.0, 0.1729]}),
    "`tree_grpo`": (
        [TreeGRPO()],
        {"two_fair_turns": [0.1590773397, 0.4599452411], "stop_or_try": [-0.0564399507, 0.3157599019]},
    ),
    "`arpo`": (
        [ARPO()],
        {"two_fair_turns": [0.1590773397, 0.2831687958], "stop_or_try": [-0.0564399507, 0.2147851964]},
    ),
}


@pytest.mark.parametrize("label", ON_THE_PAGE)
def test_the_expectation_is_the_documented_one(label: str) -> None:
    transforms, expected = ON_THE_PAGE[label]
    for name, vector in expected.items():
        assert of_trees(transforms, PROCESSES[name]) == pytest.approx(np.array(vector), abs=EXACT)
        assert np.abs(vector - PROCESSES[name].true_gradient).max() > 1e-3


def test_the_page_prints_these_numbers() -> None:
    means = {
        label: [cell(of_trees(transforms, process)) for process in (TWO_FAIR_TURNS, STOP_OR_TRY)]
        for label, (transforms, _) in ON_THE_PAGE.items()
    }
    assert printed(ON_THE_PAGE) == means
