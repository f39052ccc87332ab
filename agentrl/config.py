"""A run as pydantic models: YAML, dotted command-line overrides and Python give the same object.

Invariants: unknown keys are refused with the nearest valid one; the resolved configuration that is written beside a run
reproduces it; whatever a component cannot honour is found by the trainer before the first token is sampled.
Precedence, lowest first: field defaults, recipe, CONFIG file, `--env` / `--model`, dotted overrides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from agentrl.settings import Section, assign, merge, parse_overrides, read_yaml, validated

ComponentSpec = str | dict[str, Any]
"""A component by name, or `{"name": ..., option: value, ...}`."""


class LoraConfig(Section):
    """Low-rank adapters (peft); everything else stays frozen and serves as the reference policy."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    target_modules: str | list[str] = "all-linear"
    init: Literal["default", "pissa"] = "default"
    """How adapters begin: `default` (recommended) without effect, `pissa` with the top singular directions of each
    matrix, a negative control of method 02. Under `pissa` a reference is a copy of the model."""


class ModelConfig(Section):
    """The policy."""

    name: str = "smollm2-135m-instruct"
    """A hub id, a local folder, a GGUF file, or a built-in name (`agentrl models list`)."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Autocast precision of the learner; master weights are always fp32."""
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False
    tool_format: str = "auto"
    """How the policy writes tool calls, by name; `auto`: as the chat template writes or teaches them, else `hermes`."""
    tool_prompt: Literal["schema", "signature", "none"] = "schema"
    """How a template without tool support tells the policy of its tools: in full, in one line, not at all."""
    history: Literal["template", "keep"] = "template"
    """Where the chat template would rewrite what was sampled (dropped thinking): `template` shows the policy what the
    template makes of it, and the training row forks; `keep` goes on from what was sampled, and no row ever forks."""
    device: str = "auto"
    """`auto`: the first GPU where there is one, else the CPU."""


class EnvConfig(Section):
    """The environment and its tasks."""

    id: str = "agentrl/Arithmetic-v0"
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment."""
    train_split: str = "train"
    eval_split: str = "test"


class EngineConfig(Section):
    """Who generates."""

    name: str = "transformers"
    options: dict[str, Any] = Field(default_factory=dict)


class RolloutConfig(Section):
    """How episodes are sampled."""

    strategy: ComponentSpec = "independent"
    groups_per_step: int = Field(8, ge=1)
    """Tasks sampled in a training step."""
    group_size: int = Field(8, ge=1)
    """Episodes of each task."""
    max_turns: int = Field(8, ge=1)
    max_turn_tokens: int = Field(256, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    """Tokens sampled in a whole episode."""
    max_context: int = Field(4096, ge=2)
    tool_calls: int | None = Field(None, ge=0)
    """Tool calls executed in a whole episode; a message that calls more than are left ends it."""
    temperature: float = Field(1.0, gt=0)
    concurrency: int = Field(64, ge=1)
    """Episodes at one time."""
    decoding: int | Literal["auto"] | None = None
    """Generations at one time, those with the most turns to come first; `auto` follows the engine's load."""
    tools: int | None = Field(None, ge=1)
    """Tool calls at one time."""
    sandboxes: int | None = Field(None, ge=1)
    """Episodes at one time that hold a sandbox."""
    episode_seconds: float = Field(600.0, gt=0)
    """Hard deadline of an episode, teardown included."""
    step_seconds: float = Field(120.0, gt=0)
    reset_seconds: float | None = Field(None, gt=0)
    generate_seconds: float | None = Field(None, gt=0)
    engine_retries: int = Field(2, ge=0)
    on_failure: ComponentSpec = "minimum_group"
    """What a failed episode means: `fail_fast`, `{name: retry, times: 1}`, `{name: minimum_group, members: 2}`."""
    drop_without_signal: bool = False
    """Drop groups in which all members are correct, or none (without a verdict: whose rewards are all equal), and
    sample other tasks in their place (dynamic sampling)."""
    stop_after: int | None = Field(None, ge=2)
    """With that: equal outcomes after which the rest of a group is stopped."""
    refill: float = Field(4.0, ge=0)
    """Most groups that are dropped in a step, in multiples of `groups_per_step`."""


class WarmStartConfig(Section):
    """Supervised steps on the oracle's episodes before reinforcement learning."""

    steps: int = Field(12, ge=1)
    episodes_per_step: int = Field(16, ge=1)
    lr: float = Field(2e-5, gt=0)


class LossConfig(Section):
    """What the learner minimises."""

    objective: ComponentSpec = "clip"
    regularisers: list[ComponentSpec] = Field(default_factory=list)
    reduction: Literal[
        "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm", "turn_mean"
    ] = "token_mean"
    norm: float | None = Field(None, gt=0)
    """C of `seq_mean_token_sum_norm`, one constant for the whole run."""
    behaviour: Literal["recorded", "recomputed"] = "recorded"
    """Old log-probabilities: the engine's records, or the learner's own before the first update of a batch."""
    correction: ComponentSpec | None = None
    """Weights of the policy loss for the gap between the engine's records and `behaviour: recomputed`."""
    mismatch_bound: float | None = Field(0.1, gt=0)
    """Most that the engine's log-probabilities may differ from the learner's under the same weights, nats a token, in
    the mean of absolute differences over a step; more stops the run before its weights move. null: only measured.
    Healthy are up to 1e-5 with float32 on both sides and 0.03 with bfloat16; another temperature gives 0.02 (a policy
    that is nearly certain) to 0.2, so that a float32 run may ask for 1e-3."""


class MaskConfig(Section):
    """Sparse training (method 02): entries of the linear layers that move; built once from the weights at the start."""

    name: Literal["safe", "principal", "random"] = "safe"
    """`safe`: low-magnitude entries and those off the principal directions, about 70 % of all; the controls are
    `principal`: the principal ones alone, and `random`: as many as `safe` has."""
    alpha: float = Field(0.5, gt=0, lt=1)
    """Share of entries that counts as principal, and as low."""
    rank: int | None = Field(None, ge=1)
    """Rank of the approximation that tells principal entries; null: 10 % of a matrix' smaller side, at most 512."""
    seed: int = Field(0, ge=0)
    """Of `random`."""


class OptimiserConfig(Section):
    """AdamW."""

    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(0, ge=0)
    minibatches: int = Field(1, ge=1)
    """Optimiser steps that a batch of episodes is divided into."""
    epochs: int = Field(1, ge=1)
    """Passes over a batch of episodes."""
    micro_batch_tokens: int = Field(4096, ge=1)
    """Packed tokens of one forward and backward pass."""
    mask: MaskConfig | None = None
    """Train a fixed part of the linear layers' entries and freeze the rest, in warm start and reinforcement alike."""


class CriticConfig(Section):
    """The critic of transforms that need `values`. It takes part in every optimiser step with an AdamW of its own, as
    `optimiser` describes it but for the learning rate."""

    kind: Literal["shared", "own"] = "shared"
    """`shared`: a value head on the policy's last hidden states; `own`: a model of its own, which begins as the policy
    did before any step."""
    lr: float = Field(1e-5, gt=0)
    clip: float | None = Field(0.2, gt=0)
    """eps_v: how far a value may go from the one that the advantages were computed with before its loss stops paying;
    null: any way."""
    coefficient: float | None = Field(None, gt=0)
    """`shared` only: weight of the value loss in the policy's own gradient; null: that loss moves the head alone."""
    lora: LoraConfig | None = None
    """`own` only: train adapters instead of all weights."""
    warmup_steps: int = Field(0, ge=0)
    """First training steps in which the critic learns and the policy stands still."""

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> CriticConfig:
        if self.kind == "own" and self.coefficient is not None:
            raise ValueError("coefficient weighs a trunk that is shared with the policy; kind=own has none")
        if self.kind == "shared" and self.lora is not None:
            raise ValueError("lora adapts a trunk of the critic's own; set kind=own, or remove it")
        return self


class EvalConfig(Section):
    """Held-out evaluation before and after training, and on the way."""

    episodes: int = Field(200, ge=0)
    every: int = Field(0, ge=0)
    """Training steps between evaluations; 0: only at the end."""
    temperature: float = Field(1.0, ge=0)
    before: bool = True
    """Evaluate the base model and the warm-started one too."""


class CheckpointConfig(Section):
    """Checkpoints to resume from."""

    every: int = Field(5, ge=1)
    """Training steps between checkpoints; one is always written before the first step and after the last."""
    keep: int = Field(1, ge=1)


def _default_advantages() -> list[ComponentSpec]:
    return ["grpo"]


class RunConfig(Section):
    """A training run."""

    name: str = "run"
    """The run's folder is `<out>/<name>`."""
    out: Path = Path("runs")
    recipe: str | None = None
    """The recipe that this configuration started from; for the record."""
    seed: int = Field(0, ge=0)
    store: str | None = None
    """Database that runs share, a URL such as `postgresql://user@host/runs` or `sqlite:////data/runs.sqlite`; null: the
    file `store.sqlite` in the run's folder."""
    sinks: list[ComponentSpec] = Field(default_factory=list)
    """Where metrics go beside the store: `tensorboard`, `{name: wandb, project: ..., mode: offline}`."""
    steps: int = Field(100, ge=0)
    """Reinforcement-learning steps."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    env: EnvConfig = Field(default_factory=EnvConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    warm_start: WarmStartConfig | None = None
    sampler: ComponentSpec = "shuffled"
    """Which tasks a step samples."""
    advantages: list[ComponentSpec] = Field(default_factory=_default_advantages)
    """Transforms of credit, in order."""
    critic: CriticConfig | None = None
    """Who predicts the `values` that gae, turn_gae and bilevel_gae read."""
    loss: LossConfig = Field(default_factory=LossConfig)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)

    @property
    def folder(self) -> Path:
        """Where the run keeps everything."""
        return self.out / self.name

    def to_yaml(self) -> str:
        """The resolved configuration; `load_config` reads it back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(
    file: Path | None = None,
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    **values: Any,
) -> RunConfig:
    """Resolve a configuration.

    `overrides` are `dotted.key=value` strings with YAML values; `values` are dotted keys too, with `__` for the dot
    (`env__id="..."`). Raises `ConfigError`, one line: key, value, what is valid.
    """
    from agentrl.recipes import load_recipe

    tree: dict[str, Any] = {}
    if recipe is not None:
        tree = load_recipe(recipe)
        tree["recipe"] = recipe
    if file is not None:
        merge(tree, read_yaml(file, "config file"))
    for key, value in values.items():
        assign(tree, key.replace("__", "."), value)
    return validate(parse_overrides(overrides, tree))


def validate(tree: dict[str, Any]) -> RunConfig:
    """The configuration that `tree` describes; raises `ConfigError` with one line."""
    return validated(RunConfig, tree)
