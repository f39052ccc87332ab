"""EnvSlot: a place for one environment, made when it is first needed, replaced when it failed, closed at the end.

An episode has a slot for itself; between episodes slots wait in the pool of their run, by environment.

Invariant: at any time a slot holds at most one environment, and every environment that was ever made here is closed:
by `close`, or, where one of its calls ignores its cancellation, as soon as that call ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

import gymnasium

from agentrl.bridge import in_thread
from agentrl.env import Env, Step, Verdict, ensure_env
from agentrl.errors import ConfigError, EnvError
from agentrl.messages import Message
from agentrl.throttle import waited
from agentrl.trajectory import OWN_INFO, StopReason

from .boundary import Aborted, Deadline, Health, Limit, Overdue, Stage, StageLimits, abandon, as_data, bounded

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Opening(NamedTuple):
    """What a reset gives."""

    messages: list[Message]
    record: dict[str, Any]
    """The environment's own record of the task."""
    state_key: str | None
    env_id: str
    tools: list[dict[str, Any]] | None
    """The tools of this episode, where its task has its own."""


class EnvSlot:
    """Drives one environment after the other under deadlines; failures come out as `Aborted`."""

    def __init__(self, make_env: Callable[[], gymnasium.Env[Any, Any]], limits: StageLimits, health: Health) -> None:
        """`health` is told whether environments can be made."""
        self._make_env = make_env
        self._health = health
        self._limits = limits
        self._env: Env | None = None
        self.broken = False
        """A call failed or was cut: the state of the environment is unknown, and `close` must come before a reset."""

    async def reset(self, task_id: str, seed: int, deadline: Deadline) -> Opening:
        """Begin an episode, in a new environment if there is none."""

        async def call(env: Env) -> Opening:
            messages, info = await env.areset(seed=seed, options={"task": task_id})
            record = info.get("task")
            own = record if isinstance(record, Mapping) else {}
            task = {key: value for key, value in own.items() if key not in OWN_INFO}
            return Opening(list(messages), task, _key(info), env.spec.id if env.spec else "", info.get("tools"))

        if self._env is None:
            await self._make(deadline)
        return await self._call(Stage.RESET, call, deadline, self._limits.reset)

    def tool_schemas(self) -> list[dict[str, Any]]:
        """The tools that every episode has, in the OpenAI form; after a reset."""
        return [] if self._env is None else self._env.tool_schemas()

    async def snapshot(self, deadline: Deadline) -> Any:
        """The state of the running episode, by value. An environment that cannot be copied raises `EnvError` here."""
        env = self._env
        if env is None:
            raise RuntimeError("snapshot without an environment")
        try:
            return await self._call(Stage.SNAPSHOT, lambda env: env.asnapshot(), deadline)
        except Aborted as aborted:
            if isinstance(aborted.__cause__, EnvError):  # it said so in good order: the episode itself is sound
                self.broken = False
                raise aborted.__cause__ from aborted
            raise

    async def restore(self, state: Any, deadline: Deadline) -> str:
        """Continue from a snapshot, in a new environment if there is none; returns the environment's id."""

        async def call(env: Env) -> str:
            await env.arestore(state)
            return env.spec.id if env.spec else ""

        if self._env is None:
            await self._make(deadline)
        return await self._call(Stage.RESTORE, call, deadline, self._limits.reset)

    async def step(self, message: Message, deadline: Deadline) -> Step:
        """Take the assistant's message."""

        async def call(env: Env) -> Step:
            observation, reward, terminated, truncated, info = await env.astep(message)
            if not math.isfinite(reward):
                raise EnvError(f"the reward is {reward}, not a finite number")
            if info.get("stop_reason") is not None:
                StopReason(info["stop_reason"])  # what is no stop reason is the environment's error, here
            return Step(tuple(observation), float(reward), bool(terminated), bool(truncated), info)

        return await self._call(Stage.STEP, call, deadline)

    async def oracle_action(self, deadline: Deadline) -> Message:
        """The environment's own next message; raises `ConfigError` if it has no oracle."""

        async def call(env: Env) -> Message:
            try:
                return env.oracle_action()
            except NotImplementedError:
                raise ConfigError(f"{_name(env)} has no oracle (oracle_action)") from None

        return await self._call(Stage.ORACLE, call, deadline)

    async def finish(self, reason: StopReason, deadline: Deadline) -> Verdict:
        """End the episode at a limit of the rollout's: the environment judges what there is."""

        async def call(env: Env) -> Verdict:
            verdict = await env.afinish(reason)
            if not math.isfinite(verdict.reward):
                raise EnvError(f"the reward is {verdict.reward}, not a finite number")
            return verdict

        return await self._call(Stage.FINISH, call, deadline)

    async def close(self, deadline: Deadline) -> None:
        """Close the environment if there is one; it is gone afterwards, closed or not. Raises `Aborted`."""
        env, self._env, self.broken = self._env, None, False
        if env is None:
            return

        def abandoned(task: asyncio.Task[None]) -> None:
            _log.warning("%s does not close; it is abandoned", _name(env))
            abandon(task, _name(env))

        try:
            await bounded(env.aclose(), deadline.teardown_limit(self._limits.step), deadline.grace, abandoned)
        except Exception as error:
            raise as_data(Stage.CLOSE, error) from error

    async def _call(
        self,
        stage: Stage,
        call: Callable[[Env], Coroutine[Any, Any, T]],
        deadline: Deadline,
        limit: Limit | None = None,
    ) -> T:
        env = self._env
        if env is None:
            raise RuntimeError(f"{stage} without an environment")

        def abandoned(task: asyncio.Task[T]) -> None:
            _log.warning("%s ignores the cancellation of its %s; it is abandoned", _name(env), stage)
            self._env = None
            abandon(task, _name(env), lambda _: env.aclose())

        self.broken = True
        begun, within = waited(), deadline.limit(limit or self._limits.step)
        spare = deadline.play_left() - within.seconds

        def credit() -> float:
            """Waiting for the rollout's own limits is not the environment's fault; the episode's deadline holds."""
            return min(waited() - begun, spare)

        try:
            result = await bounded(call(env), within, deadline.grace, abandoned, credit)
        except Overdue as error:
            late = error if deadline.play_left() > 0 else Overdue(f"not done within {deadline.limit().setting}")
            raise as_data(stage, late) from error
        except Exception as error:
            raise as_data(stage, error) from error
        self.broken = False
        return result

    async def _make(self, deadline: Deadline) -> None:
        """Make an environment in a thread: constructors load data and start processes."""
        task = asyncio.ensure_future(in_thread(lambda: ensure_env(self._make_env())))
        try:
            limit = deadline.limit(self._limits.step)
            await asyncio.wait({task}, timeout=limit.seconds)
            if not task.done():
                raise Overdue(f"not done within {limit.setting}")
            self._env = task.result()
            self._health.success()
        except Exception as error:
            aborted = as_data(Stage.MAKE, error)
            self._health.failure(error, str(aborted).removeprefix(f"{Stage.MAKE}: "))
            raise aborted from error
        finally:
            if self._env is None:  # the thread cannot be stopped: whatever it makes is closed when it is there
                keeper = abandon(task, "an environment in the making", _close_made)
                await asyncio.wait({keeper}, timeout=deadline.grace())


async def _close_made(task: asyncio.Task[Env]) -> None:
    if not task.cancelled() and task.exception() is None:
        await task.result().aclose()


def _key(info: Mapping[str, Any]) -> str | None:
    key = info.get("state_key")
    return None if key is None else str(key)


def _name(env: Env) -> str:
    return f"environment {env.spec.id if env.spec else type(env.unwrapped).__name__}"
