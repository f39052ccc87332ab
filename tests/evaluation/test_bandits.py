"""What plain GRPO does to pass@k, support, entropy and sound reasoning, on bandits that are small enough to know."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from agentrl.advantages.group import GRPO
from agentrl.evaluation.boundary import boundary
from agentrl.evaluation.chain_of_thought import logic_prior
from agentrl.evaluation.samples import Sample
from agentrl.evaluation.support import Support, answer_entropy, measure_support
from tests.evaluation.made_samples import sample

Array = NDArray[np.float64]

GROUP, PROMPTS, STEP_SIZE = 8, 16, 0.1
COMMON, RARE = 0, 1
START = np.array([0.2, 0.003, 0.3, 0.25, 0.247])
"""Right and common, right and rare, three wrong arms."""


@cache
def _of_count(right: int) -> tuple[float, float]:
    """GRPO's advantages of a wrong and of a right member in a group with so many right ones."""
    values = GRPO().statistic.over_trajectories((np.arange(GROUP) < right).astype(float))
    return float(values[-1]) if right < GROUP else 0.0, float(values[0]) if right else 0.0


def advantages(rewards: Array) -> Array:
    """GRPO's, group by group, of rewards that are 0 or 1; shape (prompts, group)."""
    table = np.array([_of_count(right) for right in range(GROUP + 1)])
    return np.asarray(table[rewards.sum(axis=1).astype(int)[:, None], rewards.astype(int)])


def softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())


@cache
def trained(steps: int = 600, seed: int = 0) -> tuple[float, ...]:
    """The policy after GRPO on the five arms and a sixth one, right as well, that is never sampled."""
    rng = np.random.default_rng(seed)
    logits = np.append(np.log(START), -np.inf)
    for _ in range(steps):
        policy = softmax(logits)
        arms = rng.choice(6, size=(PROMPTS, GROUP), p=policy)
        gains = advantages(np.isin(arms, (COMMON, RARE, 5)).astype(float)).ravel()
        total = np.bincount(arms.ravel(), gains, minlength=6) - gains.sum() * policy
        logits = logits + STEP_SIZE * total / gains.size
    return tuple(softmax(logits).tolist())


def played(
    policy: tuple[float, ...], problem: str, right: tuple[int, ...], n: int = 1024, seed: int = 1
) -> list[Sample]:
    """n samples of a problem: which arm, and whether it is among the right ones."""
    arms = np.random.default_rng(seed).choice(len(policy), size=n, p=policy)
    return [sample(problem, number, int(arm) in right, answer=str(arm)) for number, arm in enumerate(arms)]


def entropy(policy: tuple[float, ...]) -> float:
    return -sum(p * float(np.log(p)) for p in policy if p > 0)


START_POLICY = (*START.tolist(), 0.0)


def test_the_advantages_are_grpos() -> None:
    rewards = np.random.default_rng(0).integers(0, 2, size=(20, GROUP)).astype(float)
    expected = np.array([GRPO().statistic.over_trajectories(group) for group in rewards])
    assert advantages(rewards) == pytest.approx(expected)


def test_grpo_concentrates_and_loses_the_rare_mode() -> None:
    after = trained()
    assert START_POLICY[COMMON] + START_POLICY[RARE] == pytest.approx(0.203)
    assert after[COMMON] + after[RARE] > 0.98
    assert entropy(START_POLICY) == pytest.approx(1.39, abs=0.01)
    assert entropy(after) < 0.1
    assert after[RARE] < 0.0003
    at_1024 = [1 - (1 - policy[RARE]) ** 1024 for policy in (START_POLICY, after)]
    assert at_1024[0] == pytest.approx(0.954, abs=0.001)
    assert at_1024[1] < 0.2
    assert after[5] == 0.0


def test_the_boundary_report_shows_both() -> None:
    """Problems whose right answers are the common arm, the rare one, and one that no policy ever samples."""
    rights = {"common": (COMMON,), "rare": (RARE,), "never": (5,)}
    base, rl = (
        [item for name, right in rights.items() for item in played(policy, name, right)]
        for policy in (START_POLICY, trained())
    )
    report = boundary(base, rl)
    assert report.trained_curve.at(1).value > report.base_curve.at(1).value + 0.2
    assert report.trained_curve.at(1024).value < report.base_curve.at(1024).value
    assert report.crossover is not None
    assert report.support.total == Support(preserved=1, expanded=0, shrunk=1, outside=1)
    assert [task.task_id for task in report.support.tasks["shrunk"]] == ["rare"]
    assert report.entropies["trained_answer"].value < 0.1 < 1.3 < report.entropies["base_answer"].value


def test_one_problem_with_two_right_answers_loses_one_of_them() -> None:
    right = (COMMON, RARE, 5)
    base, rl = played(START_POLICY, "p", right), played(trained(), "p", right)
    assert measure_support(base, rl).total == Support(preserved=1)
    by_answer = measure_support(base, rl, unit="answer")
    assert by_answer.total == Support(preserved=1, expanded=0, shrunk=1)
    assert answer_entropy([item.answer for item in rl]) < 0.1


def test_a_frozen_policy_shows_neither() -> None:
    base = [*played(START_POLICY, "common", (COMMON,)), *played(START_POLICY, "rare", (RARE,))]
    again = [*played(START_POLICY, "common", (COMMON,), seed=2), *played(START_POLICY, "rare", (RARE,), seed=2)]
    report = boundary(base, again)
    assert report.support.total == Support(preserved=2)
    assert abs(report.trained_curve.at(1).value - report.base_curve.at(1).value) < 0.03
    assert trained(steps=0) == pytest.approx(START_POLICY)


def reasoning_after(alpha: float, beta: float, seed: int, steps: int = 400) -> float:
    """P(right reasoning), from 0.4, after GRPO on answers: right with alpha after right reasoning, with beta else."""
    rng = np.random.default_rng(seed)
    u = float(np.log(0.4 / 0.6))
    for _ in range(steps):
        p = 1 / (1 + np.exp(-u))
        sound = rng.random((PROMPTS, GROUP)) < p
        rewards = (rng.random(sound.shape) < np.where(sound, alpha, beta)).astype(float)
        u += STEP_SIZE * float((advantages(rewards) * (sound - p)).mean())
    return float(1 / (1 + np.exp(-u)))


def test_reward_for_answers_makes_reasoning_sound_under_the_logic_prior() -> None:
    p = reasoning_after(0.9, 0.3, seed=0)
    assert p > 0.95
    assert logic_prior(p, 0.9, 0.3).p_sound > 0.97


def test_without_the_prior_it_does_not() -> None:
    drifted = [reasoning_after(0.6, 0.6, seed) for seed in range(8)]
    assert np.mean(drifted) == pytest.approx(0.4, abs=0.1)
    assert reasoning_after(0.3, 0.9, seed=0) < 0.05
