"""Evaluations that are killed, interrupted, or two at once: real processes, and not one episode played twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentrl.evaluation import evaluate
from agentrl.evaluation.folder import open_evaluation
from tests.evaluation.counting import judged, suite_file

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds; a bound against hangs


def start(*arguments: str, ignoring_interrupts: bool = False) -> subprocess.Popen[str]:
    """`agentrl eval ...` as a process of its own; what a script begins in the background ignores interrupts."""
    interrupts = signal.SIG_IGN if ignoring_interrupts else signal.SIG_DFL
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "agentrl.cli", "eval", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupts),
    )


def stored(store: Path) -> dict[tuple[str, str, int], float]:
    """When each episode was written, as another process sees it while the evaluation goes on."""
    if not store.exists():
        return {}
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
        try:
            found = database.execute('SELECT phase, "group", member, created FROM episodes').fetchall()
        except sqlite3.OperationalError:  # the tables are still being made
            return {}
    return {(phase, group, member): created for phase, group, member, created in found}


def wait_until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_after_a_kill_the_same_command_plays_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    suite, kept = suite_file(tmp_path, tasks=10, samples=3, entries=2, pause=0.05), tmp_path / "kept"
    asked = (str(suite), "--model", "oracle", "--out", str(kept), "--concurrency", "4")
    process = start(*asked)
    wait_until(process, lambda: len(stored(kept / "store.sqlite")) >= 12)
    process.kill()
    process.communicate()
    before = stored(kept / "store.sqlite")
    assert 12 <= len(before) < 60
    seeds = {(task, seed) for task, seed in judged(tmp_path / "log")}
    again = start(*asked)
    _, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, err
    after = stored(kept / "store.sqlite")
    assert len(after) == 60
    assert {key: after[key] for key in before} == before  # as they were written, not once more
    store, run = open_evaluation(kept)
    with store:
        assert (run.status, run.meta["finished"]) == ("finished", True)
        kept_seeds = {(row.task_id, row.trajectory.seed) for row in store.episodes(run.id) if key_of(row) in before}
    counts = judged(tmp_path / "log")
    assert len(counts) == 60
    assert {counts[key] for key in kept_seeds} == {1}
    assert sum(counts.values()) <= 60 + 4  # those under way when it was killed, and no others
    assert {key for key, count in counts.items() if count > 1} <= seeds - kept_seeds


def key_of(row) -> tuple[str, str, int]:
    return row.phase, row.group, row.member


@pytest.mark.parametrize(
    ("sign", "background"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)],
    ids=["SIGINT", "SIGTERM", "SIGTERM in the background"],
)
def test_an_interrupt_keeps_what_is_finished_and_says_how_to_go_on(
    tmp_path: Path, sign: signal.Signals, background: bool
) -> None:
    suite, kept = suite_file(tmp_path, tasks=40, pause=0.1), tmp_path / "kept"
    asked = (str(suite), "--model", "oracle", "--out", str(kept), "--concurrency", "2")
    process = start(*asked, ignoring_interrupts=background)
    wait_until(process, lambda: len(stored(kept / "store.sqlite")) >= 4)
    process.send_signal(sign)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out == "" and "Traceback" not in err and "aborted" not in err
    before = stored(kept / "store.sqlite")
    assert f"{len(before)} of 40 episodes are in {kept}; the same command goes on with the others" in err
    store, run = open_evaluation(kept)
    with store:
        assert run.status == "interrupted" and not run.meta["finished"]
        assert all(not row.stop_reason.aborted for row in store.episodes(run.id))
    done = evaluate(str(suite), "oracle", out=kept)
    assert (done.played, done.missing) == (40 - len(before), 0)


def test_two_evaluations_write_into_one_database_at_once(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, tasks=15, samples=2, pause=0.01)
    place = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    asked = [
        (str(suite), "--model", who, "--store", place, "--out", str(tmp_path / who)) for who in ("oracle", "random")
    ]
    processes = [start(*arguments) for arguments in asked]
    for process in processes:
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
    assert len(stored(tmp_path / "shared.sqlite")) == 30  # keys are those of both runs
    for who in ("oracle", "random"):
        store, run = open_evaluation(tmp_path / who)
        with store:
            assert (run.name, run.meta["model"], run.status) == (who, who, "finished")
            assert len(list(store.episodes(run.id))) == 30
