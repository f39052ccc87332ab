"""What a recipe's credit and loss cost beside plain GRPO's: scoring pass, transforms, forward, backward and step.

Recipe and `grpo` take turns on the same batch of episodes with the same model, so the ratio is of one run on one
machine: median over rounds of the recipe's CPU seconds by GRPO's. Optimiser steps a batch are set to one for all, since
a recipe that takes four costs four by its own choice.

    python benchmarks/objectives.py
    python benchmarks/objectives.py --recipes gspo dapo ppo --rounds 7
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import track
from transformers import LlamaConfig, LlamaForCausalLM

from agentrl.advantages import attribute, credited_batch, tables_of
from agentrl.assembly import build_learner, build_transforms
from agentrl.config import RunConfig, load_config
from agentrl.learner import Policy
from agentrl.messages import assistant
from agentrl.needs import union
from agentrl.recipes import describe_recipe, recipe_names
from agentrl.recipes.summary import needs
from agentrl.trajectory import ToolCallRecord, Trajectory, Turn

VOCABULARY = 4096
LEFT_OUT = ("grpo", "igpo")
"""The measure itself, and what scores gold answers, which random episodes have not."""


def make_policy() -> Policy:
    """A Llama of 2.5 million parameters, always the same."""
    torch.manual_seed(0)
    shape = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=4, max_position_embeddings=2048, **shape)
    config.tie_word_embeddings = True
    return Policy(LlamaForCausalLM(config), precision="fp32")


def make_groups(groups: int, members: int, turns: int, tokens: int) -> list[list[Trajectory]]:
    """Episodes of random tokens; every group has both outcomes."""
    rng = random.Random(0)
    made = []
    for group in range(groups):
        episodes = []
        for member in range(members):
            correct = float(member % 3 == 0)
            episode = Trajectory(f"task-{group}", member=member, metrics={"correct": correct, "f1": correct})
            for turn in range(turns):
                ids = [rng.randrange(VOCABULARY) for _ in range(tokens)]
                call = ToolCallRecord("calculator", "{}", "1")
                episode.turns.append(
                    Turn(
                        new_ids=[rng.randrange(VOCABULARY) for _ in range(64 if turn == 0 else 16)],
                        prefix_turn=turn - 1 if turn else None,
                        sampled_ids=ids,
                        logprobs=[-9.0] * tokens,
                        message=assistant(f"{rng.random()}"),
                        reward=correct if turn == turns - 1 else 0.1 * rng.randrange(2),
                        tool_calls=[call] if turn < turns - 1 else [],
                        state_key=f"{turn}.{rng.randrange(2)}",
                    )
                )
            episodes.append(episode)
        made.append(episodes)
    return made


class Case:
    """One recipe around a policy of its own."""

    def __init__(self, name: str, groups: Sequence[list[Trajectory]], micro_batch_tokens: int) -> None:
        values: dict[str, Any] = {"optimiser.minibatches": 1, "optimiser.epochs": 1, "model.precision": "fp32"}
        overrides = [f"{key}={value}" for key, value in values.items()]
        overrides += ["model.lora=null", f"optimiser.micro_batch_tokens={micro_batch_tokens}"]
        overrides += ["loss.mismatch_bound=null"]  # the episodes are trained on again and again
        self.config: RunConfig = load_config(recipe=name, overrides=overrides)
        self.groups = groups
        self.policy = make_policy()
        self.learner = build_learner(self.config, self.policy)
        self.transforms = build_transforms(self.config)

    def step(self) -> float:
        """CPU seconds of one step."""
        began = time.process_time()
        trajectories = [episode for group in self.groups for episode in group]
        columns = iter(self.learner.score(trajectories, union(item.needs for item in self.transforms)))
        tables = [tables_of(group, [next(columns) for _ in group]) for group in self.groups]
        batch = credited_batch(attribute(self.transforms, tables))
        self.learner.update(batch.trajectories, batch.advantages, columns=batch.columns)
        return time.process_time() - began


def record_behaviour(groups: Sequence[list[Trajectory]]) -> None:
    """Give the episodes the log-probabilities of the policy that all cases start from."""
    trajectories = [episode for group in groups for episode in group]
    learner = build_learner(load_config(recipe="grpo", overrides=["model.precision=fp32"]), make_policy())
    for trajectory, found in zip(trajectories, learner.score(trajectories, frozenset({"logprobs"})), strict=True):
        ends = np.cumsum([len(turn.sampled_ids) for turn in trajectory.turns])
        for turn, values in zip(trajectory.turns, np.split(found["logprobs"], ends[:-1]), strict=True):
            turn.logprobs = values.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = [name for name in recipe_names() if describe_recipe(name).get("section")]
    methods = [name for name in methods if name not in LEFT_OUT]
    parser.add_argument("--recipes", nargs="+", default=methods, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="policy tokens a turn")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    options = parser.parse_args()
    groups = make_groups(options.groups, options.members, options.turns, options.tokens)
    record_behaviour(groups)
    rows = []
    for name in track(options.recipes, description="recipes"):
        plain, own = (Case(each, groups, options.micro_batch_tokens) for each in ("grpo", name))
        plain.step(), own.step()  # allocate
        ratios = [own.step() / plain.step() for _ in range(options.rounds)]
        rows.append((statistics.median(ratios), name, ", ".join(needs(own.config))))
    print(f"{'recipe':<22} {'x GRPO':>7}  needs")
    for ratio, name, text in sorted(rows):
        print(f"{name:<22} {ratio:7.2f}  {text}")


if __name__ == "__main__":
    main()
