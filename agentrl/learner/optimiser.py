"""AdamW over the trained parameters, and one guarded step.

Invariant: parameters move only by a gradient that is finite in every entry; else nothing is stepped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from agentrl.config import OptimiserConfig
from agentrl.errors import TrainingError
from agentrl.learner.masked import MaskedAdamW


def build_optimiser(
    parameters: Mapping[str, nn.Parameter], config: OptimiserConfig, masks: Mapping[str, Tensor] | None = None
) -> torch.optim.AdamW:
    """Fused AdamW; weight decay acts on matrices only, not on norms and biases.

    Parameters that `masks` name move inside their mask only (`masked.build_masks`).
    """
    masks = masks or {}
    masked = {name: weight for name, weight in parameters.items() if name in masks}
    dense = [weight for name, weight in parameters.items() if name not in masks]
    matrices = [weight for weight in dense if weight.ndim >= 2]
    vectors = [weight for weight in dense if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if masked:
        return MaskedAdamW(
            groups,
            masked,
            masks,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


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
    if isinstance(optimiser, MaskedAdamW):
        optimiser.mask_gradients()
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
