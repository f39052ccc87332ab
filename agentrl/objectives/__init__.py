"""Policy objectives, regularisers and reductions. Importing this imports torch.

Bundled: objective `clip`; regulariser `kl`. `reduction_weights` gives each token of the global batch its weight.
"""

from __future__ import annotations

from agentrl import registry
from agentrl.components import Spec, construct, split_spec
from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, Reduction, Regulariser, Sums, TokenBatch, TokenLoss, reduce
from agentrl.objectives.clip import ClippedRatio
from agentrl.objectives.correction import Correction
from agentrl.objectives.kl import KL
from agentrl.objectives.ratio import ClipGate, Ratio
from agentrl.objectives.reduction import reduction_constant, reduction_weights

__all__ = [
    "KL",
    "ClipGate",
    "ClippedRatio",
    "Correction",
    "Objective",
    "Ratio",
    "Reduction",
    "Regulariser",
    "Sums",
    "TokenBatch",
    "TokenLoss",
    "build_correction",
    "build_objective",
    "build_regulariser",
    "reduce",
    "reduction_constant",
    "reduction_weights",
]


def build_objective(spec: Spec) -> Objective:
    """The objective that `spec` describes; raises `UnknownNameError` or `ConfigError`, one line each."""
    objective = construct(registry.objectives, spec)
    if not isinstance(objective, Objective):
        raise ConfigError(
            f"objective {split_spec(spec)[0]!r} is of class {type(objective).__name__}, not an agentrl Objective"
        )
    return objective


def build_regulariser(spec: Spec) -> Regulariser:
    """The regulariser that `spec` describes; raises `UnknownNameError` or `ConfigError`, one line each."""
    regulariser = construct(registry.regularisers, spec)
    if not isinstance(regulariser, Regulariser):
        kind = type(regulariser).__name__
        raise ConfigError(f"regulariser {split_spec(spec)[0]!r} is of class {kind}, not an agentrl Regulariser")
    return regulariser


def build_correction(spec: Spec) -> Correction:
    """The rollout correction that `spec` describes; raises `UnknownNameError` or `ConfigError`, one line each."""
    correction = construct(registry.corrections, spec)
    if not isinstance(correction, Correction):
        kind = type(correction).__name__
        raise ConfigError(f"correction {split_spec(spec)[0]!r} is of class {kind}, not an agentrl Correction")
    return correction
