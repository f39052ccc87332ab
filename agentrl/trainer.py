"""The loop: sample tasks, roll out, attribute credit, update, publish, record, checkpoint.

It owns order, not mathematics. Invariants: a step is a function of (configuration, step number, weights, optimiser), so
a run that was killed and resumed has the weights of one that was not, bit for bit where the arithmetic is (one CPU);
the store holds every finished episode and none twice; what is trained on is what was sampled, id for id, by the
weights that were published.
"""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentrl.account import BatchAccount
from agentrl.advantages.base import Credit, attribute, tables_of
from agentrl.advantages.batch import credited_batch
from agentrl.assembly import (
    Actors,
    build_actors,
    build_learner,
    build_sampler,
    build_transforms,
    check,
    load_policy,
    task_set,
)
from agentrl.config import RunConfig
from agentrl.errors import CheckpointError, TrainingError
from agentrl.evaluation.result import EvalResult, summarise
from agentrl.evaluation.runner import eval_requests, run_policy
from agentrl.learner.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from agentrl.memory import release_freed_memory
from agentrl.needs import union
from agentrl.observe import Observer
from agentrl.records import RunRecords, check_new
from agentrl.rollout import GroupRequest
from agentrl.seeding import derive_seed
from agentrl.training_metrics import rollout_metrics
from agentrl.trajectory import Group, Trajectory
from agentrl.warm_start import warm_start

__all__ = ["TrainResult", "Trainer", "check", "train"]

INTERRUPTS = (asyncio.CancelledError, KeyboardInterrupt)


@dataclass
class TrainResult:
    """Where a run is and what its evaluations say."""

    folder: Path
    report: Path | None = None
    evaluations: dict[str, EvalResult] = field(default_factory=dict)
    """`base`, `warm_start`, `trained`: those that this process ran."""


def train(config: RunConfig, *, resume: bool = False, observer: Observer | None = None) -> TrainResult:
    """Train as configured, or go on with the run in `config.folder`.

    Raises `ConfigError` (a wrong value, before anything is sampled), `CheckpointError` (nothing to resume),
    `TrainingError`, `EngineError`. On an interrupt the state after the last whole step is saved, then
    `KeyboardInterrupt` is raised.
    """
    watch = observer or Observer()
    try:
        return asyncio.run(Trainer(config, watch).run(resume))
    finally:
        watch.close()


class Trainer:
    """One run."""

    def __init__(self, config: RunConfig, observer: Observer) -> None:
        check(config)
        self.config = config
        self.observer = observer
        self.transforms = build_transforms(config)
        self.sampler = build_sampler(config)
        self.evaluations: dict[str, EvalResult] = {}
        self.step = 0
        """Finished reinforcement-learning steps."""
        self._saved_step = -1
        self._sampled = 0
        """Episodes of the present step that have ended."""

    async def run(self, resume: bool) -> TrainResult:
        """The whole run, from loading to the report."""
        found = latest_checkpoint(self.config.folder / "checkpoints") if resume else None
        if resume and not (self.config.folder / "config.yaml").exists():
            raise CheckpointError(f"{str(self.config.folder)!r} holds no run to resume")
        if resume and found is None and any((self.config.folder / "checkpoints").glob("step-*")):
            raise CheckpointError(
                f"{str(self.config.folder)!r}: no checkpoint is complete; copy one back, or start anew"
            )
        if not resume:
            check_new(self.config)
        self.records = RunRecords(self.config)
        try:
            self._assemble()
            await self.actors.engine.start()
            try:
                await self._phases(found)
            except asyncio.CancelledError:
                self._save_on_interrupt()
                raise
            finally:
                await self.actors.engine.close()
            return self._finish()
        except BaseException as error:
            self.records.status("interrupted" if isinstance(error, INTERRUPTS) else "failed")
            raise
        finally:
            self.records.close()

    def _assemble(self) -> None:
        self.observer.phase("load")
        policy, tokenizer = load_policy(self.config)
        self.policy, self.tokenizer = policy, tokenizer
        self.learner = build_learner(self.config, policy)
        self.actors: Actors = build_actors(self.config, policy, tokenizer)
        self.actors.engine.require(publish=True, logprobs=True, tokens=True)
        self.rollout = self.actors.rollout(self._on_sampled)
        env = self.actors.make_env()
        self.tasks = task_set(env, self.config.env.train_split, "env.train_split")
        self.eval_requests = eval_requests(env, self.config.env.eval_split, self.config.eval.episodes, self.config.seed)
        env.close()

    async def _phases(self, found: Path | None) -> None:
        before = self.config.eval.before
        if found is None:
            self.records.open_sinks(0)
            await self._publish()
            if before:
                await self._evaluate("base")
            if self.config.warm_start:
                await self._warm_start()
            await self.sampler.begin(self.tasks, self.config.seed, self._probe)
            self._save()
        else:
            self._restore(load_checkpoint(found, self.learner))
            self.records.open_sinks(self.step)
            self.observer.note(f"resumed after step {self.step} from {found}")
            await self._publish()
        self.records.rewind(self.step)
        if before and self.config.warm_start and self.step == 0:
            await self._evaluate("warm_start")
        await self._reinforce()
        await self._evaluate("trained")

    async def _publish(self) -> None:
        """Serve the weights as they are now: the end of a phase that changed them."""
        self.weights_hash = await self.actors.engine.publish(None, self.step)
        release_freed_memory()

    async def _warm_start(self) -> None:
        settings = self.config.warm_start
        assert settings is not None
        self.observer.phase("warm start", settings.steps)
        began = time.perf_counter()

        def on_step(step: int, metrics: dict[str, float]) -> None:
            nonlocal began
            began, before = time.perf_counter(), began
            self.records.log("warm_start", step, {**metrics, "seconds": began - before})
            self.observer.advance(1, loss=metrics["loss"], token_accuracy=metrics["accuracy"])

        seed = derive_seed(self.config.seed, "warm_start")
        await warm_start(self.actors, self.learner, self.tasks, settings, seed, on_step)
        await self._publish()

    async def _evaluate(self, stage: str, step: int | None = None) -> None:
        """Evaluate on the held-out tasks; a stage that the store already holds is not run twice."""
        phase = f"eval/{stage}"
        at = self.step if step is None else step
        if not self.eval_requests or at in self.records.logged(phase):
            return
        self.observer.phase(f"evaluate {stage.replace('_', ' ')}", len(self.eval_requests))
        finished: list[Trajectory] = []

        def hook(request: GroupRequest, trajectory: Trajectory) -> None:
            finished.append(trajectory)
            self.records.episode(phase, at, request, trajectory)
            self.observer.episode(phase, trajectory)
            correct = sum(episode.metrics.get("correct", 0.0) for episode in finished)
            self.observer.advance(1, accuracy=correct / len(finished))

        began = time.perf_counter()
        await run_policy(self.actors, self.eval_requests, self.config.eval.temperature, hook)
        result = summarise(
            finished,
            model=self.config.model.name,
            env=self.config.env.id,
            split=self.config.env.eval_split,
            temperature=self.config.eval.temperature,
            seed=self.config.seed,
            seconds=time.perf_counter() - began,
        )
        release_freed_memory()
        self.records.log(phase, at, result.to_metrics())
        self.evaluations[stage] = result
        share, told = result.accuracy, f"no accuracy, mean reward {result.reward.value:.4g}"
        if math.isfinite(share.value):
            told = f"accuracy {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"
        self.observer.note(f"{stage.replace('_', ' ')}: {told}")

    async def _reinforce(self) -> None:
        self._announce_training()
        every = self.config.eval.every
        while self.step < self.config.steps:
            metrics = await self._train_step()
            self.observer.step(self.step, metrics)
            self.observer.advance(1, reward=metrics.get("reward", 0.0), accuracy=metrics.get("accuracy", 0.0))
            if self.step % self.config.checkpoint.every == 0 or self.step == self.config.steps:
                self._save()
            if every and self.step % every == 0 and self.step < self.config.steps:
                await self._evaluate("step")
                self._announce_training()

    def _announce_training(self) -> None:
        self.observer.phase("train", self.config.steps)
        if self.step:
            self.observer.advance(self.step)

    async def _train_step(self) -> dict[str, float]:
        began = time.perf_counter()
        number = self.step + 1
        groups, account = await self._roll_out(number)
        rolled = time.perf_counter()
        credits = self._credit(groups)
        release_freed_memory()
        attributed = time.perf_counter()
        metrics = self._update(number, [group.group_id for group in groups if group.members], credits)
        self.sampler.observe(groups)
        self.step = number
        updated = time.perf_counter()
        await self._publish()
        ended = time.perf_counter()
        sampled = rollout_metrics(groups)
        metrics = {
            **sampled,
            **account.metrics(),
            **metrics,
            "tokens_per_second": sampled["tokens"] / (rolled - began),
            "seconds": ended - began,
            "seconds/rollout": rolled - began,
            "seconds/update": updated - attributed,
            "seconds/other": attributed - rolled + ended - updated,
            "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        }
        self.records.log("train", number, metrics)
        return metrics

    async def _roll_out(self, number: int) -> tuple[list[Group], BatchAccount]:
        """The step's groups in the order of their requests, whatever finished first, and where the time went."""
        self._sampled = 0
        wanted = self.config.rollout.groups_per_step
        groups = [group async for group in self.rollout.run(self._requests(number), wanted=wanted)]
        return sorted(groups, key=lambda group: group.group_id), self.rollout.account()

    def _requests(self, number: int) -> Iterator[GroupRequest]:
        """The step's tasks, then others without end, in the place of groups that are dropped."""
        rollout, seed = self.config.rollout, self.config.seed
        for slot, index in enumerate(self.sampler.draw(self.tasks, number, rollout.groups_per_step, seed)):
            request_seed = derive_seed(seed, "train", number, slot)
            yield GroupRequest(f"{number:06d}.{slot:04d}", self.tasks[index].id, rollout.group_size, request_seed)

    async def _probe(self, indices: Sequence[int], episodes: int) -> list[float]:
        """Share of correct episodes of each task under the present policy; nothing is trained or stored."""
        self.observer.phase("probe tasks", len(indices))
        requests = [
            GroupRequest(
                f"probe.{place:06d}", self.tasks[index].id, episodes, derive_seed(self.config.seed, "probe", index)
            )
            for place, index in enumerate(indices)
        ]
        shares: dict[str, float] = {}
        rollout = self.actors.evaluation(None, self.config.rollout.temperature)
        async for group in rollout.run(requests):
            verdicts = [member.metrics.get("correct", 0.0) for member in group.members]
            shares[group.group_id] = sum(verdicts) / max(1, len(verdicts))
            self.observer.advance(1)
        return [shares[request.group_id] for request in requests]

    def _on_sampled(self, request: GroupRequest, trajectory: Trajectory) -> None:
        """An episode of the present training step has ended."""
        self._sampled += 1
        self.records.episode("train", self.step + 1, request, trajectory)
        self.observer.episode("train", trajectory)
        total = self.config.rollout.groups_per_step * self.config.rollout.group_size
        self.observer.activity("rollout", self._sampled, max(total, self._sampled))

    def _credit(self, groups: Sequence[Group]) -> list[Credit]:
        """The credit of each group with judged members, after the scoring pass that its transforms ask for."""
        judged = [group.members for group in groups if group.members]
        trajectories = [member for members in judged for member in members]
        if groups:  # none: every one was dropped, so there is nothing to learn from in this step
            self.check_records(trajectories)
        needs = union(item.needs for item in self.transforms)
        columns = iter(self.learner.score(trajectories, needs, self.tokenizer))
        tables = [tables_of(members, [next(columns) for _ in members]) for members in judged]
        return attribute(self.transforms, tables)

    def _update(self, number: int, names: Sequence[str], credits: Sequence[Credit]) -> dict[str, float]:
        """Train on what the transforms kept of the groups of these names; the store tells what each token was paid."""
        batch = credited_batch(credits)
        owners = [names[int(columns["group"])] for columns in batch.columns]
        self.records.advantages("train", number, zip(owners, batch.trajectories, batch.advantages, strict=True))
        metrics = {"skipped": float(not batch.trajectories)}
        for transform in self.transforms:
            metrics |= {f"credit/{name}": value for name, value in transform.metrics.items()}
        if batch.trajectories:
            metrics |= self.learner.update(
                batch.trajectories,
                batch.advantages,
                progress=lambda done, total: self.observer.activity("update", done, total),
                columns=batch.columns,
            )
        return metrics

    def check_records(self, trajectories: Sequence[Trajectory]) -> None:
        """Trained ids equal sampled ids, and the published weights sampled them; anything else stops the run."""
        if not trajectories:
            raise TrainingError(f"step {self.step + 1}: every episode was aborted; the store holds their errors")
        for trajectory in trajectories:
            rows = trajectory.rows()
            trained = sorted(
                (turn, token) for row in rows for turn, token in zip(row.turn_ids, row.ids, strict=True) if turn
            )
            sampled = sorted(
                (index + 1, token) for index, turn in enumerate(trajectory.turns) for token in turn.sampled_ids
            )
            if trained != sampled:
                raise TrainingError(f"task {trajectory.task_id}: the rows to train on differ from the sampled ids")
            served = set().union(*(turn.hashes for turn in trajectory.turns))
            if served - {self.weights_hash}:
                raise TrainingError(f"task {trajectory.task_id}: sampled by weights {served}, not {self.weights_hash}")

    def _save(self) -> None:
        self.observer.activity("checkpoint", 0, 1)
        keep = self.config.checkpoint.keep
        state = {
            "step": self.step,
            "transforms": [transform.state_dict() for transform in self.transforms],
            "sampler": self.sampler.state_dict(),
        }
        save_checkpoint(self.records.checkpoints, self.learner, self.step, state, keep=keep)
        self._saved_step = self.step

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = self._saved_step = int(state["step"])
        for transform, remembered in zip(self.transforms, state["transforms"], strict=True):
            transform.load_state_dict(remembered)
        self.sampler.load_state_dict(state["sampler"])

    def _save_on_interrupt(self) -> None:
        """A cancellation arrives only where the loop awaits, so never inside an update: weights and step agree."""
        if self._saved_step >= 0 and self.step > self._saved_step:
            self._save()

    def _finish(self) -> TrainResult:
        from agentrl.models.quiet import without_bars
        from agentrl.report import build_report

        self.observer.phase("report")
        with without_bars():
            self.policy.save_pretrained(self.records.policy)
        self.tokenizer.save_pretrained(self.records.policy)
        self.records.status("finished")
        report = build_report(self.records.folder)
        return TrainResult(self.records.folder, report, self.evaluations)
