"""Tiny random models and hand-made trajectories."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentrl.messages import Message
from agentrl.trajectory import Trajectory, Turn

VOCABULARY = 97

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # large enough that the distributions are far from uniform
}
_FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 6}),
}


def make_model(family: str = "llama", seed: int = 0, **options: Any) -> PreTrainedModel:
    """A tiny model with weights from `seed`."""
    config_class, model_class, extra = _FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(config_class(**(_COMMON | extra | options)))
    return model.eval()


def make_trajectory(rng: random.Random, turns: int = 2, fork: bool = False) -> Trajectory:
    """A trajectory of random tokens; with `fork` the last turn's context was rewritten."""
    trajectory = Trajectory(f"task-{rng.random():.6f}")
    for index in range(turns):
        length = rng.randint(2, 6)
        new = [rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 7))]
        prefix = None if index == 0 or (fork and index == turns - 1) else index - 1
        sampled = [rng.randrange(VOCABULARY) for _ in range(length)]
        logprobs = [-rng.uniform(3.0, 5.0) for _ in sampled]
        trajectory.turns.append(Turn(new, prefix, sampled, logprobs, Message(role="assistant", content="")))
    return trajectory


Batch = tuple[list[Trajectory], list[np.ndarray]]


def make_batch(seed: int = 0, size: int = 8) -> Batch:
    """Trajectories of one to three turns, some with a fork, and random token advantages."""
    rng = random.Random(seed)
    trajectories = [make_trajectory(rng, turns=1 + index % 3, fork=index % 4 == 2) for index in range(size)]
    noise = np.random.default_rng(seed)
    return trajectories, [noise.normal(size=item.num_policy_tokens) for item in trajectories]
