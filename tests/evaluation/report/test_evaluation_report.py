"""`report.json` and `episodes.jsonl`: numbers that were worked out by hand, from stores that hold them."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ConfigError, StoreError
from agentrl.evaluation import wilson
from agentrl.evaluation.clusters import clustered_share
from agentrl.evaluation.report import EvaluationReport, build_evaluation, holds_evaluation, write_evaluation
from agentrl.evaluation.report.comparison_schema import ComparisonReport
from agentrl.evaluation.report.schema import Part
from agentrl.exchange import import_run
from agentrl.store import RunStore
from agentrl.store.codec import decode
from agentrl.trajectory import Trajectory
from tests.evaluation.report.synthetic import ARITHMETIC, SEARCH, played, write_evaluation_run
from tests.report.reading import read
from tests.report.synthetic import write_run

DOCS = Path(__file__).parents[3] / "docs" / "report_schema.md"


def strictly(text: str) -> Any:
    """JSON without the constants that Python adds to it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_the_numbers_of_an_entry(tmp_path: Path) -> None:
    report = build_evaluation(write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC}))
    (entry,) = report.entries
    assert (entry.tasks, entry.samples, entry.planned, entry.episodes, entry.judged) == (4, 4, 16, 16, 16)
    assert (entry.correct, entry.aborted, entry.missing) == (7, 0, 0)
    assert entry.accuracy.value == entry.reward.value == pytest.approx(7 / 16)
    assert (entry.accuracy_wilson.low, entry.accuracy_wilson.high) == pytest.approx(wilson(7, 16)[1:])
    assert [point.k for point in entry.pass_at_k] == [1, 2, 3, 4]
    assert [point.value for point in entry.pass_at_k] == pytest.approx([7 / 16, (1 + 5 / 6 + 1 / 2) / 4, 0.6875, 0.75])
    assert [point.value for point in entry.pass_hat_k] == pytest.approx([7 / 16, (1 + 1 / 6) / 4, 0.25, 0.25])
    assert all(point.low <= point.value <= point.high for point in entry.pass_at_k)  # type: ignore[operator]
    assert [(stratum.level, stratum.accuracy.value) for stratum in entry.strata] == [
        (1, 1.0), (2, 0.5), (3, 0.25), (4, 0.0),
    ]  # fmt: skip
    assert (entry.tools.calls, entry.tools.calls_per_episode, entry.tools.error_share) == (16, 1.0, 0.0)
    assert (entry.turns, entry.seconds, entry.tokens) == (2.0, 1.25, 16 * 5)
    assert entry.stages == pytest.approx({"decode": 12.0, "tool": 4.0, "idle": 4.0})
    assert entry.stop_reasons == {"terminated": 16}
    assert entry.metrics["correct_tool_use"].value == entry.accuracy.value


def test_the_interval_is_clustered_by_task(tmp_path: Path) -> None:
    report = build_evaluation(write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC}))
    values = [float(letter == "+") for verdicts in ARITHMETIC.values() for letter in verdicts]
    expected = clustered_share(values, [task for task in ARITHMETIC for _ in range(4)])
    found, naive = report.total.accuracy, report.total.accuracy_wilson
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.low < naive.low and found.high > naive.high  # type: ignore[operator]


def test_the_total_adds_up(tmp_path: Path) -> None:
    report = build_evaluation(write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC, "search": SEARCH}))
    total, entries = report.total, report.entries
    assert [figures.name for figures in entries] == ["arithmetic", "search"]
    for name in ("tasks", "planned", "judged", "correct", "tokens", "prompt_tokens"):
        assert getattr(total, name) == sum(getattr(figures, name) for figures in entries), name
    assert total.accuracy.value == pytest.approx(10 / 22)
    assert total.samples is None
    assert [point.tasks for point in total.pass_at_k] == [7, 7, 4, 4]  # search has two samples a task
    assert total.pass_at_k[3].value == entries[0].pass_at_k[3].value
    assert report.headline_k == 2
    assert report.notes == [
        "pass@k of total is not over the same tasks at every k: 7 at k=1, 4 at k=3; the others have fewer verdicts."
    ]
    assert total.pass_at_k[0].value == pytest.approx((1.75 + 1.5) / 7)
    assert sum(total.stages.values()) == pytest.approx(22 * 1.25)
    assert total.outcomes == [] and len(entries[0].outcomes) == 4


def test_facts_of_the_run(tmp_path: Path) -> None:
    report = build_evaluation(write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC}))
    assert (report.run, report.suite.name, report.suite.version, report.seed) == ("e", "small", "2", 7)
    assert report.suite.tasksets == {"arithmetic": "digest-of-arithmetic"}
    assert (report.model.name, report.model.kind, report.model.weights_hash) == ("tiny", "policy", "ab" * 20)
    assert report.finished and report.seconds == 12.5 and report.notes == []
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", report.started)
    assert report.settings["sampling"]["temperature"] == 0.6


def test_what_was_asked_and_not_judged(tmp_path: Path) -> None:
    """A passed deadline is wrong, an engine's failure has no verdict, what was never played is missing."""
    entries = {"search": {"a": "+t", "b": "xx", "c": "+x", "d": "-."}}
    report = build_evaluation(write_evaluation_run(tmp_path / "e", entries, meta={"finished": False}))
    total = report.total
    assert (total.planned, total.episodes, total.judged, total.correct) == (8, 7, 4, 2)
    assert (total.aborted, total.missing, total.unjudged_tasks) == (3, 1, ["b"])
    assert [(point.k, point.tasks) for point in total.pass_at_k] == [(1, 3), (2, 1)]  # c and d have one verdict
    assert [point.value for point in total.pass_at_k] == pytest.approx([(0.5 + 1 + 0) / 3, 1.0])
    assert total.stop_reasons == {"env_error": 3, "terminated": 3, "timeout": 1}
    outcomes = {outcome.task_id: outcome.correct for outcome in report.entries[0].outcomes}
    assert outcomes == {"a": [True, False], "b": [None, None], "c": [True, None], "d": [False, None]}
    notes = " ".join(report.notes)
    assert "1 of 8 episodes are missing: the evaluation is not finished." in notes
    assert "3 episodes were aborted" in notes and "in no share: search: b." in notes
    assert "pass@k of search is not over the same tasks at every k: 3 at k=1, 1 at k=2; the others have" in notes


def test_nothing_played_yet_is_null_and_not_zero(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"search": {"a": "..", "b": ".."}}, meta={"finished": False})
    report = write_evaluation(folder)
    assert (report.total.tasks, report.total.missing, report.total.accuracy.value) == (2, 4, None)
    tree = strictly((folder / "report.json").read_text())
    for name in ("turns", "seconds", "cost"):
        assert tree["total"][name] is None
    assert tree["total"]["accuracy"] == {"value": None, "low": None, "high": None}
    assert (folder / "episodes.jsonl").read_bytes() == b""


def test_not_a_number_is_null(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"search": {"a": "+"}})
    with RunStore(folder / "store.sqlite") as store:
        made = played("a", "+", 0, metrics={"correct": 1.0, "depth": float("nan")}, env_id="e")
        made.turns[-1].reward = float("inf")
        store.add_episode(1, "eval/search", 0, "00000", 0, made)
    write_evaluation(folder)
    total = strictly((folder / "report.json").read_text())["total"]
    assert total["metrics"]["depth"]["value"] is None and total["reward"]["value"] is None
    assert total["accuracy"] == {"value": 1.0, "low": 0.0, "high": 1.0}  # one task bounds nothing


def test_an_infinite_reward_warns_of_nothing(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"search": {"a": "++", "b": "+-"}})
    with RunStore(folder / "store.sqlite") as store:
        for group, reward in (("00000", math.inf), ("00001", -math.inf)):
            made = played("ab"[int(group)], "+", 0, env_id="e")
            made.turns[-1].reward = reward
            store.add_episode(1, "eval/search", 0, group, 0, made)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        write_evaluation(folder)
    total = strictly((folder / "report.json").read_text())["total"]
    assert total["reward"] == {"value": None, "low": None, "high": None}
    assert total["accuracy"]["value"] == 0.75


def test_samples_that_are_no_draws_are_said(tmp_path: Path) -> None:
    greedy = {"sampling": {"temperature": 0.0, "top_p": 1.0}}
    entries = {"search": {"a": "++", "b": "+-", "c": "+x"}}
    report = build_evaluation(write_evaluation_run(tmp_path / "e", entries, suite=greedy))
    assert any(
        "Greedy sampling (temperature 0) draws nothing: all samples came out the same in 1 of the 2 tasks" in note
        for note in report.notes
    )
    oracle = write_evaluation_run(tmp_path / "o", entries, suite=greedy, meta={"model_kind": "oracle"})
    once = write_evaluation_run(tmp_path / "s", {"search": {"a": "+", "b": "-"}}, suite=greedy)
    for folder in (oracle, once, write_evaluation_run(tmp_path / "w", entries)):
        assert not any("Greedy" in note or "share a seed" in note for note in build_evaluation(folder).notes)
    with RunStore(tmp_path / "w" / "store.sqlite") as store:
        store.add_episode(1, "eval/search", 0, "00000", 1, played("a", "+", 0, env_id="e"))  # sample 0's seed again
        again = played("a", "+", 0, env_id="e")
        again.member = 1
        store.add_episode(1, "eval/search", 0, "00000", 1, again)
    notes = write_evaluation(tmp_path / "w").notes
    assert any(
        "no independent draws: 1 groups of them in 1 task, of which 1 came out the same" in note for note in notes
    )
    assert "share a seed" in read(tmp_path / "w" / "report.html").text


def test_answer_entropy(tmp_path: Path) -> None:
    report = build_evaluation(write_evaluation_run(tmp_path / "e", {"search": {"a": "++++", "b": "++--"}}))
    entropy = 1.0397207708399179  # of 1/2, 1/4, 1/4: two samples say 146, the others what nobody else says
    assert report.total.answer_entropy.value == pytest.approx(entropy / 2)
    lost = build_evaluation(write_evaluation_run(tmp_path / "x", {"search": {"a": "+xxx", "b": "++--"}}))
    assert lost.total.answer_entropy.value is None  # one answer of a task has no entropy, and is not of entropy 0
    single = build_evaluation(write_evaluation_run(tmp_path / "s", {"search": {"a": "+", "b": "-"}}))
    assert single.total.answer_entropy.value is None
    assert single.total.token_entropy.value is None
    assert single.total.surprisal.value == pytest.approx((0.1 + 0.2 + 0.3 + 0.5 + 0.25) / 5)


def test_a_run_whose_configuration_is_no_suite_has_a_report(tmp_path: Path) -> None:
    """An imported one may hold any text."""
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run(tmp_path.name, "a: b: c [", "eval")
        store.add_episode(run, "eval/search", 0, "00000", 0, played("a", "+", 0))
    report = build_evaluation(tmp_path)
    assert (report.settings, report.total.accuracy.value, report.total.planned) == ({}, 1.0, 1)


def test_what_one_entry_reports_is_not_zero_in_the_others(tmp_path: Path) -> None:
    """The total of a metric or of the answer entropy is over the entries that have it."""
    folder = write_evaluation_run(tmp_path / "e", {"search": {"a": "++--", "b": "++--"}, "game": {"c": "+-"}})
    with RunStore(folder / "store.sqlite") as store:
        for number, moves in enumerate((4.0, 8.0)):
            made = played("c", "+", number, env_id="g", metrics={"correct": 1.0, "moves": moves}, info={})
            store.add_episode(1, "eval/game", 0, "00000", number, made)
    report = build_evaluation(folder)
    assert report.total.metrics["moves"].value == 6.0
    search, game = report.entries
    assert "moves" not in search.metrics and "correct_tool_use" not in game.metrics
    assert report.total.metrics["correct_tool_use"] == search.metrics["correct_tool_use"]
    assert game.answer_entropy.value is None
    assert report.total.answer_entropy == search.answer_entropy


def test_cost_at_the_given_prices(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"search": SEARCH}, meta={"prices": {"input": 3.0, "output": 15.0}})
    report = build_evaluation(folder)
    total = report.total
    assert (total.prompt_tokens, total.tokens) == (6 * 11, 6 * 5)  # contexts of 3 and 3 + 3 + 2 ids
    assert total.cost == pytest.approx((3.0 * 66 + 15.0 * 30) / 1e6)


def test_judged_reasoning(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"search": {"a": "++", "b": "+-"}})
    with RunStore(folder / "store.sqlite") as store:
        store.update_run(1, meta={"judges": {"judge#1": {"votes": 3, "n_judge": None}, "late": {"votes": 1}}})
        for group, member, votes in (("00000", 0, (True, True, False)), ("00000", 1, (False, False, True)),
                                     ("00001", 0, (True, True, None))):  # fmt: skip
            for number, vote in enumerate(votes):
                store.add_judgement(1, "eval/search", 0, group, member, "judge#1", number, vote, "because")
    report = build_evaluation(folder)
    judge, late = report.total.reasoning
    assert (judge.judge, judge.complete, judge.votes, judge.abstentions) == ("judge#1", True, 9, 1)
    at_one = {rule: curve[0].value for rule, curve in judge.cot_pass_at_k.items()}
    assert at_one == pytest.approx({"any": 0.75, "majority": 0.5, "all": 0.25})
    assert judge.p_sound["majority"] == pytest.approx(0.75)
    assert not late.complete and late.cot_pass_at_k == {} and "3 of 3 right answers" in str(late.missing)
    assert any("late" in note for note in report.notes)


def test_the_report_comes_back_from_its_file(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC, "search": SEARCH})
    report = write_evaluation(folder)
    text = (folder / "report.json").read_text()
    assert EvaluationReport.model_validate_json(text) == report
    assert strictly(text)["schema_version"] == 1
    again = write_evaluation(folder)
    assert again == report and (folder / "report.json").read_text() == text
    assert not list(folder.glob("*.tmp"))


def test_episodes_are_written_whole_one_a_line(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC, "search": SEARCH})
    with RunStore(folder / "store.sqlite") as store:
        made = played("c", "-", 3, env_id="e")
        made.turns[0].logprobs[0] = float("-inf")
        store.add_episode(1, "eval/arithmetic", 0, "00002", 3, made)
        kept = {(item.phase, item.group, item.member): item.trajectory for item in store.episodes(1)}
    write_evaluation(folder)
    lines = (folder / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 22
    for line in lines:
        tree = json.loads(line)
        assert list(tree) == ["kind", "run", "phase", "step", "group", "member", "trajectory"]
        assert (tree["run"], tree["step"]) == ("e", 0)
        read = Trajectory.from_json(json.dumps(tree["trajectory"]))
        assert read == kept[tree["phase"], tree["group"], tree["member"]]
    with RunStore(tmp_path / "other.sqlite") as other:
        run, count = import_run(other, folder / "episodes.jsonl", "again")
        found = {(item.phase, item.group, item.member): item.trajectory for item in other.episodes(run.id)}
    assert count == 22 and found == kept


def test_episodes_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown on the page is read again, the rest is not."""
    folder = write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC, "search": SEARCH})
    decoded: list[str] = []

    def counting(data: Any, where: str) -> Trajectory:
        decoded.append(where)
        return decode(data, where)

    monkeypatch.setattr("agentrl.store.records.decode", counting)
    write_evaluation(folder)
    again = len(decoded) - len(set(decoded))
    assert len(set(decoded)) == 22 and 0 < again < 8
    decoded.clear()
    build_evaluation(folder)
    assert len(decoded) == len(set(decoded)) == 22


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, write_run(tmp_path / "trained", steps=1, stages=())):
        assert not holds_evaluation(folder)
        with pytest.raises(StoreError, match=r"holds no (evaluation|run)"):
            write_evaluation(folder)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"search": SEARCH})
    (folder / "report.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_evaluation(folder)


def parts(kind: type[Part]) -> set[type[Part]]:
    """A model of the schema and all that it is made of."""
    found = {kind}
    for field in kind.model_fields.values():
        for name in re.findall(r"\w+", str(field.annotation)):
            known = next((sub for sub in subclasses(Part) if sub.__name__ == name), None)
            if known is not None and known not in found:
                found |= parts(known)
    return found


def subclasses(kind: type[Part]) -> list[type[Part]]:
    return [found for sub in kind.__subclasses__() for found in (sub, *subclasses(sub))]


@pytest.mark.parametrize("kind", [EvaluationReport, ComparisonReport])
def test_every_field_is_documented(kind: type[Part]) -> None:
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", DOCS.read_text(encoding="utf-8"), re.M | re.S))
    assert len(parts(kind)) > 5
    for part in parts(kind):
        own = set(part.model_fields) - {name for base in part.__bases__ for name in getattr(base, "model_fields", {})}
        described = set(re.findall(r"^\| `(\w+)` \|", sections[part.__name__], re.M))
        assert described == own, part.__name__
        assert all(part.model_fields[name].description for name in own), part.__name__
