"""ACE: the specification's numbers (17a), the exact bandit (17b), the turn form and what must be left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import ACE, GRPO, Array, Credit, TurnTable, check_order
from agentrl.errors import ConfigError, TrainingError
from tests.advantages.bandits import bare_credit, softmax
from tests.advantages.hand_made import credit_of, episode, table, turn

REWARDS = [1, 0, 0, 0]
SHIFTS = [1.2, 2.0, 0.0, -2.0]
LENGTHS = [4, 5, 3, 8]


def shifted(reward: float, shifts: Sequence[float], lengths: Sequence[int] | None = None) -> TurnTable:
    """An episode whose policy tokens moved by these many nats away from the reference."""
    own = np.linspace(-2, -1, len(shifts))
    columns = {"logprobs": own, "reference": own - np.array(shifts)}
    turns = [len(shifts)] if lengths is None else lengths
    return table([0.0] * (len(turns) - 1) + [reward], lengths=turns, columns=columns)


def spread_out(mean: float, length: int) -> list[float]:
    """Unequal numbers with this mean."""
    return (mean + np.arange(length) - (length - 1) / 2).tolist()


GROUP = [shifted(r, spread_out(c, n)) for r, c, n in zip(REWARDS, SHIFTS, LENGTHS, strict=True)]


@pytest.mark.parametrize(
    ("ddof", "expected"),
    [
        (1, [1.499997, -1.563461, -0.846572, -0.563463]),
        (0, [1.732047, -1.805329, -0.977537, -0.650631]),
    ],
)
def test_17a(ddof: int, expected: list[float]) -> None:
    credit = credit_of([GRPO(ddof=ddof), ACE()], GROUP)  # type: ignore[arg-type]
    assert credit.trajectory == pytest.approx(expected, abs=1e-6)
    for advantages_, value in zip(credit.token_advantages(), expected, strict=True):
        assert advantages_ == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("c_max", "last"), [(None, 1.000000), (10.0, 1.000045)])
def test_sums_instead_of_means_17a(c_max: float | None, last: float) -> None:
    plain = credit_of(GRPO(), GROUP).trajectory
    ace = ACE(length_normalise=False, c_max=c_max)
    factors = credit_of([GRPO(), ace], GROUP).trajectory / plain
    assert factors == pytest.approx([1.0, 11.000045, 1.693147, last], abs=1e-6)
    negative = replace(bare_credit(GROUP), trajectory=-np.ones(4))
    factors = -ace([negative])[0].trajectory
    assert factors == pytest.approx([5.808196, 11.000045, 1.693147, last], abs=1e-6)


def test_metrics_tell_overconfident_errors() -> None:
    ace = ACE()
    credit_of([GRPO(), ace], GROUP)
    assert ace.metrics["ace_errors"] == 0.75
    assert ace.metrics["ace_overconfident"] == pytest.approx(1 / 3)
    assert ace.metrics["ace_factor"] == pytest.approx((3.126928 + 1.693147 + 1.126928) / 3, abs=1e-6)
    clamping = ACE(length_normalise=False)
    credit_of([GRPO(), clamping], GROUP)
    assert clamping.metrics["ace_clamped"] == pytest.approx(1 / 3)  # the sum of -16; that of exactly 10 is not above


def test_alpha_0_is_the_estimator_alone() -> None:
    assert (
        credit_of([GRPO(), ACE(alpha=0.0)], GROUP).trajectory.tolist() == credit_of(GRPO(), GROUP).trajectory.tolist()
    )


def test_what_counts_is_the_sign_of_the_advantage_not_the_reward() -> None:
    group = [shifted(reward, [2.0]) for reward in (1.0, 0.6, 0.5, 0.0)]
    plain, ace = credit_of(GRPO(), group).trajectory, credit_of([GRPO(), ACE()], group).trajectory
    assert (ace[:2] == plain[:2]).all() and plain[1] > 0
    assert ace[2:] == pytest.approx(plain[2:] * 3.126928, rel=1e-6)


def test_turn_credit_is_strengthened_by_its_own_turn() -> None:
    member = shifted(0.0, [1.0, 3.0, 0.0, -2.0, -2.0], lengths=[2, 1, 0, 2])
    credit = replace(Credit.zeros([member]), trajectory=np.array([0.1]), turns=(np.array([-0.6, 0.4, -9.0, -1.1]),))
    (tokens,) = ACE()([credit])[0].token_advantages()
    # shifts of the turns: 2, 0, none, -2; the second turn's advantage is positive
    assert tokens == pytest.approx([-0.5 * 3.126928] * 2 + [0.5] + [-1.0 * 1.126928] * 2, abs=1e-6)


def test_recorded_log_probabilities_stand_for_the_policy() -> None:
    member = episode(turn(tokens=2), turn(tokens=1))
    member = replace(member, columns={"reference": np.array([-1.0, -4.0, -4.0])})  # recorded: -1 each
    credit = replace(bare_credit([member]), trajectory=np.array([-1.0]), turns=(np.zeros(2),), tokens=(np.zeros(3),))
    ace = ACE(policy="recorded")
    assert ace([credit])[0].trajectory == pytest.approx([-3.126928], abs=1e-6)
    assert ace.needs == {"reference"} and ACE().needs == {"reference", "logprobs"}


def test_degenerate_groups_stay_as_they_are() -> None:
    for rewards in ([0, 0, 0], [1, 1], [0.5]):
        group = [shifted(reward, [3.0, 5.0]) for reward in rewards]
        assert (credit_of([GRPO(), ACE()], group).trajectory == 0.0).all()
    empty = table([0.0], lengths=[0])  # immediate stop: no row, hence no column
    ace = ACE()
    credit = credit_of([GRPO(), ace], [shifted(1.0, [1.0]), empty])
    assert credit.token_advantages()[1].shape == (0,) and np.isfinite(credit.trajectory).all()
    assert ace.metrics == {"ace_errors": 0.0}


def test_without_reference_it_refuses() -> None:
    with pytest.raises(TrainingError, match="'reference'"):
        credit_of([GRPO(), ACE()], [table([1.0], columns={"logprobs": np.zeros(1)}), table([0.0])])
    with pytest.raises(TrainingError, match="record"):
        credit_of([GRPO(), ACE(policy="recorded")], [shifted(1.0, [1.0]), shifted(0.0, [1.0])])


def test_order_and_options() -> None:
    check_order(advantages.build(["grpo", "ace"]), group_size=8)
    with pytest.raises(ConfigError, match="must stand before"):
        check_order(advantages.build(["ace", "grpo"]), group_size=8)
    for wrong in ({"alpha": -1}, {"c_max": 0}, {"policy": "learnt"}):
        with pytest.raises(ConfigError):
            advantages.build([{"name": "ace", **wrong}])


def updates_until_forgotten(alpha: float, most: int = 60) -> tuple[int, float]:
    """17b: updates until the over-boosted wrong arm is at 0.4, and the right arm's probability after 60."""
    logits = np.array([0.0, 3.0, -1.0, 0.0, 0.0, 0.0])
    ace, needed = ACE(alpha=alpha), most + 1
    for count in range(most):
        policy: Array = softmax(logits)
        if policy[1] <= 0.4:
            needed = min(needed, count)
        tables = [shifted(float(arm == 0), [float(np.log(policy[arm] * 6))]) for arm in range(6)]
        right = policy[0]
        plain = (np.eye(6)[0] - right) / np.sqrt(right * (1 - right))
        credit = replace(bare_credit(tables), trajectory=plain)
        values = policy * ace([credit])[0].trajectory
        logits = logits + 0.1 * (values - policy * values.sum())
    return needed, float(softmax(logits)[0])


def test_overconfident_error_is_forgotten_sooner_17b() -> None:
    """alpha = 0 is plain GRPO: a transform that does nothing fails."""
    found = [updates_until_forgotten(alpha) for alpha in (0.0, 1.0, 2.0)]
    assert [needed for needed, _ in found] == [52, 41, 34]
    assert [right for _, right in found] == pytest.approx([0.526, 0.745, 0.847], abs=1e-3)
