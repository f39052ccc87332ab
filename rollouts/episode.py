"""Episode: a policy behind an engine plays one task in one environment, turn by turn, and all of it is recorded.

Invariants: the engine is given exactly `context_ids(t)` of the record and its answer is recorded id for id; every
random number depends on (request seed, member, turn) alone; an episode ends within `episode_seconds`, teardown
included, with one stop reason; the engine hears of the end of every session; seconds that no stage claims are idle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from agentrl.bridge import in_thread
from agentrl.chat import ChatRenderer
from agentrl.engines.base import Completion, FinishReason, Reply, Sampling
from agentrl.env import Step
from agentrl.errors import ConfigError, EngineError, EngineRefusal
from agentrl.messages import Message
from agentrl.rollout import EnvSource
from agentrl.seeding import derive_seed
from agentrl.tool_env import INVALID_CALLS, with_calls
from agentrl.trajectory import StopReason, Trajectory, Turn

from .boundary import Aborted, Deadline, Health, Limit, Overdue, Stage, abandon, as_data, bounded
from .job import BranchPoint, Job, copied
from .services import Services
from .slot import EnvSlot

T = TypeVar("T")
Branching = Callable[["Episode"], Awaitable[None]]

_log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.5
"""Wait before the first retry of a generation; doubled before each further one."""
LONG_TEXT = 20_000
"""Characters from which on tokenising leaves the event loop: about 10 ms of work there."""
LONG_TURN = 5_000
"""Sampled ids from which on reading them leaves the event loop."""


@dataclass(slots=True)
class Episode:
    """The play of one job; `play` runs it once and leaves the record in `trajectory`."""

    services: Services
    source: EnvSource
    job: Job
    slot: EnvSlot
    health: Health
    branching: Branching | None = None
    """Called after each turn of an episode that goes on, before the next generation."""
    trajectory: Trajectory = field(init=False)
    deadline: Deadline = field(init=False)
    ended: bool = field(init=False, default=False)
    """The record is complete but for the teardown: a stop comes too late."""
    _stopped: StopReason | None = field(init=False, default=None)
    _context: list[int] = field(init=False, default_factory=list)
    _state_key: str | None = field(init=False, default=None)
    _began: float = field(init=False)
    _spent: dict[str, float] = field(init=False, default_factory=dict)
    """Seconds by stage that belong to the turn under way, in the end to the episode."""
    _counted: int = field(init=False, default=0)
    """Tokens of the last turn and its context, as an endpoint without ids counts them."""
    _characters: int = field(init=False, default=0)
    """Length of the conversation so far."""
    _tools: list[dict[str, Any]] | None = field(init=False, default=None)
    """The tools of this episode, where its task has its own."""
    _own: ChatRenderer | None = field(init=False, default=None)
    """The renderer for them."""

    def __post_init__(self) -> None:
        job = self.job
        if job.origin is None:
            self.trajectory = Trajectory(job.request.task_id, member=job.member, seed=job.seed)
        else:
            self.trajectory = copied(job.origin.parent, job.member)
        self.deadline = Deadline(self.services.limits.episode_seconds)
        self._began = asyncio.get_running_loop().time()

    async def play(self) -> None:
        """Play to the end. An episode that cannot be ended is aborted data; a mistake in the program is raised."""
        try:
            async with self.services.throttle.episode():
                try:
                    await self._play()
                except Aborted as aborted:
                    self._abort(aborted)
                except asyncio.CancelledError:
                    self.deadline.begin_teardown()
                    reason = self._stopped or StopReason.CANCELLED
                    self._abort(Aborted(reason, reason.meaning))
                    if self._stopped is None:
                        raise
                    _uncancel()
                finally:
                    self.ended = True
                    await self._tear_down()
        finally:
            self.trajectory.seconds = time_now() - self._began

    def stop(self, reason: StopReason, task: asyncio.Task[Any]) -> None:
        """End the episode that `task` plays: it becomes aborted data with that reason. Too late once it has ended."""
        if not self.ended and self._stopped is None:
            self._stopped = reason
            task.cancel()

    async def branch_point(self) -> BranchPoint:
        """The state after the last turn, for others to go on from. Raises `EnvError` if it cannot be copied."""
        with self._timed("branch"):
            state = await self.slot.snapshot(self.deadline)
        record = copied(self.trajectory, self.job.member)
        lengths = (self._characters, self._counted)
        return BranchPoint(record, list(self._context), state, self._state_key, *lengths, self._tools)

    def _abort(self, aborted: Aborted) -> None:
        """Record that the episode has no verdict."""
        job, record = self.job, self.trajectory
        record.stop_reason, record.error = aborted.reason, str(aborted)
        told = self._stopped is not None or aborted.reason is StopReason.CANCELLED
        say = _log.info if told else _log.warning
        where = (job.member, job.request.task_id, job.request.group_id)
        say("episode %d of task %s (group %s) aborted, %s: %s", *where, aborted.reason, aborted)

    # -- the turns -----------------------------------------------------------------------------------------------------

    async def _play(self) -> None:
        record, limits = self.trajectory, self.services.limits
        await (self._begin() if self.job.origin is None else self._resume(self.job.origin))
        while True:
            left, room = self._tokens_left(), self._room
            if min(left, room) < 1:
                return await self._finish(StopReason.MAX_TOKENS if room < 1 else StopReason.TOKEN_BUDGET)
            step, whole = await self._turn(min(limits.max_turn_tokens, left, room))
            if step.terminated or step.truncated:
                ending = StopReason.TERMINATED if step.terminated else StopReason.MAX_TURNS
                record.stop_reason = StopReason(step.info.get("stop_reason") or ending)
                record.metrics = dict(step.info.get("metrics") or {})
                return self._note_answer(step.info)
            if not whole:
                return await self._finish(StopReason.CALL_BUDGET)
            if len(record.turns) >= limits.max_turns:
                return await self._finish(StopReason.MAX_TURNS)
            await self._extend(step)
            if self.branching is not None and min(self._tokens_left(), self._room) >= 1:
                await self.branching(self)

    async def _begin(self) -> None:
        """Reset the environment."""
        record = self.trajectory
        with self._timed("env"):
            opening = await self.slot.reset(self.job.request.task_id, self.job.seed, self.deadline)
        record.opening, record.info, record.env_id = opening.messages, opening.record, opening.env_id
        self._state_key = opening.state_key
        if opening.tools is not None:
            record.info["tools"] = opening.tools
        await self._offer(opening.tools)
        if self._tokens:
            render = self._renderer.opening
            self._context = await self._tokenise(opening.messages, render, opening.messages)

    async def _resume(self, origin: BranchPoint) -> None:
        """Restore the environment to the state of a branch point."""
        with self._timed("branch"):
            self.trajectory.env_id = await self.slot.restore(origin.state, self.deadline)
        self._context, self._state_key = list(origin.context), origin.state_key
        self._characters, self._counted = origin.characters, origin.counted
        await self._offer(origin.tools)

    async def _offer(self, tools: list[dict[str, Any]] | None) -> None:
        """Offer the tools that the task has of its own, if it has any, instead of the environment's."""
        self._tools = tools
        if tools is not None and self._tokens:
            self._own = await self._render(True, self._renderer.for_tools, tools)

    async def _turn(self, budget: int) -> tuple[Step, bool]:
        """One generation and the environment's answer to it, recorded; False if not all of its calls were executed."""
        turn = await (self._sampled(budget) if self._tokens else self._replied(budget))
        record = self.trajectory
        job = self.job
        if job.origin is not None and len(record.turns) == len(job.origin.parent.turns):
            turn.parent = f"{job.origin.parent.member}.{len(record.turns) - 1}"
        turn.state_key = self._state_key
        record.turns.append(turn)
        began = time_now()
        message = self._affordable(turn.message)
        if message is None:
            self._spent = {}
            return Step((), 0.0, False, False, {}), False
        with self._timed("env"):
            step = await self.slot.step(message, self.deadline)
        turn.observation, turn.reward = list(step.observation), step.reward
        turn.tool_calls = list(step.info.get("tool_calls") or ())
        turn.tool_error = any(call.error is not None for call in turn.tool_calls)
        turn.parse_error = bool(step.info.get("parse_error"))
        self._divide(turn, time_now() - began, float(step.info.get("judge_seconds") or 0.0))
        self._spent = {}
        return step, message is turn.message

    def _affordable(self, message: Message) -> Message | None:
        """What of it the environment gets: the calls that `tool_calls` leaves room for; None for none of them."""
        limit = self.services.limits.tool_calls
        if limit is None:
            return message
        calls = [call for turn in self.trajectory.turns for call in turn.tool_calls]
        left = limit - sum(call.error not in INVALID_CALLS for call in calls)
        asked = with_calls(message).tool_calls
        if len(asked) <= left:
            return message
        return message.model_copy(update={"tool_calls": asked[:left]}) if left > 0 else None

    async def _sampled(self, budget: int) -> Turn:
        """A turn of an engine that gives token ids."""
        completion = await self._generate(budget)
        message = await self._render(len(completion.ids) > LONG_TURN, self._renderer.parse, completion.ids)
        prefix_turn, new_ids = self.trajectory.locate(self._context)
        if (entropies := completion.entropies) is not None:
            means = self.trajectory.info.setdefault("token_entropy", [])
            means.append(sum(entropies) / len(entropies) if entropies else None)
        return Turn(
            new_ids=new_ids,
            prefix_turn=prefix_turn,
            sampled_ids=list(completion.ids),
            logprobs=list(completion.logprobs),
            message=message,
            policy_version=completion.policy_version,
            weights_hash=completion.weights_hash,
            switches=list(completion.switches),
            truncated=completion.finish_reason is FinishReason.LENGTH,
            timings=self._spent,
        )

    async def _replied(self, budget: int) -> Turn:
        """A turn of an engine that gives text: no ids, no log-probabilities, of no use for training."""
        reply = await (self._acted() if self.services.context.engine.capabilities.oracle else self._reply(budget))
        self._count(reply)
        earlier = len(self.trajectory.turns)
        return Turn(
            new_ids=[],
            prefix_turn=earlier - 1 if earlier else None,
            sampled_ids=[],
            logprobs=[],
            message=reply.message,
            truncated=reply.finish_reason is FinishReason.LENGTH,
            timings=self._spent,
        )

    def _count(self, reply: Reply) -> None:
        """Add up tokens as the endpoint counts them; `usage` is there as long as it counts all of them."""
        prompt, completion, info = reply.prompt_tokens, reply.completion_tokens, self.trajectory.info
        if prompt is None or completion is None:
            if self.services.limits.max_tokens is not None:
                said = "the endpoint does not say how many tokens it samples (usage)"
                raise ConfigError(f"max_tokens: {said}; lift that limit (max_tokens=null)")
            info.pop("usage", None)
            return
        if "usage" in info or not self.trajectory.turns:
            usage = info.setdefault("usage", {"prompt_tokens": 0, "completion_tokens": 0})
            usage["prompt_tokens"] += prompt
            usage["completion_tokens"] += completion
        self._counted = prompt + completion

    async def _acted(self) -> Reply:
        """The message of the environment's own oracle."""
        with self._timed("env"):
            return Reply(await self.slot.oracle_action(self.deadline), FinishReason.STOP)

    async def _extend(self, step: Step) -> None:
        """The context of the next turn."""
        record = self.trajectory
        turn = record.turns[-1]
        key = step.info.get("state_key")
        self._state_key = None if key is None else str(key)
        if self._tokens:
            history = record.messages[: -len(turn.observation) or None]
            following = (self._renderer.next_context, self._context, turn.sampled_ids, history, turn.observation)
            self._context = await self._tokenise([turn.message, *turn.observation], *following)

    async def _finish(self, reason: StopReason) -> None:
        """A limit of the rollout's ends the episode; the environment's judgement belongs to the last turn."""
        with self._timed("judge"):
            verdict = await self.slot.finish(reason, self.deadline)
        if turns := self.trajectory.turns:
            turns[-1].reward += verdict.reward
        self.trajectory.metrics = dict(verdict.metrics)
        self.trajectory.stop_reason = reason
        self._note_answer({"answer": verdict.answer})

    def _note_answer(self, info: Mapping[str, Any]) -> None:
        """Record the final answer where the environment knows it."""
        if isinstance(answer := info.get("answer"), str):
            self.trajectory.info["answer"] = answer

    # -- the engine ----------------------------------------------------------------------------------------------------

    @property
    def _tokens(self) -> bool:
        return self.services.context.engine.capabilities.tokens

    @property
    def _renderer(self) -> ChatRenderer:
        assert self.source.renderer is not None  # checked at the start where the engine takes ids
        return self._own or self.source.renderer

    def _sampling(self, budget: int) -> Sampling:
        return Sampling(
            max_tokens=budget,
            temperature=self.services.limits.temperature,
            top_p=self.services.limits.top_p,
            seed=derive_seed(self.job.sampling_seed, "turn", len(self.trajectory.turns)),
            stop_ids=self._renderer.stop_ids if self._tokens else (),
        )

    async def _generate(self, budget: int) -> Completion:
        engine, sampling, session = self.services.context.engine, self._sampling(budget), self.job.session
        began = time_now()
        completion, waited = await self._with_retries(
            lambda: engine.generate(self._context, sampling, session=session), began
        )
        stages = (completion.queue_seconds, completion.prefill_seconds, completion.decode_seconds)
        rest = max(0.0, time_now() - began - waited - sum(stages))
        self._add("queue", stages[0])
        self._add("prefill", stages[1])
        self._add("decode", stages[2])
        if not any(stages):  # the engine keeps no books
            self._add("decode", rest)
        return completion

    async def _reply(self, budget: int) -> Reply:
        engine, sampling, session = self.services.context.engine, self._sampling(budget), self.job.session
        tools = self.slot.tool_schemas() if self._tools is None else self._tools
        messages, began = self.trajectory.messages, time_now()
        reply, waited = await self._with_retries(
            lambda: engine.reply(messages, tools, sampling, session=session), began
        )
        self._add("queue", reply.queue_seconds)
        self._add("decode", max(0.0, time_now() - began - waited - reply.queue_seconds))
        return reply

    async def _with_retries(self, call: Callable[[], Any], began: float) -> tuple[Any, float]:
        """What `call` gives, and the seconds that passed before it began for the last time."""
        services, job = self.services, self.job
        for attempt in count():
            turns = len(self.trajectory.turns)
            priority = services.forecast.remaining(job.request.env, job.request.task_id, turns)
            asked, patience = time_now(), asyncio.timeout_at(self.deadline.play)
            try:
                async with patience, services.generation(priority):
                    patience.reschedule(None)  # from here on `bounded` watches
                    self._add("queue", time_now() - asked)
                    waited = time_now() - began
                    limit = self.deadline.limit(services.stages.generate)
                    answer = await bounded(call(), limit, self.deadline.grace, self._abandon_call)
            except EngineRefusal as error:  # the fault of this request alone
                raise as_data(Stage.GENERATE, error) from error
            except EngineError as error:
                if attempt >= services.limits.engine_retries:
                    self.health.failure(error, str(error))
                    raise as_data(Stage.GENERATE, error) from error
                await services.sleep(min(BACKOFF_SECONDS * 2**attempt, self.deadline.play_left()))
            except TimeoutError as error:
                if not patience.expired():
                    raise
                self._add("queue", time_now() - asked)
                overdue = Overdue(f"no place within episode_seconds={self.deadline.seconds:g}")
                raise as_data(Stage.GENERATE, overdue) from error
            except Overdue as error:
                raise as_data(Stage.GENERATE, error) from error
            else:
                self.health.success()
                return answer, waited
        raise AssertionError("unreachable")

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _tear_down(self) -> None:
        self._settle()
        call = self.services.context.engine.end_session(self.job.session)
        try:
            limit = Limit(self.deadline.grace(), "teardown")
            await bounded(call, limit, self.deadline.grace, self._abandon_call)
        except (EngineError, Overdue) as error:  # the record is complete without it
            _log.warning("session %s could not be ended: %s", self.job.session, error)
        if self.slot.broken:
            self.deadline.begin_teardown()
            try:
                with self._timed("env"):
                    await self.slot.close(self.deadline)
            except Aborted as aborted:  # the episode is aborted already, for the reason that came first
                _log.warning("an environment that had failed could not be closed: %s", aborted)

    def _abandon_call(self, task: asyncio.Task[T]) -> None:
        _log.warning("the engine ignores a cancellation (session %s); the call is abandoned", self.job.session)
        abandon(task, f"session {self.job.session}")

    # -- tokens --------------------------------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        """Tokens that the context of the next turn leaves; without ids, by what the endpoint has counted of it."""
        return self._context_limit() - (len(self._context) if self._tokens else self._counted)

    def _tokens_left(self) -> int:
        """Tokens that the episode may still sample."""
        limit = self.services.limits.max_tokens
        if limit is None:
            return self.services.limits.max_turn_tokens
        return limit - (self.trajectory.completion_tokens or 0)

    def _context_limit(self) -> int:
        own = self.services.context.engine.capabilities.max_context
        limit = self.services.limits.max_context
        return limit if own is None else min(own, limit)

    async def _tokenise(self, messages: Sequence[Message], function: Callable[..., T], *arguments: object) -> T:
        """Call the renderer for a conversation that `messages` belong to from now on."""
        self._characters += sum(len(message.text) for message in messages)
        return await self._render(self._characters > LONG_TEXT, function, *arguments)

    async def _render(self, long: bool, function: Callable[..., T], *arguments: object) -> T:
        """Call the renderer, in a thread where it takes long."""
        with self._timed("tokenise"):
            if not long:
                return function(*arguments)
            async with self.services.tokenising.enter():
                return await in_thread(function, *arguments)

    # -- the account ---------------------------------------------------------------------------------------------------

    def _add(self, stage: str, seconds: float) -> None:
        self._spent[stage] = self._spent.get(stage, 0.0) + seconds

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time_now()
        try:
            yield
        finally:
            self._add(stage, time_now() - began)

    def _divide(self, turn: Turn, step: float, judge: float) -> None:
        """Divide the seconds of a step, booked under `env`, by what tools and judge report.

        Calls of one message overlap: together they cannot have taken longer than the step.
        """
        parts = {
            "tool_queue": sum(call.queued_seconds for call in turn.tool_calls),
            "tool": sum(call.seconds for call in turn.tool_calls),
            "judge": judge,
        }
        claimed = sum(parts.values())
        scale = min(1.0, step / claimed) if claimed else 0.0
        for stage, seconds in parts.items():
            self._add(stage, seconds * scale)
        self._add("env", -claimed * scale)

    def _settle(self) -> None:
        """What was measured after the last turn, or before a turn that never came, is the episode's own."""
        turns, own = self.trajectory.turns, self.trajectory.timings
        spent, self._spent = self._spent, own
        if not turns or turns[-1].timings is not spent:
            for stage, seconds in spent.items():
                self._add(stage, seconds)


def time_now() -> float:
    """Seconds by the event loop's clock, which tests may drive."""
    return asyncio.get_running_loop().time()


def _uncancel() -> None:
    """The cancellation was the episode's own business: the task goes on."""
    if (task := asyncio.current_task()) is not None:
        task.uncancel()
