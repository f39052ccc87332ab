"""Re-stepping recorded episodes: the same messages into the environment must bring the same answers out.

Invariant: nothing is generated. Only what the record holds (task, seed, the policy's messages) goes in, and everything
that the environment gave (observations, rewards, the kinds of tool errors, the end) is compared. Of a run every episode
is either played again or counted as skipped, with its stop reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentrl.env import Env
from agentrl.errors import ConfigError, StoreError
from agentrl.messages import Message
from agentrl.observe import Observer
from agentrl.registry import nearest
from agentrl.settings import validated
from agentrl.text import one_line
from agentrl.tool_env import with_calls
from agentrl.trajectory import StopReason, Trajectory, Turn

if TYPE_CHECKING:
    from agentrl.store import EpisodeRecord, RunRecord, RunStore

REWARD_TOLERANCE = 1e-9
"""Rewards are sums of few floats; a record keeps every bit of them."""

_log = logging.getLogger(__name__)


class Difference(NamedTuple):
    """An episode that its environment does not answer as it was recorded."""

    phase: str
    step: int
    group: str
    member: int
    task_id: str
    found: str
    """The first difference, in one line."""


@dataclass(slots=True)
class ReplayResult:
    """What came of replaying a run."""

    equal: int = 0
    differences: list[Difference] = field(default_factory=list)
    """In the order of the store."""
    skipped: Counter[StopReason] = field(default_factory=Counter)
    """Aborted episodes, which no verdict ended: what cut them is not in their record."""

    @property
    def episodes(self) -> int:
        """Episodes that were played again."""
        return self.equal + len(self.differences)


async def first_difference(env: Env, recorded: Trajectory) -> str | None:
    """Step `env` through a finished episode; the first difference in one line, or None if there is none.

    The environment's errors pass through. An episode that the manager ended (turn or token limit) is finished in the
    same way after its last recorded turn. An episode that branched off another one has all of its turns in its record,
    so it is stepped from the start.
    """
    opening, info = await env.areset(seed=recorded.seed, options={"task": recorded.task_id})
    if found := _messages("opening", recorded.opening, opening):
        return found
    if "tools" in info and info["tools"] != recorded.info.get("tools"):
        return "opening: the episode's tools are not the recorded ones"
    for number, turn in enumerate(recorded.turns, 1):
        message = _executed(recorded, number)
        if message is None:
            verdict = await env.afinish(recorded.stop_reason)
            return _turn(number, turn, (), verdict.reward, ())
        observation, reward, terminated, truncated, info = await env.astep(message)
        last, ended = number == len(recorded.turns), terminated or truncated
        if ended and not last:
            return f"turn {number}: the episode ends here, the recorded one has {len(recorded.turns)} turns"
        if last and not ended:
            verdict = await env.afinish(recorded.stop_reason)
            reward += verdict.reward
            if recorded.stop_reason is StopReason.TERMINATED:
                return f"turn {number}: the recorded episode terminates here, this one goes on"
        if found := _turn(number, turn, observation, float(reward), info.get("tool_calls", ())):
            return found
        if ended and (found := _ending(number, recorded.stop_reason, terminated, info.get("stop_reason"))):
            return found
    return None


def _executed(recorded: Trajectory, number: int) -> Message | None:
    """What the environment was given in that turn: of the last one, where calls ran out, the calls that were left.

    The environment may have ended the episode with them, so that the stop reason does not say that they ran out.
    """
    turn = recorded.turns[number - 1]
    budget = recorded.stop_reason is StopReason.CALL_BUDGET
    if number < len(recorded.turns) or not (budget or turn.tool_calls):
        return turn.message
    asked = with_calls(turn.message).tool_calls
    given = asked[: len(turn.tool_calls)]
    if given == asked and not budget:
        return turn.message
    return turn.message.model_copy(update={"tool_calls": given}) if given else None


def _ending(number: int, recorded: StopReason, terminated: bool, given: str | None) -> str | None:
    reason = StopReason(given or (StopReason.TERMINATED if terminated else StopReason.MAX_TURNS))
    return None if reason is recorded else f"turn {number}: ends by {reason}, recorded {recorded}"


def _turn(
    number: int, turn: Turn, observation: Sequence[Message], reward: float, calls: Sequence[object]
) -> str | None:
    if found := _messages(f"turn {number}", turn.observation, observation):
        return found
    if abs(reward - turn.reward) > REWARD_TOLERANCE:
        return f"turn {number}: reward {reward:g}, recorded {turn.reward:g}"
    kinds, recorded = [getattr(call, "error", None) for call in calls], [call.error for call in turn.tool_calls]
    return None if kinds == recorded else f"turn {number}: tool errors {kinds}, recorded {recorded}"


def _messages(where: str, recorded: Sequence[Message], given: Sequence[Message]) -> str | None:
    if len(recorded) != len(given):
        return f"{where}: {len(given)} messages, recorded {len(recorded)}"
    for number, (old, new) in enumerate(zip(recorded, given, strict=True), 1):
        if old.to_wire() != new.to_wire():
            return f"{where}, message {number}: {one_line(new.text, 80)!r}, recorded {one_line(old.text, 80)!r}"
    return None


# -- a whole run -------------------------------------------------------------------------------------------------------


def replay_run(
    folder: Path,
    *,
    phase: str | None = None,
    step: int | None = None,
    limit: int | None = None,
    workers: int = 8,
    observer: Observer | None = None,
) -> ReplayResult:
    """Play the episodes of the folder's run again, in environments made as the run's configuration says.

    `phase` and `step` choose among them; `limit` takes that many, evenly spread. `workers` episodes run at once, each
    worker in an environment of its own, under the run's `rollout.episode_seconds`. An environment that raises or hangs
    is a difference. Raises `ConfigError` (no run, nothing chosen, another environment), `StoreError`.
    """
    from agentrl.store.folder import open_folder, runs_of

    watch = observer or Observer()
    result = ReplayResult()
    with open_folder(folder) as store:
        runs = runs_of(folder, store)
        plans = [plan for run in runs for plan in _plans(store, run, phase, step, result.skipped)]
        if not any(plan.seen for plan in plans):
            raise ConfigError(_nothing(store, runs, phase, step))
        _choose(plans, limit)
        watch.phase("replay", sum(len(plan.chosen) for plan in plans))
        for plan in plans:
            asyncio.run(_play(plan, result, workers, watch))
    result.differences.sort(key=lambda difference: difference[:4])
    return result


@dataclass
class _Plan:
    """The episodes of one run that can be played again, by their number among those that were asked for."""

    records: Callable[[], Iterator[EpisodeRecord]]
    make_env: Callable[[], Env]
    seconds: float
    seen: int = 0
    chosen: list[int] = field(default_factory=list)

    def look_through(self, source: str, env_id: str, skipped: Counter[StopReason]) -> _Plan:
        """Choose all that have a verdict; the others are counted. `source` says whose configuration it is."""
        probe = self.make_env()
        own = probe.spec.id if probe.spec else env_id
        probe.close()
        for index, record in enumerate(self.records()):
            self.seen += 1
            if record.stop_reason.aborted:
                skipped[record.stop_reason] += 1
                continue
            if record.env_id not in ("", own):  # an oracle's episodes of earlier versions name no environment
                raise ConfigError(
                    f"task {record.task_id!r} was played in environment {record.env_id!r}; the configuration of run "
                    f"{source!r} has options for {own!r} only"
                )
            self.chosen.append(index)
        return self


def _plans(
    store: RunStore, run: RunRecord, phase: str | None, step: int | None, skipped: Counter[StopReason]
) -> Iterator[_Plan]:
    """One plan for a training run, one for each entry of an evaluation: its environments are the entries'."""
    import yaml

    tree = yaml.safe_load(run.config)
    if run.kind == "eval":
        from agentrl.evaluation.suite import Suite
        from agentrl.evaluation.tasksets import env_maker

        suite = validated(Suite, tree, f"run {run.name!r} has no suite that says how it was played: ")
        for name, entry in suite.entries.items():
            if phase in (None, own := f"eval/{name}"):
                read = partial(store.episodes, run.id, own, step)
                plan = _Plan(read, env_maker(name, entry), suite.limits.episode_seconds)
                yield plan.look_through(run.name, entry.env, skipped)
        return
    from agentrl.assembly import env_factory
    from agentrl.config import validate

    config = validate(tree)
    plan = _Plan(partial(store.episodes, run.id, phase, step), env_factory(config.env), config.rollout.episode_seconds)
    yield plan.look_through(run.name, config.env.id, skipped)


def _choose(plans: Sequence[_Plan], limit: int | None) -> None:
    """Keep `limit` episodes of all runs together, evenly spread."""
    total = sum(len(plan.chosen) for plan in plans)
    if limit is None or limit >= total:
        return
    kept = {number * total // limit for number in range(limit)}
    first = 0
    for plan in plans:
        chosen = plan.chosen
        plan.chosen = [index for number, index in enumerate(chosen, first) if number in kept]
        first += len(chosen)


def _nothing(store: RunStore, runs: Sequence[RunRecord], phase: str | None, step: int | None) -> str:
    """Why no episode was chosen."""
    phases = sorted({known.phase for run in runs for known in store.phases(run.id) if known.episodes})
    if not phases:
        return "the run holds no episodes"
    if phase is not None and phase not in phases:
        return f"--phase {phase!r}: no episodes; {nearest(phase, phases)}"
    steps = sorted({record.step for run in runs for record in store.episodes(run.id, phase)})
    return f"--step {step}: no episodes; there are steps {steps[0]} to {steps[-1]}"


async def _play(plan: _Plan, result: ReplayResult, workers: int, watch: Observer) -> None:
    wanted = set(plan.chosen)
    left = (record for index, record in enumerate(plan.records()) if index in wanted)

    async def work() -> None:
        env: Env | None = None
        try:
            for record in left:  # one iterator for all workers
                env = env or plan.make_env()
                found, broken = await _compare(env, record, plan.seconds)
                if broken:
                    failed, env = env, None
                    await _give_up(failed)
                if found is None:
                    result.equal += 1
                else:
                    place = (record.phase, record.step, record.group, record.member, record.task_id)
                    result.differences.append(Difference(*place, found))
                watch.advance(1, different=len(result.differences))
        finally:
            if env is not None:
                await env.aclose()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(workers, len(wanted))):
            group.create_task(work())


async def _compare(env: Env, record: EpisodeRecord, seconds: float) -> tuple[str | None, bool]:
    """The first difference, and whether the environment's state is unknown now."""
    try:
        recorded = record.trajectory
    except StoreError as error:
        return str(error), False
    try:
        async with asyncio.timeout(seconds):
            return await first_difference(env, recorded), False
    except TimeoutError:
        return f"not done within {seconds:g} s (rollout.episode_seconds)", True
    except Exception as error:  # foreign code: whatever it raises is a difference, for no recorded episode ended so
        return f"the environment raises {type(error).__name__}: {one_line(str(error), 200)}", True


async def _give_up(env: Env) -> None:
    """Close an environment that failed; that this fails, too, changes nothing about what was found."""
    try:
        await env.aclose()
    except Exception:
        _log.warning("an environment that had failed could not be closed", exc_info=True)
