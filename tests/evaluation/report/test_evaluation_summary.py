"""An evaluation and a comparison in terminals of every width."""

from __future__ import annotations

import io
import re
from itertools import product
from pathlib import Path

from rich.console import Console, RenderableType

from agentrl.evaluation.report import build_evaluation, compare, comparison_summary, evaluation_summary
from agentrl.evaluation.report.terminal import p_value
from agentrl.store import RunStore
from tests.evaluation.report.synthetic import ARITHMETIC, SEARCH, played, write_evaluation_run
from tests.report.reading import HOSTILE

ENTRIES = {"arithmetic": ARITHMETIC, "search": {**SEARCH, "q4": "xt"}}


def printed(renderable: RenderableType, width: int, **options: bool) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), **options)  # type: ignore[arg-type]
    console.print(renderable)
    return console.export_text()


def test_a_row_an_entry_and_a_total(tmp_path: Path) -> None:
    report = build_evaluation(write_evaluation_run(tmp_path / "e", ENTRIES))
    lines = printed(evaluation_summary(report), 120).splitlines()
    assert lines[0] == "small · tiny · 8 tasks, 23 of 24 episodes judged, seed 7, 12.5 s"
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[1:5]]
    assert rows[0] == ["entry", "tasks", "accuracy % [95 %]", "pass@2 %", "calls", "errors", "tokens", "s/episode"]
    assert rows[1][:2] == ["arithmetic", "4 x 4"] and rows[1][2].startswith("43.8 [7.2, 88.7]")
    assert rows[2][3].startswith("66.7 [") and rows[2][3].endswith("(3 of 4 tasks)")  # q4 has one verdict
    assert rows[3][3].endswith("(7 of 8 tasks)")
    assert rows[3][0] == "total" and rows[3][2].startswith("43.5 [")
    assert "Episodes that ended otherwise: env error 1, timeout 1." in "\n".join(lines)


def test_pass_at_k_stands_for_all_rows_at_one_k(tmp_path: Path) -> None:
    report = build_evaluation(write_evaluation_run(tmp_path / "e", {"arithmetic": ARITHMETIC, "search": SEARCH}))
    text = printed(evaluation_summary(report), 120)
    brief = printed(evaluation_summary(report), 80)  # the table stays one, the second interval goes
    assert "58.3 [" not in brief and re.search(r"^arithmetic +4 x 4 +43.8 \[7.2, 88.7\] +58.3 +1 ", brief, re.M)
    assert "pass@2" in text and "58.3 [" in text and "66.7 [" in text


def test_no_width_loses_a_figure(tmp_path: Path) -> None:
    folder = write_evaluation_run(
        tmp_path / "e", {"a name as long as nobody would like to read it": ARITHMETIC, "b": SEARCH}
    )
    report = build_evaluation(folder)
    for width, soft_wrap in product((30, 44, 60, 80, 100, 200), (False, True)):
        text = printed(evaluation_summary(report), width, soft_wrap=soft_wrap)
        flat = re.sub(r"\s+", "", text)
        for figure in ("43.8[7.2,88.7]", "4x4", "58.3", "80", "total", "anameaslongasnobody"):
            assert figure in flat, (width, soft_wrap, figure)
        if not soft_wrap:
            assert max(map(len, text.splitlines())) <= width


def test_hostile_names_move_no_cursor(tmp_path: Path) -> None:
    name = HOSTILE.replace("\x00", "")
    folder = write_evaluation_run(
        tmp_path / "e", {name: {HOSTILE.replace("\x00", ""): "xx"}}, name="e", meta={"model": HOSTILE + "[red]x[/red]"}
    )
    text = printed(evaluation_summary(build_evaluation(folder)), 200)
    assert "\x1b" not in text and "\u202e" not in text
    assert "␛[2J" in text and "[red]x[/red]" in text


def test_a_comparison(tmp_path: Path) -> None:
    a = write_evaluation_run(tmp_path / "a", {"arithmetic": {"x": "+", "y": "-", "z": "-", "w": "+"}})
    b = write_evaluation_run(
        tmp_path / "b", {"arithmetic": {"x": "+", "y": "+", "z": "+", "w": "-"}}, meta={"model": "b"}
    )
    for width in (50, 110):
        flat = " ".join(printed(comparison_summary(compare(a, b)), width).split())
        assert "+25.0 [" in flat and "1.000" in flat  # of three tasks that differ, one goes against B
        assert "2 by B alone" in flat and "B alone solves arithmetic/y, arithmetic/z" in flat


def test_a_complete_difference_has_an_interval(tmp_path: Path) -> None:
    a, b = (write_evaluation_run(tmp_path / side, {"e": dict.fromkeys("abcdefghijklmnop", side)}) for side in "+-")
    report = compare(a, b)
    assert "-100.0 [-100.0, -68.7]" in printed(comparison_summary(report), 110)
    assert report.total.accuracy is not None and report.boundary is not None
    bounds = report.total.accuracy.difference
    point = report.boundary.difference[0]
    assert (point.value, point.low, point.high) == (bounds.value, bounds.low, bounds.high)
    assert report.total.reward is not None and report.total.reward.difference.low is None


def test_environments_without_a_verdict_are_compared_by_reward(tmp_path: Path) -> None:
    folders = [write_evaluation_run(tmp_path / side, {"e": dict.fromkeys("abcd", "x")}) for side in "ab"]
    for folder, rewards in zip(folders, ((0.25, 0.5, 0.5, 0.75), (0.5, 1.0, 1.0, 1.5)), strict=True):
        with RunStore(folder / "store.sqlite") as store:
            for index, reward in enumerate(rewards):
                made = played("abcd"[index], "+", 0, metrics={}, env_id="e")
                made.turns[0].reward = reward
                store.add_episode(1, "eval/e", 0, f"{index:05d}", 0, made)
    flat = " ".join(printed(comparison_summary(compare(*folders)), 110).split())
    assert "A reward B reward B - A [95 %]" in flat and "e 1.5 2 +0.5 [+" in flat


def test_p_values() -> None:
    assert [p_value(value) for value in (None, 0.0004, 0.0314, 1.0)] == ["\N{EN DASH}", "< 0.001", "0.031", "1.000"]
