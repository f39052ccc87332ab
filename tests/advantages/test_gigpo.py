"""GiGPO: T3's numbers, anchor groups exact and fuzzy, and the loop that only the turn part unlearns."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest

from agentrl.advantages import GRPO, GiGPO, TurnTable, attribute, build
from agentrl.errors import ConfigError
from tests.advantages.hand_made import credit_of, of_turns, table

T3A = [
    table([0, 1], state_keys=("s0", "s1")),
    table([0, 0, 0, 1], state_keys=("s0", "s2", "s0", "s1")),
]


def test_t3a_mean() -> None:
    credit = credit_of(GiGPO(), T3A)
    assert credit.trajectory.tolist() == [0.0, 0.0]
    assert credit.turns[0] == pytest.approx([0.030875, 0], abs=1e-9)
    assert credit.turns[1] == pytest.approx([-0.061750, 0, 0.030875, 0], abs=1e-9)
    assert not credit_of(GRPO(), T3A).trajectory.any()


def test_t3a_std_and_omega() -> None:
    credit = credit_of(GiGPO(std=True), T3A)
    assert credit.turns[0][0] == pytest.approx(0.577339, abs=1e-5)
    assert credit.turns[1] == pytest.approx([-1.154679, 0, 0.577339, 0], abs=2e-5)
    assert credit_of(GiGPO(omega=0.5), T3A).turns[1][0] == pytest.approx(-0.030875)


def test_t3a_unit_of_the_episode_part() -> None:
    group = [table([1.0]), table([0.0, 0.0, 0.0])]
    by_rows = credit_of(GiGPO(std=True, unit="turn"), group).trajectory
    assert by_rows == pytest.approx([1.499997, -0.499999], abs=1e-6)
    assert credit_of(GiGPO(std=True), group).trajectory == pytest.approx([0.707106, -0.707106], abs=1e-6)


def test_fuzzy_keys_join_the_first_cluster_that_is_similar_enough() -> None:
    group = [
        table([1.0], state_keys=("you stand in the kitchen",)),
        table([0.0], state_keys=("you stand in the kitchen.",)),
        table([0.0], state_keys=("a garden far away",)),
    ]
    assert not np.concatenate(credit_of(GiGPO(), group).turns).any()
    fuzzy = credit_of(GiGPO(similarity=0.95), group)
    assert [own[0] for own in fuzzy.turns] == pytest.approx([0.5, -0.5, 0.0])


def test_fuzzy_matching_asks_the_first_member_not_the_last() -> None:
    keys = ["a" * 10, "a" * 9 + "b", "a" * 8 + "bb"]  # each like its neighbour, the third not like the first
    group = [table([reward], state_keys=(key,)) for reward, key in zip([1.0, 0.0, 0.0], keys, strict=True)]
    assert [own[0] for own in credit_of(GiGPO(similarity=0.9), group).turns] == pytest.approx([0.5, -0.5, 0.0])


def test_states_of_two_tasks_are_never_compared() -> None:
    batch = [[table([reward], state_keys=("same",))] * 2 for reward in (1.0, 0.0)]
    assert all(not np.concatenate(credit.turns).any() for credit in attribute([GiGPO()], batch))


def test_cluster_size_is_measured_and_keys_that_are_too_fine_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    transform = GiGPO()
    with caplog.at_level(logging.WARNING):
        credit_of(transform, T3A)
    assert transform.metrics == {"cluster_size": 2.0}
    assert not caplog.records
    unique = [table([0, 1], state_keys=(f"{i}.0", f"{i}.1")) for i in range(4)]
    with caplog.at_level(logging.WARNING):
        credit_of(transform, unique)
        credit_of(transform, unique)
    assert transform.metrics == {"cluster_size": 1.0}
    assert len(caplog.records) == 1
    credit_of(transform, [table([0, 1]), table([1])])  # no keys at all
    assert transform.metrics == {"cluster_size": 1.0}


def test_degenerate_groups() -> None:
    lone = table([0.0, 1.0, 1.0], state_keys=("s", "s", "s"))
    assert of_turns(credit_of(GiGPO(), [lone])) == [[0.0, 0.0, 0.0]]
    reward = float(np.float32(0.1))
    equal = [table([reward], state_keys=("s",))] * 8
    assert of_turns(credit_of(GiGPO(std=True), equal)) == [[0.0]] * 8
    empty = TurnTable(np.zeros(0), np.zeros(0, dtype=np.int64))
    for unit in ("trajectory", "turn"):
        group = [table([0.5, 1.0], lengths=[2, 0], state_keys=("a", "b")), empty, table([0.0], state_keys=("a",))]
        tokens = credit_of(GiGPO(unit=unit), group).token_advantages()  # type: ignore[arg-type]
        assert [len(own) for own in tokens] == [2, 0, 1]
        assert all(np.isfinite(own).all() for own in tokens)
    assert credit_of(GiGPO(), []).turns == ()


def expected_length(transform: GiGPO, updates: int = 300) -> float:
    """T3 (b): one state, `go` ends with reward 1, `detour` comes back; every episode succeeds within 40 turns."""
    rng, logit = random.Random(0), 1.0
    for _ in range(updates):
        go = 1 / (1 + np.exp(logit))
        lengths = [_steps(rng, go) for _ in range(8)]
        group = [table([0.0] * (n - 1) + [1.0], state_keys=("loop",) * n) for n in lengths]
        gradient = 0.0
        for turns in of_turns(credit_of(transform, group)):
            scores = [go] * (len(turns) - 1) + [go - 1]  # of the detour's logit: 1 - p(detour) for a detour
            gradient += float(np.dot(turns, scores)) / 8
        logit += gradient
    return float(1 + np.exp(logit))


def _steps(rng: random.Random, go: float) -> int:
    for turn in range(1, 40):
        if rng.random() < go:
            return turn
    return 40


def test_t3b_only_the_turn_part_unlearns_a_detour() -> None:
    assert expected_length(GiGPO(omega=0.0)) == pytest.approx(3.72, abs=0.01)
    assert expected_length(GiGPO()) < 1.3


@pytest.mark.parametrize("options", [{"gamma": -0.1}, {"similarity": 0.0}, {"similarity": 1.5}, {"unit": "token"}])
def test_wrong_values(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build([{"name": "gigpo", **options}])
