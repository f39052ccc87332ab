"""CoT-pass@k against the specification, and its pitfalls."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agentrl.advantages.group import GRPO
from agentrl.errors import ConfigError
from agentrl.evaluation.chain_of_thought import RULES, Vote, accepted, logic_prior, reasoning_report, to_judge
from agentrl.evaluation.samples import Sample
from tests.evaluation.made_samples import drawn, table

SAMPLES = drawn(6, [4])
VOTES = {
    ("e", "t:0", number): [vote == "1" for vote in text]
    for number, text in enumerate(("110", "100", "111", "000", "110", "111"))
}


def test_the_numbers_of_the_specification() -> None:
    report = reasoning_report(SAMPLES, VOTES, ks=[1, 2, 4])
    assert dict(report.tasks[0].accepted) == {"any": 3, "majority": 2, "all": 1}
    expected = {
        "any": (0.5, 0.8, 1.0),
        "majority": (0.333333, 0.6, 0.933333),
        "all": (0.166667, 0.333333, 0.666667),
    }
    assert [point.value for point in report.passed.points] == pytest.approx([0.666667, 0.933333, 1.0], abs=1e-6)
    for rule in RULES:
        assert [point.value for point in report.sound[rule].points] == pytest.approx(expected[rule], abs=1e-6)
    assert report.p_right == pytest.approx(4 / 6)
    assert report.p_sound["majority"] == pytest.approx(2 / 4)


def test_votes_on_wrong_answers_are_ignored() -> None:
    kept = {key: votes for key, votes in VOTES.items() if key[2] < 4}
    assert reasoning_report(SAMPLES, kept) == reasoning_report(SAMPLES, VOTES)
    assert reasoning_report(SAMPLES, VOTES).votes == 12


@pytest.mark.parametrize(
    ("votes", "any_", "majority", "all_"),
    [
        ([True, True, False], True, True, False),
        ([True, False], True, False, False),  # a tie fails
        ([True, None, None], True, True, True),  # what cannot be read abstains and is no "no"
        ([None, None], False, False, False),
        ([False, None], False, False, False),
        ([True, True], True, True, True),
    ],
)
def test_aggregations(votes: list[Vote], any_: bool, majority: bool, all_: bool) -> None:
    assert [accepted(votes, rule) for rule in ("any", "majority", "all")] == [any_, majority, all_]  # type: ignore[arg-type]


def test_a_missing_judgement_is_an_error_and_not_an_acceptance() -> None:
    missing = {key: votes for key, votes in VOTES.items() if key[2] != 3}
    with pytest.raises(
        ConfigError, match="1 of 4 right answers have no judgement, the first is sample 3 of task 't:0'"
    ):
        reasoning_report(SAMPLES, missing)
    with pytest.raises(ConfigError, match="1 of 4"):
        reasoning_report(SAMPLES, {**missing, ("e", "t:0", 3): []})


def test_cot_pass_is_at_most_pass() -> None:
    rng = np.random.default_rng(0)
    samples = drawn(8, rng.integers(0, 9, size=30).tolist())
    votes: dict[tuple[str, str, int], list[Vote]] = {
        item.key: rng.choice(np.array([True, False, None]), size=3).tolist() for item in samples
    }
    report = reasoning_report(samples, votes)
    for rule in RULES:
        for sound, passed in zip(report.sound[rule].points, report.passed.points, strict=True):
            assert sound.value <= passed.value + 1e-12
    lines = [[point.value for point in report.sound[rule].points] for rule in ("all", "majority", "any")]
    assert all(low <= middle <= high for low, middle, high in zip(*lines, strict=True))
    assert 0 < report.abstentions < report.votes


def test_answers_on_which_no_vote_could_be_read_are_told() -> None:
    report = reasoning_report(drawn(2, [2]), {("e", "t:0", 0): [None, None], ("e", "t:0", 1): [None, True]})
    assert (report.undecided, report.abstentions, report.votes) == (1, 3, 4)
    assert report.tasks[0].accepted["any"] == 1


def test_no_right_answer_gives_zero() -> None:
    report = reasoning_report(drawn(4, [0]), {})
    assert report.sound["majority"].at(4).value == 0.0
    assert math.isnan(report.tasks[0].p_sound())
    assert math.isnan(report.p_sound["majority"])
    assert report.p_right == 0.0


def test_medians_are_over_tasks_and_leave_out_those_without_a_right_answer() -> None:
    samples = drawn(4, [4, 2, 1, 0])
    votes = {item.key: [item.task_id == "t:0" or item.sample == 0] for item in samples}
    report = reasoning_report(samples, votes)
    assert report.p_right == pytest.approx((0.5 + 0.25) / 2)
    assert [task.p_sound() for task in report.tasks[:3]] == [1.0, 0.5, 1.0]
    assert report.p_sound["majority"] == 1.0


def test_a_part_of_the_right_answers_gives_shares_and_no_curve() -> None:
    samples = drawn(8, [6, 1])
    assert [(item.task_id, item.sample) for item in to_judge(samples, 2)] == [("t:0", 0), ("t:0", 1), ("t:1", 0)]
    votes = {item.key: [item.sample == 0] for item in to_judge(samples, 2)}
    report = reasoning_report(samples, votes, n_judge=2)
    assert not report.complete
    assert report.sound == {}
    assert report.tasks[0].p_sound() == 0.5
    assert report.tasks[0].estimated() == 3.0
    everything = reasoning_report(drawn(8, [2, 1]), votes, n_judge=2)
    assert everything.complete
    assert everything.sound["majority"].at(1).value == pytest.approx(1 / 8)
    wholly = reasoning_report(samples, {item.key: [item.sample == 0] for item in samples}, n_judge=2)
    assert wholly.complete and wholly.tasks[0].judged == 6  # votes that are there count, whoever asks for fewer later
    with pytest.raises(ConfigError, match="n_judge=0"):
        to_judge(samples, 0)


def test_samples_without_a_verdict_are_neither_judged_nor_counted() -> None:
    samples: list[Sample] = table({"t:0": [1, None, 0]})
    report = reasoning_report(samples, {("e", "t:0", 0): [True]})
    assert (report.tasks[0].n, report.tasks[0].right) == (2, 1)


def test_the_theory_of_the_specification() -> None:
    found = logic_prior(0.4, 0.9, 0.3)
    assert (found.mean, found.std) == pytest.approx((0.54, 0.498397), abs=1e-6)
    assert (found.advantage_right, found.advantage_wrong) == pytest.approx((0.722315, -0.481543), abs=1e-6)
    assert found.p_sound == pytest.approx(0.666667, abs=1e-6)


@pytest.mark.parametrize(("p", "alpha", "beta"), [(0.4, 0.9, 0.3), (0.7, 0.2, 0.6), (0.1, 0.5, 0.5)])
def test_expected_advantages_cancel_and_follow_the_prior(p: float, alpha: float, beta: float) -> None:
    found = logic_prior(p, alpha, beta)
    assert p * found.advantage_right + (1 - p) * found.advantage_wrong == pytest.approx(0.0, abs=1e-12)
    assert np.sign(found.advantage_right) == np.sign(alpha - beta)


def test_the_theory_is_that_of_large_groups() -> None:
    """GRPO's own advantages, averaged over what the reasoning was."""
    rng = np.random.default_rng(0)
    sound = rng.random((200, 256)) < 0.4
    rewards = (rng.random(sound.shape) < np.where(sound, 0.9, 0.3)).astype(float)
    advantages = np.array([GRPO().statistic.over_trajectories(group) for group in rewards])
    found = logic_prior(0.4, 0.9, 0.3)
    assert advantages[sound].mean() == pytest.approx(found.advantage_right, abs=0.02)
    assert advantages[~sound].mean() == pytest.approx(found.advantage_wrong, abs=0.02)


def test_no_prior_of_impossible_numbers() -> None:
    assert math.isnan(logic_prior(0.5, 1.0, 1.0).advantage_right)
    assert math.isnan(logic_prior(0.5, 0.0, 0.0).p_sound)
    with pytest.raises(ConfigError, match=r"alpha=1\.5 must be between 0 and 1"):
        logic_prior(0.5, 1.5, 0.0)
