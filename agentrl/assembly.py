"""From a configuration to the objects of a run, with every check that can be made before the first token.

`check` builds all that needs no weights; `assemble` loads the model too. Invariant: what passes `check` and `assemble`
does not fail later for a wrong name, option or combination.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from agentrl import registry
from agentrl.components import construct, split_spec
from agentrl.config import EnvConfig, RolloutConfig, RunConfig
from agentrl.env import Env, TaskSet, ensure_env, make
from agentrl.errors import ConfigError
from agentrl.needs import split, union
from agentrl.rollout import GroupRequest, Rollout, RolloutContext, RolloutLimits, RolloutPolicies
from agentrl.trajectory import Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from agentrl.advantages.base import Transform
    from agentrl.chat import ChatRenderer
    from agentrl.engines.base import Engine
    from agentrl.learner import Learner, Policy
    from agentrl.objectives import Correction, Objective, Regulariser
    from agentrl.sampler import Sampler

VALUES = ("values", "values_after")
"""The quantities of a critic."""

EpisodeHook = Callable[[GroupRequest, Trajectory], None]


@dataclass
class Actors:
    """What samples episodes: a policy behind an engine, a renderer, environments."""

    engine: Engine
    renderer: ChatRenderer
    make_env: Callable[[], Env]
    limits: RolloutLimits
    strategy: str | dict[str, Any] = "independent"
    policies: RolloutPolicies = field(default_factory=RolloutPolicies)

    def rollout(self, on_episode: EpisodeHook | None = None) -> Rollout:
        """The configured rollout strategy."""
        context = RolloutContext(
            self.engine, self.renderer, self.make_env, self.limits, on_episode, policies=self.policies
        )
        rollout: Rollout = construct(registry.rollouts, self.strategy, context)
        return rollout

    def evaluation(self, on_episode: EpisodeHook | None, temperature: float) -> Rollout:
        """Independent chains, whatever training samples: every task counts, and what fails is data."""
        limits = replace(self.limits, temperature=temperature)
        context = RolloutContext(self.engine, self.renderer, self.make_env, limits, on_episode)
        rollout: Rollout = construct(registry.rollouts, "independent", context)
        return rollout


def env_factory(env: EnvConfig) -> Callable[[], Env]:
    """Makes the configured environment; the name and the options are checked by making one now."""
    factory = partial(_make_env, env.id, env.options)
    factory()
    return factory


def _make_env(env_id: str, options: dict[str, Any]) -> Env:
    return ensure_env(make(env_id, **options))


def task_set(env: Env, split: str, key: str) -> TaskSet:
    """The tasks of a split; raises `ConfigError` if there are none."""
    tasks = env.tasks(split)
    if len(tasks) == 0:
        raise ConfigError(f"{key}={split!r}: the environment has no tasks in that split")
    return tasks


def limits_of(rollout: RolloutConfig) -> RolloutLimits:
    """The rollout limits of a configuration. It has no `top_p`: training samples the whole distribution."""
    names = RolloutLimits.__dataclass_fields__.keys() & RolloutConfig.model_fields.keys()
    return RolloutLimits(**{name: getattr(rollout, name) for name in names})


def policies_of(rollout: RolloutConfig) -> RolloutPolicies:
    """The rollout policies of a configuration. Training is synchronous: no episode is under way at an update."""
    return RolloutPolicies(
        on_failure=rollout.on_failure,
        drop_without_signal=rollout.drop_without_signal,
        stop_after=rollout.stop_after,
        refill=rollout.refill,
    )


def build_rollout(rollout: RolloutConfig) -> Rollout:
    """The rollout strategy over nothing, for its checks; those that depend on the engine are made at the start."""
    from agentrl.engines.base import Unserved

    def nothing() -> Env:
        raise AssertionError("no episode is played here")

    context = RolloutContext(Unserved(), None, nothing, limits_of(rollout), policies=policies_of(rollout))
    strategy: Rollout = construct(registry.rollouts, rollout.strategy, context)
    return strategy


def build_transforms(config: RunConfig) -> list[Transform]:
    """The credit transforms in order, checked."""
    from agentrl import advantages

    transforms = advantages.build(config.advantages)
    advantages.check_order(transforms, config.rollout.group_size)
    _check_critic(config, transforms)
    return transforms


def _check_critic(config: RunConfig, transforms: Sequence[Transform]) -> None:
    """A critic is there exactly if a transform reads its values."""
    reading = [item for item in transforms if any(split(name)[0] in VALUES for name in item.needs)]
    if reading and config.critic is None:
        raise ConfigError(
            f"advantages: {type(reading[0]).__name__} needs the values of a critic, and there is none; "
            "set critic.kind=shared or critic.kind=own"
        )
    if config.critic is not None and not reading:
        raise ConfigError(
            "critic: no transform of advantages reads its values; add gae, turn_gae or bilevel_gae, or set critic=null"
        )


def check_answers(transforms: Sequence[Transform], env: Env, tasks: TaskSet) -> None:
    """Raise `ConfigError` for a transform that scores gold answers where the first task has none that is text."""
    asking = [name for transform in transforms for name in transform.needs if split(name)[0] == "answer_probability"]
    if not asking:
        return
    from agentrl.learner.answers import gold_answers

    if not gold_answers(env.gold(tasks[0])):
        raise ConfigError(
            f"advantages: {asking[0]} needs a gold answer that is text; the environment's task {tasks[0].id!r} has none"
        )


def build_sampler(config: RunConfig) -> Sampler:
    """The task sampler."""
    from agentrl import pair_sampler  # noqa: F401 - registers itself, as the default does
    from agentrl.sampler import Sampler

    sampler = construct(registry.samplers, config.sampler)
    if not isinstance(sampler, Sampler):
        name = split_spec(config.sampler)[0]
        raise ConfigError(f"sampler {name!r} is of class {type(sampler).__name__}, not an agentrl Sampler")
    return sampler


def build_loss(config: RunConfig) -> tuple[Objective, list[Regulariser], Correction | None]:
    """The components of the loss, checked."""
    from agentrl import objectives

    loss = config.loss
    objectives.reduction_constant(loss.reduction, loss.norm)
    correction = None if loss.correction is None else objectives.build_correction(loss.correction)
    if correction is not None and loss.behaviour != "recomputed":
        raise ConfigError(
            "loss.correction compares the engine's records with the learner's own log-probabilities: "
            "set loss.behaviour=recomputed"
        )
    objective = objectives.build_objective(loss.objective)
    objectives.check_reduction(objective, loss.reduction)
    regularisers = [objectives.build_regulariser(spec) for spec in loss.regularisers]
    written = union(transform.writes for transform in build_transforms(config))
    for part in (objective, *regularisers):
        if missing := part.reads - written:
            raise ConfigError(
                f"loss: {type(part).__name__} reads {min(missing)}, which no transform of advantages writes"
            )
    return objective, regularisers, correction


def load_policy(config: RunConfig, source: str | None = None) -> tuple[Policy, PreTrainedTokenizerBase]:
    """The policy and its tokenizer; `source` replaces the configured model (a checkpoint's folder)."""
    from agentrl import models
    from agentrl.learner import Policy
    from agentrl.models.load import load_model, load_tokenizer

    resolved = models.resolve(source or config.model.name)
    tokenizer = load_tokenizer(resolved)
    model = load_model(resolved, device=_device(config.model.device), attn_implementation="agentrl")
    policy = Policy(
        model,
        lora=config.model.lora,
        precision=config.model.precision,
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
    return policy, tokenizer


def build_actors(config: RunConfig, policy: Policy, tokenizer: PreTrainedTokenizerBase) -> Actors:
    """Renderer, engine and environments around a loaded policy."""
    from agentrl.chat import ChatRenderer

    factory = env_factory(config.env)
    probe = factory()
    renderer = ChatRenderer(
        tokenizer,
        probe.tool_schemas(),
        tool_format=config.model.tool_format,
        tool_prompt=config.model.tool_prompt,
        history=config.model.history,
    )
    probe.close()
    engine_class = registry.engines.get(config.engine.name)
    engine: Engine = engine_class.for_policy(policy.model, stop_ids=renderer.stop_ids, **config.engine.options)
    rollout = config.rollout
    return Actors(engine, renderer, factory, limits_of(rollout), rollout.strategy, policies_of(rollout))


def build_learner(config: RunConfig, policy: Policy) -> Learner:
    """The learner with its objective, regularisers and optimiser."""
    from agentrl.learner import Learner, quantities

    objective, regularisers, correction = build_loss(config)
    needs = union(transform.needs for transform in build_transforms(config))
    if any(quantities.build(name).of == "reference" for name in needs):
        policy.keep_reference()  # now: warm-up and resuming would move the weights first
    return Learner(
        policy,
        objective=objective,
        regularisers=regularisers,
        correction=correction,
        reduction=config.loss.reduction,
        norm=config.loss.norm,
        behaviour=config.loss.behaviour,
        temperature=config.rollout.temperature,
        mismatch_bound=config.loss.mismatch_bound,
        optimiser=config.optimiser,
        critic=config.critic,
    )


def check(config: RunConfig) -> list[str]:
    """Check all that needs no weights, fetching nothing; returns the resolved plan, a line a slot.

    Raises `ConfigError`.
    """
    from agentrl import models
    from agentrl.records import check_store
    from agentrl.sinks import check_sinks

    kind = models.kind_of(config.model.name)
    probe = env_factory(config.env)()
    train_tasks = task_set(probe, config.env.train_split, "env.train_split")
    held_out = task_set(probe, config.env.eval_split, "env.eval_split")
    if config.eval.episodes > len(held_out):
        raise ConfigError(f"eval.episodes={config.eval.episodes}: the split has {len(held_out)} tasks")
    check_answers(build_transforms(config), probe, train_tasks)
    probe.close()
    _check_mask(config)
    build_sampler(config)
    build_loss(config)
    registry.engines.get(config.engine.name)
    build_rollout(config.rollout)
    check_store(config)
    check_sinks(config.sinks)
    rollout, losses = config.rollout, _names([config.loss.objective, *config.loss.regularisers])
    return [
        f"model       {config.model.name} ({kind}), {config.model.precision}, {_trained(config)}",
        f"environment {config.env.id}: {len(train_tasks)} training tasks, {len(held_out)} held-out",
        f"rollout     {rollout.groups_per_step} tasks x {rollout.group_size} episodes a step, "
        f"temperature {rollout.temperature:g}, engine {config.engine.name}",
        f"credit      {' -> '.join(_names(config.advantages))}{_critic(config)}",
        f"loss        {' + '.join(losses)}, {config.loss.reduction}",
        f"steps       {config.warm_start.steps if config.warm_start else 0} supervised, {config.steps} reinforcement",
        f"folder      {config.folder}",
    ]


def _names(specs: Sequence[str | dict[str, Any]]) -> list[str]:
    return [split_spec(spec)[0] for spec in specs]


def _check_mask(config: RunConfig) -> None:
    if config.optimiser.mask is not None and config.model.lora is not None:
        raise ConfigError(
            "optimiser.mask chooses which entries of the model's own matrices move; under model.lora none of them "
            "does: set model.lora=null or optimiser.mask=null"
        )


def _trained(config: RunConfig) -> str:
    if config.model.lora:
        start = "" if config.model.lora.init == "default" else f", {config.model.lora.init} initialisation"
        return f"LoRA rank {config.model.lora.rank}{start}"
    mask = config.optimiser.mask
    return f"{mask.name} entries of the linear layers trained" if mask else "all weights trained"


def _critic(config: RunConfig) -> str:
    return f", critic {config.critic.kind}" if config.critic else ""


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"model.device={name!r}: not a device; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"model.device={name!r}: torch sees no GPU here; use auto or cpu")
    return name
