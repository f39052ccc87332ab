"""MT-GRPO: T2's numbers in both forms, degenerate groups, and turn credit that does not mix with the outcome."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.advantages import GRPO, MTGRPO, TurnTable, attribute, build
from agentrl.errors import ConfigError
from tests.advantages.hand_made import credit_of, of_turns, table

T2A = [
    table([0.7, 1.5], tool_called=(True, False)),
    table([0.2, 0.0], tool_called=(True, False)),
    table([0.0], tool_called=(False,)),
    table([0.7, 0.0], tool_called=(True, False)),
]


@pytest.mark.parametrize("form", ["turns", "two_turn"])
def test_t2a(form: str) -> None:
    got = of_turns(credit_of(MTGRPO(form=form), T2A))  # type: ignore[arg-type]
    wanted = [[2.342490, 1.499800], [-1.061727, -0.499933], [-0.779154], [0.342757, -0.499933]]
    for own, expected in zip(got, wanted, strict=True):
        assert own == pytest.approx(expected, abs=2e-6)


def test_measures_what_turns_earn_and_who_has_no_result() -> None:
    transform = MTGRPO()
    credit_of(transform, T2A)
    assert transform.metrics == pytest.approx({"turn_reward": 0.4, "without_result": 0.25})


def test_t2a_alpha_weighs_the_turn_part() -> None:
    none = of_turns(credit_of(MTGRPO(alpha=0.0), T2A))
    assert [own[0] for own in none] == pytest.approx([1.499800, -0.499933, -0.779154, -0.499933], abs=2e-6)
    half = of_turns(credit_of(MTGRPO(alpha=0.5), T2A))
    assert half[0][0] == pytest.approx(1.499800 + 0.5 * 0.842690, abs=2e-6)


def test_more_turns_add_the_later_ones_by_gamma_and_the_answer_nothing() -> None:
    group = [table([1.0, 0.0, 5.0]), table([0.0, 1.0, 5.0]), table([0.0, 5.0])]
    first = np.array([1.0, 0.0, 0.0])
    second = np.array([0.0, 1.0, 0.0])  # the third member answers in turn 2: alive, with 0, and not credited
    z_first, z_second = ((x - x.mean()) / (x.std(ddof=1) + 1e-4) for x in (first, second))
    for gamma in (0.0, 0.9):
        got = of_turns(credit_of(MTGRPO(gamma=gamma), group))
        wanted = [[z_first[i] + gamma * z_second[i], z_second[i], 0.0] for i in range(2)]
        assert got[0] == pytest.approx(wanted[0])
        assert got[1] == pytest.approx(wanted[1])
        assert got[2] == pytest.approx([z_first[2], 0.0])


def test_a_turn_with_fewer_than_two_alive_adds_nothing() -> None:
    got = of_turns(credit_of(MTGRPO(), [table([0.0, 0.7, 1.0]), table([1.0])]))
    assert got[0] == [0.0, 0.0, 0.0]


def test_equal_turn_rewards_leave_grpo_on_the_outcome() -> None:
    group = [table([0.3, outcome]) for outcome in (1.0, 0.0, 0.0, 1.0)]
    plain = credit_of(GRPO(eps=1e-4), [table([0.0, float(own.rewards[-1])]) for own in group])
    assert credit_of(MTGRPO(), group).trajectory == pytest.approx(plain.trajectory)
    assert all(not turns.any() for turns in credit_of(MTGRPO(), group).turns)


def test_nobody_calls_a_tool() -> None:
    group = [table([1.0]), table([0.0]), table([0.0])]
    assert credit_of(MTGRPO(), group).trajectory == pytest.approx(credit_of(GRPO(eps=1e-4), group).trajectory)


def test_tool_users_are_not_normalised_among_themselves() -> None:
    """Who calls nothing counts with 0: among themselves equal tool users would have no turn credit."""
    used = [table([0.7, 0.0], tool_called=(True, False))] * 2
    got = of_turns(credit_of(MTGRPO(), [*used, table([0.0])]))
    assert got[0][0] > 0.5


def test_degenerate_groups() -> None:
    assert of_turns(credit_of(MTGRPO(), [table([0.7, 1.0])])) == [[0.0, 0.0]]
    reward = float(np.float32(0.1))
    assert of_turns(credit_of(MTGRPO(), [table([reward, reward])] * 8)) == [[0.0, 0.0]] * 8
    empty = TurnTable(np.zeros(0), np.zeros(0, dtype=np.int64))
    stopped = table([0.5, 1.0], lengths=[2, 0])
    tokens = credit_of(MTGRPO(), [stopped, empty, table([0.0])]).token_advantages()
    assert [len(own) for own in tokens] == [2, 0, 1]
    assert all(np.isfinite(own).all() for own in tokens)


def second_turn(transform: MTGRPO | GRPO) -> float:
    """T2 (b): mean of A_{turn 2} (a_1 - 1/2) over groups of two independent fair turns, r_1 = a_1, R = a_2."""
    rng = np.random.default_rng(0)
    draws = rng.integers(2, size=(1_500, 8, 2)).astype(np.float64)
    batch = [[table(rewards, tool_called=(True, False)) for rewards in group] for group in draws]
    credits = attribute([transform], batch)
    turns = np.array([of_turns(credit) for credit in credits])[:, :, 1]
    return float((turns * (draws[:, :, 0] - 0.5)).mean())


def test_t2b_the_second_turn_is_not_credited_with_the_first() -> None:
    assert abs(second_turn(MTGRPO())) < 0.01
    assert second_turn(GRPO()) == pytest.approx(0.30, abs=0.03)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 2.0}, "gamma is 2.0"),
        ({"form": "three"}, "form"),
        ({"form": "two_turn", "gamma": 0.5}, "no meaning"),
    ],
)
def test_wrong_values(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build([{"name": "mt_grpo", **options}])
