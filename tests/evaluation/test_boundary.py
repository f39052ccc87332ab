"""The boundary report against the specification."""

from __future__ import annotations

import json
import math

import pytest

from agentrl.errors import ConfigError
from agentrl.evaluation.boundary import accuracy_histogram, boundary, by_category, crossover, distribution
from agentrl.evaluation.pass_at_k import pass_curve
from agentrl.evaluation.samples import TaskKey, pool
from tests.evaluation.made_samples import counts, drawn, sample, table

BASE, TRAINED = (1, 2, 1, 8), (0, 14, 0, 16)


def test_the_numbers_of_the_specification() -> None:
    report = boundary(drawn(16, BASE), drawn(16, TRAINED), names=("base", "rl"))
    assert [point.k for point in report.base_curve.points] == [1, 2, 4, 8, 16]
    base = [point.value for point in report.base_curve.points]
    assert base == pytest.approx([0.1875, 0.314583, 0.477885, 0.691647, 1.0], abs=1e-6)
    trained = [point.value for point in report.trained_curve.points]
    assert trained == pytest.approx([0.46875, 0.497917, 0.5, 0.5, 0.5], abs=1e-6)
    assert report.crossover == 8
    assert report.coverage == {"both": 2, "only_base": 2, "only_trained": 0, "neither": 0}
    assert (report.gap_k, report.sampling_gap) == (16, pytest.approx(1.0 - 0.46875))
    assert [point.value for point in report.difference] == pytest.approx(
        [b - a for a, b in zip(base, trained, strict=True)]
    )


def test_a_difference_that_all_tasks_share_is_no_point() -> None:
    """There is nothing to draw from; a difference of 0 may be one of either sign."""
    same = boundary(drawn(4, [4] * 12), drawn(4, [4] * 12)).difference
    lost = boundary(drawn(4, [4] * 12), drawn(4, [0] * 12)).difference
    assert [point.value for point in (*same, *lost)] == [0.0] * 3 + [-1.0] * 3
    for point in (*same, *lost):
        assert -1 <= point.low < point.high <= 1 and point.tasks == 12
    assert same[0].low == pytest.approx(-same[0].high)
    only = boundary(drawn(4, [4]), drawn(4, [0])).difference[0]
    assert (only.low, only.high) == (-1.0, 1.0)


def test_the_gap_is_taken_at_256_where_there_are_that_many() -> None:
    report = boundary(drawn(512, [1, 5]), drawn(512, [0, 500]))
    assert report.gap_k == 256
    assert report.sampling_gap == pytest.approx(report.base_curve.at(256).value - report.trained_curve.at(1).value)


def test_no_crossover_without_a_lead_or_without_an_end_of_it() -> None:
    low, high = pass_curve(counts(4, [1, 0])), pass_curve(counts(4, [3, 2]))
    assert crossover(low, high) is None
    assert crossover(high, low) is None  # the trained model never led
    assert crossover(low, low) is None
    met = pass_curve(counts(4, [1, 1])), pass_curve(counts(4, [4, 0]))
    assert crossover(*met) == 2
    assert crossover(pass_curve([]), pass_curve([])) is None


def test_histogram_in_tenths() -> None:
    assert accuracy_histogram(counts(10, range(11))) == (1, 1, 1, 1, 1, 1, 1, 1, 1, 2)
    assert accuracy_histogram(counts(3, [0, 1, 2, 3])) == (1, 0, 0, 1, 0, 0, 1, 0, 0, 1)
    assert sum(accuracy_histogram(counts(0, [0]))) == 0
    report = boundary(drawn(16, BASE), drawn(16, TRAINED))
    assert (sum(report.base_histogram), sum(report.trained_histogram)) == (4, 4)


def test_a_time_out_is_wrong_and_still_sampled() -> None:
    """Counted as "not sampled" it would raise the accuracy of a model that is slow on hard tasks."""
    base, trained = table({"t:0": [1, 0]}), table({"t:0": [1, 0]})
    report = boundary(base, trained)
    assert report.trained_curve.at(1).value == 0.5
    left_out = boundary(base, table({"t:0": [1, None]}))
    assert left_out.trained_curve.at(1).value == 1.0
    assert [point.k for point in left_out.trained_curve.points] == [1]


def test_only_common_problems_are_compared_and_the_rest_is_listed() -> None:
    base, trained = table({"t:0": [1], "t:1": [1], "t:2": [None]}), table({"t:0": [0], "t:2": [1], "t:3": [1]})
    report = boundary(base, trained)
    assert report.tasks == 1
    assert sorted(task.task_id for task in report.left_out) == ["t:1", "t:2", "t:3"]
    with pytest.raises(ConfigError, match="no judged problem in common"):
        boundary(table({"t:0": [1]}), table({"t:1": [1]}))


def test_pooled_runs_make_the_curve_longer() -> None:
    more = [
        sample(f"t:{task}", number, number == 0, seed=10**6 + 10 * task + number)
        for task in range(4)
        for number in range(16)
    ]
    report = boundary(pool(drawn(16, BASE), more), pool(drawn(16, TRAINED), more))
    assert report.base_curve.points[-1].k == 32


def test_entropies_take_equal_numbers_of_episodes() -> None:
    base = [sample("t:0", n, n < 2, answer=str(n), surprisal=1.0, token_entropy=2.0) for n in range(8)]
    trained = [sample("t:0", n, answer="7", surprisal=0.5) for n in range(2)]
    found = boundary(base, trained).entropies
    assert found["base_answer"].value == pytest.approx(0.693147, abs=1e-6)  # of two, not of eight answers
    assert found["trained_answer"].value == 0.0
    assert (found["base_surprisal"].value, found["trained_surprisal"].value) == (1.0, 0.5)
    assert "trained_token" not in found
    assert found["base_token"].value == 2.0


def test_entries_whose_environment_states_no_answers_have_no_answer_entropy() -> None:
    """They are not of entropy 0. Where one model answers the other is taken, too: all of its answers are missing."""
    silent = [sample("t:1", n, entry="game") for n in range(4)]
    base = [*(sample("t:0", n, answer=str(n % 2)) for n in range(4)), *silent]
    mute = [*(sample("t:0", n, False) for n in range(4)), *silent]
    found = boundary(base, mute).entropies
    assert found["base_answer"].value == pytest.approx(0.693147, abs=1e-6)
    assert found["trained_answer"].value == 0.0
    assert not any("answer" in name for name in boundary(silent, silent).entropies)


def test_distributions_of_perplexities() -> None:
    report = boundary(drawn(2, [1, 1]), drawn(2, [2, 1]), perplexities={"base of trained": [1.0, 2.0, 3.0, 4.0, 5.0]})
    found = report.perplexities["base of trained"]
    assert (found.count, found.mean, found.quantiles["0.5"], found.quantiles["0.25"]) == (5, 3.0, 3.0, 2.0)
    assert distribution([math.nan, 2.0]).count == 1  # an episode without a token has no perplexity
    for nothing in ([], [math.nan]):
        with pytest.raises(ConfigError, match="no numbers"):
            distribution(nothing)


def test_perplexities_by_what_became_of_the_problem() -> None:
    support = boundary(drawn(4, [1, 2, 0, 0]), drawn(4, [4, 0, 1, 0])).support
    values = {TaskKey("e", f"t:{task}"): [float(task), float(task) + 1] for task in (0, 1, 3)}
    found = by_category(support, values | {TaskKey("e", "t:2"): [math.nan]})
    assert {name: item.mean for name, item in found.items()} == {"preserved": 0.5, "shrunk": 1.5, "outside": 3.5}


def test_as_json() -> None:
    tree = boundary(drawn(16, BASE), drawn(16, TRAINED, answer="7")).to_dict()
    again = json.loads(json.dumps(tree))
    assert again["coverage"]["only_base"] == 2
    assert again["support"]["total"]["srr"] == 0.5
    assert again["entropies"]["trained_answer"]["value"] == 0.0
    assert again["base_curve"]["points"][0]["k"] == 1
