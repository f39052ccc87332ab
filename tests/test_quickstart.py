"""The main job with its real model, in its smallest form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from agentrl.config import load_config
from agentrl.trainer import train

SMALL = [
    "steps=1",
    "eval.episodes=8",
    "warm_start.steps=2",
    "warm_start.episodes_per_step=4",
    "rollout.groups_per_step=2",
    "rollout.group_size=4",
    "loss.regularisers=[{name: kl, beta: 0.01}]",  # gives every token a loss, whatever the rewards
]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    ("overrides", "bound"),
    [
        (["model.precision=fp32", "engine.options={}"], 1e-3),  # the same arithmetic, in another order
        ([], 3.0),  # bf16 on both sides: the mean below is what counts
    ],
    ids=["fp32", "bf16"],
)
def test_the_real_model_goes_through_the_whole_loop(overrides: list[str], bound: float, tmp_path: Path) -> None:
    config = load_config(recipe="quickstart", overrides=[*SMALL, *overrides], out=str(tmp_path))
    result = train(config)
    assert set(result.evaluations) == {"base", "warm_start", "trained"}
    lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    (step,) = [line for line in lines if line["phase"] == "train"]
    assert step["mismatch/max_abs"] < bound
    assert step["mismatch/mean_abs"] < 0.1
    assert step["peak_memory_gb"] < 8
    assert AutoModelForCausalLM.from_pretrained(config.folder / "policy").num_parameters() > 130e6
