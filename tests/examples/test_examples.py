"""Every example runs as a user would run it, in its small form."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.stub_server import stub_server

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["steps=1", "eval.episodes=4", "warm_start.steps=2", "warm_start.episodes_per_step=2"]
SMALL += ["rollout.groups_per_step=2", "rollout.group_size=2"]
CASES = {
    "train_from_python.py": SMALL,
    "custom_environment.py": SMALL,
    "custom_advantage.py": SMALL,
    "custom_objective.py": SMALL,
    "custom_tool.py": [],
    "evaluate_model.py": ["oracle", "core", "2"],
    "learn_with_tools.py": ["math", *SMALL, "--seeds", "0"],
    "stream_rollouts.py": ["--groups", "8", "--in-flight", "discard", "--branch"],
    "evaluate_endpoint.py": ["--tasks", "6"],
}


def run(script: str, arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "AGENTRL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_has_a_case() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(CASES)


@pytest.mark.parametrize(
    "script",
    [
        "custom_environment.py",
        *(
            pytest.param(f"{name}.py", marks=pytest.mark.slow)
            for name in ("custom_advantage", "custom_objective", "train_from_python")
        ),
    ],
)
def test_training_examples_leave_a_report(script: str, tmp_path: Path) -> None:
    run(script, CASES[script], tmp_path)
    reports = list(tmp_path.glob("runs/*/report.html"))
    assert len(reports) == 1
    assert "<svg" in reports[0].read_text() or "data:image/png" in reports[0].read_text()


def test_custom_tool_answers_and_explains(tmp_path: Path) -> None:
    out = run("custom_tool.py", [], tmp_path)
    assert "42.165 km" in out
    assert "use km or miles" in out
    assert "[invalid_arguments]" in out


def test_rollouts_stream_over_weight_updates_and_branches(tmp_path: Path) -> None:
    out = run("stream_rollouts.py", CASES["stream_rollouts.py"], tmp_path)
    assert len([line for line in out.splitlines() if "-v0 " in line]) == 8
    assert "--- version 2" in out and "agentrl/SQL-v0" in out
    assert "x the lower bound" in out and "decode" in out


async def test_an_endpoint_is_evaluated(tmp_path: Path) -> None:
    async with stub_server() as stub:
        arguments = [stub.url, *CASES["evaluate_endpoint.py"]]
        out = await asyncio.to_thread(run, "evaluate_endpoint.py", arguments, tmp_path)
        assert "accuracy 0.0%" in out and "0 episodes missing" in out
        probe, *played = stub.asked
        assert len(played) == 6 and "tools" not in probe.body
        assert all(asked.body["messages"][-1]["role"] == "user" and asked.body["tools"] for asked in played)
    with pytest.raises(AssertionError, match=r"error: .*no answer in"):  # one task more than the folder holds
        await asyncio.to_thread(run, "evaluate_endpoint.py", [*arguments[:-1], "7"], tmp_path)


def test_evaluate_oracle(tmp_path: Path) -> None:
    out = run("evaluate_model.py", CASES["evaluate_model.py"], tmp_path)
    assert "total          accuracy 100.0%" in out and "24 episodes" in out
    assert "finished before" in run("evaluate_model.py", CASES["evaluate_model.py"], tmp_path)


@pytest.mark.slow
def test_learning_with_and_without_tools_is_compared(tmp_path: Path) -> None:
    out = run("learn_with_tools.py", CASES["learn_with_tools.py"], tmp_path)
    rows = json.loads((tmp_path / "runs" / "learn_with_tools_math.json").read_text())
    assert [(row["task"], row["seed"], row["tools"]) for row in rows] == [("math", 0, True), ("math", 0, False)]
    assert all(set(row) >= {"base", "warm_start", "trained"} for row in rows)
    assert "tools" in out and "alone" in out
