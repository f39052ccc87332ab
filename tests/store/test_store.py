"""The run store: what was written is there, once, exactly, whatever happened to the process that wrote it."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, StoreError
from agentrl.store import PAGE, EpisodeQuery, RunStore, TaskRecord, database
from agentrl.store.codec import SHOWN
from agentrl.trajectory import StopReason
from tests.store.episodes import INF, NAN, episode


def test_a_run_of_the_same_name_continues_with_the_new_configuration(store: RunStore) -> None:
    first = store.begin_run("a", "steps: 1")
    other = store.begin_run("b", "steps: 2")
    assert store.begin_run("a", "steps: 3") == first != other
    assert [(run.name, run.config) for run in store.runs()] == [("a", "steps: 3"), ("b", "steps: 2")]


def test_metrics_come_back_by_step_with_every_bit(store: RunStore) -> None:
    run = store.begin_run("a", "")
    store.log(run, "train", 10, {"loss": 0.1 + 0.2, "bad": NAN, "up": INF, "down": -INF})
    store.log(run, "train", 9, {"loss": 5e-324})
    store.log(run, "eval/base", 0, {"accuracy": 1.0})
    (nine, first), (ten, second) = store.metrics(run, "train")
    assert (nine, first, ten) == (9, {"loss": 5e-324}, 10)
    assert math.isnan(second.pop("bad"))
    assert second == {"loss": 0.1 + 0.2, "up": INF, "down": -INF}


def test_logging_a_step_again_replaces_names_and_keeps_others(store: RunStore) -> None:
    run = store.begin_run("a", "")
    store.log(run, "train", 1, {"loss": 1.0, "reward": 2.0})
    store.log(run, "train", 1, {"loss": 3.0})
    store.log(run, "train", 1, {})
    assert store.metrics(run, "train") == [(1, {"loss": 3.0, "reward": 2.0})]


ODD_TEXT = "\x00 \x1b[2J \u202e \U0001f600 {{ 7 * 7 }} '; DROP TABLE episodes; --"


@pytest.mark.parametrize("number", [NAN, INF, -INF, -0.0, 5e-324, 0.1])
def test_an_episode_comes_back_bit_for_bit(store: RunStore, number: float) -> None:
    wrote = episode(task=ODD_TEXT, text=ODD_TEXT, logprob=number)
    wrote.turns[0].reward = wrote.seconds = number
    wrote.turns[0].sampled_ids[0] = 2**31 + 5
    wrote.env_id = wrote.error = wrote.info["answer"] = ODD_TEXT
    run = store.begin_run("a", "")
    store.add_episode(run, "train", 1, "g", 0, wrote)
    (read,) = store.episodes(run)
    assert read.trajectory.to_json() == wrote.to_json()
    assert repr(read.trajectory) == repr(wrote)  # equality would be false for not-a-number
    assert repr(read.reward) == repr(wrote.reward)
    assert read.seconds == pytest.approx(wrote.seconds, abs=0, nan_ok=True)  # SQLite drops the sign of a zero
    assert read.task_id == read.env_id == read.answer == read.error == ODD_TEXT.replace("\x00", "\ufffd")
    assert [row.id for row in store.page(EpisodeQuery(run, task_id=ODD_TEXT, text="; DROP"))] == [read.id]


def test_columns_say_what_the_record_says(store: RunStore) -> None:
    run = store.begin_run("a", "")
    store.add_episode(run, "eval/base", 2, "g", 1, episode("task"))
    (read,) = store.episodes(run)
    shown = (read.phase, read.step, read.group, read.member, read.task_id, read.env_id, read.turns, read.tokens)
    assert shown == ("eval/base", 2, "g", 1, "task", "env", 1, 3)
    assert (read.reward, read.correct, read.seconds) == (0.25, True, 2.0)


def test_an_episode_without_a_verdict_is_neither_correct_nor_wrong(store: RunStore) -> None:
    run = store.begin_run("a", "")
    aborted = episode(correct=1.0)
    aborted.stop_reason = StopReason.TIMEOUT
    for member, made in enumerate((episode(correct=None), episode(correct=NAN), aborted, episode(correct=0.0))):
        store.add_episode(run, "train", 1, "g", member, made)
    assert [read.correct for read in store.episodes(run)] == [None, None, None, False]
    assert [read.member for read in store.episodes(run, correct=False)] == [3]
    assert list(store.episodes(run, correct=True)) == []


def test_the_same_key_replaces(store: RunStore) -> None:
    run = store.begin_run("a", "")
    store.add_episode(run, "train", 1, "g", 0, episode("old"))
    store.add_episode(run, "train", 1, "g", 0, episode("new"))
    assert [read.task_id for read in store.episodes(run)] == ["new"]


def test_filters_limit_and_order_across_pages(store: RunStore) -> None:
    run, other = store.begin_run("a", ""), store.begin_run("b", "")
    keys = [(step, f"g{group}", member) for step in (2, 1) for group in range(PAGE // 2) for member in (1, 0)]
    for step, group, member in keys:
        store.add_episode(run, "train", step, group, member, episode(correct=float(member)))
    store.add_episode(run, "eval/base", 0, "g", 0, episode())
    store.add_episode(other, "train", 1, "g", 0, episode())
    read = [(found.step, found.group, found.member) for found in store.episodes(run, "train")]
    assert read == sorted(keys)
    assert len(list(store.episodes(run))) == len(keys) + 1
    assert {found.step for found in store.episodes(run, "train", step=2)} == {2}
    assert len(list(store.episodes(run, "train", correct=True))) == len(keys) // 2
    for limit in (0, 1, PAGE, PAGE + 1, 10 * PAGE):
        assert len(list(store.episodes(run, "train", limit=limit))) == min(limit, len(keys))


def test_writing_while_one_iterates(store: RunStore) -> None:
    run = store.begin_run("a", "")
    for member in range(PAGE + 5):
        store.add_episode(run, "train", 1, "g", member, episode())
    seen = []
    for found in store.episodes(run):
        store.add_episode(run, "train", 1, "g", found.member, episode("again"))
        seen.append(found.member)
    assert seen == list(range(PAGE + 5))


def test_discard_after_touches_the_named_phases_of_the_run_alone(store: RunStore) -> None:
    run, other = store.begin_run("a", ""), store.begin_run("b", "")
    for owner in (run, other):
        for phase in ("train", "eval/step", "warm_start"):
            for step in (1, 2, 3):
                store.log(owner, phase, step, {"x": 1.0})
                store.add_episode(owner, phase, step, "g", 0, episode())
    store.discard_after(run, 1, ["train", "eval/step"])

    def steps(owner: int, phase: str) -> tuple[list[int], list[int]]:
        return [step for step, _ in store.metrics(owner, phase)], [e.step for e in store.episodes(owner, phase)]

    assert steps(run, "train") == steps(run, "eval/step") == ([1], [1])
    assert steps(run, "warm_start") == steps(other, "train") == ([1, 2, 3], [1, 2, 3])


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.store.episodes import episode
from agentrl.store import RunStore
store = RunStore(sys.argv[1])
run = store.begin_run("a", "")
member = 0
while True:
    store.add_episode(run, "train", 1, "g", member, episode())
    print(member, flush=True)
    member += 1
"""


def test_an_episode_survives_kill_nine_as_soon_as_add_returns(place: str) -> None:
    command = [sys.executable, "-c", WRITER, place, str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
    with RunStore(place) as store:
        read = list(store.episodes(store.begin_run("a", "")))
    assert [found.member for found in read[:20]] == acknowledged
    assert all(found.trajectory == episode() for found in read)


def _write_many(place: str, worker: int, count: int) -> None:
    with RunStore(place) as store:
        run = store.begin_run("shared", "")
        for index in range(count):
            store.add_episode(run, "train", index, f"w{worker}", 0, episode())
            store.add_episode(run, "train", index, "shared", 0, episode(text=f"{worker}"))
            store.log(run, "train", index, {f"w{worker}": float(index)})


def test_several_processes_write_at_once_from_the_first_moment_on(place: str) -> None:
    workers, count = 3, 25
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(place, worker, count)) for worker in range(workers)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * workers
    with RunStore(place) as store:
        (run,) = store.runs()
        assert len(list(store.episodes(run.id))) == (workers + 1) * count
        assert len({found.id for found in store.episodes(run.id)}) == (workers + 1) * count
        assert all(len(metrics) == workers for _, metrics in store.metrics(run.id, "train"))


def test_several_threads_share_one_store(store: RunStore) -> None:
    run = store.begin_run("a", "")
    failures: list[Exception] = []

    def write(worker: int) -> None:
        try:
            for member in range(20):
                store.add_episode(run, "train", 1, f"w{worker}", member, episode())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(store.episodes(run))) == 80


def test_a_url_and_a_path_open_the_same_store(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    with RunStore(f"sqlite:///{file}") as by_url:
        by_url.begin_run("a", "")
    with RunStore(str(file)) as by_path:
        assert [run.name for run in by_path.runs()] == ["a"]


def _foreign(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE recipes (x)")


def _newer(file: Path) -> None:
    RunStore(file).close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE agentrl_schema SET version = 99")


def _text(file: Path) -> None:
    file.write_text("not a database, but long enough to have the length of a header" * 20)


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (_foreign, "another program's database: it holds recipes"),
        (_newer, "has schema 99; this agentrl reads schema 2"),
        (_text, "file is not a database"),
        (Path.mkdir, "unable to open database file"),
    ],
)
def test_what_is_no_store_is_refused_in_one_line(tmp_path: Path, prepare: object, expected: str) -> None:
    file = tmp_path / "thing"
    prepare(file)  # type: ignore[operator]
    before = file.read_bytes() if file.is_file() else b""
    with pytest.raises(StoreError, match=expected) as caught:
        RunStore(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    if prepare in (_foreign, _text):
        assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        (":memory:", "in memory"),
        ("sqlite:///file:runs?mode=memory&uri=true", "in memory"),
        ("sqlite:///file::memory:?uri=true", "in memory"),
        ("nosuch://host/db", "nosuch"),
        ("/no/such/folder/store.sqlite", "unable to open database file"),
    ],
)
def test_a_place_that_cannot_hold_a_store_is_refused_in_one_line(place: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        RunStore(place)
    assert "\n" not in str(caught.value)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    RunStore(file).close()
    with RunStore(f"sqlite:///file:{file}?mode=ro&uri=true") as reader, pytest.raises(StoreError, match="readonly"):
        reader.begin_run("a", "")


def test_a_store_that_another_process_holds_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "store.sqlite"
    RunStore(file).close()
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other, RunStore(file) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is locked: another process has held it for 0 seconds") as caught:
            store.begin_run("a", "")
        assert "\n" not in str(caught.value)
        assert store.runs() == []
        other.execute("ROLLBACK")
        store.begin_run("a", "")


def test_a_damaged_record_names_its_episode(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    with RunStore(file) as store:
        run = store.begin_run("a", "")
        store.add_episode(run, "train", 4, "g", 2, episode())
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE records SET record = x'00'")
        (read,) = store.episodes(run)
        with pytest.raises(StoreError, match="train step 4 group g member 2 is damaged"):
            _ = read.trajectory


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("UPDATE judgements SET text = x'00'", "judgement 3 of judge of episode 1 is damaged"),
        ("UPDATE runs SET meta = '{'", "the meta of run 'a' is damaged"),
        ("UPDATE tasks SET opening = '[1]'", "task 't' is damaged"),
        ("UPDATE episodes SET stop_reason = 'bored'", "episode 1 is damaged: 'bored' is not a valid StopReason"),
    ],
)
def test_whatever_is_damaged_is_one_line(tmp_path: Path, change: str, expected: str) -> None:
    file = tmp_path / "store.sqlite"
    with RunStore(file) as store:
        run = store.begin_run("a", "")
        store.add_tasks(run, "env", [TaskRecord("t")])
        store.add_episode(run, "train", 4, "g", 2, episode())
        store.add_judgement(run, "train", 4, "g", 2, "judge", 3, True, "yes")
        with sqlite3.connect(file) as connection:
            connection.execute(change)
        with pytest.raises(StoreError, match=expected) as caught:
            store.judgements(run), store.runs(), store.task(run, "env", "t"), store.page(EpisodeQuery(run))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_is_one_line(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "store.sqlite"
    with RunStore(file) as store:
        run = store.begin_run("a", "")
        for member in range(100):
            store.add_episode(run, "train", 1, "g", member, episode(text=f"{member}" * 200))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(StoreError, match="malformed") as caught, RunStore(file) as store:
        list(store.episodes(1))
    assert "\n" not in str(caught.value)


def test_a_number_beyond_64_bits_is_one_line(store: RunStore) -> None:
    for act in (lambda: store.run(2**70), lambda: store.episode(2**70)):
        with pytest.raises(StoreError) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_record_is_written_compressed(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("a", "")
        long = episode(text="observation " * 10_000)
        store.add_episode(run, "train", 1, "g", 0, long)
        (read,) = store.episodes(run)
        assert len(read.data.record) < len(long.to_json()) / 20
        assert read.trajectory == long


def test_an_episode_of_ten_megabytes_comes_back_and_stays_out_of_the_list(store: RunStore) -> None:
    run = store.begin_run("a", "")
    long = episode(text=random.Random(0).randbytes(1_250_000).hex())
    long.info["answer"] = long.error = long.turns[0].message.text
    store.add_episode(run, "train", 1, "g", 0, long)
    (row,) = store.page(EpisodeQuery(run))
    assert len(row.answer or "") == len(row.error or "") == SHOWN
    assert store.episode(row.id).trajectory == long
