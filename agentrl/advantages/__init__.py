"""Credit assignment: from the rewards of groups to one advantage a policy token.

`build` makes the list of transforms that a configuration names, `check_order` refuses one that cannot be right,
`attribute` runs it, `credited_batch` is what the learner trains on. One module a method or family; `agentrl recipes
list` says which published method uses which, docs/credit.md which of them are unbiased.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrl import registry
from agentrl.advantages.ace import ACE
from agentrl.advantages.arm import ARM
from agentrl.advantages.arpo import ARPO
from agentrl.advantages.arpo_reward import ARPOReward
from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable, attribute, check_order, tables_of
from agentrl.advantages.batch import CreditedBatch, credited_batch
from agentrl.advantages.beta_baseline import BetaBaseline, EntropyShaping
from agentrl.advantages.canon import CANON
from agentrl.advantages.drop_equal import DropEqualGroups
from agentrl.advantages.dsdr import DiversityBonus, DiversityGRPO
from agentrl.advantages.erank_verl import EffectiveRankShaping
from agentrl.advantages.function import FunctionTransform, advantage
from agentrl.advantages.gae import BilevelGeneralisedAdvantage, GeneralisedAdvantage, TurnGeneralisedAdvantage
from agentrl.advantages.gigpo import GiGPO
from agentrl.advantages.group import GRPO, RLOO, DrGRPO
from agentrl.advantages.igpo import IGPO
from agentrl.advantages.kl_reward import KLInReward
from agentrl.advantages.mt_grpo import MTGRPO
from agentrl.advantages.noise_correction import BackwardCorrection, ForwardCorrection
from agentrl.advantages.overlong import MaskTruncated, OverlongPenalty
from agentrl.advantages.rare_events import WeightedGRPO
from agentrl.advantages.reward import Reward
from agentrl.advantages.shaping import Shaping
from agentrl.advantages.signed import NSR, PSR, WReinforce
from agentrl.advantages.smoothed import SmoothedAdvantage
from agentrl.advantages.statistics import GroupStatistic, PeerRule
from agentrl.advantages.token_returns import TokenReturns
from agentrl.advantages.trees import TreeGRPO, TreeRL, ValueDifference
from agentrl.advantages.turn_returns import TurnLeaveOneOut, discounted_returns
from agentrl.advantages.weigh import Weigh
from agentrl.advantages.whiten import Whiten
from agentrl.components import Spec, checked_options, construct, split_spec
from agentrl.errors import ConfigError

__all__ = [
    "ACE",
    "ARM",
    "ARPO",
    "CANON",
    "GRPO",
    "IGPO",
    "MTGRPO",
    "NSR",
    "PSR",
    "RLOO",
    "ARPOReward",
    "Array",
    "BackwardCorrection",
    "BetaBaseline",
    "BilevelGeneralisedAdvantage",
    "Credit",
    "CreditedBatch",
    "DiversityBonus",
    "DiversityGRPO",
    "DrGRPO",
    "DropEqualGroups",
    "EffectiveRankShaping",
    "EntropyShaping",
    "ForwardCorrection",
    "FunctionTransform",
    "GeneralisedAdvantage",
    "GiGPO",
    "GroupStatistic",
    "KLInReward",
    "MaskTruncated",
    "OverlongPenalty",
    "PeerRule",
    "Reward",
    "Shaping",
    "SmoothedAdvantage",
    "Stage",
    "TokenReturns",
    "Transform",
    "TreeGRPO",
    "TreeRL",
    "TurnGeneralisedAdvantage",
    "TurnLeaveOneOut",
    "TurnTable",
    "ValueDifference",
    "WReinforce",
    "Weigh",
    "WeightedGRPO",
    "Whiten",
    "advantage",
    "attribute",
    "build",
    "check_order",
    "credited_batch",
    "discounted_returns",
    "tables_of",
]


def build(specs: Sequence[Spec]) -> list[Transform]:
    """The transforms that `specs` describe, in order.

    A registered function becomes a `FunctionTransform`. Raises `UnknownNameError` or `ConfigError`, one line each.
    """
    return [_build_one(spec) for spec in specs]


def _build_one(spec: Spec) -> Transform:
    name, options = split_spec(spec)
    component = registry.advantages.get(name)
    if not isinstance(component, type) and callable(component):
        checked = checked_options(f"advantage {name!r}", component, options, bound=1)
        return FunctionTransform(component, checked, name)
    transform = construct(registry.advantages, spec)
    if not isinstance(transform, Transform):
        raise ConfigError(f"advantage {name!r} is of class {type(transform).__name__}, not an agentrl Transform")
    return transform
