"""MSSR's transforms: the numbers of section 39, the tracker's behaviour, what the shaping may not do."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.advantages import BetaBaseline, Credit, EntropyShaping, TurnTable
from agentrl.errors import ConfigError


def table(reward: float, task: str, drift: float = 0.0, entropy: float = 0.0, length: int = 1) -> TurnTable:
    """One turn; `drift` is log pi - log reference of each token."""
    return TurnTable(
        rewards=np.array([reward]),
        lengths=np.array([length]),
        task_id=task,
        columns={
            "logprobs": np.full(length, -1.0),
            "reference": np.full(length, -1.0 - drift),
            "entropy": np.full(length, entropy),
        },
    )


def alone(*tables: TurnTable) -> list[Credit]:
    return [Credit.zeros([each]) for each in tables]


def advantages_of(credits: list[Credit]) -> list[float]:
    return [float(credit.trajectory[0]) for credit in credits]


def tracked(**values: float) -> BetaBaseline:
    made = BetaBaseline()
    made.trackers = {task: (8 * value, 8 * (1 - value)) for task, value in values.items()}
    return made


def test_39a_baselines_from_before_the_batch_and_the_batch_z_score() -> None:
    made = tracked(a=1, b=0, c=0.5, d=0.5)
    credits = made(alone(table(0, "a"), table(1, "b"), table(1, "c"), table(0, "d")))
    assert advantages_of(credits) == pytest.approx([-1.264911, 1.264911, 0.632456, -0.632456], abs=1e-6)
    assert made.trackers["a"] == (pytest.approx(8 * made.rho()), 1.0)


def test_39a_update_and_forgetting() -> None:
    made = BetaBaseline(rho_min=0.875, rho_max=0.875)
    made.trackers = {"a": (8.0, 0.0)}
    made(alone(table(0, "a"), table(1, "b")))
    assert made.trackers["a"] == pytest.approx((7.0, 1.0))
    assert made.value("a") == pytest.approx(0.875)


@pytest.mark.parametrize(
    ("rule", "expected"), [("paper", [0.875, 0.9175, 0.96, 0.875]), ("monotone", [0.96, 0.9175, 0.875, 0.875])]
)
def test_39a_rho_follows_the_drift(rule: str, expected: list[float]) -> None:
    for drift, rho in zip([0, 0.005, 0.01, 0.02], expected, strict=True):
        made = BetaBaseline(rho_rule=rule)  # type: ignore[arg-type]
        made.drifts = [drift]
        assert made.rho() == pytest.approx(rho)


def test_39a_entropy_shaping() -> None:
    rows = [table(0, "a", entropy=0.5), table(0, "b", entropy=3.0)]
    for sign, expected in ((-1, [-1.064911, -0.632456]), (1, [1.464911, 1.897367])):
        credits = [Credit((row,), np.array([sign * 1.264911]), (np.zeros(1),), (np.zeros(1),)) for row in rows]
        made = EntropyShaping(strength=0.4, kappa=2.0)
        shaped = [credit.token_advantages()[0][0] for credit in made(credits)]
        assert shaped == pytest.approx(expected, abs=1e-6)
        assert made.metrics == {"shaped_tokens": 0.5}


def test_39b_the_tracker_settles_and_follows() -> None:
    """Stationary: mean |v - p| below 0.09 at rho .96. After a jump the faster one arrives at least twice as soon."""
    generator = np.random.default_rng(0)
    slow = BetaBaseline(rho_min=0.96, rho_max=0.96)
    errors = []
    for visit in range(400):
        slow(alone(table(float(generator.random() < 0.6), "a"), table(0, "other")))
        errors.append(abs(slow.value("a") - 0.6))
        assert len(errors) == visit + 1
    assert np.mean(errors[200:]) < 0.09

    def visits_until_near(rho: float, seed: int) -> int:
        draws = np.random.default_rng(seed)
        made = BetaBaseline(rho_min=rho, rho_max=rho)
        made.trackers["a"] = (0.2 / (1 - rho), 0.8 / (1 - rho))
        for visit in range(1, 400):
            made(alone(table(float(draws.random() < 0.8), "a"), table(0, "other")))
            if abs(made.value("a") - 0.8) < 0.1:
                return visit
        raise AssertionError("never")

    fast, late = (np.mean([visits_until_near(rho, seed) for seed in range(60)]) for rho in (0.875, 0.96))
    assert late / fast > 2


def test_two_episodes_of_a_task_in_a_batch_decay_it_once() -> None:
    made = BetaBaseline(rho_min=0.875, rho_max=0.875)
    made.trackers = {"a": (4.0, 4.0)}
    credits = made(alone(table(1, "a"), table(0, "a")))
    assert advantages_of(credits) == pytest.approx([1.0, -1.0])  # both against v = 0.5
    assert made.trackers["a"] == pytest.approx((4.5, 4.5))


def test_the_drift_is_the_k3_estimate_over_policy_tokens() -> None:
    made = BetaBaseline()
    made(alone(table(1, "a", drift=0.3, length=3), table(0, "b", drift=-0.2, length=1)))
    k3 = [np.exp(-0.3) - 1 + 0.3] * 3 + [np.exp(0.2) - 1 - 0.2]
    assert made.drifts == pytest.approx([np.mean(k3)])


def test_rewards_are_thresholded_for_the_tracker_and_not_for_the_advantage() -> None:
    made = tracked(a=0.5, b=0.5)
    credits = made(alone(table(0.7, "a"), table(0.2, "b")))
    assert advantages_of(credits) == pytest.approx([1.0, -1.0])
    assert made.trackers["a"][0] > made.trackers["a"][1]


def test_equal_advantages_and_a_single_episode_carry_none() -> None:
    made = tracked(a=0.5, b=0.5)
    assert advantages_of(made(alone(table(1, "a"), table(1, "b")))) == [0.0, 0.0]
    assert advantages_of(tracked(a=0.5)(alone(table(1, "a")))) == [0.0]
    empty = EntropyShaping()(
        alone(TurnTable(rewards=np.zeros(1), lengths=np.zeros(1, int), columns={"entropy": np.zeros(0)}))
    )
    assert empty[0].token_advantages()[0].shape == (0,)


def test_a_restored_tracker_goes_on_as_if_nothing_had_happened() -> None:
    first, second = BetaBaseline(), BetaBaseline()
    first(alone(table(1, "a", drift=0.1), table(0, "b")))
    second.load_state_dict(first.state_dict())
    batch = alone(table(0, "a"), table(0, "b"))
    assert advantages_of(first(batch)) == advantages_of(second(batch))
    assert first.state_dict() == second.state_dict()


def test_grpo_gives_single_rollouts_nothing_and_this_does() -> None:
    from agentrl.advantages import GRPO

    batch = alone(table(1, "a"), table(0, "b"))
    assert advantages_of(GRPO()(batch)) == [0.0, 0.0]
    assert advantages_of(BetaBaseline()(batch)) == pytest.approx([1.0, -1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rho_min": 0.97}, "rho_min <= rho_max"), ({"start": 2}, "between 0 and 1"), ({"rho_rule": "x"}, "rho_rule")],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BetaBaseline(**options)  # type: ignore[arg-type]


def test_a_kappa_that_could_flip_signs_is_refused() -> None:
    with pytest.raises(ConfigError, match="no advantage changes its sign"):
        EntropyShaping(kappa=1.0)
