"""PACS: the policy learns to predict the verdict of its own trajectories, by supervised cross-entropy (05).

The summed log-ratio of a trajectory to the policy that sampled it, less that of its peers, is the logit of a classifier
whose label is the verdict. Invariants: the gradient flows through every member of a group, so a group lies whole in one
micro-batch; the loss is a mean over the trajectories of the minibatch, whatever their lengths.

Source: arXiv 2509.02522 and its code (`pacs_core_algos.py`): verified. Several turns: inferred, one score and one label
a trajectory over the policy tokens of all its turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from agentrl.components import one_of
from agentrl.errors import ConfigError, TrainingError
from agentrl.objectives.base import Objective, Reduction, TokenBatch, TokenLoss
from agentrl.objectives.ratio import masked
from agentrl.registry import objectives

Score = Literal["rloo", "grpo", "naive"]
Weights = Literal["question", "only_positive", "only_negative", "none"]
SPREAD_EPS = 1e-6


@objectives.register("pacs")
class PACS(Objective):
    """w_i BCE(psi_i, y_i) of each trajectory, with psi_i = rhat_i - mean of the peers' rhat, rhat_i = beta log(pi/old).

    Advantages are not read; the transform `drop_equal` leaves out groups whose labels are all equal, which would have a
    small gradient once the policy has moved. Needs the reduction `seq_mean_token_mean`: a trajectory's loss stands on
    each of its tokens. No clip: the factor sigma(psi) - y bounds the step. `loss.behaviour: recomputed` where the
    engine's log-probabilities differ from the learner's.

    Sums: `pacs/accuracy` (score on the side of the label), `pacs/score_correct`, `pacs/score_wrong` (mean psi of either
    class), `pacs/coefficient` (mean of |w (sigma(psi) - y)|, which falls as the policy learns).
    """

    unit = "group"
    zero_without_advantage = False
    reductions = frozenset({Reduction.SEQ_MEAN_TOKEN_MEAN})

    def __init__(
        self,
        *,
        beta: float = 1.0,
        score: Score = "rloo",
        proxy: Literal["log_ratio", "mean_logprob"] = "log_ratio",
        label: Literal["correct", "reward"] = "correct",
        weights: Weights = "question",
    ) -> None:
        """Options.

        `score`: `rloo` (distance from the peers; a group of one has none and no loss), `grpo` (z-score with ddof 1) or
        `naive` (rhat itself). `proxy`: the code's second method is beta times the mean log-probability. `label`: the
        verdict, or the reward as a soft label in [0, 1]. `weights`: `question` balances the classes of a group,
        G / (2 n_class) where both occur; `only_positive` and `only_negative` give the other class 0; a group with a
        label between 0 and 1 is not weighted.
        """
        if not beta > 0:
            raise ConfigError(f"beta is {beta!r}; it must be above 0")
        self.beta = beta
        self.score = one_of("score", score, ("rloo", "grpo", "naive"))
        self.proxy = one_of("proxy", proxy, ("log_ratio", "mean_logprob"))
        self.label = one_of("label", label, ("correct", "reward"))
        self.weights = one_of("weights", weights, ("question", "only_positive", "only_negative", "none"))
        if score == "grpo" and proxy == "log_ratio":
            raise ConfigError(
                "score='grpo' divides by the spread of the log-ratios, which is 0 until the policy has moved: "
                "use score='rloo', or proxy='mean_logprob'"
            )

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        if not bool(batch.mask.any()):
            return TokenLoss(masked(batch.logprobs, batch.mask))
        members = _Members.of(batch)
        score, counted = self._scores(self._proxies(batch, members), members)
        labels = self._labels(batch, members)
        weights = self._class_weights(labels, members) * counted
        losses = weights * binary_cross_entropy_with_logits(score, labels, reduction="none")
        sums = _sums(score.detach(), labels, weights, counted)
        return TokenLoss(members.spread(losses, batch), sums)

    def _proxies(self, batch: TokenBatch, members: _Members) -> Tensor:
        """rhat of each trajectory, float32 or better."""
        if self.proxy == "log_ratio":
            return self.beta * members.sum(masked(batch.logprobs - batch.behaviour, batch.mask))
        return self.beta * members.sum(masked(batch.logprobs, batch.mask)) / members.lengths

    def _scores(self, proxies: Tensor, members: _Members) -> tuple[Tensor, Tensor]:
        """psi of each trajectory, and 1 where it has one."""
        size = members.size
        if self.score == "naive":
            return proxies, torch.ones_like(proxies)
        counted = (size > 1).to(proxies.dtype)
        total = members.group_sum(proxies)
        if self.score == "rloo":
            return (proxies - (total - proxies) / (size - 1).clamp(min=1)) * counted, counted
        residual = proxies - total / size
        variance = members.group_sum(residual.square()) / (size - 1).clamp(min=1)
        # The root has no gradient at 0: members that are all equal get a score of 0 and none.
        equal = variance.detach().sqrt() <= SPREAD_EPS * (total / size).detach().abs().clamp(min=1)
        spread = torch.where(equal, torch.ones_like(variance), variance).sqrt() + SPREAD_EPS
        return torch.where(equal, torch.zeros_like(residual), residual / spread), counted

    def _labels(self, batch: TokenBatch, members: _Members) -> Tensor:
        labels = batch.column(self.label)[members.first].to(batch.logprobs.dtype)
        if bool(labels.isnan().any()):
            raise TrainingError(
                "pacs needs a verdict, but the environment's metrics have no 'correct'; see label: reward"
            )
        if bool(((labels < 0) | (labels > 1)).any()):
            raise TrainingError("pacs: label: reward takes rewards between 0 and 1, and the batch has others")
        return labels

    def _class_weights(self, labels: Tensor, members: _Members) -> Tensor:
        ones = torch.ones_like(labels)
        graded = members.group_sum(((labels > 0) & (labels < 1)).to(labels.dtype)) > 0
        if self.weights == "none":
            return ones
        positives = members.group_sum(labels)
        own_class = torch.where(labels > 0.5, positives, members.size - positives)
        both = (positives > 0) & (positives < members.size)
        balanced = torch.where(both, members.size / (2 * own_class.clamp(min=1)), ones)
        if self.weights == "only_positive":
            balanced = balanced * (labels > 0.5)
        elif self.weights == "only_negative":
            balanced = balanced * (labels <= 0.5)
        return torch.where(graded, ones, balanced)


@dataclass(frozen=True)
class _Members:
    """The trajectories of a micro-batch that have an unmasked token, m of them."""

    place: Tensor
    """int64, shape (n,): the trajectory of each token; that of a masked trajectory is m."""
    lengths: Tensor
    """Unmasked tokens, shape (m,)."""
    first: Tensor
    """int64, shape (m,): one unmasked token of each."""
    group: Tensor
    """int64, shape (m,)."""
    size: Tensor
    """Members of its group, shape (m,)."""

    @classmethod
    def of(cls, batch: TokenBatch) -> _Members:
        own = batch.mask.nonzero()[:, 0]
        keys, inverse, counts = torch.unique(batch.sequence_ids[own], return_inverse=True, return_counts=True)
        first = torch.full_like(keys, len(batch.mask)).scatter_reduce_(0, inverse, own, "amin")
        known = torch.searchsorted(keys, batch.sequence_ids).clamp(max=len(keys) - 1)
        place = torch.where(keys[known] == batch.sequence_ids, known, torch.full_like(known, len(keys)))
        _, group, sizes = torch.unique(batch.column("group")[first], return_inverse=True, return_counts=True)
        kind = batch.logprobs.dtype
        return cls(place, counts.to(kind), first, group, sizes[group].to(kind))

    def sum(self, values: Tensor) -> Tensor:
        """Sum over each trajectory's tokens, shape (m,)."""
        total = torch.zeros(len(self.first) + 1, dtype=values.dtype, device=values.device)
        return total.index_add(0, self.place, values)[:-1]

    def group_sum(self, values: Tensor) -> Tensor:
        """Sum over the group of each member, shape (m,)."""
        total = torch.zeros(len(self.first), dtype=values.dtype, device=values.device)
        return total.index_add(0, self.group, values)[self.group]

    def spread(self, losses: Tensor, batch: TokenBatch) -> Tensor:
        """The loss of each token: a trajectory's on all of them, more where the mask leaves fewer to bear it."""
        weights = batch.weights.to(losses.dtype)
        share = self.sum(weights) / self.sum(masked(weights, batch.mask))
        padded = torch.cat([losses * share, losses.new_zeros(1)])
        return masked(padded[self.place], batch.mask)


def _sums(score: Tensor, labels: Tensor, weights: Tensor, counted: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    right, wrong = counted * (labels > 0.5), counted * (labels <= 0.5)
    agrees = ((score > 0) == (labels > 0.5)).to(score.dtype)
    coefficient = (weights * (score.sigmoid() - labels)).abs()
    return {
        "pacs/accuracy": ((agrees * counted).sum(), counted.sum()),
        "pacs/score_correct": ((score * right).sum(), right.sum()),
        "pacs/score_wrong": ((score * wrong).sum(), wrong.sum()),
        "pacs/coefficient": (coefficient.sum(), counted.sum()),
    }
