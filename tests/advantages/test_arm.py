"""ARM: the specification's numbers (30a), ten arms of which five are right (30b), options and degenerate groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import ARM, GRPO, Array, Transform, TurnTable, check_order
from agentrl.advantages.arm import confidence, num_least_certain
from agentrl.errors import ConfigError, TrainingError
from tests.advantages.bandits import arm_table, effective_number, train
from tests.advantages.hand_made import credit_of, table

ANSWERS = [
    [0.9, 0.5, 0.95, 0.99, 0.2],
    [0.9, 0.9, 0.95, 0.99, 0.8],
    [0.7, 0.6, 0.9, 0.3, 0.9],
    [0.99, 0.99, 0.99, 0.99, 0.97],
]
PROMPT = [0.1, 0.3, 0.6, 0.05, 0.9, 0.8, 0.2, 0.4, 0.7, 0.5]
KEY = ARM().prompt


def answer(probabilities: Sequence[float], correct: bool, prompt: float = 0.070711, **fields: Any) -> TurnTable:
    columns = {"logprobs": np.log(probabilities), KEY: np.array(prompt)}
    fields = {"lengths": [len(probabilities)], **fields}
    rewards = [0.0] * (len(fields["lengths"]) - 1) + [float(correct)]
    return table(rewards, correct=correct, columns=columns, **fields)


def of(transform: Transform | Sequence[Transform], group: list[TurnTable]) -> list[float]:
    values: list[float] = credit_of(transform, group).trajectory.tolist()
    return values


GROUP = [answer(p, c) for p, c in zip(ANSWERS, (True, True, False, False), strict=True)]
SHIFTED = [0.827237, 0.647237, -0.934811, -1.135811]


def test_30a() -> None:
    assert [confidence(np.log(p), 0.2) for p in ANSWERS] == pytest.approx([0.2, 0.8, 0.3, 0.97])
    assert confidence(np.log(PROMPT), 0.2) == pytest.approx(0.070711, abs=1e-6)
    arm = ARM()
    assert of([GRPO(), arm], GROUP) == pytest.approx(SHIFTED, abs=1e-6)
    assert arm.metrics["arm_shift"] == pytest.approx(0.3 * (0.070711 - 0.5675), abs=1e-6)
    assert arm.metrics["arm_mean_advantage"] == pytest.approx(arm.metrics["arm_shift"])
    assert arm.metrics["arm_answer_confidence"] == pytest.approx(0.5675)
    assert arm.metrics["arm_prompt_confidence"] == pytest.approx(0.070711)


def test_least_certain_positions_are_rounded_up_and_at_least_one() -> None:
    assert [num_least_certain(n, 0.2) for n in (0, 1, 4, 5, 6, 10, 11, 35)] == [0, 1, 1, 1, 2, 2, 3, 7]
    assert num_least_certain(3, 1.0) == 3
    assert confidence(np.zeros(0), 0.2) == 1.0
    assert confidence(np.log([0.5, 0.9, 0.9]), 1.0) == pytest.approx((0.5 * 0.81) ** (1 / 3))


def test_options_restrict_and_centre_the_shift() -> None:
    plain = of(GRPO(), GROUP)
    assert of([GRPO(), ARM(apply_to="correct")], GROUP) == pytest.approx([*SHIFTED[:2], *plain[2:]], abs=1e-6)
    centred = of([GRPO(), ARM(centre_shift=True)], GROUP)
    assert sum(centred) == pytest.approx(0, abs=1e-9)
    assert np.ptp(np.array(centred) - SHIFTED) < 1e-6
    assert of([GRPO(), ARM(alpha=0.0)], GROUP) == plain


def test_groups_without_a_correct_member_and_groups_of_one_are_left_alone() -> None:
    wrong = [answer(p, False) for p in ANSWERS]
    arm = ARM()
    assert of([GRPO(), arm], wrong) == [0.0] * 4
    assert arm.metrics == {}
    assert of([GRPO(), ARM()], [answer(ANSWERS[0], True)]) == [0.0]


def test_all_correct_groups_still_train_unless_skipped() -> None:
    right = [answer(p, True) for p in ANSWERS]
    shifts = [0.3 * (0.070711 - c) for c in (0.2, 0.8, 0.3, 0.97)]
    assert of([GRPO(), ARM()], right) == pytest.approx(shifts, abs=1e-6)
    assert of([GRPO(), ARM(skip_all_correct=True)], right) == [0.0] * 4
    assert of([GRPO(), ARM(skip_all_correct=True)], GROUP) == pytest.approx(SHIFTED, abs=1e-6)


def test_correct_is_the_verdict_not_the_sign_of_the_reward() -> None:
    """Rewards that sum to something positive, and no member right."""
    group = [table([r], correct=False, columns=GROUP[0].columns, lengths=[5]) for r in (0.2, 0.0)]
    assert of([GRPO(), ARM()], group) == of(GRPO(), group)
    with pytest.raises(TrainingError, match="arm needs a verdict"):
        of([GRPO(), ARM()], [table([1.0]), table([0.0])])


def test_a_member_without_policy_tokens_has_no_confidence_and_no_shift() -> None:
    silent = table([0.0], lengths=[0], correct=False)  # no row, hence no column
    credit = credit_of([GRPO(), ARM(centre_shift=True)], [answer(ANSWERS[0], True), silent])
    assert credit.trajectory == pytest.approx([0.707106, -0.707106], abs=1e-6)


def test_turns_share_one_confidence() -> None:
    """T_low is taken across turns: 20 % of five tokens is one token, that of the second turn."""
    credit = credit_of([GRPO(), ARM()], [answer(ANSWERS[0], True, lengths=[4, 1]), *GROUP[1:]])  # type: ignore[arg-type]
    assert credit.token_advantages()[0] == pytest.approx(np.full(5, SHIFTED[0]), abs=1e-6)


def test_order_and_options() -> None:
    check_order(advantages.build(["grpo", "arm"]), group_size=8)
    with pytest.raises(ConfigError, match="must stand before"):
        check_order(advantages.build(["arm", "grpo"]), group_size=8)
    for wrong in ({"alpha": -0.1}, {"fraction": 0.0}, {"fraction": 1.5}, {"apply_to": "wrong"}):
        with pytest.raises(ConfigError):
            advantages.build([{"name": "arm", **wrong}])


def final(transforms: Sequence[Transform]) -> tuple[Array, Array]:
    """Effective number of correct arms and success of five runs that begin with a favourite among them (30b)."""
    logprobs = np.zeros((5, 10, 1))
    plays = [
        [arm_table(arm < 5, logprobs=logprobs[run, arm], **{KEY: np.array(0.5)}) for arm in range(10)]
        for run in range(5)
    ]

    def see(policy: Array) -> None:
        logprobs[:, :, 0] = np.log(policy)

    start = np.tile([2.0, 1.0] + [0.0] * 8, (5, 1))
    policy = train(transforms, start, lambda run, arm: plays[run][arm], group=8, steps=600, step_size=0.2, see=see)
    return effective_number(policy, slice(5)), policy[:, :5].sum(axis=1)


@pytest.mark.parametrize("apply_to", ["all", "correct"])
def test_correct_arms_are_equalised_30b(apply_to: str) -> None:
    found, solved = final([GRPO(), ARM(alpha=1.0, apply_to=apply_to)])  # type: ignore[arg-type]
    assert found.mean() > 4
    assert solved.min() > 0.95


def test_plain_grpo_settles_on_one_arm_30b() -> None:
    found, solved = final([GRPO()])
    assert found.mean() < 1.3
    assert solved.min() > 0.95
