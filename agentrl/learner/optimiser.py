"""AdamW over the trained parameters, and one guarded step.

Invariant: parameters move only by a gradient that is finite in every entry; else nothing is stepped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from agentrl.config import OptimiserConfig
from agentrl.errors import TrainingError


def build_optimiser(parameters: Mapping[str, nn.Parameter], config: OptimiserConfig) -> torch.optim.AdamW:
    """Fused AdamW; weight decay acts on matrices only, not on norms and biases."""
    matrices = [weight for weight in parameters.values() if weight.ndim >= 2]
    vectors = [weight for weight in parameters.values() if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )


def warmed_up(config: OptimiserConfig, steps: int) -> float:
    """Learning rate of the step after `steps` steps: linear over `warmup_steps`, then constant."""
    return config.lr * min(1.0, (steps + 1) / max(1, config.warmup_steps))


def guarded_step(optimiser: torch.optim.Optimizer, grad_clip: float, lr: float) -> float:
    """Clip the gradient to norm `grad_clip`, step, clear; returns the norm before the clip.

    Raises `TrainingError` if the norm is not finite; then the gradient is cleared and nothing is stepped.
    """
    norm = clip_gradient(optimiser, grad_clip)
    step_optimiser(optimiser, lr)
    return norm


def clip_gradient(optimiser: torch.optim.Optimizer, grad_clip: float) -> float:
    """The first half of `guarded_step`, for those who step two optimisers or neither."""
    norm = float(nn.utils.clip_grad_norm_(_parameters(optimiser), grad_clip))
    if not norm < float("inf"):
        optimiser.zero_grad(set_to_none=True)
        raise TrainingError(f"the gradient's norm is {norm}; nothing was stepped")
    return norm


def step_optimiser(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """The second half: step with a gradient that `clip_gradient` passed, then clear it."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _parameters(optimiser: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return [weight for group in optimiser.param_groups for weight in group["params"]]
