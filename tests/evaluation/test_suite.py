"""Suites as files: what they hold, how they are found, what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agentrl import suites
from agentrl.errors import ConfigError, UnknownNameError
from agentrl.evaluation.suite import Suite
from agentrl.suites import load_suite, suite_names

BUNDLED = ("code", "core", "function-calling", "math", "search", "sql")
SMALL = "entries:\n  one:\n    env: agentrl/Arithmetic-v0\n    tasks: 3\n"


def written(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_the_bundled_suites() -> None:
    assert tuple(name for name, origin in suite_names().items() if origin.startswith("agentrl.suites:")) == BUNDLED
    for name in BUNDLED:
        suite = load_suite(name)
        assert suite.name == name and suite.description and suite.version == 1
        assert all(entry.digest for entry in suite.entries.values())
    families = {entry.env.split("/")[1].split("-")[0] for entry in load_suite("core").entries.values()}
    assert families == {"Arithmetic", "Math", "Code", "SQL", "Search", "ReasoningGym"}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_resolved_suite_reads_back_to_an_equal_one(name: str, tmp_path: Path) -> None:
    suite = load_suite(name)
    assert load_suite(written(tmp_path, suite.to_yaml())) == suite
    assert Suite.model_validate(yaml.safe_load(suite.to_yaml())).decisive() == suite.decisive()


def test_a_file_an_environment_and_overrides(tmp_path: Path) -> None:
    mine = load_suite(written(tmp_path, SMALL))
    assert (mine.name, mine.samples_of("one"), mine.entries["one"].split) == ("mine", 1, "test")
    alone = load_suite("agentrl/SQL-v0", ["options.rows=50", "tasks=7", "limits.max_turns=2", "seed=3"])
    assert (alone.name, list(alone.entries)) == ("sql", ["sql"])
    entry = alone.entries["sql"]
    assert (entry.options, entry.tasks, alone.limits.max_turns, alone.seed) == ({"rows": 50}, 7, 2, 3)
    every = load_suite("math", ["entries.*.tasks=5", "entries.algebra.samples=2"])
    assert {entry.tasks for entry in every.entries.values()} == {5}
    assert [every.samples_of(name) for name in ("algebra", "calculus")] == [2, 4]


def test_a_digest_goes_with_what_it_was_taken_of() -> None:
    changed = load_suite("sql", ["entries.query.options.rows=50", "entries.value.samples=2", "entries.blind.digest=x"])
    digests = {name: entry.digest for name, entry in changed.entries.items()}
    assert digests["query"] is None and digests["blind"] == "x"
    assert digests["value"] == load_suite("sql").entries["value"].digest


def test_what_decides_the_numbers() -> None:
    suite = load_suite("core")
    for override in ("description=other", "limits.cost=1", "limits.seconds=9", "samples=2", "entries.sql.samples=3"):
        assert load_suite("core", [override]).decisive() == suite.decisive()
    for override in (
        "seed=1",
        "version=2",
        "sampling.temperature=0",
        "limits.max_turns=1",
        "entries.sql.tasks=3",
    ):
        assert load_suite("core", [override]).decisive() != suite.decisive()


def test_a_foreign_suite_stands_beside_the_bundled_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "plumbing"
    package.mkdir()
    (package / "__init__.py").write_text("")
    written(package, "version: 4\ndescription: pipes\n" + SMALL, "pipes.yaml")
    installed = tmp_path / "plumbing-1.0.dist-info"
    installed.mkdir()
    written(installed, "Metadata-Version: 2.1\nName: plumbing\nVersion: 1.0\n", "METADATA")
    origins = {"pipes": "plumbing:pipes.yaml", "gone": "plumbing:gone.yaml", "nowhere": "not_installed_here:x.yaml"}
    lines = [f"{name} = {origin}" for name, origin in origins.items()]
    written(installed, "\n".join([f"[{suites.GROUP}]", *lines, ""]), "entry_points.txt")
    monkeypatch.syspath_prepend(str(tmp_path))
    suites._announced.cache_clear()
    try:
        assert suite_names()["pipes"] == "plumbing:pipes.yaml"
        assert load_suite("pipes").label == "pipes 4"
        for name in ("gone", "nowhere"):
            with pytest.raises(ConfigError, match=f"suite '{name}' .* cannot be read"):
                load_suite(name)
        with pytest.raises(UnknownNameError, match="did you mean 'pipes'"):
            load_suite("pipe")
    finally:
        suites._announced.cache_clear()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL + "sampels: 2\n", "sampels: unknown key; did you mean 'samples'"),
        (SMALL + "limits: {max_turn: 2}\n", "limits.max_turn: unknown key; did you mean 'max_turns'"),
        (SMALL + "    level: [1]\n", "entries.one.level: unknown key; did you mean 'levels'"),
        (SMALL + "    samples: 0\n", "entries.one.samples=0"),
        (SMALL + "    levels: []\n", "one or more"),
        (SMALL + "    levels: [1]\n    options: {levels: [1]}\n", "levels are given twice"),
        (SMALL + "sampling: {top_p: 0}\n", "sampling.top_p=0"),
        (SMALL + "limits: {cost: -1}\n", "limits.cost=-1"),
        (SMALL + "name: ../up\n", "name='../up'"),
        (SMALL.replace("one", "o/ne"), "entry 'o/ne'"),
        ("name: empty\n", "entries: is missing"),
        ("entries: {}\n", "entries={}"),
        ("entries: {one: {}}\n", "entries.one.env: is missing"),
        ("- one\n", "must hold keys and values"),
        ("a: [1\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_suite(written(tmp_path, text))
    assert said in str(refused.value) and "mine.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("cor", [], "did you mean 'core'"),
        ("SQL-v0", [], "agentrl/SQL-v0"),
        ("tiny", [], "agentrl eval SUITE --model tiny"),
        ("oracle", [], "agentrl eval SUITE --model oracle"),
        ("missing.yaml", [], "'missing.yaml' cannot be read"),
        ("core", ["limits.max_turn=1"], "did you mean 'max_turns'"),
        ("core", ["entries.sqll.tasks=1"], "suite 'core' has no entry 'sqll'; did you mean 'sql'"),
        ("core", ["tasks=1"], "tasks: unknown key"),
        ("core", ["nothing"], "not of the form key=value"),
    ],
)
def test_a_wrong_name_or_override_is_one_line(name: str, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_suite(name, overrides)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_digests_are_pinned_in_place(tmp_path: Path) -> None:
    text = (
        "# mine\nname: mine\nentries:\n  one: # first\n    env: a/B-v0\n    digest: old\n\n"
        "  two:\n    env: a/C-v0\n\nsamples: 2\n"
    )
    suites.pin(Path(written(tmp_path, text)), {"one": "aa", "two": "bb"})
    found = (tmp_path / "mine.yaml").read_text()
    kept = [line for line in text.splitlines() if "digest" not in line]
    assert [line for line in found.splitlines() if "digest" not in line] == kept
    tree: dict[str, Any] = yaml.safe_load(found)
    assert [tree["entries"][name]["digest"] for name in ("one", "two")] == ["aa", "bb"]
    with pytest.raises(ConfigError, match="pin it by hand"):
        suites.pin(Path(written(tmp_path, "entries: {one: {env: a/B-v0}}\n")), {"one": "aa"})


def test_the_prefix_of_a_suite_is_a_choice_of_entries() -> None:
    chosen = load_suite("core").chosen(["sql", "math"])
    assert list(chosen.entries) == ["math", "sql"]
    with pytest.raises(ConfigError, match=r"--entry 'sqll'.*did you mean 'sql'"):
        load_suite("core").chosen(["sqll"])
