"""Two evaluations compared: known differences, refusals, the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.errors import AgentRLError, ConfigError, StoreError
from agentrl.evaluation.paired import mcnemar
from agentrl.evaluation.report import ComparisonReport, compare, write_comparison, write_evaluation
from agentrl.evaluation.report.comparison_page import spread
from agentrl.evaluation.report.comparison_schema import Flip
from agentrl.store import RunStore
from tests.evaluation.report.synthetic import ARITHMETIC, SEARCH, Verdicts, played, write_evaluation_run
from tests.report.reading import HOSTILE, SEEN, assert_inert, read

TRAINED: Verdicts = {"a": "++++", "b": "++++", "c": "----", "d": "+---"}


def pair(folder: Path, a: Verdicts = ARITHMETIC, b: Verdicts = TRAINED) -> tuple[Path, Path]:
    return (
        write_evaluation_run(folder / "a", {"arithmetic": a}),
        write_evaluation_run(folder / "b", {"arithmetic": b}, meta={"model": "trained"}),
    )


def test_known_differences(tmp_path: Path) -> None:
    report = compare(*pair(tmp_path))
    assert report.unit == "sample" and report.notes == []
    found = report.total.accuracy
    assert found is not None
    assert (found.pairs, found.tasks, found.only_a, found.only_b) == (16, 4, 1, 3)
    assert (found.mean_a, found.mean_b, found.difference.value) == (7 / 16, 9 / 16, 2 / 16)
    assert found.exact and found.p == pytest.approx(6 / 8)  # totals 2, -1, 1: six of eight sign patterns reach 2
    assert [entry.name for entry in report.entries] == ["arithmetic"] and report.entries[0].accuracy == found
    assert (report.a.model.name, report.b.model.name) == ("tiny", "trained")


def test_one_sample_a_task_has_mcnemars_test(tmp_path: Path) -> None:
    a = {str(index): "+" if index < 3 else "-" for index in range(12)}
    b = {str(index): "+" if index > 1 else "-" for index in range(12)}
    found = compare(*pair(tmp_path, a, b)).total.accuracy
    assert found is not None and (found.only_a, found.only_b) == (2, 9)
    assert found.mcnemar_p == pytest.approx(mcnemar(2, 9)) == pytest.approx(0.0654296875)


def test_tasks_that_one_side_alone_solves(tmp_path: Path) -> None:
    report = compare(*pair(tmp_path))
    assert [(flip.task_id, flip.right_a, flip.right_b, flip.samples) for flip in report.only_a] == [("c", 1, 0, 4)]
    assert [(flip.task_id, flip.level) for flip in report.only_b] == [("d", 4)]


def test_sides_with_unequal_samples_are_given_equally_many(tmp_path: Path) -> None:
    """B's fourth try is no find that A had no chance of."""
    report = compare(*pair(tmp_path, {"a": "--x-", "b": "-+"}, {"a": "---+", "b": "---+"}))
    assert report.only_b == []
    assert any("end at k=2, the fewest verdicts that either has on a task; the most are 4." in n for n in report.notes)
    assert [(flip.task_id, flip.samples, flip.right_a, flip.right_b) for flip in report.only_a] == [("b", 2, 1, 0)]


def test_boundary_and_support(tmp_path: Path) -> None:
    """The example of the boundary report: n=16, c=(1,2,1,8) against (0,14,0,16)."""

    def verdicts(right: tuple[int, ...]) -> Verdicts:
        return {str(index): "+" * count + "-" * (16 - count) for index, count in enumerate(right)}

    border = compare(*pair(tmp_path, verdicts((1, 2, 1, 8)), verdicts((0, 14, 0, 16)))).boundary
    assert border is not None
    assert [point.k for point in border.curve_a] == [1, 2, 4, 8, 16]
    expected_a = [0.1875, 0.314583, 0.477885, 0.691647, 1.0]
    assert [point.value for point in border.curve_a] == pytest.approx(expected_a, abs=1e-6)
    assert [point.value for point in border.curve_b] == pytest.approx([0.46875, 0.497917, 0.5, 0.5, 0.5], abs=1e-6)
    assert border.crossover == 8 and border.gap_k == 16
    assert border.sampling_gap == pytest.approx(1.0 - 0.46875)
    support = border.support
    assert (support.preserved, support.shrunk, support.expanded, support.outside, support.k) == (2, 2, 0, 0, 16)
    assert (support.srr, support.ndr, support.sds, support.nscr) == (0.5, 0.0, 0.0, -0.5)
    assert border.histogram_a == [2, 1, 0, 0, 0, 1, 0, 0, 0, 0] and border.histogram_b == [2, 0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_each_entry_has_its_own_budget(tmp_path: Path) -> None:
    """An entry of two samples does not hide what the fourth sample of another one finds."""
    a = write_evaluation_run(tmp_path / "a", {"arithmetic": ARITHMETIC, "search": SEARCH})
    b = write_evaluation_run(tmp_path / "b", {"arithmetic": TRAINED, "search": SEARCH})
    report = compare(a, b)
    assert report.boundary is not None
    assert {name: support.k for name, support in report.boundary.support_by_entry.items()} == {
        "arithmetic": 4, "search": 2,
    }  # fmt: skip
    assert report.boundary.support.k is None
    assert [flip.task_id for flip in report.only_a] == ["c"]
    total = report.boundary.support
    assert (total.preserved, total.shrunk, total.expanded, total.outside) == (4, 1, 1, 1)


def test_a_report_alone_gives_the_same_numbers(tmp_path: Path) -> None:
    folders = pair(tmp_path)
    for folder in folders:
        write_evaluation(folder)
    full, alone = compare(*folders), compare(*(folder / "report.json" for folder in folders))
    mixed = compare(folders[0], folders[1] / "report.json")
    for other in (alone, mixed):
        assert (other.total, other.entries, other.only_a, other.only_b) == (
            full.total, full.entries, full.only_a, full.only_b,
        )  # fmt: skip
    assert alone.boundary is not None and full.boundary is not None
    assert alone.boundary.curve_b == full.boundary.curve_b and alone.boundary.support == full.boundary.support


def test_a_report_alone_gives_the_same_numbers_in_whatever_order_entries_stand(tmp_path: Path) -> None:
    a = write_evaluation_run(tmp_path / "a", {"search": {"q": "+-", "r": "++", "s": "--"}, "arithmetic": ARITHMETIC})
    b = write_evaluation_run(tmp_path / "b", {"search": {"q": "--", "r": "+-", "s": "++"}, "arithmetic": TRAINED})
    for folder in (a, b):
        write_evaluation(folder)
    full, alone = compare(a, b), compare(a / "report.json", b / "report.json")
    assert [flip.entry for flip in full.only_b] == ["search", "arithmetic"]
    assert (alone.total, alone.only_a, alone.only_b) == (full.total, full.only_a, full.only_b)
    assert alone.boundary is not None and full.boundary is not None
    assert alone.boundary.difference == full.boundary.difference  # the bootstrap's bounds, too


def test_two_runs_of_one_store(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path, {"arithmetic": ARITHMETIC}, name="base")
    write_evaluation_run(tmp_path, {"arithmetic": TRAINED}, name="trained")
    with RunStore(folder / "store.sqlite") as store:
        store.begin_run("other", "", "train")
    report = compare(Path("base"), Path("trained"), store=str(folder / "store.sqlite"))
    assert report.total.accuracy is not None and report.total.accuracy.difference.value == 2 / 16
    with pytest.raises(StoreError, match="has no run 'bse'"):
        compare(Path("bse"), Path("trained"), store=str(folder / "store.sqlite"))
    with pytest.raises(ConfigError, match=r"'other' .* is no evaluation but of kind 'train'"):
        compare(Path("base"), Path("other"), store=str(folder / "store.sqlite"))


def test_other_seeds_pair_tasks_and_say_so(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    with RunStore(b / "store.sqlite") as store:
        store.update_run(1, meta={"seed": 8})
        for index, (task, verdicts) in enumerate(TRAINED.items()):
            for number, letter in enumerate(verdicts):
                made = played(task, letter, number, index + 1, env_id="agentrl/Arithmetic-v0", seed=10_000 + number)
                store.add_episode(1, "eval/arithmetic", 0, f"{index:05d}", number, made)
    write_evaluation(a)
    write_evaluation(b)
    for report in (compare(a, b), compare(a / "report.json", b / "report.json")):
        assert report.unit == "task"
        assert "The samples are not paired: their seeds differ (suite seeds 7 and 8)." in report.notes[0]
        found = report.total.accuracy
        assert found is not None and (found.pairs, found.tasks) == (4, 4)
        assert found.difference.value == pytest.approx(2 / 16)


def test_reports_whose_seeds_nobody_knows_are_not_paired_by_sample(tmp_path: Path) -> None:
    unknown = {"suite": {"seed": None}, "meta": {"seed": None}}
    sides = [
        write_evaluation_run(tmp_path / name, {"e": verdicts}, **unknown)  # type: ignore[arg-type]
        for name, verdicts in (("a", ARITHMETIC), ("b", TRAINED))
    ]
    for side in sides:
        write_evaluation(side)
    report = compare(*(side / "report.json" for side in sides))
    assert report.unit == "task" and "their seeds differ or are not known" in report.notes[0]


def test_different_tasks_are_refused(tmp_path: Path) -> None:
    a = write_evaluation_run(tmp_path / "a", {"arithmetic": ARITHMETIC, "search": SEARCH})
    b = write_evaluation_run(tmp_path / "b", {"arithmetic": ARITHMETIC})
    with pytest.raises(ConfigError, match="different tasks: A alone has the entry 'search'"):
        compare(a, b)
    with pytest.raises(ConfigError, match="different tasks: B alone has the entry 'search'"):
        compare(b, a)
    c = write_evaluation_run(tmp_path / "c", {"arithmetic": ARITHMETIC}, meta={"tasksets": {"arithmetic": "other"}})
    with pytest.raises(ConfigError, match="entry 'arithmetic' has digest digest-of-arithmetic in A and other in B"):
        compare(b, c)


def test_different_sampling_is_refused_unless_it_is_wanted(tmp_path: Path) -> None:
    a, _ = pair(tmp_path)
    b = write_evaluation_run(
        tmp_path / "c", {"arithmetic": TRAINED}, suite={"sampling": {"temperature": 1.0, "top_p": 1.0}}
    )
    with pytest.raises(ConfigError, match=r"sampling\.temperature is 0\.6 in A and 1\.0 in B") as raised:
        compare(a, b)
    assert "\n" not in str(raised.value)
    report = compare(a, b, other_sampling=True)
    assert report.notes == ["The evaluations were sampled differently: sampling.temperature is 0.6 in A and 1.0 in B."]
    cut_short = write_evaluation_run(
        tmp_path / "d", {"arithmetic": TRAINED}, suite={"limits": {"max_turns": 8, "cost": 1.0}}
    )
    assert compare(a, cut_short).notes == []


def test_what_has_no_partner_is_counted(tmp_path: Path) -> None:
    report = compare(*pair(tmp_path, {"a": "++", "b": "-x"}, {"a": "+", "b": "+-"}))
    found = report.total.accuracy
    assert found is not None and (found.pairs, found.unmatched_a, found.unmatched_b, found.unjudged) == (2, 1, 0, 1)
    assert any("1 samples without a partner, 1 pairs without a verdict" in note for note in report.notes)


def test_nothing_in_common_is_said(tmp_path: Path) -> None:
    report = compare(*pair(tmp_path, {"a": "xx"}, {"a": "++"}))
    assert report.total.accuracy is None and report.boundary is None and report.only_b == []
    assert "No pair has verdicts on both sides." in report.notes
    json.loads(report.model_dump_json())


@pytest.mark.parametrize("content", [None, "", "{}", '{"schema_version": 9}', "\x00\x01"])
def test_what_is_no_evaluation_is_one_line(tmp_path: Path, content: str | None) -> None:
    a, _ = pair(tmp_path)
    other = tmp_path / "other.json"
    if content is not None:
        other.write_text(content)
    for place in (other, tmp_path):
        with pytest.raises(AgentRLError) as raised:
            compare(a, place)
        assert "\n" not in str(raised.value)


def test_a_report_of_somebody_elses_making_is_no_traceback(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    write_evaluation(a)
    tree = json.loads((a / "report.json").read_text())
    odd = tmp_path / "odd.json"
    for settings in ({"limits": None, "sampling": 3}, {"entries": [1]}, {"entries": {"arithmetic": None}}):
        odd.write_text(json.dumps(tree | {"settings": settings}))
        with pytest.raises(ConfigError, match="sampled differently"):
            compare(odd, b)
    tree["entries"][0]["outcomes"][0]["reward"].pop()
    odd.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"no report of an evaluation: .*task 'a' has 4 verdicts and 3 rewards"):
        compare(odd, b)
    with pytest.raises(ConfigError, match="the page needs a name"):
        write_comparison(a, b, Path(""))


def test_the_page(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    page = tmp_path / "compared.html"
    report = write_comparison(a, b, page)
    assert ComparisonReport.model_validate_json(report.model_dump_json()) == report
    assert_inert(page)
    text = " ".join(read(page).text.split())
    for said in (
        "A tiny and B trained", "+12.5 points", "Coverage and support", "Tasks that changed sides",
        "A alone solves: 1 task", "B alone solves: 1 task", "Tasks by their share of right samples", "Their episodes",
        "from k = 4 on A is not behind",
    ):  # fmt: skip
        assert said in text, said
    assert text.count("What is 84 + 62? (c)") == 1
    episodes = text.partition("Their episodes")[2]
    assert "correct reward 1" in episodes and "wrong reward 0" in episodes


def test_an_aborted_episode_stands_for_no_verdict(tmp_path: Path) -> None:
    """The other side's sample of the same number has no verdict: its first that has one is shown."""
    write_comparison(*pair(tmp_path, {"a": "xt"}, {"a": "+-"}), tmp_path / "compared.html")
    episodes = read(tmp_path / "compared.html").text.partition("Their episodes")[2]
    assert "correct" in episodes and "wrong" in episodes and "aborted" not in episodes


def test_episodes_come_from_as_many_entries_as_there_are() -> None:
    flips = [
        Flip(entry=entry, task_id=task, samples=1, right_a=1, right_b=0)
        for entry, task in ("a1", "a2", "a3", "b1", "c1", "c2")
    ]
    assert [flip.entry + flip.task_id for flip in spread(flips)] == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_page_of_reports_alone_has_no_episodes(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    for folder in (a, b):
        write_evaluation(folder)
    write_comparison(a / "report.json", b / "report.json", tmp_path / "compared.html")
    text = read(tmp_path / "compared.html").text
    assert "Their episodes" not in text and "Tasks that changed sides" in text


def test_hostile_text_on_the_page(tmp_path: Path) -> None:
    task = HOSTILE.replace("\x00", "")
    a = write_evaluation_run(tmp_path / "a", {task: {task: "+"}}, name="a", meta={"model": HOSTILE})
    b = write_evaluation_run(tmp_path / "b", {task: {task: "-"}}, name="b", meta={"model": HOSTILE})
    with RunStore(b / "store.sqlite") as store:
        store.add_episode(1, f"eval/{task}", 0, "00000", 0, played(task, "-", 0, error=HOSTILE, env_id=task))
    write_comparison(a, b, tmp_path / "compared.html")
    assert_inert(tmp_path / "compared.html")
    text = read(tmp_path / "compared.html").text
    assert "<script>alert(1)</script>" in text and SEEN in text
