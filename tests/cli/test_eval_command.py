"""`agentrl eval` and `agentrl suites` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl import suites
from tests.evaluation.counting import suite_file

ORACLE = ("--model", "oracle")
ARITHMETIC = ("eval", "agentrl/Arithmetic-v0")


def test_people_get_a_table_and_programs_the_report(agentrl, tmp_path: Path) -> None:
    asked = (*ARITHMETIC, *ORACLE, "-n", "4", "-k", "2", "--out", str(tmp_path / "kept"), "options.levels=[1,2]")
    shown = agentrl(*asked)
    assert shown.code == 0, shown.err
    assert "100.0" in shown.out and "arithmetic" in shown.out
    assert shown.out.splitlines()[-1] == f"report  {tmp_path / 'kept' / 'report.html'}"
    again = agentrl(*asked, "--json")
    assert "finished before" in again.err
    report = json.loads(again.out)
    assert report == json.loads((tmp_path / "kept" / "report.json").read_text())
    assert (report["total"]["planned"], report["total"]["judged"], report["suite"]["name"]) == (8, 8, "arithmetic")


def test_a_limit_is_an_exit_code_of_its_own(agentrl, tmp_path: Path) -> None:
    suite = suite_file(tmp_path, tasks=30, pause=0.2)
    asked = ("eval", str(suite), *ORACLE, "--out", str(tmp_path / "kept"), "--concurrency", "2")
    shown = agentrl(*asked, "--limit-seconds", "1")
    assert shown.code == 3, shown.err
    assert "stopped by limits.seconds" in shown.out and "of 30 episodes are missing" in shown.out
    spent = agentrl(
        *asked,
        "--limit-cost",
        "1",
        "--price-input",
        "0",
        "--price-output",
        "5",
        "limits.seconds=null",
        "-n",
        "3",
        "--fresh",
    )
    assert spent.code == 0 and "cost    0 dollars" in spent.out  # an oracle samples nothing


def test_what_is_without_a_result_is_no_success(agentrl, tmp_path: Path) -> None:
    suite = suite_file(tmp_path, tasks=2, failing="'test:1'")
    (tmp_path / "log.broken").touch()
    asked = ("eval", str(suite), *ORACLE, "--out", str(tmp_path / "kept"))
    failed = agentrl(*asked)
    assert failed.code == 1 and "1 of 2 episodes judged" in failed.out
    assert "the same command goes on with the others" in failed.err
    (tmp_path / "log.broken").unlink()
    assert agentrl(*asked).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cor", *ORACLE), ["'cor'", "did you mean 'core'"]),
        (("tiny",), ["suite 'tiny' is unknown", "agentrl eval SUITE --model tiny"]),
        (("core",), ["--model is missing", "agentrl eval core --model MODEL"]),
        (("core", *ORACLE, "--price-input", "1"), ["--price-input needs --price-output"]),
        (("tiny", *ORACLE), ["suite 'tiny' is unknown", "agentrl eval SUITE --model tiny"]),
        (("runs/quickstart", *ORACLE), ["'runs/quickstart'"]),
        (("agentrl/Nothing-v0", *ORACLE), ["agentrl/Nothing-v0"]),
        (("missing.yaml", *ORACLE), ["missing.yaml", "No such file"]),
        (("core", "--model", "tinny"), ["tinny", "did you mean 'tiny'"]),
        (("core", "--model", "./nowhere"), ["./nowhere"]),
        (("core", *ORACLE, "--entry", "sqll"), ["--entry 'sqll'", "did you mean 'sql'"]),
        (("core", *ORACLE, "entries.sqll.tasks=1"), ["suite 'core' has no entry 'sqll'", "did you mean 'sql'"]),
        (("core", *ORACLE, "limits.max_turn=1"), ["limits.max_turn", "did you mean 'max_turns'"]),
        (("core", *ORACLE, "entries.sql.optionz.rows=1"), ["entries.sql.optionz", "did you mean 'options'"]),
        (("core", *ORACLE, "limits.cost=1"), ["--price-input"]),
        (("core", *ORACLE, "--engine", "vllm"), ["engine='vllm'", "oracle"]),
        (("core", "--model", "tiny", "--engine", "vlm"), ["vlm", "did you mean 'vllm'"]),
        (("core", "--model", "tiny", "--precision", "fp8"), ["precision", "fp8"]),
        (("core", "--model", "x", "--endpoint", "no address"), ["no address"]),
        (
            ("core", "--model", "x", "--endpoint", "http://127.0.0.1:9/v1", "--key-env", "NOT_SET_HERE"),
            ["NOT_SET_HERE"],
        ),
        ((*ARITHMETIC[1:], *ORACLE, "split=tset"), ["tset", "test"]),
        ((*ARITHMETIC[1:], *ORACLE, "options.level=1"), ["level", "did you mean 'levels'"]),
        (("function-calling", *ORACLE, "entries.*.options.path=/nowhere"), ["/nowhere"]),
        ((*ARITHMETIC[1:], *ORACLE, "--store", "mysql://x/y"), ["mysql"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes(agentrl, tmp_path, monkeypatch, arguments: tuple[str, ...], said: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    shown = agentrl("eval", *arguments)
    shown.fails_in_one_line(*said)
    assert shown.out == ""
    assert not list(tmp_path.rglob("store.sqlite"))


def test_an_endpoint_that_is_not_there_is_one_line(agentrl, tmp_path: Path) -> None:
    asked = (
        *ARITHMETIC,
        "--model",
        "x",
        "--endpoint",
        "http://127.0.0.1:9/v1",
        "-n",
        "1",
        "--out",
        str(tmp_path / "kept"),
    )
    shown = agentrl(*asked)
    assert shown.code in (1, 2) and shown.out == ""
    assert shown.err.splitlines()[-1].startswith("error: ") and "127.0.0.1:9" in shown.err.splitlines()[-1]
    assert "Traceback" not in shown.err
    other = agentrl(*ARITHMETIC, *ORACLE, "-n", "1", "--out", str(tmp_path / "kept"))
    assert other.code == 0, other.err  # what never began is in nobody's way


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\x00" + b"\x00" * 200])
def test_a_store_that_cannot_be_read_is_one_line(agentrl, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "store.sqlite").write_bytes(content)
    shown = agentrl(*ARITHMETIC, *ORACLE, "-n", "1", "--out", str(tmp_path / "kept"))
    if content:
        shown.fails_in_one_line("store.sqlite")
    else:
        assert shown.code == 0, shown.err  # an empty file is an empty database


def test_a_suite_file_that_cannot_be_read_is_one_line(agentrl, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    agentrl("eval", str(tmp_path / "bad.yaml"), *ORACLE).fails_in_one_line("bad.yaml", "not valid YAML")
    (tmp_path / "deep.yaml").write_text("entries: {a: {env: agentrl/Arithmetic-v0, sampels: 2}}\n")
    agentrl("eval", str(tmp_path / "deep.yaml"), *ORACLE).fails_in_one_line("entries.a.sampels", "'samples'")
    (tmp_path / "twice.yaml").write_text("entries:\n  a: {env: agentrl/Math-v0}\n  a: {env: agentrl/SQL-v0}\n")
    agentrl("eval", str(tmp_path / "twice.yaml"), *ORACLE).fails_in_one_line("twice.yaml", "the key 'a' stands twice")
    (tmp_path / "odd.yaml").write_text("entries: {a: {env: agentrl/Math-v0, levels: [1, 1]}}\n")
    shown = agentrl("eval", str(tmp_path / "odd.yaml"), *ORACLE)
    shown.fails_in_one_line("entries.a: levels [1, 1]: one or more, each once")
    agentrl("eval", str(tmp_path), *ORACLE).fails_in_one_line(str(tmp_path))


def test_suites_are_listed_and_shown(agentrl) -> None:
    listed = {suite["name"]: suite for suite in json.loads(agentrl("suites", "list", "--json").out)}
    assert set(listed) >= {"code", "core", "function-calling", "math", "search", "sql"}
    assert (listed["core"]["tasks"], listed["core"]["version"]) == (96, 1)
    shown = agentrl("suites", "show", "core")
    assert shown.code == 0 and "reasoning_gym" in shown.out and "digest:" in shown.out
    agentrl("suites", "show", "cor").fails_in_one_line("did you mean 'core'")
    assert (
        json.loads(agentrl("suites", "show", "agentrl/SQL-v0", "--json").out)["entries"]["sql"]["env"]
        == "agentrl/SQL-v0"
    )


def test_a_suite_of_a_package_that_cannot_be_read_is_listed_beside_the_others(agentrl, monkeypatch) -> None:
    monkeypatch.setattr(suites, "_announced", lambda: {"gone": "not_installed_here:gone.yaml"})
    listed = {suite["name"]: suite for suite in json.loads(agentrl("suites", "list", "--json").out)}
    assert "cannot be read" in listed["gone"]["description"] and listed["core"]["entries"] == 6
    assert agentrl("suites", "list").code == 0
    agentrl("eval", "gone", *ORACLE).fails_in_one_line("suite 'gone'", "cannot be read")


def test_digests_are_computed_compared_and_pinned(agentrl, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nentries:\n  one:\n    env: agentrl/Arithmetic-v0\n    tasks: 5\n")
    asked = ("suites", "digest", str(file))
    (first,) = json.loads(agentrl(*asked, "--json").out)
    assert first["pinned"] is None
    assert agentrl(*asked, "--write").code == 0
    assert f"digest: {first['digest']}" in file.read_text()
    file.write_text(file.read_text().replace("tasks: 5", "tasks: 6"))
    failed = agentrl("eval", str(file), *ORACLE, "--out", str(tmp_path / "kept"))
    failed.fails_in_one_line("suite 'mine 1', entry 'one'", "raise the version")
    compared = agentrl(*asked)
    assert compared.code == 1 and "other tasks than were pinned: one" in compared.err
    assert agentrl(*asked, "--write").code == 0 and agentrl(*asked).code == 0
    assert not (tmp_path / "kept").exists()
    agentrl("suites", "digest", "core", "--write").fails_in_one_line("--write needs a file")
