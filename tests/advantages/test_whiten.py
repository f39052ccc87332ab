"""Whitening: what counts in its statistics, and what it gives where there is nothing to tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentrl.advantages import Credit, TurnTable, Whiten, build, check_order
from agentrl.errors import ConfigError


def credit(rows: list[list[float]], turns: list[list[int]] | None = None, **fields: Any) -> Credit:
    lengths = turns or [[len(row)] for row in rows]
    tables = [TurnTable(np.zeros(len(own)), np.array(own, dtype=np.int64)) for own in lengths]
    plain = Credit.zeros(tables).with_token_advantages([np.array(row, dtype=np.float64) for row in rows])
    return Credit(plain.tables, plain.trajectory, plain.turns, plain.tokens, **fields)


def whitened(groups: list[Credit], **options: Any) -> list[list[float]]:
    return [values.tolist() for own in Whiten(**options)(groups) for values in own.token_advantages()]


def test_mean_0_variance_1_over_all_groups_together() -> None:
    found = np.concatenate(whitened([credit([[1, 2, 3], [5]]), credit([[-4, 0]])], ddof=0))
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert found.std() == pytest.approx(1, abs=1e-6)


def test_ddof_and_eps_in_the_variance() -> None:
    assert whitened([credit([[0, 2]])], ddof=1, eps=2.0) == [[-0.5, 0.5]]
    assert whitened([credit([[0, 2]])], ddof=0, eps=3.0) == [[-0.5, 0.5]]


def test_a_long_trajectory_counts_token_by_token_or_once() -> None:
    group = credit([[1, 1, 1], [0]])
    tokens, trajectories = whitened([group], ddof=0), whitened([group], ddof=0, unit="trajectory")
    assert tokens[1][0] == pytest.approx(-0.75 / np.sqrt(0.1875), abs=1e-6)
    assert trajectories == [pytest.approx([1, 1, 1], abs=1e-6), pytest.approx([-1], abs=1e-6)]


def test_a_turn_counts_once_by_its_last_token_and_an_empty_one_not_at_all() -> None:
    group = credit([[9, 1, -9, 3], [5, 5]], turns=[[2, 0, 2], [2]])
    found = whitened([group], ddof=0, unit="turn")  # the ends are 1, 3, 5
    assert found[0][1] == pytest.approx(-2 / np.sqrt(8 / 3), abs=1e-6)
    assert found[0][3] == pytest.approx(0, abs=1e-12)
    assert found[0][0] == pytest.approx(6 / np.sqrt(8 / 3), abs=1e-6)


@pytest.mark.parametrize("unit", ["token", "turn", "trajectory"])
def test_one_value_or_none_gives_0(unit: str) -> None:
    assert whitened([credit([[7]])], unit=unit) == [[0.0]]
    assert whitened([credit([[]])], unit=unit) == [[]]
    assert Whiten(unit=unit)([]) == []


def test_equal_values_give_exactly_0_whatever_their_floats() -> None:
    noisy = np.float32(0.1) + np.arange(8) * 1e-9
    assert whitened([credit([noisy.tolist()])]) == [[0.0] * 8]


def test_tokens_without_loss_are_in_no_statistic() -> None:
    plain = whitened([credit([[1, 2], [3]])])
    dropped = whitened([credit([[1, 2], [3], [100]], dropped=frozenset({2}))])
    masked = whitened([credit([[1, 2, 100], [3]], masked={0: np.array([False, False, True])})])
    assert dropped[:2] == plain
    assert masked[0][:2] == plain[0] and masked[1] == plain[1]


def test_all_three_layers_are_whitened_as_one() -> None:
    one = credit([[1, 2], [3]])
    layered = Credit(one.tables, np.array([10.0, -10.0]), (np.array([1.0]), np.array([0.0])), one.tokens)
    sums = credit([[12, 13], [-7]])
    assert whitened([layered]) == whitened([sums])


def test_it_stands_behind_the_estimator_and_its_options_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"DrGRPO .estimate. must stand before Whiten"):
        check_order(build(["whiten", "dr_grpo"]), 4)
    for options, message in [({"unit": "row"}, "unit"), ({"ddof": 2}, "ddof"), ({"eps": 0.0}, "eps is 0.0")]:
        with pytest.raises(ConfigError, match=message):
            build([{"name": "whiten", **options}])
