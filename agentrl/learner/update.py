"""One update: the gradient of an objective over a batch of episodes, in packed micro-batches.

Denominators come from the whole batch of an optimiser step before a micro-batch is cut, so loss and gradient do not
depend on how many micro-batches there are. Invariants: observation tokens enter as context and nowhere else; a loss or
gradient that is not finite, or log-probabilities that are not those of the engine, step nothing; the same inputs give
the same bits on one CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.config import OptimiserConfig
from agentrl.errors import TrainingError
from agentrl.learner.batch import PackedTokens, TokenTable, TrainingRow, flatten, pack
from agentrl.learner.optimiser import build_optimiser, guarded_step, warmed_up
from agentrl.learner.policy import Policy
from agentrl.learner.supervised import supervised_step
from agentrl.learner.tally import Tally
from agentrl.objectives.base import Objective, Reduction, Regulariser, TokenBatch, reduce
from agentrl.objectives.reduction import reduction_constant, reduction_weights
from agentrl.trajectory import Trajectory

Progress = Callable[[int, int], None]
"""Called with the micro-batches done and their number."""


@dataclass
class _Step:
    """The rows of one optimiser step. Tensors have shape (n,), over all of its policy tokens."""

    rows: list[TrainingRow]
    bins: list[list[int]]
    """Rows of each micro-batch; rows whose gradient is zero for certain are in none."""
    table: TokenTable
    weights: Tensor
    behaviour: Tensor
    reference: Tensor | None = None


class Learner:
    """Trains a policy on trajectories with token advantages."""

    def __init__(
        self,
        policy: Policy,
        *,
        objective: Objective,
        regularisers: Sequence[Regulariser] = (),
        reduction: Reduction | str = Reduction.TOKEN_MEAN,
        norm: float | None = None,
        behaviour: Literal["recorded", "recomputed"] = "recorded",
        temperature: float = 1.0,
        mismatch_bound: float | None = None,
        optimiser: OptimiserConfig | None = None,
    ) -> None:
        """`temperature` is the rollout's: ratios compare like with like.

        `mismatch_bound` (nats a token) refuses a batch whose recorded log-probabilities are further than that from the
        learner's own under the same weights, in the mean of absolute differences.

        `behaviour="recomputed"` replaces the engine's records by the learner's own log-probabilities before the first
        step, so that ratios start at exactly 1 whatever the engine's precision. It costs one more forward pass over
        the batch where a batch has several optimiser steps, and nothing where it has one.
        """
        reduction_constant(reduction, norm)
        self.policy = policy
        self.objective = objective
        self.regularisers = list(regularisers)
        self.reduction, self.norm = reduction, norm
        self.recompute = behaviour == "recomputed"
        self.temperature = temperature
        self.mismatch_bound = mismatch_bound
        self.config = optimiser or OptimiserConfig()
        self.optimiser = build_optimiser(policy.trainable(), self.config)
        self.steps = 0
        """Optimiser steps so far; warm-up counts them."""
        self._needs = frozenset().union(objective.needs, *(item.needs for item in self.regularisers))
        if "reference" in self._needs:
            policy.keep_reference()

    def update(
        self,
        trajectories: Sequence[Trajectory],
        advantages: Sequence[NDArray[np.float64]],
        progress: Progress | None = None,
    ) -> dict[str, float]:
        """Take `epochs` x `minibatches` optimiser steps on a batch of episodes.

        `advantages[i]`: shape (L_i,), see `flatten`. Minibatches are consecutive trajectories. A step in which every
        advantage is 0 and no regulariser acts is counted (`update/skipped_steps`) and not taken; single trajectories
        of that kind are left out of the passes, not of the denominators. Returns metrics; `loss` and `grad_norm` are
        means over the steps, `mismatch/*` compare the learner with the engine's records before any step, and
        `seconds/update/*` add up to the call. Raises `TrainingError`, with the weights as they were where the mismatch
        is above its bound.
        """
        tally = Tally()
        with tally.timed("update/prepare"):
            steps = self._cut(flatten(trajectories, advantages))
        passes = self.config.epochs * sum(len(step.bins) for step in steps)
        several = self.config.epochs * len(steps) > 1
        with tally.timed("update/score"):
            for step in steps:
                self._prescore(step, tally, several)
            self._check_mismatch(tally)
        done = itertools.count(1)

        def tick() -> None:
            if progress:
                progress(next(done), passes)

        begun_with = self.steps
        for _ in range(self.config.epochs):
            for step in steps:
                fresh = self.steps == begun_with and not (several and self.recompute)
                self._take(step, tally, fresh, self.recompute and not several, tick)
        return {**tally.metrics(), **self._counts(steps), "lr": self.optimiser.param_groups[0]["lr"]}

    def supervised_optimiser(self, lr: float) -> torch.optim.AdamW:
        """An optimiser of its own for `supervised_step`: the moments of imitation do not leak into the next phase."""
        return build_optimiser(self.policy.trainable(), self.config.model_copy(update={"lr": lr}))

    def supervised_step(
        self, demonstrations: Sequence[Trajectory], optimiser: torch.optim.Optimizer
    ) -> dict[str, float]:
        """One step of cross-entropy on the policy tokens of demonstrations; see `supervised.supervised_step`."""
        rows = flatten(demonstrations, [np.zeros(item.num_policy_tokens) for item in demonstrations])
        return supervised_step(
            self.policy,
            rows,
            optimiser,
            micro_batch_tokens=self.config.micro_batch_tokens,
            grad_clip=self.config.grad_clip,
        )

    def _cut(self, rows: list[TrainingRow]) -> list[_Step]:
        """The optimiser steps of a batch, with their global denominators."""
        present = np.array(sorted({row.trajectory for row in rows}), dtype=np.int64)
        parts = np.array_split(present, min(self.config.minibatches, max(1, len(present))))
        members = [set(part.tolist()) for part in parts if len(part)]
        return [self._step([row for row in rows if row.trajectory in chosen]) for chosen in members]

    def _step(self, rows: list[TrainingRow]) -> _Step:
        table = TokenTable.of(rows, self.policy.device)
        everything = torch.ones_like(table.turn_ids, dtype=torch.bool)
        weights = reduction_weights(self.reduction, table.sequence_ids, table.turn_ids, everything, norm=self.norm)
        credited = {row.trajectory for row in rows if row.advantages.any()}
        acting = [
            index
            for index, row in enumerate(rows)
            if self.regularisers or not self.objective.zero_without_advantage or row.trajectory in credited
        ]
        bins = pack([rows[index] for index in acting], self.config.micro_batch_tokens)
        bins = [[acting[index] for index in members] for members in bins]
        return _Step(rows, bins, table, weights, table.behaviour)

    def _tokens(self, step: _Step, members: list[int]) -> PackedTokens:
        return PackedTokens.of([step.rows[index] for index in members], self.policy.device)

    @torch.no_grad()
    def _prescore(self, step: _Step, tally: Tally, several: bool) -> None:
        """What must be known under the weights before the first step: the reference, and the policy's own."""
        if "reference" in self._needs:
            step.reference = torch.zeros_like(step.behaviour)
        recompute = self.recompute and several
        if recompute:
            step.behaviour = step.behaviour.clone()
        for members in step.bins if step.reference is not None or recompute else []:
            tokens, index = self._tokens(step, members), step.table.index(members)
            if step.reference is not None:
                step.reference[index] = self.policy.score_reference(tokens, temperature=self.temperature)
            if recompute:
                own = self.policy.score(tokens, temperature=self.temperature).logprobs
                tally.add_mismatch(own, step.table.behaviour[index])
                step.behaviour[index] = own

    def _take(self, step: _Step, tally: Tally, fresh: bool, detach: bool, tick: Callable[[], None]) -> None:
        """One optimiser step. `fresh`: the weights have not moved, so the mismatch is measured."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = 0.0
        for members in step.bins:
            with tally.timed("update/forward"):
                share = self._loss(step, members, tally, fresh, detach)
                loss += float(share.detach())
            if not np.isfinite(loss):
                self.optimiser.zero_grad(set_to_none=True)
                raise TrainingError(f"the loss is {loss}; nothing was stepped")
            with tally.timed("update/backward"):
                share.backward()  # type: ignore[no-untyped-call]
            tick()
        tally.add("loss", loss)
        if fresh:
            self._check_mismatch(tally)
        if step.bins:
            with tally.timed("update/optimiser"):
                lr = warmed_up(self.config, self.steps)
                tally.add("grad_norm", guarded_step(self.optimiser, self.config.grad_clip, lr))
            self.steps += 1

    def _check_mismatch(self, tally: Tally) -> None:
        """Stop before the weights move if what the engine recorded is not what they give."""
        measured, bound = tally.mismatch, self.mismatch_bound
        if measured is None or bound is None or measured <= bound:
            return
        self.optimiser.zero_grad(set_to_none=True)
        raise TrainingError(
            f"the engine's log-probabilities differ from the learner's by {measured:.3g} nats a token in the mean, "
            f"more than loss.mismatch_bound={bound:g}; nothing was stepped. Likely causes: the engine treats "
            f"temperature, top-p or top-k otherwise than the learner (temperature {self.temperature:g}), serves other "
            "weights than those that were published, or computes in a much lower precision"
        )

    def _loss(self, step: _Step, members: list[int], tally: Tally, fresh: bool, detach: bool) -> Tensor:
        """A micro-batch's share of the loss. `detach`: the behaviour log-probabilities are those of this very pass."""
        tokens, index = self._tokens(step, members), step.table.index(members)
        entropy = "entropy" in self._needs
        scores = self.policy.score(tokens, temperature=self.temperature, entropy=entropy)
        batch = TokenBatch(
            logprobs=scores.logprobs,
            behaviour=scores.logprobs.detach() if detach else step.behaviour[index],
            advantages=step.table.advantages[index],
            mask=torch.ones_like(index, dtype=torch.bool),
            sequence_ids=step.table.sequence_ids[index],
            turn_ids=step.table.turn_ids[index],
            weights=step.weights[index],
            reference=None if step.reference is None else step.reference[index],
            entropy=scores.entropy if entropy else None,
        )
        if fresh:
            tally.add_mismatch(scores.logprobs, step.table.behaviour[index])
        if entropy:
            tally.add("entropy", float(scores.entropy.detach().sum()), len(index))
        total = torch.zeros((), device=index.device)
        for part in (self.objective(batch), *(regulariser(batch) for regulariser in self.regularisers)):
            tally.add_sums(part.sums)
            total = total + reduce(part.loss, batch)
        return total

    def _counts(self, steps: list[_Step]) -> dict[str, float]:
        """What the passes of one epoch were made of."""
        acting = [step.rows[index] for step in steps for members in step.bins for index in members]
        tokens = sum(len(row) for row in acting)
        bins = sum(len(step.bins) for step in steps)
        return {
            "update/rows": len(acting),
            "update/tokens": tokens,
            "update/policy_tokens": sum(len(row.positions) for row in acting),
            "update/micro_batches": bins,
            "update/packing_efficiency": tokens / max(1, bins * self.config.micro_batch_tokens),
            "update/skipped_rows": sum(len(step.rows) for step in steps) - len(acting),
            "update/skipped_steps": self.config.epochs * sum(not step.bins for step in steps),
        }
