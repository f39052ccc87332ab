"""Recipes with a critic or KL in the reward, whole: two steps of a toy run, and the same bits when it is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import agentrl
from agentrl.assembly import build_learner, check, load_policy
from agentrl.config import RunConfig, load_config
from agentrl.env import Action, GeneratedTasks, Step, Task, TaskSet, as_message
from agentrl.errors import ConfigError
from agentrl.learner import latest_checkpoint
from agentrl.messages import Message, user
from agentrl.observe import Observer
from agentrl.trainer import train


@agentrl.register("tests/Vowels-v0")
class Vowels(agentrl.Env):
    """Two turns, each worth the share of vowels in what was said: every policy has credit to tell apart."""

    def tasks(self, split: str) -> TaskSet:
        return GeneratedTasks(split, 50, lambda index: Task(f"{split}:{index}", split, (user("say"),), {}))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        task = self.choose_task(seed, options)
        self.turn = 0
        return task.messages, {"task": {"id": task.id}}

    def step(self, action: Action) -> Step:
        self.turn += 1
        text = as_message(action).text
        reward = sum(character in "aeiou" for character in text) / max(1, len(text))
        info: dict[str, Any] = {"tool_calls": [], "parse_error": False, "metrics": {}, "stop_reason": None}
        if self.turn < 2:
            return Step((user("again"),), reward, False, False, info)
        return Step((), reward, True, False, {**info, "metrics": {"correct": reward}, "stop_reason": "terminated"})


TOY = [
    "model={name: tiny, precision: fp32, tool_prompt: none}",
    "env.id=tests/Vowels-v0",
    "rollout.max_turn_tokens=8",
    "rollout.max_context=128",
    "steps=2",
    "eval={episodes: 0, before: false}",
    "checkpoint.every=1",
    "optimiser.lr=1e-3",
]
BUNDLED = ["bilevel_gae", "ppo", "reinforce_pp", "reinforce_pp_baseline", "turn_ppo"]


def toy(out: Path, recipe: str, *overrides: str) -> RunConfig:
    groups = 4 if recipe == "reinforce_pp_baseline" else 8
    size = 2 if recipe == "reinforce_pp_baseline" else 1
    sizes = [f"rollout.groups_per_step={groups}", f"rollout.group_size={size}"]
    return load_config(recipe=recipe, overrides=[*TOY, *sizes, *overrides], out=str(out))


def everything(config: RunConfig) -> dict[str, torch.Tensor]:
    """Weights of policy and critic in the last checkpoint."""
    path = latest_checkpoint(config.folder / "checkpoints")
    assert path is not None
    found = load_file(path / "model.safetensors")
    if (path / "critic.safetensors").exists():
        found |= {f"critic.{name}": value for name, value in load_file(path / "critic.safetensors").items()}
    return found


def metrics(config: RunConfig) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["phase"] == "train"]


class StopAfterOne(Observer):
    def step(self, step: int, metrics: object) -> None:
        if step == 1:
            raise KeyboardInterrupt


def run_twice(tmp_path: Path, recipe: str, *overrides: str) -> list[dict[str, Any]]:
    straight, stopped = (toy(tmp_path / name, recipe, *overrides) for name in ("straight", "stopped"))
    train(straight)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, observer=StopAfterOne())
    train(stopped, resume=True)
    left, right = everything(straight), everything(stopped)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    return metrics(straight)


@pytest.mark.parametrize("recipe", BUNDLED)
def test_a_recipe_passes_every_check_before_the_first_token(recipe: str) -> None:
    config = load_config(recipe=recipe)
    assert ("critic own" in " ".join(check(config))) == (config.critic is not None)


@pytest.mark.slow
def test_ppo_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    lines = run_twice(tmp_path, "ppo", "critic.lr=1e-3", "optimiser.minibatches=2")
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert {"critic/loss", "critic/clip_fraction", "critic/grad_norm", "credit/reward_kl"} <= line.keys()
    assert lines[0]["credit/reward_kl"] == 0.0 != lines[1]["credit/reward_kl"]
    assert lines[1]["credit/reward_kl_beta"] < lines[0]["credit/reward_kl_beta"]  # far below the target
    assert all(line["grad_norm"] > 0 for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in BUNDLED if name != "ppo"])
def test_the_others_train_and_resume_bit_for_bit(recipe: str, tmp_path: Path) -> None:
    lines = run_twice(tmp_path, recipe)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["grad_norm"] > 0 for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    "critic",
    ["critic={kind: shared, lr: 1.0e-3, coefficient: 0.1}", "critic={kind: own, lora: {rank: 2}, warmup_steps: 1}"],
)
def test_other_critics_train_and_resume_bit_for_bit(critic: str, tmp_path: Path) -> None:
    lines = run_twice(tmp_path, "bilevel_gae", "critic=null", critic, "model.lora={rank: 2}", "critic.clip=0.5")
    assert all(line["critic/loss"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["advantages=[gae]"], "GeneralisedAdvantage needs the values of a critic.*critic.kind=shared or"),
        (["critic.kind=own"], "no transform of advantages reads its values; add gae, turn_gae or bilevel_gae"),
        (["advantages=[gae]", "critic={kind: own, coefficient: 0.1}"], "critic: coefficient.*kind=own has none"),
        (["advantages=[gae]", "critic.lora.rank=4"], "critic: lora.*set kind=own"),
        (["advantages=[gae]", "critic.kind=huge"], "critic.kind='huge'"),
    ],
)
def test_a_critic_that_cannot_be_right_is_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check(load_config(overrides=overrides))
    assert "\n" not in str(caught.value)


def test_the_reference_of_a_penalty_is_the_model_as_it_was_handed_over(tmp_path: Path) -> None:
    """Not the first weights that happen to be scored: those of a resumed run have moved."""
    config = toy(tmp_path, "reinforce_pp")
    policy, _ = load_policy(config)
    learner = build_learner(config, policy)
    before = {name: weight.detach().clone() for name, weight in policy.trainable().items()}
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.1)
    with learner.policy.reading(reference=True) as reader:
        reference = dict(reader.model.named_parameters())
    assert all(torch.equal(before[name], reference[name]) for name in before)
