from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from agentrl.models import progress
from agentrl.models.progress import reporting


def test_nothing_is_shown_without_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting():
        pass
    assert capsys.readouterr() == ("", "")


def test_one_line_a_stage_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting() as report:
        for done in range(3):
            report("downloading [a]", done, 3)
        report("converting")
    assert capsys.readouterr() == ("", "downloading [a]\nconverting\n")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda file: Console(file=screen, force_terminal=True, width=80))
    with reporting() as report:
        report("downloading", 1, 4)
        report("converting")
    shown = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).splitlines() if line.strip()]
    assert "downloading" in shown[-2] and "100%" in shown[-2]
    assert "converting" in shown[-1] and "100%" in shown[-1]


def test_ones_own_report_is_used_as_it_is() -> None:
    seen: list[str] = []
    with reporting(lambda stage, done=0, total=0: seen.append(stage)) as report:
        report("one")
    assert seen == ["one"]
