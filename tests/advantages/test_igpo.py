"""IGPO: T6's numbers with one pool and with two, and credit where every outcome is the same."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.advantages import GRPO, IGPO, TurnTable, build
from agentrl.errors import ConfigError, TrainingError
from tests.advantages.hand_made import credit_of, of_turns, table

NEED = 'answer_probability(closing="<answer>")'


def asked(probabilities: list[float], outcome: float, **columns: object) -> TurnTable:
    """An episode with these probabilities where its turns begin."""
    rewards = [0.0] * (len(probabilities) - 1) + [outcome]
    return table(rewards, columns={NEED: np.array([probabilities])}, **columns)


T6A = [asked([0.10, 0.30, 0.60], 1.0), asked([0.10, 0.08], 0.0), asked([0.10], 0.0)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1.942550, 2.061829, 1.925510], [-1.312073, -0.630477], [-0.630477]]),
        ({"gamma": 0.9}, [[1.563071, 1.869278, 1.925510], [-1.249025, -0.630477], [-0.630477]]),
        ({"gamma": 0.0}, [[-0.119279, 0.136319, 1.925510], [-0.681596, -0.630477], [-0.630477]]),
        ({"gamma": 0.0, "pool": "gains"}, [[0.244337, 0.855181, 1.154699], [-1.099518, -0.577349], [-0.577349]]),
    ],
)
def test_t6a(options: dict[str, object], expected: list[list[float]]) -> None:
    got = of_turns(credit_of(build([{"name": "igpo", **options}]), T6A))
    for own, wanted in zip(got, expected, strict=True):
        assert own == pytest.approx(wanted, abs=1e-5)


def test_t6b_gains_teach_where_every_outcome_is_the_same() -> None:
    group = [asked([0.2, 0.2 + gain], 0.0) for gain in (0.3, 0.0, -0.1, 0.0)]
    got = of_turns(credit_of(IGPO(pool="gains"), group))
    assert [own[0] for own in got] == pytest.approx([1.443367, -0.288673, -0.866020, -0.288673], abs=1e-5)
    assert [own[1] for own in got] == [0.0] * 4
    assert not credit_of(GRPO(), group).trajectory.any()


def test_one_pool_charges_a_turn_without_gain_and_two_do_not() -> None:
    group = [asked([0.1, 0.1], 1.0), asked([0.1], 1.0), asked([0.1, 0.2], 0.0)]
    longer, shorter = (own[0] for own in of_turns(credit_of(IGPO(), group))[:2])
    assert shorter - longer > 0.5
    longer, shorter = (own[-1] for own in of_turns(credit_of(IGPO(pool="gains"), group))[:2])
    assert longer == shorter


def test_a_turn_s_own_reward_stays() -> None:
    group = [table([0.5, 0.0], columns={NEED: np.array([[0.1, 0.1]])}), asked([0.1, 0.1], 0.0)]
    got = of_turns(credit_of(IGPO(pool="gains", gamma=0.0), group))
    assert got[0][0] > 0.5 > -0.5 > got[1][0]


def test_measures_the_gain() -> None:
    transform = IGPO()
    credit_of(transform, T6A)
    assert transform.metrics == pytest.approx({"gain": (0.2 + 0.3 - 0.02) / 3, "answer_probability": 0.1})


def test_degenerate_groups() -> None:
    assert of_turns(credit_of(IGPO(), [asked([0.1, 0.9], 1.0)])) == [[0.0, 0.0]]
    for pool in ("all", "gains"):
        equal = credit_of(build([{"name": "igpo", "pool": pool}]), [asked([0.1], float(np.float32(0.1)))] * 8)
        assert of_turns(equal) == [[0.0]] * 8
        nothing = TurnTable(np.zeros(0), np.zeros(0, dtype=np.int64), columns={NEED: np.zeros((1, 0))})
        group = [asked([0.1, 0.4], 1.0, lengths=[2, 0]), nothing, asked([0.1], 0.0)]
        tokens = credit_of(build([{"name": "igpo", "pool": pool}]), group).token_advantages()
        assert [len(own) for own in tokens] == [2, 0, 1]
        assert all(np.isfinite(own).all() for own in tokens)


def test_asks_for_the_probability_behind_its_closing_text() -> None:
    assert IGPO().needs == {NEED}
    assert IGPO(closing="</think>\n<answer>").needs == {'answer_probability(closing="</think>\\n<answer>")'}
    with pytest.raises(TrainingError, match="has no column"):
        credit_of(IGPO(), [table([1.0]), table([0.0])])
    with pytest.raises(TrainingError, match="2 probabilities of the answer for 1 turns"):
        credit_of(IGPO(), [table([1.0], columns={NEED: np.array([[0.1, 0.2]])})] * 2)


@pytest.mark.parametrize("options", [{"gamma": 1.1}, {"pool": "outcomes"}, {"closing": 3}])
def test_wrong_values(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build([{"name": "igpo", **options}])
