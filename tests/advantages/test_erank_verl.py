"""VERL's shaping: the specification's numbers (58a), the bounds of the bonus, the running means, what carries on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import GRPO, Array, Credit, EffectiveRankShaping, TurnTable, check_order, credited_batch
from agentrl.errors import ConfigError
from tests.advantages.hand_made import credit_of, episode, table, turn

KEY = EffectiveRankShaping().column
MEANS = np.array([10.0, 1.0, 0.04])
RANKS = np.array([12.0, 1.5, 0.02])


def ranked(ranks: Sequence[float], reward: float = 0.0, lengths: Sequence[int] = (2,)) -> TurnTable:
    rewards = [0.0] * (len(lengths) - 1) + [reward]
    return table(rewards, lengths=list(lengths), columns={KEY: np.array(ranks, dtype=np.float64)})


def begun(**options: object) -> EffectiveRankShaping:
    """A transform whose running means are those of 58a."""
    transform = EffectiveRankShaping(**options)  # type: ignore[arg-type]
    transform.load_state_dict({"means": MEANS.tolist()})
    return transform


def shaped(advantage: float, ranks: Array = RANKS, **options: object) -> float:
    credit = replace(Credit.zeros([ranked(ranks)]), trajectory=np.array([advantage]))
    return float(begun(**options)([credit])[0].token_advantages()[0][0])


def test_58a() -> None:
    transform = begun()
    assert transform.gates(RANKS[None], MEANS) == pytest.approx([0.268941], abs=1e-6)
    assert transform.potentials(RANKS[None], MEANS) == pytest.approx([0.390917], abs=1e-6)
    for advantage, expected in ((1.0, 1.390917), (-1.0, -0.609083), (0.1, 0.15)):
        assert shaped(advantage) == pytest.approx(expected, abs=1e-6)
    assert shaped(1.0, scale=0.5) == pytest.approx(1.1954585, abs=1e-6)
    assert shaped(1.0, kappa=4.0) == pytest.approx(1.25)


def test_the_bonus_is_bounded_and_never_changes_a_sign() -> None:
    rng = np.random.default_rng(0)
    acted = 0
    for _ in range(300):
        advantage, ranks = float(rng.normal()), MEANS + rng.normal(size=3) * [5, 2, 0.1]
        bonus = shaped(advantage, ranks) - advantage
        potential = float(begun().potentials(ranks[None], MEANS)[0])
        assert -1e-15 <= bonus <= abs(advantage) / 2 + 1e-12
        assert np.sign(advantage + bonus) == np.sign(advantage)
        assert (bonus == 0) == (potential <= 0)
        acted += bonus > 0
    assert 50 < acted < 250  # both cases occurred


def test_deviations_are_clipped() -> None:
    far, further = RANKS * [1, 1, 1e3], RANKS * [1, 1, 1e6]
    assert begun().potentials(far[None], MEANS) == begun().potentials(further[None], MEANS)
    zero = np.zeros(3)
    assert np.isfinite(begun().potentials(RANKS[None], zero)).all()


def test_the_first_batch_begins_the_means_and_is_not_shaped() -> None:
    transform = EffectiveRankShaping()
    group = [ranked([10, 1, 0.04], reward=1.0), ranked([14, 2, 0.0])]
    first = credit_of([GRPO(), transform], group)
    assert first.token_advantages()[0] == pytest.approx([0.707106] * 2, abs=1e-6)
    assert transform.means == pytest.approx([12, 1.5, 0.02])
    assert transform.metrics["effective_rank"] == 12 and "erank_bonus" not in transform.metrics
    second = [ranked([24, 3, 0.04], reward=1.0), ranked([6, 0, 0.0])]
    credit = credit_of([GRPO(), transform], second)
    # against the means of the first batch alone: d = (1, 1, 1)
    assert credit.token_advantages()[0] == pytest.approx([0.707106 + 0.707106 / 2] * 2, abs=1e-6)
    assert credit.token_advantages()[1] == pytest.approx([-0.707106] * 2, abs=1e-6)  # Phi is negative there
    assert transform.means == pytest.approx(0.7 * np.array([12, 1.5, 0.02]) + 0.3 * np.array([15, 1.5, 0.02]))
    assert transform.metrics["erank_bonus"] == pytest.approx(0.707106 / 4, abs=1e-6)


def test_it_goes_on_where_a_checkpoint_left_it() -> None:
    group = [ranked([24, 3, 0.04], reward=1.0), ranked([6, 0, 0.0])]
    whole, first, second = (EffectiveRankShaping() for _ in range(3))
    for transform in (whole, first):
        credit_of([GRPO(), transform], [ranked([10, 1, 0.04], reward=1.0), ranked([14, 2, 0.0])])
    second.load_state_dict(first.state_dict())
    assert credit_of([GRPO(), second], group).tokens[0].tolist() == credit_of([GRPO(), whole], group).tokens[0].tolist()
    fresh = EffectiveRankShaping()
    fresh.load_state_dict(EffectiveRankShaping().state_dict())
    assert fresh.means is None


def test_last_token_alone_and_layers_of_turns() -> None:
    member = ranked(RANKS.tolist(), lengths=(2, 0, 1))
    credit = replace(Credit.zeros([member]), turns=(np.array([1.0, 7.0, -1.0]),))
    (everywhere,) = begun()([credit])[0].token_advantages()
    assert everywhere == pytest.approx([1.390917, 1.390917, -0.609083], abs=1e-6)
    (last,) = begun(apply_to="last")([credit])[0].token_advantages()
    assert last == pytest.approx([1.0, 1.0, -0.609083], abs=1e-6)


def test_no_advantage_no_bonus() -> None:
    for rewards in ([1.0, 1.0, 1.0], [1.0]):
        group = [ranked(RANKS.tolist(), reward=reward) for reward in rewards]
        assert all((tokens == 0).all() for tokens in credit_of([GRPO(), begun()], group).token_advantages())


def test_members_and_batches_without_tokens() -> None:
    silent = table([0.0], lengths=[0])  # no row, hence no column
    credit = credit_of([GRPO(), begun()], [ranked(RANKS.tolist(), reward=1.0), silent])
    assert credit.token_advantages()[0] == pytest.approx([0.707106 + 0.353553] * 2, abs=1e-6)
    transform = begun()
    assert transform([]) == [] and transform([Credit.zeros([silent])])[0].tokens[0].shape == (0,)
    assert transform.means is not None and transform.means.tolist() == MEANS.tolist()


def test_order_and_options() -> None:
    check_order(advantages.build(["grpo", "erank_verl"]), group_size=4)
    with pytest.raises(ConfigError, match="must stand before"):
        check_order(advantages.build(["erank_verl", "grpo"]), group_size=4)
    for wrong in ({"kappa": 0.5}, {"rate": 0.0}, {"stride": 0}, {"gain": 0.0}, {"apply_to": "first"}):
        with pytest.raises(ConfigError):
            advantages.build([{"name": "erank_verl", **wrong}])
    assert EffectiveRankShaping(stride=20).needs == {"effective_rank(stride=20, window=512)"}


def test_three_numbers_of_a_trajectory_of_three_tokens_are_no_column_of_tokens() -> None:
    members = [episode(turn(tokens=3)), episode(turn(tokens=2))]
    scored = [replace(member, columns={KEY: RANKS, "logprobs": np.zeros(member.num_tokens)}) for member in members]
    batch = credited_batch([Credit.zeros(scored)])
    assert all(KEY not in columns and "logprobs" in columns for columns in batch.columns)
