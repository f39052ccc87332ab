"""Runs to report on, written through the real store: seeded, of any size, with any part left out."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

from agentrl.config import load_config
from agentrl.evaluation import summarise
from agentrl.messages import ToolCall, assistant, system, tool_result, user
from agentrl.store import RunStore
from agentrl.trajectory import ToolCallRecord, Trajectory, Turn

STAGES = {"eval/base": 0.05, "eval/warm_start": 0.55, "eval/trained": 0.92}
EPISODES = 40


def episode(task: str, right: bool, observation: str = "84 + 62 = 146", says: str = "The answer is 146.") -> Trajectory:
    """Two turns: a calculator call, then the answer."""
    call = ToolCall(id="call_0", name="calculator", arguments='{"expression": "84 + 62"}')
    record = ToolCallRecord("calculator", call.arguments, observation, None, 0.0004)
    first = Turn(
        [1, 2, 3], None, [4, 5, 6], [-0.1, -0.2, -0.3], assistant("", (call,)),
        [tool_result(observation, "call_0")], 0.0, [record],
    )  # fmt: skip
    last = Turn([7, 8], 0, [9, 10], [-0.5, -0.25], assistant(says), reward=float(right))
    return Trajectory(
        task,
        "agentrl/Arithmetic-v0",
        opening=[system("You can use a calculator."), user(f"What is 84 + 62? ({task})")],
        turns=[first, last],
        metrics={"correct": float(right), "correct_tool_use": float(right)},
        seconds=1.25,
    )


def write_run(
    folder: Path,
    steps: int = 8,
    planned: int = 8,
    stages: Sequence[str] = tuple(STAGES),
    config: bool = True,
    name: str = "quickstart",
) -> Path:
    """A run's folder as the trainer leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    settings = load_config(name=name, steps=planned)
    if config:
        (folder / "config.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    with RunStore(folder / "store.sqlite") as store:
        run = store.begin_run(name, settings.to_yaml())
        for step in range(1, steps + 1):
            _write_step(store, run, step, 0.55 + 0.4 * step / max(1, steps), rng)
        for phase in stages:
            at = steps if phase == "eval/trained" else 0
            episodes = [episode(f"test-{index:03d}", rng.random() < STAGES[phase]) for index in range(EPISODES)]
            for index, made in enumerate(episodes):
                store.add_episode(run, phase, at, f"{index:05d}", 0, made)
            result = summarise(
                episodes, model="m", env="e", split="test", temperature=1.0, seed=0, seconds=20.0 + rng.random()
            )
            store.log(run, phase, at, result.to_metrics())
    return folder


def _write_step(store: RunStore, run: int, step: int, accuracy: float, rng: random.Random) -> None:
    rollout, update = 18 + 4 * rng.random(), 11 + rng.random()
    metrics = {
        "reward": accuracy,
        "accuracy": accuracy,
        "loss": math.nan if step == 2 else rng.gauss(0, 0.1),
        "grad_norm": 1 + rng.random(),
        "kl": 0.01 * step,
        "aborted": 0.0,
        "tokens_per_second": 150 + 10 * rng.random(),
        "seconds": rollout + update + 0.4,
        "seconds/rollout": rollout,
        "seconds/update": update,
        "seconds/other": 0.4,
        "stop/terminated": 1 - 0.01 * step,
    }
    store.log(run, "train", step, metrics)
    for member in range(2):
        store.add_episode(run, "train", step, "g", member, episode(f"train-{step}", member == 1))
