"""`train`, `eval`, `report` for real: the recipe `tiny` in its smallest form."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.config import load_config

SMALL = [
    *("steps=2", "eval.episodes=4", "warm_start.steps=2", "warm_start.episodes_per_step=4"),
    *("rollout.groups_per_step=2", "rollout.group_size=2", "checkpoint.every=1"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder in which `agentrl train` was called in a process of its own, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    ran = subprocess.run(
        [sys.executable, "-m", "agentrl.cli", "train", "--recipe", "tiny", *SMALL],
        cwd=home, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return home, ran


@pytest.fixture
def run(trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> Path:
    """A copy of the run's folder, to be damaged at will."""
    return Path(shutil.copytree(trained[0] / "runs" / "tiny", tmp_path / "copy"))


def test_train_says_what_it_will_do_and_where_everything_is(trained) -> None:
    home, ran = trained
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout.startswith("model       tiny")
    last = dict(line.split(maxsplit=1) for line in ran.stdout.splitlines()[-3:])
    assert set(last) == {"run", "policy", "report"}
    assert all((home / path).exists() for path in last.values())
    assert load_config(home / "runs" / "tiny" / "config.yaml") == load_config(recipe="tiny", overrides=SMALL)


def test_a_second_run_gets_a_name_of_its_own(agentrl, trained, monkeypatch) -> None:
    monkeypatch.chdir(trained[0])
    plan = agentrl("train", "--recipe", "tiny", *SMALL, "--dry-run")
    assert "folder      runs/tiny-2" in plan.out
    agentrl("train", "--recipe", "tiny", *SMALL, "--name", "tiny").fails_in_one_line("resume it or choose another name")


def test_eval_of_a_run_plays_its_policy_and_prints_only_json(agentrl, trained, monkeypatch, tmp_path: Path) -> None:
    home, _ = trained
    monkeypatch.chdir(tmp_path)
    small = ("-n", "3", "limits.max_tokens=64", "--json")
    shown = agentrl("eval", "agentrl/Arithmetic-v0", "--model", str(home / "runs" / "tiny"), *small)
    result = json.loads(shown.out)
    assert result["total"]["judged"] == 3
    assert result["model"]["name"] == str(home / "runs" / "tiny")
    policy = agentrl("eval", "agentrl/Arithmetic-v0", "--model", str(home / "runs" / "tiny" / "policy"), *small)
    same = json.loads(policy.out)
    assert same["model"]["weights_hash"] == result["model"]["weights_hash"] != ""
    assert same["entries"][0]["outcomes"] == result["entries"][0]["outcomes"]
    assert same["total"]["tokens"] == result["total"]["tokens"] > 0


def test_report_again(agentrl, run: Path) -> None:
    (run / "report.html").unlink()
    shown = agentrl("report", str(run))
    assert shown.code == 0, shown.err
    assert Path(shown.out.strip()) == run / "report.html"
    assert (run / "report.html").is_file()


def test_resume_goes_on_with_more_steps(agentrl, run: Path, monkeypatch) -> None:
    monkeypatch.chdir(run)
    shown = agentrl("train", "--resume", ".", "steps=3")
    assert shown.code == 0, shown.err
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    assert steps == [1, 2, 3]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_resume_from_a_corrupt_checkpoint(agentrl, run: Path) -> None:
    """One flipped bit is found by the hash, a truncated file by its size; neither starts the run from the beginning."""
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    before = (run / "metrics.jsonl").read_text()
    flip(checkpoint / "model.safetensors")
    agentrl("train", "--resume", str(run), "steps=3").fails_in_one_line("corrupt", "model.safetensors")
    (checkpoint / "optimiser.pt").write_bytes(b"")
    agentrl("train", "--resume", str(run), "steps=3").fails_in_one_line("no checkpoint is complete")
    assert (run / "metrics.jsonl").read_text() == before


def test_resume_of_a_run_with_a_corrupt_configuration(agentrl, run: Path) -> None:
    (run / "config.yaml").write_text("steps: [")
    agentrl("train", "--resume", str(run)).fails_in_one_line("config.yaml", "not valid YAML")


def test_a_run_that_did_not_finish_has_no_policy_to_evaluate(agentrl, run: Path) -> None:
    shutil.rmtree(run / "policy")
    agentrl("eval", "core", "--model", str(run)).fails_in_one_line("without a trained policy", "--resume")
