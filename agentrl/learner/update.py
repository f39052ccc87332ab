"""One update: the gradient of an objective over a batch of episodes, in packed micro-batches.

Denominators come from the whole batch of an optimiser step before a micro-batch is cut, so loss and gradient do not
depend on how many micro-batches there are. Invariants: observation tokens enter as context and nowhere else; a loss or
gradient that is not finite, or log-probabilities that are not those of the engine, step nothing; the same inputs give
the same bits on one CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.config import CriticConfig, OptimiserConfig
from agentrl.errors import ConfigError, TrainingError
from agentrl.learner.answers import AnswerScorer, Encoder
from agentrl.learner.batch import Columns, PackedTokens, TokenTable, TrainingRow, flatten, pack
from agentrl.learner.critic import Critic
from agentrl.learner.divergence import ForwardKL
from agentrl.learner.masked import build_masks
from agentrl.learner.minibatch import Step, counts, targets_of, with_defaults
from agentrl.learner.optimiser import build_optimiser, clip_gradient, step_optimiser, warmed_up
from agentrl.learner.policy import Policy
from agentrl.learner.quantities import Quantity
from agentrl.learner.quantities import build as build_quantity
from agentrl.learner.scoring import Scored, score
from agentrl.learner.supervised import supervised_step
from agentrl.learner.tally import Tally
from agentrl.needs import union
from agentrl.objectives.base import Component, Objective, Reduction, Regulariser, TokenBatch, reduce
from agentrl.objectives.correction import Correction
from agentrl.objectives.reduction import check_reduction, reduction_constant, reduction_weights
from agentrl.trajectory import Trajectory

Progress = Callable[[int, int], None]
"""Called with the micro-batches done and their number."""


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
        critic: CriticConfig | None = None,
    ) -> None:
        """`temperature` is the rollout's: ratios compare like with like.

        `mismatch_bound` (nats a token) refuses a batch whose recorded log-probabilities are further than that from the
        learner's own under the same weights, in the mean of absolute differences.

        `behaviour="recomputed"` replaces the engine's records by the learner's own log-probabilities before the first
        step, so that ratios start at exactly 1 whatever the engine's precision. It costs one more forward pass over
        the batch where a batch has several optimiser steps, and nothing where it has one. `correction` weights the
        policy loss for what lies between the records and those; it needs `recomputed`, and the pass in any case.

        A `critic` learns the column `returns` in the same micro-batches; what it predicted before is `values`.
        """
        reduction_constant(reduction, norm)
        check_reduction(objective, reduction)
        self.policy = policy
        self.objective = objective
        self.regularisers = list(regularisers)
        self.reduction, self.norm = reduction, norm
        self.recompute = behaviour == "recomputed"
        self.temperature = temperature
        self.mismatch_bound = mismatch_bound
        self.config = optimiser or OptimiserConfig()
        self._masks = build_masks(policy.trainable(), self.config.mask) if self.config.mask else {}
        self.optimiser = build_optimiser(policy.trainable(), self.config, self._masks)
        self.steps = 0
        """Optimiser steps so far; warm-up counts them."""
        self.critic = None if critic is None else Critic(policy, critic, self.config)
        self.correction = correction
        if correction is not None and not self.recompute:
            raise ConfigError("loss.correction compares with loss.behaviour=recomputed; set that")
        components: list[Component] = [objective, *self.regularisers]
        self._components = components
        self.needs = union([*(item.needs for item in components), {"values"} if self.critic else ()])
        """Columns that the loss reads: `update` scores those that it is not given."""
        self._quantities = {name: build_quantity(name) for name in self.needs}
        for quantity in self._quantities.values():
            if not quantity.of_tokens:
                raise ConfigError(f"loss: {quantity.name} is a number of a trajectory, not of a token")
            self._require_critic(quantity)
        self._current = union(item.current for item in components)
        self._divergences = [ForwardKL(policy, name) for name in sorted(self._current - {"entropy", "uniform"})]
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
        a task, and then `group_variance`) and `correct` are filled in, `masked` (1: the token carries no loss) is
        heeded. Minibatches are consecutive trajectories, or groups where the objective needs them whole. A step in
        which every advantage is 0 and no regulariser acts is counted (`update/skipped_steps`) and not taken by the
        policy; single trajectories of that kind are left out of the passes, unless a critic learns from them, and not
        of the denominators. Returns metrics; `loss` and `grad_norm` are
        means over the steps, `mismatch/*` compare the learner with the engine's records before any step, and
        `seconds/update/*` add up to the call. Raises `TrainingError`, with the weights as they were where the mismatch
        is above its bound.
        """
        tally = Tally()
        with tally.timed("update/prepare"):
            steps = self._cut(flatten(trajectories, advantages, with_defaults(trajectories, columns)))
        passes = self.config.epochs * sum(len(step.bins) for step in steps)
        several = self.config.epochs * len(steps) > 1
        with tally.timed("update/score"):
            for step in steps:
                self._prescore(step, tally, several)
            self._check_mismatch(tally)
        if self.critic is not None:
            self.critic.report([step.columns for step in steps if step.bins], tally)
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
        if self.critic is not None:
            self.critic.updates += 1
        return {**tally.metrics(), **counts(steps, self.config), "lr": self.optimiser.param_groups[0]["lr"]}

    def supervised_optimiser(self, lr: float) -> torch.optim.AdamW:
        """An optimiser of its own for `supervised_step`: the moments of imitation do not leak into the next phase."""
        return build_optimiser(self.policy.trainable(), self.config.model_copy(update={"lr": lr}), self._masks)

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

    def score(
        self, trajectories: Sequence[Trajectory], needs: frozenset[str], tokenizer: Encoder | None = None
    ) -> list[dict[str, NDArray[np.float64]]]:
        """What `needs` name, of every trajectory under the present weights: shape (L_i,), or of the trajectory.

        `tokenizer` is the policy's, for the quantities of answers that nobody sampled.
        """
        rows = flatten(trajectories, [np.zeros(item.num_policy_tokens) for item in trajectories])
        asked = [build_quantity(name) for name in sorted(needs)]
        quantities = [item for item in asked if item.source != "answer"]
        for item in quantities:
            self._require_critic(item)
        found: list[dict[str, NDArray[np.float64]]] = [
            {item.name: np.zeros(trajectory.num_policy_tokens) for item in quantities if item.of_tokens}
            for trajectory in trajectories
        ]
        for item in asked:
            if item.source == "answer":
                for columns, answers in zip(found, self._answers(item, trajectories, tokenizer), strict=True):
                    columns[item.name] = answers
        if not rows or not quantities:
            return found
        table = TokenTable.of(rows, self.policy.device)
        bins = pack(rows, self.config.micro_batch_tokens)
        rewards = torch.tensor([item.reward for item in trajectories], device=self.policy.device)
        known = {"reward": rewards[table.sequence_ids]}
        scored = self._scored(rows, table, bins, quantities, known)
        for name, values in scored.tokens.items():
            flat = values.double().cpu().numpy()
            for index, row in enumerate(rows):
                found[row.trajectory][name][row.tokens] = flat[table.offsets[index] : table.offsets[index + 1]]
        for name, numbers in scored.trajectories.items():
            for trajectory, value in numbers.items():
                found[trajectory][name] = value.double().cpu().numpy()
        return found

    def _scored(
        self,
        rows: list[TrainingRow],
        table: TokenTable,
        bins: list[list[int]],
        quantities: list[Quantity],
        known: Mapping[str, Tensor],
    ) -> Scored:
        return score(
            self.policy,
            rows,
            table,
            bins,
            quantities,
            temperature=self.temperature,
            known=known,
            critic=self.critic,
        )

    def _require_critic(self, quantity: Quantity) -> None:
        if quantity.of == "critic" and self.critic is None:
            raise ConfigError(f"{quantity.name} come from a critic, and there is none; set critic.kind=shared or own")

    def _answers(
        self, quantity: Quantity, trajectories: Sequence[Trajectory], tokenizer: Encoder | None
    ) -> list[NDArray[np.float64]]:
        if tokenizer is None:
            raise TrainingError(f"{quantity.name} needs the policy's tokenizer")
        budget = self.config.micro_batch_tokens
        return AnswerScorer(self.policy, quantity, tokenizer, self.temperature, budget).columns(trajectories)

    def _cut(self, rows: list[TrainingRow]) -> list[Step]:
        """The optimiser steps of a batch, with their global denominators."""
        keys = [row.columns["group"][0] if self._unit == "group" else row.trajectory for row in rows]
        present = np.array(list(dict.fromkeys(keys)))
        parts = np.array_split(present, min(self.config.minibatches, max(1, len(present))))
        members = [set(part.tolist()) for part in parts if len(part)]
        return [self._step([row for row, key in zip(rows, keys, strict=True) if key in chosen]) for chosen in members]

    def _step(self, rows: list[TrainingRow]) -> Step:
        table = TokenTable.of(rows, self.policy.device)
        everything = torch.ones_like(table.turn_ids, dtype=torch.bool)
        weights = reduction_weights(self.reduction, table.sequence_ids, table.turn_ids, everything, norm=self.norm)
        credited = {row.trajectory for row in rows if row.advantages.any()}
        targeted = {row.trajectory for row in rows if self.critic and np.isfinite(targets_of(row)).any()}
        everyone = bool(self.regularisers) or not self.objective.zero_without_advantage
        acting = [index for index, row in enumerate(rows) if everyone or row.trajectory in credited | targeted]
        bins = pack([rows[index] for index in acting], self.config.micro_batch_tokens, self._unit)
        bins = [[acting[index] for index in members] for members in bins]
        columns = dict(table.columns)
        mask = columns["masked"] == 0 if "masked" in columns else everything
        acts = bool(rows) and (everyone or bool(credited))
        step = Step(rows, bins, table, weights, mask, table.behaviour, columns, acts)
        for item in self._components:
            step.columns |= item.constants(self._batch(step, step.behaviour, slice(None)))
        return step

    def _tokens(self, step: Step, members: list[int]) -> PackedTokens:
        return PackedTokens.of([step.rows[index] for index in members], self.policy.device)

    def _prescore(self, step: Step, tally: Tally, several: bool) -> None:
        """What must be known under the weights before the first step: what the loss reads, and the policy's own."""
        wanted = [quantity for name, quantity in self._quantities.items() if name not in step.columns]
        recompute = self.recompute and (several or self.correction is not None)
        own = build_quantity("logprobs")
        if recompute and own.name not in {quantity.name for quantity in wanted}:
            wanted.append(own)
        if not wanted or not step.bins:
            return
        scored = self._scored(step.rows, step.table, step.bins, wanted, step.columns)
        step.columns |= scored.tokens
        if recompute:
            acting = step.table.index([index for members in step.bins for index in members])
            tally.add_mismatch(step.columns[own.name][acting], step.table.behaviour[acting])
            step.behaviour = step.table.behaviour.clone()
            step.behaviour[acting] = step.columns[own.name][acting]
        if self.correction is not None:
            # Rows without credit were not scored, so the correction's statistics leave them out.
            batch = self._batch(step, step.behaviour[acting], acting)
            weights, sums = self.correction(batch, step.table.behaviour[acting])
            step.correction = torch.ones_like(step.behaviour).index_copy_(0, acting, weights)
            tally.add_sums(sums)

    @torch.no_grad()
    def _prepare(self, step: Step) -> None:
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

    def _batch(self, step: Step, logprobs: Tensor, index: Tensor | slice, **current: Tensor) -> TokenBatch:
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

    def _take(self, step: Step, tally: Tally, fresh: bool, detach: bool, tick: Callable[[], None]) -> None:
        """One optimiser step. `fresh`: the weights have not moved, so the mismatch is measured."""
        self._clear_gradients()
        moves = step.credited if self.critic is None else self.critic.lets_move(step.credited)
        loss = value_loss = 0.0
        with tally.timed("update/score"):
            self._prepare(step)
        for members in step.bins:
            share, value = self._accumulate(step, members, tally, fresh, detach, moves)
            loss, value_loss = loss + share, value_loss + value
            tick()
        tally.add("loss", loss)
        if self.critic is not None:
            tally.add("critic/loss", value_loss)
        if fresh:
            self._check_mismatch(tally)
        if step.bins:
            with tally.timed("update/optimiser"):
                self._apply(tally, moves)

    def _clear_gradients(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        if self.critic is not None:
            self.critic.optimiser.zero_grad(set_to_none=True)

    def _apply(self, tally: Tally, moves: bool) -> None:
        """Step with the gradients that are there, once all of them are known to be finite."""
        if moves:
            tally.add("grad_norm", clip_gradient(self.optimiser, self.config.grad_clip))
        if self.critic is not None:
            tally.add("critic/grad_norm", self.critic.clip_gradient())
            self.critic.step()
        if moves:
            step_optimiser(self.optimiser, warmed_up(self.config, self.steps))
            self.steps += 1

    def _accumulate(
        self, step: Step, members: list[int], tally: Tally, fresh: bool, detach: bool, moves: bool
    ) -> tuple[float, float]:
        """Add a micro-batch's gradients; returns its shares of the policy's and of the critic's loss."""
        tokens, index = self._tokens(step, members), step.table.index(members)
        with tally.timed("update/forward"), torch.set_grad_enabled(moves):
            states = self.policy.states(tokens)
            share = self._loss(step, tokens, index, states, tally, fresh, detach)
        total = share if moves else None
        if self.critic is None:
            self._backward(total, tally)
            return float(share.detach()), 0.0
        if self.critic.trunk is not None:  # the policy's graph is not needed any more, and need not be kept beside it
            self._backward(total, tally)
            total = None
        with tally.timed("update/forward"):
            value = self.critic.loss(tokens, states, step.columns, index, step.mask, tally)
            weighted = value * (self.critic.config.coefficient or 1.0)
        self._backward(weighted if total is None else total + weighted, tally)
        return float(share.detach()), float(value.detach())

    def _backward(self, loss: Tensor | None, tally: Tally) -> None:
        if loss is None:
            return
        if not torch.isfinite(loss.detach()):
            self._clear_gradients()
            raise TrainingError(f"the loss is {float(loss.detach())}; nothing was stepped")
        with tally.timed("update/backward"):
            loss.backward()  # type: ignore[no-untyped-call]

    def _check_mismatch(self, tally: Tally) -> None:
        """Stop before the weights move if what the engine recorded is not what they give."""
        measured, bound = tally.mismatch, self.mismatch_bound
        if measured is None or bound is None or measured <= bound:
            return
        self._clear_gradients()
        raise TrainingError(
            f"the engine's log-probabilities differ from the learner's by {measured:.3g} nats a token in the mean, "
            f"more than loss.mismatch_bound={bound:g}; nothing was stepped. Likely causes: the engine treats "
            f"temperature, top-p or top-k otherwise than the learner (temperature {self.temperature:g}), serves other "
            "weights than those that were published, or computes in a much lower precision"
        )

    def _loss(
        self,
        step: Step,
        tokens: PackedTokens,
        index: Tensor,
        states: Tensor,
        tally: Tally,
        fresh: bool,
        detach: bool,
    ) -> Tensor:
        """A micro-batch's share of the loss. `detach`: the behaviour log-probabilities are those of this very pass."""
        wanted = dict.fromkeys(self._current & {"entropy", "uniform"}, True)
        scores = self.policy.score(tokens, states=states, temperature=self.temperature, **wanted)
        now = {name: getattr(scores, name) for name in wanted}
        for item in self._divergences:
            now[item.name] = item(tokens, states, step.columns["reward"][index], self.temperature)
        batch = self._batch(step, scores.logprobs, index, **now)
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
