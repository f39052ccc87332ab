"""One update: the gradient of an objective over a batch of episodes, in packed micro-batches.

Denominators come from the whole batch of an optimiser step before a micro-batch is cut, so loss and gradient do not
depend on how many micro-batches there are. Invariants: observation tokens enter as context and nowhere else; a loss or
gradient that is not finite, or log-probabilities that are not those of the engine, step nothing; the same inputs give
the same bits on one CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.config import OptimiserConfig
from agentrl.errors import ConfigError, TrainingError
from agentrl.learner.batch import Columns, PackedTokens, TokenTable, TrainingRow, flatten, pack
from agentrl.learner.optimiser import build_optimiser, guarded_step, warmed_up
from agentrl.learner.policy import Policy
from agentrl.learner.quantities import build as build_quantity
from agentrl.learner.scoring import score
from agentrl.learner.supervised import supervised_step
from agentrl.learner.tally import Tally
from agentrl.needs import union
from agentrl.objectives.base import Component, Objective, Reduction, Regulariser, TokenBatch, reduce
from agentrl.objectives.correction import Correction
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
    mask: Tensor
    behaviour: Tensor
    columns: dict[str, Tensor]
    correction: Tensor | None = None
    """Weight of each token's policy loss for the gap between engine and learner (B10)."""


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
        correction: Correction | None = None,
        optimiser: OptimiserConfig | None = None,
    ) -> None:
        """`temperature` is the rollout's: ratios compare like with like.

        `mismatch_bound` (nats a token) refuses a batch whose recorded log-probabilities are further than that from the
        learner's own under the same weights, in the mean of absolute differences.

        `behaviour="recomputed"` replaces the engine's records by the learner's own log-probabilities before the first
        step, so that ratios start at exactly 1 whatever the engine's precision. It costs one more forward pass over
        the batch where a batch has several optimiser steps, and nothing where it has one. `correction` weights the
        policy loss for what lies between the records and those; it needs `recomputed`, and the pass in any case.
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
        self.correction = correction
        if correction is not None and not self.recompute:
            raise ConfigError("loss.correction compares with loss.behaviour=recomputed; set that")
        components: list[Component] = [objective, *self.regularisers]
        self._components = components
        self.needs = union(item.needs for item in components)
        """Columns that the loss reads: `update` scores those that it is not given."""
        self._quantities = {name: build_quantity(name) for name in self.needs}
        for quantity in self._quantities.values():
            if quantity.source != "logits":
                raise ConfigError(f"loss: {quantity.name} is a number of a trajectory, not of a token")
        self._current = union(item.current for item in components)
        if unknown := self._current - {"entropy", "uniform"}:
            raise ConfigError(f"loss: no pass computes {', '.join(sorted(unknown))}; valid: entropy, uniform")
        self._unit = max((item.unit for item in components), key=("token", "trajectory", "group").index)
        if any(quantity.of == "reference" for quantity in self._quantities.values()):
            policy.keep_reference()

    def update(
        self,
        trajectories: Sequence[Trajectory],
        advantages: Sequence[NDArray[np.float64]],
        progress: Progress | None = None,
        columns: Sequence[Columns] | None = None,
    ) -> dict[str, float]:
        """Take `epochs` x `minibatches` optimiser steps on a batch of episodes.

        `advantages[i]`: shape (L_i,), see `flatten`. `columns[i]`: what is known of the trajectory's policy tokens by
        name, such as what `score` found; `reward`, `group` (which trajectories share a baseline: by default those of
        a task) and `correct` are filled in, `masked` (1: the token carries no loss) is heeded. Minibatches are
        consecutive trajectories, or groups where the objective needs them whole. A step in which every
        advantage is 0 and no regulariser acts is counted (`update/skipped_steps`) and not taken; single trajectories
        of that kind are left out of the passes, not of the denominators. Returns metrics; `loss` and `grad_norm` are
        means over the steps, `mismatch/*` compare the learner with the engine's records before any step, and
        `seconds/update/*` add up to the call. Raises `TrainingError`, with the weights as they were where the mismatch
        is above its bound.
        """
        tally = Tally()
        with tally.timed("update/prepare"):
            steps = self._cut(flatten(trajectories, advantages, _with_defaults(trajectories, columns)))
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
                scored = self.recompute and (several or self.correction is not None)
                fresh = self.steps == begun_with and not scored
                self._take(step, tally, fresh, self.recompute and not scored, tick)
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

    def score(self, trajectories: Sequence[Trajectory], needs: frozenset[str]) -> list[dict[str, NDArray[np.float64]]]:
        """What `needs` name, of every trajectory under the present weights: shape (L_i,), or of the trajectory."""
        rows = flatten(trajectories, [np.zeros(item.num_policy_tokens) for item in trajectories])
        quantities = [build_quantity(name) for name in sorted(needs)]
        found: list[dict[str, NDArray[np.float64]]] = [
            {item.name: np.zeros(trajectory.num_policy_tokens) for item in quantities if item.source == "logits"}
            for trajectory in trajectories
        ]
        if not rows or not quantities:
            return found
        table = TokenTable.of(rows, self.policy.device)
        bins = pack(rows, self.config.micro_batch_tokens)
        rewards = torch.tensor([item.reward for item in trajectories], device=self.policy.device)
        known = {"reward": rewards[table.sequence_ids]}
        scored = score(self.policy, rows, table, bins, quantities, temperature=self.temperature, known=known)
        for name, values in scored.tokens.items():
            flat = values.double().cpu().numpy()
            for index, row in enumerate(rows):
                found[row.trajectory][name][row.tokens] = flat[table.offsets[index] : table.offsets[index + 1]]
        for name, numbers in scored.trajectories.items():
            for trajectory, value in numbers.items():
                found[trajectory][name] = value.double().cpu().numpy()
        return found

    def _cut(self, rows: list[TrainingRow]) -> list[_Step]:
        """The optimiser steps of a batch, with their global denominators."""
        keys = [row.columns["group"][0] if self._unit == "group" else row.trajectory for row in rows]
        present = np.array(list(dict.fromkeys(keys)))
        parts = np.array_split(present, min(self.config.minibatches, max(1, len(present))))
        members = [set(part.tolist()) for part in parts if len(part)]
        return [self._step([row for row, key in zip(rows, keys, strict=True) if key in chosen]) for chosen in members]

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
        bins = pack([rows[index] for index in acting], self.config.micro_batch_tokens, self._unit)
        bins = [[acting[index] for index in members] for members in bins]
        columns = dict(table.columns)
        mask = columns["masked"] == 0 if "masked" in columns else everything
        return _Step(rows, bins, table, weights, mask, table.behaviour, columns)

    def _tokens(self, step: _Step, members: list[int]) -> PackedTokens:
        return PackedTokens.of([step.rows[index] for index in members], self.policy.device)

    def _prescore(self, step: _Step, tally: Tally, several: bool) -> None:
        """What must be known under the weights before the first step: what the loss reads, and the policy's own."""
        wanted = [quantity for name, quantity in self._quantities.items() if name not in step.columns]
        recompute = self.recompute and (several or self.correction is not None)
        own = build_quantity("logprobs")
        if recompute and own.name not in {quantity.name for quantity in wanted}:
            wanted.append(own)
        if not wanted or not step.bins:
            return
        scored = score(
            self.policy, step.rows, step.table, step.bins, wanted, temperature=self.temperature, known=step.columns
        )
        step.columns |= scored.tokens
        if recompute:
            acting = step.table.index([index for members in step.bins for index in members])
            tally.add_mismatch(step.columns[own.name][acting], step.table.behaviour[acting])
            step.behaviour = step.table.behaviour.clone()
            step.behaviour[acting] = step.columns[own.name][acting]
        if self.correction is not None:
            step.correction, sums = self.correction(
                self._batch(step, step.behaviour, slice(None)), step.table.behaviour
            )
            tally.add_sums(sums)

    @torch.no_grad()
    def _prepare(self, step: _Step) -> None:
        """Columns that depend on the whole minibatch under the weights of now."""
        components = [item for item in self._components if item.prepares]
        if not components or not step.bins:
            return
        logprobs = step.behaviour.clone()
        for members in step.bins:
            tokens, index = self._tokens(step, members), step.table.index(members)
            logprobs[index] = self.policy.score(tokens, temperature=self.temperature).logprobs
        for item in components:
            step.columns |= item.prepare(self._batch(step, logprobs, slice(None)))

    def _batch(self, step: _Step, logprobs: Tensor, index: Tensor | slice, **current: Tensor) -> TokenBatch:
        return TokenBatch(
            logprobs=logprobs,
            behaviour=step.behaviour[index],
            advantages=step.table.advantages[index],
            mask=step.mask[index],
            sequence_ids=step.table.sequence_ids[index],
            turn_ids=step.table.turn_ids[index],
            weights=step.weights[index],
            columns={name: column[index] for name, column in step.columns.items()},
            current=current,
        )

    def _take(self, step: _Step, tally: Tally, fresh: bool, detach: bool, tick: Callable[[], None]) -> None:
        """One optimiser step. `fresh`: the weights have not moved, so the mismatch is measured."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = 0.0
        with tally.timed("update/score"):
            self._prepare(step)
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
        wanted = dict.fromkeys(self._current, True)
        scores = self.policy.score(tokens, temperature=self.temperature, **wanted)
        batch = self._batch(step, scores.logprobs, index, **{name: getattr(scores, name) for name in wanted})
        if detach:
            batch = replace(batch, behaviour=scores.logprobs.detach())
        if fresh:
            tally.add_mismatch(scores.logprobs, step.table.behaviour[index])
        for name, values in batch.current.items():
            tally.add(name, float(values.detach().sum()), len(index))
        total = torch.zeros((), device=index.device)
        for part in self._components:
            result = part(batch)
            tally.add_sums(result.sums)
            if part is self.objective and step.correction is not None:
                result = replace(result, loss=result.loss * step.correction[index])
            total = total + reduce(result.loss, batch)
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


def _with_defaults(trajectories: Sequence[Trajectory], columns: Sequence[Columns] | None) -> list[Columns]:
    """Reward, group and verdict of every trajectory, unless they are given."""
    tasks: dict[str, int] = {}
    return [
        {
            "reward": trajectory.reward,
            "group": float(tasks.setdefault(trajectory.task_id, len(tasks))),
            "correct": trajectory.metrics.get("correct", float("nan")),
            **({} if columns is None else columns[index]),
        }
        for index, trajectory in enumerate(trajectories)
    ]
