"""`agentrl store` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

from agentrl.store import RunStore
from tests.exchange.runs import fill


def shared(tmp_path: Path) -> tuple[Path, Path]:
    """A database of two runs, and the folder of the second."""
    place, folder = tmp_path / "shared.sqlite", tmp_path / "runs" / "second"
    with RunStore(place) as store:
        fill(store, "first")
        fill(store, "second")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: second\nstore: sqlite:///{place}\n")
    return place, folder


def test_a_store_lists_its_runs_and_a_folder_its_own(agentrl, tmp_path: Path) -> None:
    place, folder = shared(tmp_path)
    with RunStore(place) as store:
        store.begin_run("just begun", "")
    listed = agentrl("store", "list", str(place))
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == [*["first"] * 2, *["second"] * 2, "just"]
    assert listed.out.splitlines()[-1].split()[-3:] == ["-", "0", "0"]
    (own,) = json.loads(agentrl("store", "list", str(folder), "--json").out)
    assert own["name"] == "second" and [phase["episodes"] for phase in own["phases"]] == [6, 1]


def test_a_store_without_runs_has_nothing_to_export(agentrl, tmp_path: Path) -> None:
    RunStore(tmp_path / "new.sqlite").close()
    command = agentrl("store", "export", str(tmp_path / "new.sqlite"), str(tmp_path / "x.jsonl"))
    command.fails_in_one_line("holds no run yet")
    agentrl("store", "list", f"sqlite:///{tmp_path}/none.sqlite").fails_in_one_line("does not exist")
    assert [path.name for path in tmp_path.iterdir()] == ["new.sqlite"]


def test_a_run_goes_out_and_comes_back(agentrl, tmp_path: Path) -> None:
    place, folder = shared(tmp_path)
    file, other = tmp_path / "second.jsonl", tmp_path / "other.sqlite"
    agentrl("store", "export", str(place), str(file)).fails_in_one_line("2 runs", "--run", "first")
    assert agentrl("store", "export", str(folder), str(file)).out == f"7 episodes of second: {file}\n"
    assert agentrl("store", "import", str(file), str(other)).out == f"7 episodes of second: {other}\n"
    agentrl("store", "import", str(file), str(other)).fails_in_one_line("has a run 'second' already")


def test_a_file_that_is_not_there_makes_no_store(agentrl, tmp_path: Path) -> None:
    agentrl("store", "import", str(tmp_path / "no.jsonl"), str(tmp_path / "new.sqlite")).fails_in_one_line("no.jsonl")
    assert list(tmp_path.iterdir()) == []
