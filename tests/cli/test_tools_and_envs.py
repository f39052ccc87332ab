"""`tools`, `envs`, `recipes`, `models`, `doctor`: look and try without a model."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from agentrl import registry
from agentrl.config import load_config
from agentrl.env import Episode
from agentrl.tool import Tool


class Counter(Tool):
    """Counts.

    Further words that a list leaves out.
    """

    name = "counter"
    log: list[str] = []  # noqa: RUF012 - shared by every instance on purpose

    async def open(self, episode: Episode) -> None:
        self.log.append(f"open {episode.task.split}")

    async def call(self, word: str, times: int = 1) -> str:
        self.log.append("call")
        if word == "boom":
            raise ValueError("boom\nin two lines")
        return f"{word!r} x {times}"

    async def close(self) -> None:
        self.log.append("close")


class Locked(Tool):
    """Cannot be opened."""

    name = "locked"

    async def open(self, episode: Episode) -> None:
        raise RuntimeError("no key")

    async def call(self) -> str:
        return "never"

    async def close(self) -> None:
        Counter.log.append("locked closed")


@pytest.fixture
def counter() -> Iterator[list[str]]:
    for tool in (Counter, Locked):
        registry.tools.register(tool.name, tool)
    Counter.log.clear()
    yield Counter.log
    for tool in (Counter, Locked):
        del registry.tools._registered[tool.name]


# -- tools -------------------------------------------------------------------------------------------------------------


def test_a_stateful_tool_is_called_in_a_session_of_its_own(agentrl, counter: list[str]) -> None:
    shown = agentrl("tools", "call", "counter", "word=3", "times=2")
    assert (shown.code, shown.out) == (0, "'3' x 2\n")  # text stays text where the tool wants text
    assert counter == ["open call", "call", "close"]


def test_the_session_is_closed_whatever_happens(agentrl, counter: list[str]) -> None:
    shown = agentrl("tools", "call", "counter", "word=boom")
    assert shown.code == 1
    assert "ValueError" in shown.out
    assert counter == ["open call", "call", "close"]
    counter.clear()
    refused = agentrl("tools", "call", "locked")
    assert (refused.code, refused.err) == (1, "error: tool 'locked' could not be opened: no key\n")
    assert counter == ["locked closed"]


def test_a_list_shows_the_first_line_and_json_the_whole(agentrl, counter: list[str]) -> None:
    assert "Further words" not in agentrl("tools", "list").out
    described = {tool["name"]: tool["description"] for tool in json.loads(agentrl("tools", "list", "--json").out)}
    assert "Further words" in described["counter"]


def test_a_tool_that_cannot_be_loaded_does_not_hide_the_others(agentrl, counter: list[str]) -> None:
    registry.tools.register("counter", Counter)
    registry.tools._registered["broken"] = 3
    try:
        shown = agentrl("tools", "list")
    finally:
        del registry.tools._registered["broken"]
    assert shown.code == 0
    assert "calculator" in shown.out
    assert "cannot be loaded" in " ".join(shown.out.split())


def test_call_with_json_and_answer_in_json(agentrl) -> None:
    shown = agentrl("tools", "call", "calculator", '{"expression": "7 / 4"}', "--json")
    answer = json.loads(shown.out)
    assert (answer["text"], answer["error"]) == ("1.75", None)
    failed = agentrl("tools", "call", "calculator", "expression=1/0", "--json")
    assert failed.code == 1
    assert json.loads(failed.out)["error"] == "failed"
    assert json.loads(agentrl("tools", "call", "calculator", "{broken", "--json").out)["error"] == "parse"


def test_show_gives_schema_and_limits(agentrl) -> None:
    schema = json.loads(agentrl("tools", "show", "calculator", "--json").out)
    assert schema["function"]["name"] == "calculator"
    assert schema["limits"]["timeout"] > 0
    assert "expression" in agentrl("tools", "show", "calculator").out


# -- environments ------------------------------------------------------------------------------------------------------


def test_show_describes_options_splits_and_a_solved_task(agentrl) -> None:
    about = json.loads(agentrl("envs", "show", "agentrl/Arithmetic-v0", "levels=[2]", "--json").out)
    assert about["splits"] == {"train": 100_000, "test": 1_000}
    assert about["tools"] == ["calculator"]
    assert {"levels", "digits", "max_turns", "split"} <= set(about["options"])  # those of the base class, too
    assert about["example"]["reward"] == 1.0
    assert sum("tool_calls" in message for message in about["example"]["messages"]) == 2
    text = agentrl("envs", "show", "agentrl/Arithmetic-v0").out
    assert "solved by the oracle" in text
    assert "train (100000), test (1000)" in text


def test_an_id_may_name_the_module_that_registers_it(agentrl) -> None:
    plain, prefixed = (
        agentrl("envs", "show", "agentrl/Arithmetic-v0"),
        agentrl("envs", "show", "agentrl:agentrl/Arithmetic-v0"),
    )
    assert prefixed.code == 0, prefixed.err
    assert prefixed.out.partition("\n")[2] == plain.out.partition("\n")[2]
    agentrl("envs", "show", "no_such_module:x/Y-v0").fails_in_one_line("module 'no_such_module' cannot be imported")


def test_play_from_a_pipe() -> None:
    """A call, then the number: the transcript holds what was typed."""
    program = [sys.executable, "-m", "agentrl.cli", "envs", "play", "agentrl/Arithmetic-v0", "--task", "test:3"]
    question = subprocess.run(program, input="q\n", capture_output=True, text=True, check=True).stdout
    expression = question.partition("What is ")[2].partition("?")[0]
    typed = f"calculator {expression}\nThe answer is {eval(expression)}.\n"
    played = subprocess.run(program, input=typed, capture_output=True, text=True, check=True)
    lines = played.stdout.splitlines()
    assert f"you> calculator {expression}" in lines
    assert f"tool: {eval(expression)}" in lines
    assert lines[-1].startswith("terminated: reward 1")
    assert played.stderr == ""


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "left; reward so far 0"),
        ("q\n", "left; reward so far 0"),
        ('calculator {"expression": "2*3"}\nquit\n', "tool: 6"),
        ("calculator\n", "tool: Error"),
        ("I do not know\n", "terminated: reward 0"),
    ],
)
def test_play_takes_whatever_is_typed(agentrl, monkeypatch: pytest.MonkeyPatch, typed: str, said: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    shown = agentrl("envs", "play", "agentrl/Arithmetic-v0", "--seed", "1")
    assert shown.code == 0
    assert said in shown.out


# -- recipes, models, doctor -------------------------------------------------------------------------------------------


def test_a_shown_recipe_is_a_config_file(agentrl, tmp_path) -> None:
    shown = agentrl("recipes", "show", "quickstart").out
    (tmp_path / "mine.yaml").write_text(shown.partition("\n\n")[2])
    assert load_config(tmp_path / "mine.yaml") == load_config(recipe="quickstart")
    resolved = json.loads(agentrl("recipes", "show", "quickstart", "--json").out)["config"]
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text()) == resolved


def test_a_recipe_tells_its_slots_and_needs(agentrl) -> None:
    shown = agentrl("recipes", "show", "rapo").out
    for line in ("method 57", "formulas: objective", "credit        grpo", "regularisers  rapo", "reference model"):
        assert line in shown, shown
    described = json.loads(agentrl("recipes", "show", "ppo", "--json").out)
    assert described["section"] == "B5"
    assert described["slots"]["critic"] in ("own", "shared")
    assert "critic" in described["needs"]
    listed = json.loads(agentrl("recipes", "list", "--json").out)
    assert {"name", "description", "paper", "section", "confidence"} == set(listed[0])


def test_a_recipe_of_ones_own_needs_no_description(agentrl, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    assert json.loads(agentrl("recipes", "show", str(tmp_path / "mine.yaml"), "--json").out)["config"]["steps"] == 3


def test_the_doctor_prints_the_commands_that_help(agentrl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.cli.doctor._OPTIONAL", {"no-such-package": "tests"})
    shown = agentrl("doctor", "--fix-hints")
    assert shown.code == 0
    assert "# no-such-package: not installed\npip install -c constraints.txt no-such-package" in shown.out
    assert "# python" not in shown.out


def test_checking_an_environment(agentrl) -> None:
    shown = agentrl("envs", "check", "agentrl/Arithmetic-v0", "levels=[2]", "--tasks", "1")
    assert shown.code == 0, shown.out
    assert "steps/s of the oracle" in shown.out
    report = json.loads(agentrl("envs", "check", "agentrl/Arithmetic-v0", "--tasks", "1", "--json").out)[0]
    assert {finding["holds"] for finding in report["findings"]} == {True}
    assert agentrl("envs", "check").code == 2
    assert "did you mean 'levels'" in agentrl("envs", "check", "agentrl/Arithmetic-v0", "level=2").err


def test_fetching_the_tiny_model(agentrl) -> None:
    fetched = json.loads(agentrl("models", "fetch", "tiny", "--json").out)
    assert (fetched["name"], fetched["present"]) == ("tiny", True)
    listed = {model["name"]: model for model in json.loads(agentrl("models", "list", "--json").out)}
    assert listed["tiny"]["path"] == fetched["path"]


def test_the_doctor_names_every_part(agentrl) -> None:
    shown = agentrl("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(shown.out)}
    assert {"python", "torch", "cpu", "gpu", "memory", "cache folder", "runs folder", "hub"} <= set(findings)
    assert {"sandbox fork", "sandbox bubblewrap", "sandbox docker", "sandbox none", "postgresql"} <= set(findings)
    assert findings["hub"]["ok"] is False  # tests are offline
    assert all(f["ok"] or f["hint"] or (name.startswith("sandbox") and f["found"]) for name, f in findings.items())
    assert max(len(line) for line in agentrl("doctor").out.splitlines()) <= 80
