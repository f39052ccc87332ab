"""Stores of schema 1: they come up to date whole, once, or stay as they were."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.errors import StoreError
from agentrl.store import EpisodeQuery, RunStore, migrate
from agentrl.trajectory import StopReason
from tests.store.episodes import INF, NAN, episode, plain
from tests.store.schema_1 import make


def old(file: Path, count: int) -> None:
    """A run with `count` episodes."""
    keys = [(1, "train", number // 8 + 1, f"g{number % 8}", number) for number in range(count)]
    make(file, [(1, "old", "steps: 9")], [(1, "train", 1, "loss", 0.5)], [(key, plain(1, key[4])) for key in keys])


def test_everything_of_an_old_store_is_there(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    odd = episode("train:7", correct=None, text="\x00 odd", logprob=NAN)
    odd.turns[0].reward, odd.stop_reason, odd.info = -INF, StopReason.TIMEOUT, {"level": 3, "answer": "42"}
    wrote = {("train", 2, "g", 1): odd, ("train", 1, "g", 0): episode("train:1"), ("eval/base", 0, "g", 0): plain(0)}
    make(
        file,
        [(4, "a", "steps: 2"), (7, "b", "steps: 2")],
        [(4, "train", 1, "loss", 0.1 + 0.2), (4, "train", 1, "bad", None), (7, "train", 2, "loss", 1.0)],
        [((4, *key), trajectory) for key, trajectory in wrote.items()],
    )
    with RunStore(file) as store:
        a, b = store.runs()
        assert [(run.id, run.name, run.config, run.kind, run.created) for run in (a, b)] == [
            (4, "a", "steps: 2", "train", 1000.5),
            (7, "b", "steps: 2", "train", 1000.5),
        ]
        ((step, logged),) = store.metrics(4, "train")
        assert (step, logged["loss"], str(logged["bad"])) == (1, 0.1 + 0.2, "nan")
        read = {(found.phase, found.step, found.group, found.member): found for found in store.episodes(4)}
        assert {key: repr(found.trajectory) for key, found in read.items()} == {
            key: repr(trajectory) for key, trajectory in wrote.items()
        }
        found = read["train", 2, "g", 1]
        assert (found.level, found.answer, found.tool_errors, found.reward) == (3, "42", 1, -INF)
        assert [(phase.phase, phase.steps, phase.episodes) for phase in store.phases(4)] == [
            ("eval/base", 1, 1),
            ("train", 2, 2),
        ]
        store.add_episode(4, "train", 3, "g", 0, plain(1))
        store.set_advantages(4, "train", 2, "g", 1, [[1.0, 2.0, 3.0]])
    with sqlite3.connect(file) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert not [name for name in tables if name.endswith("_1")]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_run_of_an_old_store_is_finished_where_its_end_is_there(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    ended = [(2, "train", 2, "x", 1.0), (3, "train", 1, "x", 1.0), (3, "eval/trained", 1, "x", 1.0)]
    runs = [
        (1, "began", "steps: 2"),
        (2, "trained", "steps: 2"),
        (3, "evaluated", "no: steps"),
        (4, "eval oracle", ""),
        (5, "half", "a: [b"),
    ]
    make(file, runs, [*ended, (5, "train", 1, "x", 1.0)])
    with RunStore(file) as store:
        assert [(run.name, run.kind, run.status) for run in store.runs()] == [
            ("began", "train", "interrupted"),
            ("trained", "train", "finished"),
            ("evaluated", "train", "finished"),
            ("eval oracle", "eval", "finished"),
            ("half", "train", "interrupted"),
        ]


def test_a_damaged_episode_stays_there_and_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "store.sqlite"
    old(file, 3)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE episodes SET record = x'00' WHERE member = 1")
    with RunStore(file) as store:
        good, damaged, also_good = store.episodes(1)
        assert (damaged.member, damaged.reward, damaged.turns) == (1, 1.0, 1)
        with pytest.raises(StoreError, match="damaged"):
            _ = damaged.trajectory
        assert good.trajectory == plain(1, 0) and also_good.trajectory == plain(1, 2)
    assert "1 of 3 episodes were damaged before and stay so" in caplog.text


def test_a_long_migration_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "store.sqlite"
    old(file, 20)
    monkeypatch.setattr(migrate, "PAGE", 8)
    monkeypatch.setattr(migrate, "LONG", 20)
    monkeypatch.setattr(migrate, "SAY_SECONDS", 0.0)
    RunStore(file).close()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.removeprefix(f"store {str(file)!r}: ") for line in said] == [
        "bringing 20 episodes to a newer schema, once",
        "8 of 20 episodes",
        "16 of 20 episodes",
        "20 of 20 episodes",
    ]


HALFWAY = """
import sys, time
from agentrl.store import RunStore, migrate
encode, left = migrate.encode, [15]
def slowly(trajectory):
    left[0] -= 1
    if not left[0]:
        print("halfway", flush=True)
        time.sleep(600)
    return encode(trajectory)
migrate.encode, migrate.PAGE = slowly, 4
RunStore(sys.argv[1])
"""


def test_a_migration_that_is_killed_leaves_the_old_store(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    old(file, 20)
    with subprocess.Popen([sys.executable, "-c", HALFWAY, str(file)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "halfway\n"
        child.send_signal(signal.SIGKILL)
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT version FROM agentrl_schema").fetchall() == [(1,)]
        assert connection.execute("SELECT count(*), sum(reward) FROM episodes").fetchone() == (20, sum(range(20)))
        columns = {row[1] for row in connection.execute("PRAGMA table_info(episodes)")}
        assert "record" in columns
    with RunStore(file) as store:
        assert store.count(EpisodeQuery(1)) == 20
        assert all(found.trajectory == plain(1, found.member) for found in store.episodes(1))


ONE_OF_TWO = """
import sys
from agentrl.store import EpisodeQuery, RunStore, database
migrate = database.migrate
def counted(*arguments):
    print("migrated", flush=True)
    migrate(*arguments)
database.migrate = counted
print("ready", flush=True)
sys.stdin.readline()
with RunStore(sys.argv[1]) as store:
    assert store.count(EpisodeQuery(1)) == 200
"""


def test_of_several_processes_that_open_an_old_store_one_migrates_it(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    old(file, 200)
    command = [sys.executable, "-c", ONE_OF_TWO, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = "".join(child.communicate(timeout=60)[0] for child in children)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert said.count("migrated") == 1
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT version FROM agentrl_schema").fetchall() == [(2,)]


def test_an_old_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    old(file, 1)
    with pytest.raises(StoreError, match=r"cannot be brought from schema 1 to 2: .*readonly") as caught:
        RunStore(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert "\n" not in str(caught.value)


def test_a_schema_before_the_first_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    old(file, 1)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE agentrl_schema SET version = 0")
    with pytest.raises(StoreError, match="has schema 0, which this agentrl cannot bring up to date"):
        RunStore(file)
