"""Episode: a policy behind an engine plays one task in one environment, turn by turn, and all of it is recorded.

Invariants: the engine is given exactly `context_ids(t)` of the record and its answer is recorded id for id; every
random number depends on (request seed, member, turn) alone; an episode ends within `episode_seconds`, teardown
included, with one stop reason; the engine hears of the end of every session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from agentrl.bridge import in_thread
from agentrl.engines.base import Completion, FinishReason, Sampling
from agentrl.env import Step
from agentrl.errors import EngineError
from agentrl.messages import Message
from agentrl.rollout import GroupRequest, RolloutContext
from agentrl.seeding import derive_seed
from agentrl.trajectory import StopReason, Trajectory, Turn

from .boundary import Aborted, Deadline, Health, Limit, Overdue, Stage, abandon, as_data, bounded
from .slot import EnvSlot

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[object]]

_log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.5
"""Wait before the first retry of a generation; doubled before each further one."""
LONG_TEXT = 20_000
"""Characters from which on tokenising leaves the event loop: about 10 ms of work there."""


@dataclass(frozen=True, slots=True)
class Job:
    """One member of one request."""

    ordinal: int
    """Which request of the run."""
    request: GroupRequest
    member: int
    session: str
    """Name of the episode for the engine, unique in the process."""

    @property
    def seed(self) -> int:
        """Seed of this member: of its reset, and of the seeds of its turns."""
        return derive_seed(self.request.seed, "member", self.member)


@dataclass(slots=True)
class Episode:
    """The play of one job; `play` runs it once and leaves the record in `trajectory`."""

    context: RolloutContext
    job: Job
    slot: EnvSlot
    health: Health
    sleep: Sleep
    trajectory: Trajectory = field(init=False)
    deadline: Deadline = field(init=False)
    _began: float = field(init=False)
    _spent: dict[str, float] = field(init=False, default_factory=dict)
    """Seconds by stage that belong to the turn under way."""
    _characters: int = field(init=False, default=0)
    """Length of the conversation so far."""

    def __post_init__(self) -> None:
        self.trajectory = Trajectory(self.job.request.task_id, member=self.job.member, seed=self.job.seed)
        self.deadline = Deadline(self.context.limits.episode_seconds)
        self._began = time.perf_counter()

    async def play(self) -> None:
        """Play to the end. An episode that cannot be ended is aborted data; a mistake in the program is raised."""
        try:
            await self._play()
        except Aborted as aborted:
            self.abort(aborted)
        except asyncio.CancelledError:
            self.deadline.begin_teardown()
            self.abort(Aborted(StopReason.CANCELLED, "the run was cancelled"))
            raise
        finally:
            await self._tear_down()

    def abort(self, aborted: Aborted) -> None:
        """Record that the episode has no verdict."""
        self.trajectory.stop_reason, self.trajectory.error = aborted.reason, str(aborted)
        _log.warning(
            "episode %d of task %s (group %s) aborted, %s: %s",
            *(self.job.member, self.job.request.task_id, self.job.request.group_id, aborted.reason, aborted),
        )

    async def close_env(self) -> None:
        """Close the environment as part of this episode, its worker's last: a failure costs the episode its verdict."""
        try:
            await self.slot.close(self.deadline)
        except Aborted as aborted:
            if not self.trajectory.aborted:
                self.abort(aborted)
        self.trajectory.seconds = time.perf_counter() - self._began

    # -- the turns -----------------------------------------------------------------------------------------------------

    async def _play(self) -> None:
        record, limits, renderer = self.trajectory, self.context.limits, self.context.renderer
        with _Watch(self._spent, "env"):
            opening = await self.slot.reset(self.job.request.task_id, self.job.seed, self.deadline)
        record.opening, record.info, record.env_id = opening.messages, opening.record, opening.env_id
        context = await self._tokenise(opening.messages, renderer.opening, opening.messages)
        state_key = opening.state_key
        while True:
            budget = min(limits.max_turn_tokens, self._context_limit() - len(context))
            if budget < 1:
                return await self._finish(StopReason.MAX_TOKENS)
            step = await self._turn(context, budget, state_key)
            if step.terminated or step.truncated:
                ending = StopReason.TERMINATED if step.terminated else StopReason.MAX_TURNS
                record.stop_reason = StopReason(step.info.get("stop_reason") or ending)
                record.metrics = dict(step.info.get("metrics") or {})
                return
            if len(record.turns) >= limits.max_turns:
                return await self._finish(StopReason.MAX_TURNS)
            turn = record.turns[-1]
            history = record.messages[: -len(turn.observation) or None]
            following = (renderer.next_context, context, turn.sampled_ids, history, turn.observation)
            context = await self._tokenise([turn.message, *turn.observation], *following)
            key = step.info.get("state_key")
            state_key = None if key is None else str(key)

    async def _turn(self, context: list[int], budget: int, state_key: str | None) -> Step:
        """One generation and the environment's answer to it, recorded."""
        completion = await self._generate(context, budget)
        message = await self._tokenise([], self.context.renderer.parse, completion.ids)
        prefix_turn, new_ids = self.trajectory.locate(context)
        turn = Turn(
            new_ids=new_ids,
            prefix_turn=prefix_turn,
            sampled_ids=list(completion.ids),
            logprobs=list(completion.logprobs),
            message=message,
            policy_version=completion.policy_version,
            weights_hash=completion.weights_hash,
            truncated=completion.finish_reason is FinishReason.LENGTH,
            state_key=state_key,
            timings=self._spent,
        )
        self.trajectory.turns.append(turn)
        with _Watch(turn.timings, "env"):
            step = await self.slot.step(message, self.deadline)
        turn.observation, turn.reward = list(step.observation), step.reward
        turn.tool_calls = list(step.info.get("tool_calls") or ())
        turn.tool_error = any(call.error is not None for call in turn.tool_calls)
        turn.parse_error = bool(step.info.get("parse_error"))
        # Calls of one message overlap: together they cannot have taken longer than the step.
        tool = min(sum(call.seconds for call in turn.tool_calls), turn.timings["env"])
        turn.timings["tool"] = tool
        turn.timings["env"] -= tool
        self._spent = {}
        return step

    async def _finish(self, reason: StopReason) -> None:
        """A limit of the rollout's ends the episode; the environment's judgement belongs to the last turn."""
        turns = self.trajectory.turns
        with _Watch(turns[-1].timings if turns else {}, "env"):
            verdict = await self.slot.finish(reason, self.deadline)
        if turns:
            turns[-1].reward += verdict.reward
        self.trajectory.metrics = dict(verdict.metrics)
        self.trajectory.stop_reason = reason

    # -- the engine ----------------------------------------------------------------------------------------------------

    async def _generate(self, context: Sequence[int], budget: int) -> Completion:
        sampling = Sampling(
            max_tokens=budget,
            temperature=self.context.limits.temperature,
            seed=derive_seed(self.job.seed, "turn", len(self.trajectory.turns)),
            stop_ids=self.context.renderer.stop_ids,
        )
        began = time.perf_counter()
        completion = await self._with_retries(context, sampling)
        self._spent["queue"] = completion.queue_seconds
        self._spent["generate"] = time.perf_counter() - began - completion.queue_seconds
        return completion

    async def _with_retries(self, context: Sequence[int], sampling: Sampling) -> Completion:
        engine = self.context.engine
        for attempt in count():
            call = engine.generate(context, sampling, session=self.job.session)
            try:
                completion = await bounded(call, self.deadline.limit(), self.deadline.grace, self._abandon_call)
            except EngineError as error:
                if attempt >= self.context.limits.engine_retries:
                    self.health.failure(error, str(error))
                    raise as_data(Stage.GENERATE, error) from error
                await self.sleep(min(BACKOFF_SECONDS * 2**attempt, self.deadline.play_left()))
            except Overdue as error:
                raise as_data(Stage.GENERATE, error) from error
            else:
                self.health.success()
                return completion
        raise AssertionError("unreachable")

    async def _tear_down(self) -> None:
        call = self.context.engine.end_session(self.job.session)
        try:
            limit = Limit(self.deadline.grace(), "teardown")
            await bounded(call, limit, self.deadline.grace, self._abandon_call)
        except (EngineError, Overdue) as error:  # the record is complete without it
            _log.warning("session %s could not be ended: %s", self.job.session, error)
        if self.slot.broken:
            self.deadline.begin_teardown()
            try:
                await self.slot.close(self.deadline)
            except Aborted as aborted:  # the episode is aborted already, for the reason that came first
                _log.warning("an environment that had failed could not be closed: %s", aborted)
        self.trajectory.seconds = time.perf_counter() - self._began

    def _abandon_call(self, task: asyncio.Task[T]) -> None:
        _log.warning("the engine ignores a cancellation (session %s); the call is abandoned", self.job.session)
        abandon(task, f"session {self.job.session}")

    # -- tokens --------------------------------------------------------------------------------------------------------

    def _context_limit(self) -> int:
        own = self.context.engine.capabilities.max_context
        return self.context.limits.max_context if own is None else min(own, self.context.limits.max_context)

    async def _tokenise(self, messages: Sequence[Message], function: Callable[..., T], *arguments: object) -> T:
        """Call the renderer, in a thread once the conversation, `messages` now included, is long."""
        self._characters += sum(len(message.text) for message in messages)
        with _Watch(self._spent, "tokenise"):
            if self._characters > LONG_TEXT:
                return await in_thread(function, *arguments)
            return function(*arguments)


class _Watch:
    """Adds the seconds of a `with` block to an account."""

    def __init__(self, account: dict[str, float], stage: str) -> None:
        self._account, self._stage = account, stage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._account[self._stage] = self._account.get(self._stage, 0.0) + time.perf_counter() - self._began
