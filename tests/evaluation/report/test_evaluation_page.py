"""The page of an evaluation: all numbers, the telling episodes, hostile text as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agentrl.evaluation.report import write_evaluation
from agentrl.evaluation.report.plots import BANDS_UP_TO, curves_svg, histogram_svg, levels_svg
from agentrl.evaluation.report.schema import CurvePoint, Estimate, Stratum
from agentrl.store import RunStore
from agentrl.trajectory import StopReason
from tests.evaluation.report.synthetic import ARITHMETIC, SEARCH, played, write_evaluation_run
from tests.report.reading import HOSTILE, SEEN, assert_inert, read


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two entries."""
    folder = write_evaluation_run(
        tmp_path_factory.mktemp("pages") / "e", {"arithmetic": ARITHMETIC, "search": {**SEARCH, "q4": "xt"}}
    )
    write_evaluation(folder)
    return folder / "report.html"


def words(path: Path) -> str:
    return " ".join(read(path).text.split())


def test_every_section_is_there(page: Path) -> None:
    text = words(page)
    for heading in (
        "tiny on small", "Accuracy by entry", "Figures", "pass@k", "Accuracy by level", "Tools",
        "Where the seconds went", "How episodes ended", "Telling episodes", "Suite",
    ):  # fmt: skip
        assert heading in text, heading
    assert "43.5 %" in text  # 10 of 23, the passed deadline among the wrong ones
    assert "decode 60.0 %" in text and "tool 20.0 %" in text
    assert StopReason.TIMEOUT.meaning + "; counts as wrong" in text
    assert "digest-of-search" in text and "temperature: 0.6" in text
    assert "1 episodes were aborted and have no verdict" in text


def test_the_page_is_inert_and_follows_the_scheme(page: Path) -> None:
    assert_inert(page)
    source = page.read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in source and "@media print" in source
    figures = re.findall(r"<svg .*?</svg>", source, re.S)
    assert len(figures) > 5
    assert not any(re.search(r"#[0-9a-f]{6}\b", figure) for figure in figures)


def test_names_of_several_figures_do_not_clash(page: Path) -> None:
    """Clip paths have names of their own in each figure; the shared ones are glyphs, alike wherever they stand."""
    source = page.read_text(encoding="utf-8")
    names = re.findall(r'<clipPath id="(\w+)"', source) + re.findall(r'<clipPath id="(\w+)"', curves_svg([[]]))
    assert len(names) > 1 and len(names) == len(set(names))


def test_the_telling_episodes_and_their_rules(page: Path) -> None:
    text = words(page).partition("Telling episodes")[2]
    for title in ("Hardest solved", "Easiest failed", "Longest", "Aborted"):
        assert title in text
    hardest = text.partition("Hardest solved")[2].partition("Easiest failed")[0]
    assert "right, of the task that is solved least often" in hardest
    assert hardest.index("arithmetic, level 3") < hardest.index("level 2") and "sample 3" in hardest
    assert "ValueError: boom" in text.partition("Aborted")[2]
    assert "wrong reward 0" in text


def test_hostile_text_is_text_wherever_it_comes_from(tmp_path: Path) -> None:
    named = HOSTILE.replace("\x00", "")
    folder = write_evaluation_run(
        tmp_path / "e", {"search": {"a": "+-"}}, name="e", suite={"description": HOSTILE},
        meta={"model": HOSTILE, "suite": HOSTILE, "model_kind": HOSTILE},
    )  # fmt: skip
    with RunStore(folder / "store.sqlite") as store:
        for number, letter in enumerate("+-x"):
            made = hostile(named, letter, number)
            store.add_episode(1, f"eval/{named}", 0, "00000", number, made)
    report = write_evaluation(folder)
    assert report.model.name == HOSTILE and report.entries[1].name == named
    page = folder / "report.html"
    assert_inert(page)
    text = read(page).text
    assert "<script>alert(1)</script>" in text and SEEN in text and "{{ 7 * 7 }}" in text
    assert "\x1b" not in (folder / "report.json").read_text(encoding="utf-8")


def hostile(named: str, letter: str, number: int) -> Any:
    """An episode in which every text is hostile."""
    made = played(named, letter, number, env_id=named)
    call = made.turns[0].message.tool_calls[0]
    call = call.model_copy(update={"name": HOSTILE, "arguments": HOSTILE, "error": HOSTILE})
    made.turns[0].message = made.turns[0].message.model_copy(update={"tool_calls": (call,), "content": HOSTILE})
    made.turns[0].tool_calls[0].name = made.turns[0].tool_calls[0].error = HOSTILE
    made.turns[0].observation = [item.model_copy(update={"content": HOSTILE}) for item in made.turns[0].observation]
    made.opening = [message.model_copy(update={"content": HOSTILE}) for message in made.opening]
    made.error, made.info = HOSTILE, {"answer": HOSTILE}
    return made


def test_ten_megabytes_of_observation_stay_small_and_say_so(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"search": {"a": "+"}})
    with RunStore(folder / "store.sqlite") as store:
        made = played("a", "+", 0, env_id="e")
        text = "HEAD" + "x" * 10_000_000 + "TAIL"
        made.turns[0].observation = [item.model_copy(update={"content": text}) for item in made.turns[0].observation]
        store.add_episode(1, "eval/search", 0, "00000", 0, made)
    write_evaluation(folder)
    page = folder / "report.html"
    shown = read(page).text
    assert "HEADxxx" in shown and "xxxTAIL" in shown
    assert "9,996,008 characters cut; the store has them all" in shown
    assert page.stat().st_size < 300_000
    assert (folder / "episodes.jsonl").stat().st_size > 10_000_000


def test_one_entry_has_no_total_and_one_sample_no_curve(tmp_path: Path) -> None:
    folder = write_evaluation_run(tmp_path / "e", {"search": {"a": "+", "b": "-"}}, levels=0)
    write_evaluation(folder)
    text = words(folder / "report.html")
    assert "total" not in text.partition("Telling episodes")[0]
    assert "Unbiased estimates" not in text and "Accuracy by level" not in text


def test_an_entry_that_alone_was_judged_has_its_figures(tmp_path: Path) -> None:
    judges = {"judges": {"judge": {"votes": 1, "n_judge": None}}}
    folder = write_evaluation_run(tmp_path / "e", {"arithmetic": {"a": "+"}, "search": {"q": "+"}}, meta=judges)
    with RunStore(folder / "store.sqlite") as store:
        store.add_judgement(1, "eval/search", 0, "00000", 0, "judge", 0, True, "because")
    write_evaluation(folder)
    text = words(folder / "report.html")
    assert re.search(r"Sound reasoning entry votes accepted CoT-pass@1 search majority 100\.0 % 100\.0 %", text)
    assert "Judge judge: 1 of 2 right answers have no judgement" in text


@pytest.mark.parametrize("n_judge", [None, 1])
def test_what_a_judge_holds_of_the_reasoning(tmp_path: Path, n_judge: int | None) -> None:
    """Also where there is one sample a task, and where some right answers alone were judged."""
    verdicts = {"a": "+", "b": "+"} if n_judge is None else {"a": "++", "b": "++"}
    judges = {"judges": {"<b>judge": {"votes": 1, "n_judge": n_judge}}}
    folder = write_evaluation_run(tmp_path / "e", {"search": verdicts}, meta=judges)
    with RunStore(folder / "store.sqlite") as store:
        for group, vote in (("00000", True), ("00001", False)):
            store.add_judgement(1, "eval/search", 0, group, 0, "<b>judge", 0, vote, "because")
    write_evaluation(folder)
    text = words(folder / "report.html").partition("Sound reasoning")[2]
    assert "By 2 votes of <b>judge" in text
    assert re.search(r"majority 50\.0 % (50\.0 %|\u2013)", text)
    assert ("only known where every right answer was judged" in text) == (n_judge == 1)
    assert_inert(folder / "report.html")


def test_a_curve_says_how_many_tasks_it_is_over(tmp_path: Path) -> None:
    write_evaluation(write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC, "search": {"a": "+-", "b": "+x"}}))
    text = " ".join(read(tmp_path / "e" / "report.html").text.split())
    assert "pass@2" in text and "over 5 of 6 tasks" in text  # b has one verdict
    assert "pass@k of search is not over the same tasks at every k: 2 at k=1, 1 at k=2" in text
    assert re.search(r"search 75.0 % \d+.\d . \d+.\d 100.0 % 0.0 . 100.0 1 task . ", text)


def test_many_curves_keep_one_band() -> None:
    curve = [CurvePoint(k=k, value=0.5, low=0.25, high=0.75, tasks=4) for k in (1, 2, 3, 4)]
    assert curves_svg([curve] * BANDS_UP_TO).count("FillBetweenPolyCollection") == BANDS_UP_TO
    assert curves_svg([curve] * (BANDS_UP_TO + 1)).count("FillBetweenPolyCollection") == 1


def test_figures_of_nothing() -> None:
    nothing = Stratum(level=None, tasks=0, judged=0, accuracy=Estimate(), reward=Estimate())
    for svg in (curves_svg([[]]), levels_svg([[nothing]]), histogram_svg([[0] * 10, [0] * 10])):
        assert svg.startswith("<svg")
