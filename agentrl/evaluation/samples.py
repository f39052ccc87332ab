"""Sample: one line an episode, the flat table that every statistic of an evaluation is computed from.

A model's samples of one task are a cluster; `sample` numbers them. What an environment judged is right or wrong; an
episode that ran into its own deadline is wrong, because the agent had its time; whatever failed for a fault of engine
or environment, or was stopped from outside, was asked and not judged: it has no verdict.

Invariant: no episode vanishes. Every stored one has a line, and a task's `TaskCounts` says how many of them count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.tool_env import INVALID_CALLS
from agentrl.trajectory import StopReason, ToolCallRecord, Trajectory

if TYPE_CHECKING:
    from agentrl.store import EpisodeRecord, RunStore

PHASE = "eval/"
"""What the phases of an evaluation begin with; the entry's name follows."""


class TaskKey(NamedTuple):
    """What makes a task one task: ids are the environment's own, and two entries may name the same ones."""

    entry: str
    task_id: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One episode of an evaluation."""

    entry: str
    """The suite's entry."""
    task_id: str
    env_id: str = ""
    sample: int = 0
    """Number among the samples of its task, from 0."""
    level: int | None = None
    reward: float = 0.0
    correct: bool | None = None
    """None: aborted, or the environment gives no verdict."""
    aborted: bool = False
    """Asked and not judged, for a fault that is not the agent's."""
    answer: str | None = None
    """The final answer; None where the environment knows none."""
    turns: int = 0
    tokens: int = 0
    """Tokens that the policy sampled; 0 where nobody counted."""
    prompt_tokens: int = 0
    """Tokens that it was given, all turns together."""
    tool_calls: int = 0
    tool_errors: int = 0
    """Calls that were answered by an error, ill-formed ones included."""
    invalid_calls: int = 0
    """Calls that were ill-formed, of an unknown tool or with arguments that do not fit."""
    seconds: float = 0.0
    tool_seconds: float = 0.0
    stop_reason: StopReason = StopReason.TERMINATED
    seed: int = 0
    error: str | None = None
    token_entropy: float | None = None
    """Mean entropy of the whole distributions (temperature 1) that the tokens were sampled at, nats; None where the
    engine does not record it."""
    surprisal: float | None = None
    """Mean of -log p of the sampled tokens, nats, as the engine reports them: an estimate, without bias for single
    tokens, of the entropy at the sampling temperature where nothing was cut off. None without log-probabilities."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    group: str = ""
    phase: str = ""
    """In the store; empty: the entry's."""
    member: int | None = None
    """In the store; None: the number."""

    @property
    def task(self) -> TaskKey:
        return TaskKey(self.entry, self.task_id)

    @property
    def place(self) -> tuple[str, int, str, int]:
        """Phase, step, group and member: where the episode stands in the store."""
        member = self.sample if self.member is None else self.member
        return self.phase or PHASE + self.entry, self.step, self.group, member

    @property
    def key(self) -> tuple[str, str, int]:
        """What pairs it with another model's sample."""
        return self.entry, self.task_id, self.sample


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How a model did on one task."""

    task: TaskKey
    n: int
    """Samples with a verdict."""
    c: int
    """Those of them that are right."""
    level: int | None = None
    left_out: int = 0
    """Samples without a verdict."""


def samples_of(store: RunStore, run: int, entries: Iterable[str] | None = None) -> list[Sample]:
    """The samples of an evaluation by entry, task and number; of a phase with several steps, those of the last.

    `entries` are phases without their leading `eval/`; None: all. Raises `ConfigError` for one that is not there.
    """
    phases = {phase.phase: phase for phase in store.phases(run) if phase.phase.startswith(PHASE) and phase.episodes}
    wanted = [*phases] if entries is None else [PHASE + entry for entry in entries]
    for phase in wanted:
        if phase not in phases:
            name, known = phase.removeprefix(PHASE), [item.removeprefix(PHASE) for item in phases]
            raise ConfigError(f"the run has no evaluated entry {name!r}; {nearest(name, known)}")
    table = SampleTable()
    for phase in wanted:
        for episode in store.episodes(run, phase, _last_step(store, run, phase)):
            table.add(episode)
    return table.samples


class SampleTable:
    """The samples of an evaluation's episodes as they are read one by one, the steps of a phase going up."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Sample]] = {}

    def add(self, episode: EpisodeRecord) -> None:
        """Take an episode; one of a later step takes the place of all of an earlier one, one of a phase that is no
        evaluation's is passed over."""
        if not episode.phase.startswith(PHASE):
            return
        entry = episode.phase.removeprefix(PHASE)
        members = self._entries.setdefault(entry, [])
        if members and members[-1].step != episode.step:
            members.clear()
        made = sample_of(episode.trajectory, entry, episode.member)
        members.append(replace(made, step=episode.step, group=episode.group))

    @property
    def samples(self) -> list[Sample]:
        """Those that were taken so far, entries in the order of their first episodes."""
        return [sample for members in self._entries.values() for sample in timed_out_is_wrong(members)]


def samples_of_steps(store: RunStore, run: int, phase: str, steps: Iterable[int] | None = None) -> list[Sample]:
    """The samples of a phase such as `train`, each step an entry of its own; a task's are numbered through its groups.

    `steps` None: all. Raises `ConfigError` for a phase or step without episodes.
    """
    phases = [item.phase for item in store.phases(run) if item.episodes]
    if phase not in phases:
        raise ConfigError(f"the run has no episodes of phase {phase!r}; {nearest(phase, phases)}")
    wanted = None if steps is None else set(steps)
    played: dict[int, list[Sample]] = {}
    numbers: Counter[tuple[int, str]] = Counter()
    for episode in store.episodes(run, phase):
        if wanted is None or episode.step in wanted:
            place = episode.step, episode.trajectory.task_id
            made = sample_of(episode.trajectory, f"{phase} step {episode.step}", numbers[place])
            played.setdefault(episode.step, []).append(
                replace(made, step=episode.step, group=episode.group, phase=phase, member=episode.member)
            )
            numbers[place] += 1
    if missing := sorted((wanted or set()) - set(played)):
        raise ConfigError(f"phase {phase!r} has no episodes of step {missing[0]}")
    return [sample for step in sorted(played) for sample in timed_out_is_wrong(played[step])]


def _last_step(store: RunStore, run: int, phase: str) -> int:
    from agentrl.store import EpisodeQuery

    return store.page(EpisodeQuery(run, phase=phase, sort="step", descending=True, limit=1))[0].step


def sample_of(trajectory: Trajectory, entry: str, number: int) -> Sample:
    """The line of one episode; a deadline that passed has no verdict yet (`timed_out_is_wrong`)."""
    calls = [call for turn in trajectory.turns for call in turn.tool_calls]
    level, answer = trajectory.info.get("level"), trajectory.info.get("answer")
    return Sample(
        entry=entry,
        task_id=trajectory.task_id,
        env_id=trajectory.env_id,
        sample=number,
        level=level if isinstance(level, int) else None,
        reward=trajectory.reward,
        correct=_verdict(trajectory),
        aborted=trajectory.aborted,
        answer=answer if answer is None else str(answer),  # an imported one may be a number
        turns=len(trajectory.turns),
        tokens=trajectory.completion_tokens or 0,
        prompt_tokens=trajectory.prompt_tokens or 0,
        tool_calls=len(calls),
        tool_errors=sum(call.error is not None for call in calls),
        invalid_calls=sum(call.error in INVALID_CALLS for call in calls),
        seconds=trajectory.seconds,
        tool_seconds=_seconds(calls),
        stop_reason=trajectory.stop_reason,
        seed=trajectory.seed,
        error=trajectory.error,
        token_entropy=_entropy(trajectory),
        surprisal=_surprisal(trajectory),
        metrics=dict(trajectory.metrics),
    )


def timed_out_is_wrong(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of one entry, those that ran into their deadline wrong and not aborted.

    Where the environment gives no verdict `correct` on any episode, a time-out gets none either.
    """
    judged = [sample for sample in samples if not sample.aborted]
    verdict = None if judged and all(sample.correct is None for sample in judged) else False
    return [
        replace(sample, correct=verdict, aborted=False) if sample.stop_reason is StopReason.TIMEOUT else sample
        for sample in samples
    ]


def by_task(samples: Iterable[Sample]) -> dict[TaskKey, list[Sample]]:
    """The samples of each task, tasks in order of appearance."""
    tasks: dict[TaskKey, list[Sample]] = {}
    for sample in samples:
        tasks.setdefault(sample.task, []).append(sample)
    return tasks


def task_counts(samples: Iterable[Sample]) -> list[TaskCounts]:
    """n and c of every task, tasks without a verdict included (n=0)."""
    return [_counts(task, members) for task, members in by_task(samples).items()]


def judged(samples: Iterable[Sample]) -> list[Sample]:
    """The samples with a verdict."""
    return [sample for sample in samples if sample.correct is not None]


def stop_reasons(samples: Iterable[Sample]) -> dict[str, int]:
    """How many episodes ended for which reason, the most frequent first."""
    return dict(Counter(str(sample.stop_reason) for sample in samples).most_common())


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Samples of one task that were drawn with the same seed."""

    task: TaskKey
    seed: int
    samples: tuple[int, ...]
    """Their numbers."""
    same: bool
    """They also came out the same: turns, tokens, reward and answer."""


def duplicates(samples: Iterable[Sample]) -> list[Duplicates]:
    """Samples that are no independent draws because their seeds are equal (pooled runs with one seed, method 20)."""
    draws: dict[tuple[TaskKey, int], list[Sample]] = {}
    for sample in samples:
        draws.setdefault((sample.task, sample.seed), []).append(sample)
    return [
        Duplicates(task, seed, tuple(item.sample for item in group), len({_outcome(item) for item in group}) == 1)
        for (task, seed), group in draws.items()
        if len(group) > 1
    ]


def repeated(samples: Iterable[Sample]) -> tuple[int, int]:
    """Tasks of which all samples came out the same, and tasks with several samples: greedy samples are one draw.

    The same: turns, tokens, reward, answer and ending. Aborted samples are left out.
    """
    tasks = by_task(sample for sample in samples if not sample.aborted)
    several = [members for members in tasks.values() if len(members) > 1]
    return sum(len({_outcome(sample) for sample in members}) == 1 for members in several), len(several)


def pool(*runs: Iterable[Sample]) -> list[Sample]:
    """The samples of several evaluations of one model with different seeds as one table, numbered anew by task.

    Raises `ConfigError` if a task's samples share a seed: they would count one draw several times.
    """
    pooled = [sample for run in runs for sample in run]
    if found := duplicates(pooled):
        task, seed = found[0].task, found[0].seed
        raise ConfigError(
            f"pooled samples are not independent: {len(found)} seeds occur more than once in a task, the first is "
            f"seed {seed} of task {task.task_id!r} in {task.entry!r}; evaluate with different seeds"
        )
    numbers: Counter[TaskKey] = Counter()
    renumbered = []
    for sample in pooled:
        renumbered.append(replace(sample, sample=numbers[sample.task]))
        numbers[sample.task] += 1
    return renumbered


def _counts(task: TaskKey, members: Sequence[Sample]) -> TaskCounts:
    n = sum(sample.correct is not None for sample in members)
    c = sum(sample.correct is True for sample in members)
    return TaskCounts(task, n, c, members[0].level, len(members) - n)


def _outcome(sample: Sample) -> tuple[object, ...]:
    return sample.turns, sample.tokens, sample.reward, sample.answer, sample.stop_reason


def _verdict(trajectory: Trajectory) -> bool | None:
    correct = trajectory.metrics.get("correct")
    if trajectory.aborted or correct is None or math.isnan(correct):
        return None
    return correct == 1.0


def _seconds(calls: Sequence[ToolCallRecord]) -> float:
    return sum(call.seconds for call in calls)


def _entropy(trajectory: Trajectory) -> float | None:
    """Over all tokens, from the means of the turns (`Trajectory.info`)."""
    means = trajectory.info.get("token_entropy")
    if not means:
        return None
    pairs = [(mean, len(turn.sampled_ids)) for mean, turn in zip(means, trajectory.turns, strict=False)]
    tokens = sum(count for mean, count in pairs if mean is not None)
    return sum(mean * count for mean, count in pairs if mean is not None) / tokens if tokens else None


def _surprisal(trajectory: Trajectory) -> float | None:
    logprobs = [value for turn in trajectory.turns for value in turn.logprobs]
    return -math.fsum(logprobs) / len(logprobs) if logprobs else None
