"""The command line as a user meets it: arguments in; stdout, stderr and an exit code out."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from agentrl.cli import main

PHASE = re.compile(r"load|(tasks|weights|import) \(\d+\)|evaluate .*")
"""What a command may have said before it fails."""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def fails_in_one_line(self, *said: str) -> None:
        """Exit code 2, and one line on stderr that holds `said`; before it nothing but the phases before it failed."""
        assert self.code == 2, self.err
        *phases, last = self.err.splitlines()
        assert all(PHASE.fullmatch(line) for line in phases), phases
        assert last.startswith("error: ")
        for words in said:
            assert words in last


Agentrl = Callable[..., Outcome]


@pytest.fixture
def agentrl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Agentrl:
    """Runs the entry point of the `agentrl` command in this process, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["agentrl", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        shown = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(code, shown.out, shown.err)

    return run
