"""Noise corrections: the specification's numbers (42a), exact expected gradients on a bandit (42b), pitfalls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import (
    GRPO,
    Array,
    BackwardCorrection,
    Credit,
    DrGRPO,
    ForwardCorrection,
    Stage,
    Transform,
    TurnTable,
    check_order,
)
from agentrl.advantages.noise_correction import estimated_rate, is_certain_negative
from agentrl.errors import ConfigError, TrainingError
from agentrl.trajectory import StopReason
from tests.advantages.bandits import arm_table, softmax
from tests.advantages.hand_made import credit_of, episode, turn

SEEN = [arm_table(bool(verdict)) for verdict in (1, 0, 1, 0)]


def of(transform: Transform | Sequence[Transform], group: list[TurnTable]) -> list[float]:
    values: list[float] = credit_of(transform, group).trajectory.tolist()
    return values


def judged(correct: bool, **fields: Any) -> TurnTable:
    """An episode with a record."""
    metrics = {"correct": float(correct), **fields.pop("metrics", {})}
    return episode(turn(reward=float(correct), **fields.pop("turn", {})), metrics=metrics, **fields)


def test_backward_42a() -> None:
    backward = BackwardCorrection(rho0=0.1, rho1=0.2)
    assert of(backward, SEEN) == pytest.approx([0.714286, -0.714286, 0.714286, -0.714286], abs=1e-6)
    assert [backward._correct(table) for table in SEEN[:2]] == pytest.approx([1.285714, -0.142857], abs=1e-6)
    assert backward.metrics["noise_success"] == pytest.approx((0.5 - 0.1) / 0.7)
    leave_one_out = BackwardCorrection(rho0=0.1, rho1=0.2, baseline="leave_one_out")
    assert of(leave_one_out, SEEN) == pytest.approx([x * 4 / 3 for x in of(backward, SEEN)])


def test_forward_42a() -> None:
    assert of(ForwardCorrection(rho1=0.2), SEEN) == pytest.approx([0.2, -0.8, 0.2, -0.8])


@pytest.mark.parametrize(("rho0", "rho1"), [(0.1, 0.2), (0.3, 0.3), (0.0, 0.6), (0.25, 0.0)])
def test_expectations_are_exact_42a(rho0: float, rho1: float) -> None:
    backward, forward = BackwardCorrection(rho0=rho0, rho1=rho1), ForwardCorrection(rho1=rho1)
    accepted, rejected = SEEN[:2]
    for weigh, of_right, of_wrong in (
        (backward._correct, 1.0, 0.0),
        (forward._weight, 0.0, -(1 - rho0 - rho1)),
    ):
        assert (1 - rho1) * weigh(accepted) + rho1 * weigh(rejected) == pytest.approx(of_right, abs=1e-12)
        assert rho0 * weigh(accepted) + (1 - rho0) * weigh(rejected) == pytest.approx(of_wrong, abs=1e-12)


def test_a_z_score_would_erase_it_and_is_refused() -> None:
    """The corrected rewards are affine in the verdict, so their z-score is that of the raw ones."""
    corrected = [
        TurnTable(np.array([BackwardCorrection(rho0=0.1, rho1=0.2)._correct(table)]), np.array([1])) for table in SEEN
    ]
    assert of(GRPO(ddof=0), corrected) == pytest.approx(of(GRPO(ddof=0), SEEN), abs=1e-5)
    for name in ("noise_backward", "noise_forward"):
        with pytest.raises(ConfigError, match="divides by a spread, which undoes"):
            check_order(advantages.build([name, "grpo"]), group_size=8)
        with pytest.raises(ConfigError, match="divides by a spread, which undoes"):
            check_order([*advantages.build([name]), _Whiten()], group_size=8)
        check_order(advantages.build([name]), group_size=8)


class _Whiten(Transform):
    stage = Stage.NORMALISE
    scales = True

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return groups


@pytest.mark.parametrize(
    "options",
    [
        {"name": "noise_backward", "rho0": 0.5, "rho1": 0.5},
        {"name": "noise_backward", "rates": {"strict": (0.2, 0.9)}},
        {"name": "noise_backward", "rho1": -0.1},
        {"name": "noise_backward", "floor": 0.0},
        {"name": "noise_backward", "baseline": "median"},
        {"name": "noise_forward", "rho1": 1.0},
        {"name": "noise_forward", "appeals": 0.0},
        {"name": "noise_forward", "appeals": 0.2, "rates": {"strict": 0.1}},
        {"name": "noise_forward", "scale": "group"},
        {"name": "noise_forward", "rho0": 0.1},
    ],
)
def test_rates_that_say_nothing_and_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        advantages.build([options])


# -- expected gradients ------------------------------------------------------------------------------------------------

POLICY = softmax(np.array([0.3, 0.0, -0.4, 0.8, 0.1, -0.2]))
Verdicts = Callable[[int], dict[bool, float]]


def noisy(rho0: float, rho1: float) -> Verdicts:
    """Probability of either verdict on an arm, of which arms 0 and 1 are right."""
    return lambda arm: {True: 1 - rho1, False: rho1} if arm < 2 else {True: rho0, False: 1 - rho0}


def expected_gradient(transform: Transform, verdicts: Verdicts, verifier: str = "") -> Array:
    """sum over arms and verdicts of their probability times A grad log p: all outcomes in one group.

    Every estimator here gives A = a(verdict) - constant in it, and a constant has no expected gradient.
    """
    tables, weights, scores = [], [], []
    for arm in range(6):
        for verdict, share in verdicts(arm).items():
            tables.append(judged(verdict, info={"verifier": verifier}))
            weights.append(POLICY[arm] * share)
            scores.append(np.eye(6)[arm] - POLICY)
    return np.asarray((np.array(weights) * credit_of(transform, tables).trajectory) @ np.array(scores))


CLEAN = expected_gradient(DrGRPO(), noisy(0, 0))


@pytest.mark.parametrize(("rho0", "rho1", "shrunk"), [(0.1, 0.2, 0.7), (0.0, 0.6, 0.4), (0.3, 0.3, 0.4)])
def test_backward_restores_the_gradient_and_forward_its_direction_42b(rho0: float, rho1: float, shrunk: float) -> None:
    verdicts = noisy(rho0, rho1)
    assert expected_gradient(DrGRPO(), verdicts) == pytest.approx(shrunk * CLEAN, abs=1e-12)
    assert expected_gradient(BackwardCorrection(rho0=rho0, rho1=rho1), verdicts) == pytest.approx(CLEAN, abs=1e-12)
    assert expected_gradient(ForwardCorrection(rho1=rho1), verdicts) == pytest.approx(shrunk * CLEAN, abs=1e-12)


def test_exchanged_rates_show_themselves() -> None:
    """They give the right gradient, whose factor is symmetric, but the wrong success rate."""
    right, exchanged = BackwardCorrection(rho0=0.3, rho1=0.1), BackwardCorrection(rho0=0.1, rho1=0.3)
    seen = [arm_table(i < 48) for i in range(100)]  # 0.3 of the tasks solved: 0.3 * 0.9 + 0.7 * 0.3
    of(right, seen), of(exchanged, seen)
    assert right.metrics["noise_success"] == pytest.approx(0.3)
    assert exchanged.metrics["noise_success"] > 0.6


def test_verifiers_with_different_rates_get_their_clean_weights_back_42b() -> None:
    """Uncorrected the noisy environment's gradient counts 0.4 of what it should."""
    backward = BackwardCorrection(rho0=0.0, rho1=0.0, rates={"strict": (0.0, 0.6)})
    norm = np.linalg.norm
    careful, strict = noisy(0.0, 0.0), noisy(0.0, 0.6)
    raw = norm(expected_gradient(DrGRPO(), strict)) / norm(expected_gradient(DrGRPO(), careful))
    mended = norm(expected_gradient(backward, strict, "strict")) / norm(expected_gradient(backward, careful, "careful"))
    assert (raw, mended) == (pytest.approx(0.4), pytest.approx(1.0))
    forward = ForwardCorrection(rho1=0.0, rates={"strict": 0.6})
    tables = [judged(False, info={"verifier": "strict"}), judged(False, env_id="strict"), judged(False)]
    assert of(forward, tables) == pytest.approx([-0.4, -0.4, -1.0])


# -- appeals and memory ------------------------------------------------------------------------------------------------


def appealed(positives: int, negatives: int, overturned: int) -> list[TurnTable]:
    found = [judged(True)] * positives
    return found + [judged(False, metrics={"overturned": float(i < overturned)}) for i in range(negatives)]


def test_appeals_42a() -> None:
    assert estimated_rate(60, 3, 0.25) == pytest.approx(12 / 72)
    assert estimated_rate(0, 0, 0.25) == 0.0
    forward = ForwardCorrection(rho1=0.1, appeals=0.25)
    first = of(forward, appealed(60, 40, 3))
    assert (first[0], first[-1]) == (0.1, -0.9)  # this batch is corrected with what was known before it
    assert forward.rho1 == pytest.approx(0.106667, abs=1e-6)
    assert of(forward, appealed(1, 1, 0)) == pytest.approx([0.106667, -0.893333], abs=1e-6)
    resumed = ForwardCorrection(rho1=0.1, appeals=0.25)
    resumed.load_state_dict(forward.state_dict())
    assert resumed.rho1 == forward.rho1 != 0.1


def test_the_estimated_rate_is_bounded_and_the_denominator_floored() -> None:
    backward = BackwardCorrection(rho0=0.45, rho1=0.1, appeals=0.1)
    for _ in range(80):
        of(backward, appealed(1, 9, 9))  # rho1 would be 0.99
    assert backward.rho1 == pytest.approx(0.5, abs=1e-3)
    assert backward.metrics["noise_floored"] == 1.0
    assert of(backward, appealed(1, 1, 0)) == pytest.approx([0.5 / 0.2, -0.5 / 0.2])


def test_appeals_without_a_second_verifier_are_an_error() -> None:
    with pytest.raises(TrainingError, match="'overturned'"):
        of(ForwardCorrection(appeals=0.2), [judged(True), judged(False)])
    of(ForwardCorrection(appeals=0.2), [judged(True)])  # nothing was rejected


def test_appeals_find_the_rate_42b() -> None:
    """2000 episodes, half of them right, rho1 = 0.2, a quarter of the rejections re-checked."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        rejected = int(rng.binomial(1000, 0.2))
        found.append(estimated_rate(1000 - rejected, int(rng.binomial(rejected, 0.25)), 0.25))
    assert np.mean(found) == pytest.approx(0.199, abs=0.004)
    assert np.std(found) == pytest.approx(0.021, abs=0.005)
    as_share_of_rejections = 200 / 1200
    assert abs(as_share_of_rejections - np.mean(found)) > 0.02


def test_running_scale_is_that_of_the_batches_before() -> None:
    forward = ForwardCorrection(rho1=0.0, scale="running")
    spread = np.std([0, -1, 0, -1], ddof=1)
    assert of(forward, SEEN) == pytest.approx(np.array([0, -1, 0, -1]) / spread)  # the first has none before it
    lopsided = [SEEN[1]] * 7 + [SEEN[0]]
    assert of(forward, lopsided) == pytest.approx([-1 / spread] * 7 + [0])
    after = 0.9 * spread + 0.1 * np.std([-1] * 7 + [0], ddof=1)
    resumed = ForwardCorrection(rho1=0.0, scale="running")
    resumed.load_state_dict(forward.state_dict())
    assert of(resumed, [SEEN[1]] * 3) == pytest.approx([-1 / after] * 3)
    assert resumed.spread == pytest.approx(after)  # a batch without spread is not averaged in


# -- degenerate --------------------------------------------------------------------------------------------------------


def test_what_was_cut_off_is_a_certain_negative() -> None:
    cut = judged(False, turn={"truncated": True})
    out_of_turns = judged(False, stop_reason=StopReason.MAX_TURNS)
    solved = judged(True, turn={"truncated": True})
    assert [is_certain_negative(t, "x") for t in (cut, out_of_turns, solved, judged(False))] == [
        True,
        True,
        False,
        False,
    ]
    assert of(ForwardCorrection(rho1=0.2), [cut, out_of_turns, judged(False), solved]) == [-1.0, -1.0, -0.8, 0.2]
    backward = BackwardCorrection(rho0=0.1, rho1=0.2)
    assert [backward._correct(table) for table in (cut, judged(False))] == pytest.approx([0.0, -0.142857], abs=1e-6)


def test_equal_groups_and_groups_of_one() -> None:
    wrong = [SEEN[1]] * 3
    assert of(BackwardCorrection(rho0=0.1), wrong) == [0.0] * 3
    assert of(BackwardCorrection(), [SEEN[0]]) == [0.0]
    assert of(ForwardCorrection(rho1=0.25), wrong) == [-0.75] * 3  # a pure push-down, as intended
    check_order(advantages.build(["noise_forward"]), group_size=1)
    with pytest.raises(ConfigError, match="at least 2"):
        check_order(advantages.build(["noise_backward"]), group_size=1)
    choosy = ForwardCorrection(rho1=0.25, drop_all_negative=True)
    assert credit_of(choosy, wrong).dropped == {0, 1, 2}
    assert credit_of(choosy, SEEN).dropped == frozenset()
    assert choosy([]) == [] and BackwardCorrection()([]) == []


def test_no_verdict_is_an_error() -> None:
    silent = replace(SEEN[0], correct=None)
    for transform in (BackwardCorrection(), ForwardCorrection()):
        with pytest.raises(TrainingError, match="needs a verdict"):
            of(transform, [silent, SEEN[1]])
