"""Policy objectives, regularisers and reductions. Importing this imports torch.

Bundled: objective `clip`; regulariser `kl`. `reduction_weights` gives each token of the global batch its weight.
"""

from __future__ import annotations

from agentrl import registry
from agentrl.components import Spec, checked_options, construct, split_spec
from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, Reduction, Regulariser, Sums, TokenBatch, TokenLoss, reduce
from agentrl.objectives.clip import ClippedRatio
from agentrl.objectives.correction import Correction
from agentrl.objectives.function import FunctionObjective, objective
from agentrl.objectives.kl import KL
from agentrl.objectives.ratio import ClipGate, Ratio
from agentrl.objectives.reduction import reduction_constant, reduction_weights

__all__ = [
    "KL",
    "ClipGate",
    "ClippedRatio",
    "Correction",
    "FunctionObjective",
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
    "objective",
    "reduce",
    "reduction_constant",
    "reduction_weights",
]


def build_objective(spec: Spec) -> Objective:
    """The objective that `spec` describes; raises `UnknownNameError` or `ConfigError`, one line each."""
    name, options = split_spec(spec)
    component = registry.objectives.get(name)
    if not isinstance(component, type) and hasattr(component, "build_objective"):
        function: Objective = component.build_objective(
            checked_options(f"objective {name!r}", component, options, bound=1)
        )
        return function
    made = construct(registry.objectives, spec)
    if not isinstance(made, Objective):
        raise ConfigError(f"objective {name!r} is of class {type(made).__name__}, not an agentrl Objective")
    return made


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
