"""Support metrics and entropies against the specification, and its pitfalls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from agentrl.errors import ConfigError
from agentrl.evaluation.samples import Sample
from agentrl.evaluation.support import (
    Support,
    answer_entropy,
    mean_answer_entropy,
    mean_surprisal,
    mean_token_entropy,
    measure_support,
    support_threshold,
)
from tests.evaluation.made_samples import drawn, sample, table


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((10, 2, 2, 36), (0.833333, 0.166667, 0.277778, 0.0)),
        ((20, 2, 4, 4), (0.833333, 0.090909, 0.163934, -0.076923)),
        ((25, 0, 3, 2), (0.892857, 0.0, 0.0, -0.107143)),
    ],
)
def test_the_ratios_of_the_specification(counts: tuple[int, int, int, int], expected: tuple[float, ...]) -> None:
    found = Support(*counts)
    assert (found.srr, found.ndr, found.sds, found.nscr) == pytest.approx(expected, abs=1e-6)
    p, e, s, _ = counts
    assert found.sds == pytest.approx(2 * p * e / (p * p + 2 * p * e + e * s))


def test_empty_denominators() -> None:
    nothing = Support(0, 0, 0, 7)
    assert all(map(math.isnan, (nothing.srr, nothing.ndr, nothing.nscr, nothing.sds)))
    found_only = Support(0, 3, 0, 4)  # the base model solves nothing
    assert math.isnan(found_only.srr)
    assert (found_only.ndr, found_only.nscr) == (1.0, 1.0)
    lost_all_found_none = Support(0, 0, 5, 0)
    assert lost_all_found_none.srr == 0.0
    swapped = Support(0, 2, 3, 0)
    assert (swapped.srr, swapped.ndr) == (0.0, 1.0)
    assert Support(4, 0, 0, 0).sds == 0.0


def test_the_denominator_of_discovery_is_the_trained_support() -> None:
    assert Support(10, 5, 30, 0).ndr == pytest.approx(5 / 15)


def test_the_threshold_of_the_specification() -> None:
    assert support_threshold(8192) == pytest.approx(3.656900e-4, abs=1e-9)
    assert support_threshold(8192, exact=True) == pytest.approx(3.656231e-4, abs=1e-9)
    assert (1 - support_threshold(100, exact=True)) ** 100 == pytest.approx(0.05)
    for k, zeta in ((0, 0.05), (4, 0.0), (4, 1.0)):
        with pytest.raises(ConfigError):
            support_threshold(k, zeta)


def test_categories_of_problems() -> None:
    report = measure_support(drawn(4, [1, 2, 0, 0]), drawn(4, [4, 0, 1, 0]))
    assert report.total == Support(1, 1, 1, 1)
    assert report.total.total == 4
    assert {name: [task.task_id for task in tasks] for name, tasks in report.tasks.items()} == {
        "preserved": ["t:0"],
        "shrunk": ["t:1"],
        "expanded": ["t:2"],
        "outside": ["t:3"],
    }
    assert (report.k, report.epsilon) == (4, support_threshold(4))
    assert report.to_dict()["total"]["srr"] == 0.5


def test_counts_are_added_up_over_entries_before_ratios() -> None:
    base = drawn(2, [1] * 9 + [0], entry="big") + drawn(2, [1], entry="small")
    trained = drawn(2, [1] * 9 + [0], entry="big") + drawn(2, [0], entry="small")
    report = measure_support(base, trained)
    assert report.by_entry == {"big": Support(9, 0, 0, 1), "small": Support(0, 0, 1, 0)}
    assert report.total.srr == pytest.approx(9 / 10)
    averaged = (report.by_entry["big"].srr + report.by_entry["small"].srr) / 2
    assert report.total.srr != averaged


def test_both_models_get_the_same_budget() -> None:
    base = table({"t:0": [0, 0]})
    trained = table({"t:0": [0, 0, 0, 1]})  # found with a budget that the base model did not have
    assert measure_support(base, trained).total == Support(0, 0, 0, 1)
    assert measure_support(base, trained, 1).k == 1
    with pytest.raises(ConfigError, match="k=3: task 't:0' of 'e' has 2 samples"):
        measure_support(base, trained, 3)


def test_problems_of_one_model_alone_are_listed() -> None:
    base = table({"t:0": [1], "t:1": [1], "t:3": [1]})
    report = measure_support(base, table({"t:0": [1], "t:1": [None], "t:2": [1]}))
    assert report.total == Support(1, 0, 0, 0)
    assert sorted(task.task_id for task in report.left_out) == ["t:1", "t:2", "t:3"]
    with pytest.raises(ConfigError, match="no judged problem in common"):
        measure_support(table({"t:0": [1]}), table({"t:1": [1]}))
    neither = measure_support(table({"t:0": [1], "t:1": [None]}), table({"t:0": [1], "t:1": [None]}))
    assert [task.task_id for task in neither.left_out] == ["t:1"]


def test_right_answers_may_be_counted_one_by_one() -> None:
    def answered(*answers: str) -> list[Sample]:
        return [sample("t:0", n, answer != "wrong", answer=answer) for n, answer in enumerate(answers)]

    base, trained = answered("a", "b", "wrong"), answered("a ", "c", "a")
    assert measure_support(base, trained).total == Support(1, 0, 0, 0)
    report = measure_support(base, trained, unit="answer")
    assert report.total == Support(1, 1, 1, 0)
    assert [len(tasks) for tasks in report.tasks.values()] == [1, 1, 1, 0]
    assert measure_support(answered("wrong"), answered("wrong"), unit="answer").total == Support(0, 0, 0, 1)


def test_the_answer_entropy_of_the_specification() -> None:
    answers = ["42"] * 5 + ["41"] * 2 + [None]
    assert answer_entropy(answers) == pytest.approx(0.900256, abs=1e-6)
    assert answer_entropy(answers) == pytest.approx(stats.entropy([5, 2, 1]))


def test_unfinished_answers_are_one_class() -> None:
    assert answer_entropy([None, "", "  ", None]) == 0.0
    assert answer_entropy(["NA", None]) == pytest.approx(math.log(2))  # an answer that is spelt so is another one
    assert answer_entropy(["42", " 42"]) == 0.0
    assert math.isnan(answer_entropy([]))


def test_mean_answer_entropy_takes_equal_numbers_of_episodes() -> None:
    samples = [
        *(sample("t:0", n, answer=str(n)) for n in range(8)),
        *(sample("t:1", n, answer=str(n % 2)) for n in range(4)),
        sample("t:1", 4, None, aborted=True),
    ]
    found = mean_answer_entropy(samples)
    assert found.value == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert 0 <= found.low <= found.value <= found.high <= math.log(4)
    assert mean_answer_entropy(samples, 2).value == pytest.approx(math.log(2))
    assert mean_answer_entropy(samples, 1) == (0.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match="k=5: task 't:1'"):
        mean_answer_entropy(samples, 5)
    assert math.isnan(mean_answer_entropy([]).value)


@pytest.mark.parametrize("n", range(2, 12))
def test_answers_that_all_differ_are_bounded_by_what_is_possible(n: int) -> None:
    found = mean_answer_entropy([sample(f"t:{task}", k, answer=str(k)) for task in range(3) for k in range(n)])
    assert found.value == pytest.approx(math.log(n))
    assert 0 < found.low < found.high <= math.log(n)


def test_the_plug_in_entropy_grows_with_the_number_of_samples() -> None:
    """Why two models are compared at one number: three answers of equal probability seem less varied at two draws."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 3, size=(400, 16))
    means = [float(np.mean([answer_entropy([str(x) for x in row[:n]]) for row in draws])) for n in (2, 4, 16)]
    assert means[0] < means[1] < means[2] < math.log(3)


def test_token_entropies_are_means_over_sequences() -> None:
    samples = [
        sample("t:0", 0, token_entropy=1.0, surprisal=0.5),
        sample("t:1", 0, token_entropy=2.0, surprisal=1.5),
        sample("t:2"),
    ]
    assert mean_token_entropy(samples).value == 1.5
    assert mean_surprisal(samples).value == 1.0
    assert math.isnan(mean_token_entropy([sample()]).value)


def test_tilting_need_not_lower_the_entropy() -> None:
    """The published inequality fails where the right answers are rare, so nothing here relies on it."""
    q = np.array([0.9, 0.05, 0.05])
    tilted = q * np.exp(2 * np.array([0.0, 1.0, 1.0]))
    assert stats.entropy(q) == pytest.approx(0.394398, abs=1e-6)
    assert stats.entropy(tilted / tilted.sum()) == pytest.approx(1.000816, abs=1e-6)
