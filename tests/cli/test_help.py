"""Help and lists: readable at 80 columns, quick, without a model library."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agentrl.cli.output import print_table

HELP = {
    (): ["agentrl doctor", "agentrl train --recipe quickstart"],
    ("train",): [
        "agentrl train --recipe quickstart",
        "agentrl train my.yaml seed=1 optimiser.lr=1e-5",
        "agentrl train --resume runs/quickstart",
    ],
    ("eval",): [
        "agentrl eval core --model smollm2-135m-instruct",
        "agentrl eval agentrl/SQL-v0 --model oracle -n 20 options.rows=50",
    ],
    ("suites", "list"): ["agentrl suites list --json"],
    ("suites", "show"): ["agentrl suites show core"],
    ("suites", "digest"): ["agentrl suites digest my_suite.yaml --write"],
    ("compare",): ["agentrl compare before/report.json after/report.json --json"],
    ("judge",): ["agentrl judge runs/eval/math --judge MODEL --votes 5 --n-judge 4"],
    ("view",): ["agentrl view runs/quickstart"],
    ("probe",): ["agentrl probe base/ runs/a --second runs/b"],
    ("store", "list"): ["agentrl store list runs/quickstart"],
    ("store", "export"): ["agentrl store export runs/quickstart quickstart.jsonl"],
    ("store", "import"): ["agentrl store import quickstart.jsonl all.sqlite --name again"],
    ("report",): ["agentrl report runs/quickstart"],
    ("replay",): ["agentrl replay runs/quickstart"],
    ("doctor",): ["agentrl doctor --json"],
    ("envs", "list"): ["agentrl envs list --json"],
    ("envs", "show"): ["agentrl envs show agentrl/Arithmetic-v0 'levels=[2]'"],
    ("envs", "play"): ["agentrl envs play agentrl/Arithmetic-v0 --task test:3 'levels=[2]'"],
    ("tools", "list"): ["agentrl tools list --json"],
    ("tools", "show"): ["agentrl tools show calculator"],
    ("tools", "call"): ["""agentrl tools call calculator '{"expression": "7 / 4"}' --json"""],
    ("recipes", "list"): ["agentrl recipes list --json"],
    ("recipes", "show"): ["agentrl recipes show grpo"],
    ("models", "list"): ["agentrl models list --json"],
    ("models", "fetch"): ["agentrl models fetch smollm2-135m-instruct"],
}
LISTS = [("envs", "list"), ("tools", "list"), ("recipes", "list"), ("suites", "list"), ("models", "list")]


@pytest.mark.parametrize("command", HELP, ids=lambda command: " ".join(command) or "agentrl")
def test_help_shows_each_example_on_a_line_of_its_own(agentrl, command: tuple[str, ...]) -> None:
    shown = agentrl(*command, "--help")
    assert shown.code == 0
    lines = [line.strip() for line in shown.out.splitlines()]
    for example in HELP[command]:
        assert example in lines
    assert max(len(line) for line in shown.out.splitlines()) <= 80


@pytest.mark.parametrize("group", ["envs", "tools", "recipes", "suites", "models"])
def test_a_group_without_a_command_shows_its_help(agentrl, group: str) -> None:
    shown = agentrl(group)
    assert shown.code == 2
    assert "list" in shown.out + shown.err


def test_version(agentrl) -> None:
    import agentrl as package

    assert agentrl("--version").out == f"agentrl {package.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [("trian",), ("train", "--recipie", "tiny"), ("eval",), ("eval", "core", "-n", "0"), ("eval", "core", "-k", "x")],
    ids=" ".join,
)
def test_a_wrong_usage_is_exit_code_2(agentrl, arguments: tuple[str, ...]) -> None:
    shown = agentrl(*arguments)
    assert shown.code == 2
    assert "Traceback" not in shown.err
    assert "Usage" in shown.err
    assert shown.out == ""


PROBE = """
import contextlib, io, json, sys
from agentrl.cli import main
heavy = {"torch", "transformers", "matplotlib", "sqlalchemy", "peft"}
found = {}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["agentrl", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, (arguments, stop.code)
    found[" ".join(arguments)] = [len(out.getvalue()), sorted(heavy & set(sys.modules))]
print(json.dumps(found))
"""


def test_help_and_lists_load_no_model_library() -> None:
    """One process for all of them: what an early one loads is seen in the later ones, so all must be clean."""
    commands = [*([*command, "--help"] for command in HELP), *map(list, LISTS)]
    commands += [["envs", "show", "agentrl/Arithmetic-v0"], ["tools", "call", "calculator", "expression=1+1"]]
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    found = json.loads(ran.stdout)
    assert len(found) == len(commands)
    assert all(printed > 0 for printed, _ in found.values())
    assert {command: heavy for command, (_, heavy) in found.items() if heavy} == {}


def test_the_module_runs_as_a_program() -> None:
    ran = subprocess.run([sys.executable, "-m", "agentrl.cli", "tools", "show", "x"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: tool 'x' is unknown; valid: calculator, http, ")


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_lists_are_tables_for_people_and_json_for_programs(agentrl, command: tuple[str, ...]) -> None:
    table, listed = agentrl(*command), agentrl(*command, "--json")
    assert table.code == listed.code == 0
    assert max(len(line) for line in table.out.splitlines()) <= 80
    entries = json.loads(listed.out)
    assert entries
    key = "id" if command[0] == "envs" else "name"
    first_words = {line.split()[0] for line in table.out.splitlines() if line[0] != " "}
    assert {entry[key] for entry in entries if len(entry[key]) <= 40} <= first_words  # names are not torn apart


def test_a_table_keeps_names_whole_and_loses_no_letter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path, prose = "package.module:" + "Name" * 3, "many words " * 12
    print_table(["name", "what", "where"], [["[red]short", prose, path], ["x" * 50, "few", "y" * 25]])
    out = capsys.readouterr().out
    assert path in out
    assert "[red]short" in out  # text, never markup
    assert out.count("x") == 50
    assert out.count("words") == 12
    assert max(len(line) for line in out.splitlines()) <= 60
