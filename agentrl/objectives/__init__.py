"""Policy objectives, rollout corrections, regularisers and reductions. Importing this imports torch.

One module an objective. `reduction_weights` gives each token of the global batch its weight; `objective` registers a
plain function.
"""

from __future__ import annotations

from agentrl import registry
from agentrl.components import Spec, checked_options, construct, split_spec
from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, Reduction, Regulariser, Sums, TokenBatch, TokenLoss, reduce
from agentrl.objectives.bounds import Bounds, DynamicBounds, ElasticBounds
from agentrl.objectives.cispo import CISPO
from agentrl.objectives.clip import LUSPO, ClippedRatio
from agentrl.objectives.correction import Correction, ImportanceWeights, Rejection
from agentrl.objectives.dhpo import DHPO
from agentrl.objectives.dsdr import LocalDiversity
from agentrl.objectives.entropy import EntropyBonus
from agentrl.objectives.function import FunctionObjective, objective
from agentrl.objectives.kl import KL
from agentrl.objectives.lp_reg import LpReg
from agentrl.objectives.pacs import PACS
from agentrl.objectives.rapo import RewardAwareKL
from agentrl.objectives.ratio import ClipGate, Ratio
from agentrl.objectives.reduction import check_reduction, reduction_constant, reduction_weights
from agentrl.objectives.rover import ROVER
from agentrl.objectives.topr import TOPR

__all__ = [
    "CISPO",
    "DHPO",
    "KL",
    "LUSPO",
    "PACS",
    "ROVER",
    "TOPR",
    "Bounds",
    "ClipGate",
    "ClippedRatio",
    "Correction",
    "DynamicBounds",
    "ElasticBounds",
    "EntropyBonus",
    "FunctionObjective",
    "ImportanceWeights",
    "LocalDiversity",
    "LpReg",
    "Objective",
    "Ratio",
    "Reduction",
    "Regulariser",
    "Rejection",
    "RewardAwareKL",
    "Sums",
    "TokenBatch",
    "TokenLoss",
    "build_correction",
    "build_objective",
    "build_regulariser",
    "check_reduction",
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
