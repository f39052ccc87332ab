"""The loss contract: per-token losses over a flat batch, and one reduction with global denominators.

Tokens lie flat, shape (n,): the policy tokens of a micro-batch one after another, no padding. `reduction_weights` gives
each token of the *global* optimiser batch its weight in the loss, before any micro-batch is cut, so a loss is always
`(token_loss * weight).sum()` and gradients do not change with the number of micro-batches or ranks.

Invariant: no formula reads a token whose mask is False; the denominators come from the unfiltered masks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Literal

import torch
from torch import Tensor

from agentrl.errors import TrainingError


class Reduction(StrEnum):
    """How token losses become one number (section 0 of the specification; N = trajectories with policy tokens)."""

    TOKEN_MEAN = "token_mean"
    """sum of all tokens / number of tokens."""
    SEQ_MEAN_TOKEN_MEAN = "seq_mean_token_mean"
    """(1/N) sum_i (1/L_i) sum_k."""
    SEQ_MEAN_TOKEN_SUM = "seq_mean_token_sum"
    """(1/N) sum_i sum_k."""
    SEQ_MEAN_TOKEN_SUM_NORM = "seq_mean_token_sum_norm"
    """(1/(N C)) sum_i sum_k with one constant C for the whole run."""
    TURN_MEAN = "turn_mean"
    """(1/number of non-empty turns) sum_{i,t} (1/L_{i,t}) sum_{k in t}."""


@dataclass(frozen=True)
class TokenBatch:
    """Policy tokens of one micro-batch, flat. Every tensor has shape (n,)."""

    logprobs: Tensor
    """Under the current policy, with gradient; float32."""
    behaviour: Tensor
    """At rollout (lp_old)."""
    advantages: Tensor
    mask: Tensor
    """bool: False for tokens that carry no loss (injected, rejected); their values are never read."""
    sequence_ids: Tensor
    """int64: which trajectory of the optimiser batch, for sequence-level quantities."""
    turn_ids: Tensor
    """int64: 1-based turn within the trajectory."""
    weights: Tensor
    """Reduction weight of each token, from `reduction_weights` over the global batch."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Constants of each token by name: what components `need`, and always `reward` (R_i), `group` and `correct` (0, 1;
    NaN without a verdict) of its trajectory, and `group_variance` (`credited_batch`)."""
    current: Mapping[str, Tensor] = field(default_factory=dict)
    """Quantities of this very pass by name, with gradient: what components name in `current`."""

    def column(self, name: str) -> Tensor:
        """A constant of each token; raises `TrainingError` if the batch does not carry it."""
        return _of(self.columns, name)

    def now(self, name: str) -> Tensor:
        """A quantity of the current policy, with gradient; raises `TrainingError` if the batch does not carry it."""
        return _of(self.current, name)


def _of(table: Mapping[str, Tensor], name: str) -> Tensor:
    try:
        return table[name]
    except KeyError:
        raise TrainingError(f"the batch carries no {name!r}; it has {', '.join(sorted(table)) or 'nothing'}") from None


Sums = dict[str, tuple[Tensor, Tensor]]
"""Diagnostics that add up over micro-batches: name -> (sum, count), scalar tensors without gradient."""


@dataclass
class TokenLoss:
    """A loss per token, shape (n,), and diagnostics."""

    loss: Tensor
    sums: Sums = field(default_factory=dict)


class Component(ABC):
    """A part of the loss. Options are constructor keywords; subclasses are registered by name."""

    needs: frozenset[str] = frozenset()
    """Columns that the scoring pass must fill under the weights that sampled (`agentrl.needs`): "reference" ..."""
    reads: frozenset[str] = frozenset()
    """Columns that a transform of credit must write (`Transform.writes`), or the run is refused at start."""
    current: frozenset[str] = frozenset()
    """Quantities of the current pass beside log-probabilities: "entropy", "uniform", "forward_kl(...)"."""
    unit: Literal["token", "trajectory", "group"] = "token"
    """What must lie in one micro-batch as a whole: a ratio of sequences needs its trajectory."""
    prepares: ClassVar[bool] = False
    """Calls `prepare` before each optimiser step; costs one more forward pass over its minibatch."""

    @abstractmethod
    def __call__(self, batch: TokenBatch) -> TokenLoss:
        """Loss of each token; zero where the mask is False."""

    def constants(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Columns that depend on the whole minibatch and on no weights, shape (n,): computed once, before any step.

        `batch` has the minibatch's columns; its log-probabilities are the behaviour's.
        """
        return {}

    def prepare(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Columns that depend on the whole minibatch under the current policy, shape (n,); without gradient."""
        return {}


class Objective(Component):
    """A policy loss."""

    zero_without_advantage: bool = True
    """A token with advantage 0 has loss 0 and no gradient, so the learner may leave out trajectories without credit."""
    reductions: ClassVar[frozenset[Reduction] | None] = None
    """The reductions under which it is the loss that it says; None: any. Another one is refused at start."""


class Regulariser(Component):
    """An additional per-token loss, already multiplied by its coefficient."""


def reduce(loss: Tensor, batch: TokenBatch) -> Tensor:
    """The micro-batch's share of the reduced loss: a scalar; shares of all micro-batches add up to the whole."""
    return (torch.where(batch.mask, loss, torch.zeros_like(loss)) * batch.weights).sum()
