"""The folder of a run: `metrics.jsonl` and the store tell the same story."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.config import RunConfig, load_config
from agentrl.errors import ConfigError, StoreError
from agentrl.messages import assistant
from agentrl.records import RunRecords
from agentrl.rollout import GroupRequest
from agentrl.trajectory import Trajectory, Turn


def lines(records: RunRecords) -> list[dict[str, float]]:
    return [json.loads(line) for line in (records.folder / "metrics.jsonl").read_text().splitlines()]


def steps(records: RunRecords) -> list[tuple[str, int]]:
    return [(str(line["phase"]), int(line["step"])) for line in lines(records)]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(out=tmp_path / "deep" / "runs", name="first")


def add(records: RunRecords, phase: str, step: int) -> None:
    request = GroupRequest(f"{step:06d}.0000", "train:0", 1, 0)
    turn = Turn([1], None, [2], [-0.5], assistant("x"))
    records.episode(phase, step, request, Trajectory("train:0", turns=[turn]))
    records.log(phase, step, {"reward": step / 3})


def test_a_new_run_makes_its_folder_and_keeps_its_configuration(config: RunConfig) -> None:
    records = RunRecords(config)
    assert load_config(records.folder / "config.yaml") == config
    assert (records.folder / "store.sqlite").is_file()
    records.close()


def test_file_and_store_agree_to_the_bit(config: RunConfig) -> None:
    records = RunRecords(config)
    for step in (1, 2):
        add(records, "train", step)
    assert {int(line["step"]): line["reward"] for line in lines(records)} == {
        step: metrics["reward"] for step, metrics in records.logged("train").items()
    }
    assert records.logged("train")[1]["reward"] == 1 / 3
    assert records.logged("eval/base") == {}
    records.close()


def test_rewind_forgets_later_steps_and_nothing_else(config: RunConfig) -> None:
    records = RunRecords(config)
    for phase, step in [
        ("eval/base", 0),
        ("warm_start", 9),
        ("train", 1),
        ("train", 2),
        ("eval/step", 2),
        ("train", 3),
    ]:
        add(records, phase, step)
    records.rewind(1)
    assert steps(records) == [("eval/base", 0), ("warm_start", 9), ("train", 1)]
    assert list(records.logged("train")) == [1]
    assert records.logged("eval/step") == {}
    assert list(records.logged("warm_start")) == [9]
    assert [episode.step for episode in records.store.episodes(records.run, phase="train")] == [1]
    records.close()


def test_a_resumed_run_holds_each_step_once(config: RunConfig) -> None:
    """A second process goes on from step 1 after the first was killed in the middle of writing a line."""
    first = RunRecords(config)
    for step in (1, 2):
        add(first, "train", step)
    first.close()
    with (first.folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"phase": "train", "step": 3, "rew')
    second = RunRecords(config)
    assert second.run == first.run
    second.rewind(1)
    for step in (2, 3):
        add(second, "train", step)
    assert steps(second) == [("train", 1), ("train", 2), ("train", 3)]
    assert list(second.logged("train")) == [1, 2, 3]
    assert [episode.step for episode in second.store.episodes(second.run, phase="train")] == [1, 2, 3]
    second.close()


def test_rewinding_an_empty_run_is_nothing(config: RunConfig) -> None:
    records = RunRecords(config)
    records.rewind(0)
    assert not (records.folder / "metrics.jsonl").exists()
    records.close()


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        RunRecords(RunConfig(out=tmp_path / "file", name="run"))
    assert "out" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_that_is_none_is_one_line(config: RunConfig) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / "store.sqlite").write_text("not a database, but long enough to be read as one" * 40)
    with pytest.raises(StoreError) as caught:
        RunRecords(config)
    assert "\n" not in str(caught.value)
