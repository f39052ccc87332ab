"""The critic: the value of the state before each policy token, and how it learns (B5).

A value head, one linear map in float32 that starts at zero, reads the last hidden state that predicts the token: of the
policy (`shared`) or of a model of its own that begins as the policy did (`own`). Invariants: V_k has seen the tokens
before k and not k itself; the value loss is a mean over the tokens of the whole optimiser step that have a target, so
it does not depend on micro-batches; policy and critic step together or not at all.
Source: methods specification, B5; verl `compute_value_loss`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from agentrl.config import CriticConfig, OptimiserConfig
from agentrl.errors import CheckpointError
from agentrl.learner.batch import PackedTokens
from agentrl.learner.optimiser import build_optimiser, clip_gradient, step_optimiser, warmed_up
from agentrl.learner.policy import Policy
from agentrl.learner.tally import Tally


class Critic:
    """A value head, its trunk where it has one, and their optimiser."""

    def __init__(self, policy: Policy, config: CriticConfig, optimiser: OptimiserConfig) -> None:
        """Made before the policy's first step: an own trunk is a copy of what the policy is now."""
        self.config = config
        self.settings = optimiser.model_copy(update={"lr": config.lr})
        self.trunk = _own_trunk(policy, config) if config.kind == "own" else None
        """None: the policy's."""
        self.head = nn.Linear(policy.width, 1, device=policy.device, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.optimiser = build_optimiser(self.trainable(), self.settings)
        self.steps = 0
        """Optimiser steps so far; the warm-up of the learning rate counts them."""
        self.updates = 0
        """Training steps so far; `warmup_steps` counts them."""

    @property
    def alone(self) -> bool:
        """Only the critic learns for now."""
        return self.updates < self.config.warmup_steps

    def lets_move(self, credited: bool) -> bool:
        """Whether the policy is stepped where its own loss has a gradient, or not."""
        return not self.alone and (credited or self.config.coefficient is not None)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name: the head's and those of an own trunk."""
        head = {f"head.{name}": weight for name, weight in self.head.named_parameters()}
        trunk = {} if self.trunk is None else self.trunk.trainable()
        return {**head, **{f"trunk.{name}": weight for name, weight in trunk.items()}}

    def values(self, states: Tensor) -> Tensor:
        """V of hidden states (..., width): float32, shape (...), with gradient unless grad mode is off."""
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.float())[..., 0]  # type: ignore[no-any-return]

    def loss(
        self,
        tokens: PackedTokens,
        states: Tensor,
        columns: Mapping[str, Tensor],
        index: Tensor,
        mask: Tensor,
        tally: Tally,
    ) -> Tensor:
        """A micro-batch's share of 0.5 mean max((V - ret)^2, (clip(V, V_old +- eps_v) - ret)^2).

        `states` (n, width) are the policy's, with its graph. `columns` and `mask` are of the whole optimiser step, of
        which the micro-batch has the tokens `index` (n,): `values` is V_old, `returns` is ret, NaN where a token has
        none. The mean is over all tokens with a target; those whose `mask` is False count there and add nothing.
        """
        if self.trunk is not None:
            states = self.trunk.states(tokens)
        elif self.config.coefficient is None:
            states = states.detach()
        count = int(columns["returns"].isfinite().sum())
        learnt = columns["returns"][index].isfinite() & mask[index]
        old, targets = columns["values"][index][learnt], columns["returns"][index][learnt]
        values = self.values(states)[learnt]
        errors = (values - targets).square()
        if self.config.clip is not None:
            held = old + (values - old).clamp(-self.config.clip, self.config.clip)
            clipped = (held - targets).square()
            tally.add("critic/clip_fraction", float((clipped > errors).sum()), len(targets))
            errors = torch.maximum(errors, clipped)
        return 0.5 * errors.sum() / max(1, count)

    def report(self, steps: Sequence[Mapping[str, Tensor]], tally: Tally) -> None:
        """Before any step: how well the values that the advantages were computed with predicted the returns."""
        tally.add("critic/alone", float(self.alone))
        if steps:
            values, returns = (torch.cat([columns[name] for columns in steps]) for name in ("values", "returns"))
            explained = explained_variance(values, returns)
            if explained is not None:
                tally.add("critic/explained_variance", explained)

    def clip_gradient(self) -> float:
        """Norm of the gradient before its clip; raises `TrainingError` if it is not finite."""
        return clip_gradient(self.optimiser, self.settings.grad_clip)

    def step(self) -> None:
        """Step with the gradient that `clip_gradient` passed."""
        step_optimiser(self.optimiser, warmed_up(self.settings, self.steps))
        self.steps += 1

    def training_state(self) -> dict[str, Any]:
        """Optimiser and counters, for a checkpoint."""
        return {"optimiser": self.optimiser.state_dict(), "steps": self.steps, "updates": self.updates}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Restore them; raises `CheckpointError` for another optimiser's."""
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except ValueError as error:
            raise CheckpointError(f"the critic's optimiser is another one: {error}") from error
        self.steps, self.updates = int(state["steps"]), int(state["updates"])


def explained_variance(values: Tensor, targets: Tensor) -> float | None:
    """1 - Var(ret - V) / Var(ret) over tokens with a target, shape (n,); None where the targets are all equal."""
    learnt = targets.isfinite()
    values, targets = values[learnt].double(), targets[learnt].double()
    spread = float(targets.var(correction=0)) if len(targets) else 0.0
    return 1.0 - float((targets - values).var(correction=0)) / spread if spread > 1e-12 else None


def _own_trunk(policy: Policy, config: CriticConfig) -> Policy:
    """The policy's start as a model of its own; what lies behind its last hidden states is not trained."""
    trunk = Policy(
        policy.copy_of_start(),
        lora=config.lora,
        precision=policy.precision,
        gradient_checkpointing=policy.gradient_checkpointing,
    )
    body: nn.Module = cast(Any, trunk.model).get_decoder()
    inside = {id(weight) for weight in body.parameters()}
    for weight in trunk.model.parameters():
        if id(weight) not in inside:
            weight.requires_grad_(False)
    return trunk
