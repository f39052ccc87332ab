"""The loop, whole: real policy, engine, manager, environment and learner, at toy size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from agentrl.config import RunConfig, load_config
from agentrl.errors import AgentRLError, CheckpointError, ConfigError, TrainingError
from agentrl.observe import Observer
from agentrl.store import EpisodeRecord, RunStore
from agentrl.trainer import Trainer, train

SMALL = [
    "steps=4",
    "eval.episodes=6",
    "warm_start.steps=50",
    "warm_start.episodes_per_step=16",
    "rollout.groups_per_step=4",
    "rollout.group_size=4",
    "checkpoint.every=2",
]


def small(out: Path, *overrides: str) -> RunConfig:
    return load_config(recipe="tiny", overrides=[*SMALL, *overrides], out=str(out))


def weights(config: RunConfig) -> dict[str, bytes]:
    stored = load_file(config.folder / "policy" / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in stored.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = small(tmp_path_factory.mktemp("finished"))
    train(config)
    return config


def test_a_run_leaves_everything_in_its_folder(finished: RunConfig) -> None:
    present = {path.name for path in finished.folder.iterdir()}
    assert {
        "config.yaml",
        "store.sqlite",
        "checkpoints",
        "policy",
        "metrics.jsonl",
        "report.html",
        "curve.png",
    } <= present
    assert load_config(finished.folder / "config.yaml") == finished


def test_the_store_holds_every_episode_once_and_the_metrics_agree(finished: RunConfig) -> None:
    with RunStore(finished.folder / "store.sqlite") as store:
        (run,) = store.runs()
        trained = list(store.episodes(run.id, phase="train"))
        assert len(trained) == 4 * 4 * 4
        assert len({(e.step, e.group, e.member) for e in trained}) == len(trained)
        for stage in ("base", "warm_start", "trained"):
            assert len(list(store.episodes(run.id, phase=f"eval/{stage}"))) == 6
        logged = dict(store.metrics(run.id, "train"))
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if line["phase"] == "train"}
    assert sorted(steps) == sorted(logged) == [1, 2, 3, 4]
    assert all(steps[step]["reward"] == logged[step]["reward"] for step in steps)


def test_the_store_says_what_each_token_was_paid_what_was_asked_and_how_the_run_ended(finished: RunConfig) -> None:
    with RunStore(finished.folder / "store.sqlite") as store:
        (run,) = store.runs()
        assert (run.kind, run.status) == ("train", "finished")
        trained = list(store.episodes(run.id, phase="train"))
        groups: dict[tuple[int, str], list[EpisodeRecord]] = {}
        for episode in trained:
            groups.setdefault((episode.step, episode.group), []).append(episode)
        mixed = [members for members in groups.values() if len({member.reward for member in members}) > 1]
        assert mixed
        for members in mixed:
            members.sort(key=lambda member: member.reward)
            paid = [member.advantages or [] for member in members]
            assert [[len(turn) for turn in turns] for turns in paid] == [
                [len(turn.sampled_ids) for turn in member.trajectory.turns] for member in members
            ]
            assert (
                max(value for turn in paid[0] for value in turn) < 0 < min(value for turn in paid[-1] for value in turn)
            )
        assert all(episode.advantages is None for episode in store.episodes(run.id, phase="eval/base"))
        for episode in trained:
            task, info = store.task(run.id, episode.env_id, episode.task_id), episode.trajectory.info
            assert task is not None and list(task.opening) == episode.trajectory.opening
            assert (task.split, task.level, task.gold) == ("train", info["level"], info["gold"])


def test_learner_and_engine_agree_on_log_probabilities(finished: RunConfig) -> None:
    """fp32 policy on the CPU: the bound is rounding, not a tolerance for errors."""
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    worst = [line["mismatch/max_abs"] for line in lines if "mismatch/max_abs" in line]
    assert worst  # at least one step had groups with variance, so these runs do change weights
    assert max(worst) < 1e-3


def test_seconds_add_up(finished: RunConfig) -> None:
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    for line in (line for line in lines if line["phase"] == "train"):
        parts = line["seconds/rollout"] + line["seconds/update"] + line["seconds/other"]
        assert parts == pytest.approx(line["seconds"])
        stages = sum(seconds for name, seconds in line.items() if name.startswith("seconds/rollout_"))
        assert stages == pytest.approx(line["makespan"]) and line["makespan"] <= line["seconds/rollout"]
        assert line["makespan_over_bound"] >= 1 - 1e-9


def test_same_configuration_same_weights(finished: RunConfig, tmp_path: Path) -> None:
    again = small(tmp_path)
    train(again)
    assert weights(again) == weights(finished)


class _StopAfter(Observer):
    def __init__(self, step: int) -> None:
        self.last = step

    def step(self, step: int, metrics: object) -> None:
        if step == self.last:
            raise KeyboardInterrupt


def test_an_interrupted_run_resumes_to_the_same_weights(finished: RunConfig, tmp_path: Path) -> None:
    config = small(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, observer=_StopAfter(3))
    with RunStore(config.folder / "store.sqlite") as store:
        assert store.run(config.name).status == "interrupted"
    train(config, resume=True)
    assert weights(config) == weights(finished)


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_stopped_run_resumes_to_the_same_weights(
    sent: signal.Signals, code: int, finished: RunConfig, tmp_path: Path
) -> None:
    """kill -9 and Ctrl-C in the middle of a step, in a process of its own."""
    config = small(tmp_path)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "agentrl.cli", "train", str(tmp_path / "config.yaml"), f"name={config.name}"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # ignored below a shell's background job
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if _train_steps(config) >= 3:
            break
        time.sleep(0.02)
    os.kill(process.pid, sent)
    assert process.wait(timeout=120) == code
    assert _train_steps(config) >= 3
    if sent == signal.SIGINT:  # the last whole step is kept, not only every second one
        (kept,) = (config.folder / "checkpoints").glob("step-*")
        assert int(kept.name.removeprefix("step-")) >= _train_steps(config)
    resumed = subprocess.run(
        [sys.executable, "-m", "agentrl.cli", "train", "--resume", str(config.folder)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert weights(config) == weights(finished)
    with RunStore(config.folder / "store.sqlite") as store:
        episodes = [(e.step, e.group, e.member) for e in store.episodes(store.runs()[0].id, phase="train")]
    assert len(episodes) == len(set(episodes)) == 4 * 4 * 4


def _train_steps(config: RunConfig) -> int:
    file = config.folder / "metrics.jsonl"
    return file.read_text().count('"phase": "train"') if file.exists() else 0


def test_kl_and_lora(tmp_path: Path) -> None:
    overrides = ["loss.regularisers=[{name: kl, estimator: k3, beta: 0.1}]", "model.lora={rank: 4}", "steps=2"]
    config = small(tmp_path, *overrides)
    train(config)
    lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["kl"] for line in lines if line["phase"] == "train"]


@pytest.mark.slow
def test_groups_without_signal_are_dropped_and_replaced(tmp_path: Path) -> None:
    """Dynamic sampling: every group that was trained on has variance, the others are kept as data; a resumed run
    draws the same tasks in the place of the dropped ones."""
    dynamic = ("rollout.drop_without_signal=true", "rollout.refill=3", "rollout.strategy={name: branch, turns: [1]}")
    config = small(tmp_path, *dynamic, "eval.episodes=0", "warm_start.steps=40", "steps=3", "checkpoint.every=1")
    with pytest.raises(KeyboardInterrupt):
        train(config, observer=_StopAfter(2))
    train(config, resume=True)
    with RunStore(config.folder / "store.sqlite") as store:
        (run,) = store.runs()
        logged = dict(store.metrics(run.id, "train"))
        assert sorted(logged) == [1, 2, 3]
        for step, metrics in logged.items():
            episodes = list(store.episodes(run.id, phase="train", step=step))
            groups: dict[str, set[float]] = {}
            for episode in episodes:
                groups.setdefault(episode.group, set()).add(episode.reward)
            without = sum(len(rewards) == 1 for rewards in groups.values())
            assert metrics["groups/dropped"] == without
            kept = len(groups) - without
            assert kept <= 4 and metrics["episodes"] == 4 * kept
            assert kept == 4 or without > 3 * 4  # all that were wanted, or the end of the patience
            assert metrics["skipped"] == float(kept == 0)
            assert metrics.get("zero_variance_groups", 0.0) == 0.0


def test_a_step_without_signal_is_skipped(tmp_path: Path) -> None:
    """An untrained policy is never right: nothing to learn from, and the weights stay as they are."""
    never = ("rollout.drop_without_signal=true", "rollout.refill=0", "warm_start=null", "steps=2", "eval.episodes=0")
    config = small(tmp_path, *never)
    train(config)
    with RunStore(config.folder / "store.sqlite") as store:
        logged = dict(store.metrics(store.runs()[0].id, "train"))
    assert all(metrics["skipped"] == 1.0 and metrics["groups/dropped"] > 0 for metrics in logged.values())
    assert "grad_norm" not in logged[1]


def test_a_second_run_does_not_overwrite_the_first(finished: RunConfig) -> None:
    with pytest.raises(ConfigError, match="resume it or choose another name"):
        train(finished)


def test_a_run_that_fails_says_so_in_the_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = small(tmp_path, f"model.name={tmp_path / 'empty'}")
    with pytest.raises(ConfigError):
        train(config)
    with RunStore(config.folder / "store.sqlite") as store:
        assert [run.status for run in store.runs()] == ["failed"]


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        train(small(tmp_path), resume=True)


def test_rows_that_differ_from_the_samples_stop_the_run(finished: RunConfig) -> None:
    with RunStore(finished.folder / "store.sqlite") as store:
        record = next(iter(store.episodes(store.runs()[0].id, phase="train")))
    trajectory = record.trajectory
    trainer = Trainer(finished, Observer())
    trainer.weights_hash = trajectory.turns[0].weights_hash
    trainer.check_records([trajectory])
    trainer.weights_hash = "other"
    with pytest.raises(TrainingError, match="sampled by weights"):
        trainer.check_records([trajectory])
    with pytest.raises(TrainingError, match="every episode was aborted"):
        trainer.check_records([])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.id=agentrl/Arithmetik-v0", "did you mean 'agentrl/Arithmetic-v0'"),
        ("env.options={levels: [9]}", "level"),
        ("env.options={level: [1]}", "levels"),
        ("model.name=smollm3", "smollm2-135m-instruct"),
        ("advantages=[grop]", "grpo"),
        ("advantages=[{name: grpo, epsilon: 1}]", "eps"),
        ("loss.objective=clipp", "clip"),
        ("loss.reduction=seq_mean_token_sum_norm", "loss.norm"),
        ("engine.name=vlm", "did you mean 'vllm'"),
        ("rollout.on_failure=retri", "did you mean 'retry'"),
        ("rollout.stop_after=3", "drop_without_signal"),
        ("rollout.decoding=8", "deterministic=false"),
        ("rollout.strategy={name: branch, turns: [9]}", "rollout.max_turns"),
        ("rollout.strategy=indepedent", "independent"),
        ("rollout.group_size=1", "group"),
        ("eval.episodes=1000000", "eval.episodes"),
        ("model.device=tpu9", "model.device"),
        ("model.tool_format=xml", "hermes"),
        ("env.train_split=trian", "train"),
    ],
)
def test_mistakes_are_one_line_at_start(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AgentRLError) as caught:
        train(small(tmp_path, override))
    assert isinstance(caught.value, ConfigError)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*/metrics.jsonl"))
