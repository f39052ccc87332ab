"""Metrics to TensorBoard and Weights & Biases: real writers, read back by the services' own readers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agentrl import registry
from agentrl.config import load_config
from agentrl.errors import ConfigError, UnknownNameError
from agentrl.records import RunRecords
from agentrl.sinks import Sink, SinkTarget, check_sinks


def records(tmp_path: Path, sinks: str, step: int = 0) -> RunRecords:
    opened = RunRecords(load_config(overrides=[f"sinks={sinks}"], out=str(tmp_path), name="trial"))
    opened.open_sinks(step)
    return opened


def scalars(tmp_path: Path, phase: str, name: str) -> list[tuple[int, float]]:
    """Steps and values as TensorBoard reads them from the phase's files."""
    events = EventAccumulator(str(tmp_path / "trial" / "tensorboard" / phase))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(f"{phase}/{name}")]


def test_tensorboard_reads_every_metric_and_a_resumed_run_replaces_later_steps(tmp_path: Path) -> None:
    first = records(tmp_path, "[tensorboard]")
    first.log("eval/base", 0, {"accuracy": 0.25})
    for step in (1, 2, 3):
        first.log("train", step, {"loss": step / 8, "bad": math.nan})
    first.close()
    second = records(tmp_path, "[tensorboard]", step=2)
    second.rewind(2)
    second.log("train", 3, {"loss": 9.0})
    second.close()
    assert scalars(tmp_path, "train", "loss") == [(1, 0.125), (2, 0.25), (3, 9.0)]
    assert scalars(tmp_path, "eval/base", "accuracy") == [(0, 0.25)]
    assert math.isnan(scalars(tmp_path, "train", "bad")[0][1])


def test_a_run_that_is_resumed_before_its_first_step_keeps_its_warm_start(tmp_path: Path) -> None:
    first = records(tmp_path, "[tensorboard]")
    for step in (1, 2):
        first.log("warm_start", step, {"loss": step / 2})
    for step in (1, 2):
        first.log("train", step, {"loss": step / 8})
    first.close()
    second = records(tmp_path, "[tensorboard]", step=0)
    second.rewind(0)
    second.log("train", 1, {"loss": 9.0})
    second.close()
    assert scalars(tmp_path, "warm_start", "loss") == [(1, 0.5), (2, 1.0)]
    assert scalars(tmp_path, "train", "loss") == [(1, 9.0)]


def test_a_folder_that_cannot_be_made_is_told_before_the_run_begins(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"sink 'tensorboard': .*cannot be written: Not a directory"):
        records(tmp_path, f"[{{name: tensorboard, folder: {tmp_path}/file/board}}]")


def test_weights_and_biases_offline_holds_every_metric(tmp_path: Path) -> None:
    opened = records(tmp_path, "[{name: wandb, mode: offline, project: trials}]")
    opened.log("train", 1, {"loss": 0.5})
    opened.log("train", 2, {"loss": 0.25})
    opened.close()
    (file,) = (tmp_path / "trial" / "wandb").glob("offline-run-*/*.wandb")
    held = file.read_bytes()  # the service's own reader of this file is a program of its own
    assert held.count(b"train/loss") >= 2
    assert b"trials" in held
    first, second = held.index(b"train/loss"), held.rindex(b"train/loss")
    assert b"0.5" in held[first : first + 40]
    assert b"0.25" in held[second : second + 40]


def test_an_option_that_no_sink_has_is_found_before_the_run_begins() -> None:
    with pytest.raises(ConfigError, match=r"sink 'tensorboard' has no option 'foldr'; did you mean 'folder'"):
        check_sinks([{"name": "tensorboard", "foldr": "x"}])
    with pytest.raises(ConfigError, match=r"sink 'wandb': option 'mode' is 'offlin'"):
        check_sinks([{"name": "wandb", "mode": "offlin"}])


def test_ones_own_sink_is_told_what_the_store_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, Mapping[str, float]]] = []

    class Memory(Sink):
        def __init__(self, target: SinkTarget, *, prefix: str = "") -> None:
            super().__init__(target)
            self.prefix = prefix

        def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
            told.append((self.prefix + phase, step, metrics))

        def close(self) -> None:
            told.append(("closed", self.target.step, {}))

    monkeypatch.setitem(registry.sinks._registered, "memory", Memory)
    opened = records(tmp_path, "[{name: memory, prefix: my-}]", step=4)
    opened.log("train", 5, {"loss": 1.0})
    opened.close()
    assert told == [("my-train", 5, {"loss": 1.0}), ("closed", 4, {})]


def test_mistakes_are_told_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="sink 'tensorbord' is unknown; did you mean 'tensorboard'"):
        check_sinks(["tensorbord"])
    with pytest.raises(ConfigError, match="no option 'projct'; did you mean 'project'"):
        records(tmp_path, "[{name: wandb, projct: a}]")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        check_sinks([{"name": "wandb"}])
