"""Every bundled recipe: it resolves, says where it comes from and what it needs, trains a small policy, and resumes.

The training runs replace the model, the environment's size and the schedule; what the recipe is made of stays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from agentrl.assembly import check
from agentrl.config import RunConfig, load_config
from agentrl.recipes import describe_recipe, load_recipe, recipe_names
from agentrl.recipes.summary import needs, slots
from agentrl.trainer import train

WITHOUT_A_PAPER = {"quickstart", "tiny", "tiny_code", "tiny_math", "tiny_search", "tiny_sql"}
METHODS = [name for name in recipe_names() if name not in WITHOUT_A_PAPER]
SMALL = [
    "model.precision=fp32",
    "model.tool_prompt=none",
    "model.lora=null",
    "engine.options={}",
    "env={id: agentrl/Arithmetic-v0, options: {levels: [1], digits: 1}}",
    "steps=3",
    "eval.episodes=0",
    "warm_start=null",
    "rollout.groups_per_step=4",
    "rollout.max_turns=2",
    "rollout.max_turn_tokens=24",
    "rollout.max_context=256",
    "rollout.refill=0",
    "optimiser.lr=1.0e-4",
    "optimiser.warmup_steps=0",
    "optimiser.micro_batch_tokens=8192",
    "checkpoint={every: 1, keep: 9}",
]
BRANCHES = "rollout.strategy={name: branch, turns: [1], roots: 2}"
FITTING = {  # options that depend on the environment that the recipe names, or on how many groups there are
    "arpo": [
        BRANCHES,
        "advantages=[{name: arpo_reward, metric: correct, tools: [calculator]}, arpo]",
        "optimiser.minibatches=1",
    ],
    "tree_grpo": [BRANCHES],
    "value_difference": [BRANCHES],
}

BRANCHING = {"arpo", "tree_grpo", "value_difference"}
"""When a branch begins depends on the clock, and with it what is decoded in one batch: equal up to rounding."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy that is right now and then."""
    overrides = ["steps=0", "eval.episodes=0", "warm_start.steps=80"]
    config = load_config(recipe="tiny", overrides=overrides, out=str(tmp_path_factory.mktemp("warm")))
    train(config)
    return config.folder / "policy"


def small(name: str, model: Path, out: Path) -> RunConfig:
    """The recipe on the policy of a million parameters."""
    recipe = load_recipe(name)
    fitting = list(SMALL)
    if recipe.get("rollout", {}).get("group_size", 8) > 1:
        fitting.append("rollout.group_size=4")
    else:
        fitting.append("rollout.groups_per_step=16")
    if recipe.get("optimiser", {}).get("minibatches", 1) > 1:
        fitting.append("optimiser.minibatches=2")
    if recipe.get("sampler", "shuffled") != "shuffled":
        fitting.append("sampler=shuffled")  # its probe wants a policy that is rarely right
    fitting += FITTING.get(name, ())
    return load_config(recipe=name, overrides=fitting, out=str(out), model__name=str(model))


def weights(config: RunConfig) -> dict[str, Tensor]:
    return load_file(config.folder / "policy" / "model.safetensors")


def bits(values: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in values.items()}


def mean_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    differences = torch.cat([(left[name] - right[name]).abs().flatten() for name in left])
    return float(differences.mean())


def logged(config: RunConfig) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["phase"] == "train"]


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_names_its_source_and_how_sure_it_is(name: str) -> None:
    about = describe_recipe(name)
    assert all(str(about.get(key, "")).strip() for key in ("description", "paper", "section", "confidence")), about


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_resolves_and_tells_its_slots_and_needs(name: str) -> None:
    config = load_config(recipe=name)
    assert check(config)
    assert {"sampler", "rollout", "credit", "objective", "reduction", "updates"} <= set(slots(config))
    assert all(isinstance(need, str) for need in needs(config))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_trains_logs_and_resumes_as_if_uninterrupted(name: str, policy: Path, tmp_path: Path) -> None:
    whole, halved = (small(name, policy, tmp_path / part) for part in ("whole", "halved"))
    train(whole)
    steps = logged(whole)
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert any(step.get("grad_norm", 0) > 0 for step in steps), "no step was taken: the test says nothing of the method"
    assert {"zero_variance_groups", "reward"} <= set(steps[0])
    train(halved.model_copy(update={"steps": 1}))
    first = weights(halved)
    train(halved, resume=True)
    assert mean_difference(first, weights(whole)) > 1e-5, "no step after the first: resuming says nothing"
    if name in BRANCHING:
        assert mean_difference(weights(halved), weights(whole)) < 1e-6
    else:
        assert bits(weights(halved)) == bits(weights(whole))
