"""Env: a Gymnasium environment whose observations are chat messages and whose actions are the assistant's messages.

`reset` / `step` / `close` have twin coroutines `areset` / `astep` / `aclose`; the rollout manager calls those.
`Env` is for environments that are blocking by nature (the coroutines run the blocking methods in a thread), `AsyncEnv`
for those that are coroutines by nature (the blocking methods run the coroutines on a private event loop).

Invariant: both faces of an environment are the same environment: same observations, rewards and errors. An episode is
driven by one face from reset to its end, since what a coroutine opened belongs to its event loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
from gymnasium import spaces
from pydantic import ValidationError

from agentrl.bridge import in_thread, run_sync
from agentrl.errors import ConfigError, EnvError
from agentrl.messages import Message, Role, assistant, user
from agentrl.registration import make, register, register_entry_points
from agentrl.registry import nearest
from agentrl.seeding import derive_seed
from agentrl.spaces import ActionSpace, Observation, ObservationSpace
from agentrl.task import Episode, GeneratedTasks, ListedTasks, Task, TaskSet, Verdict
from agentrl.trajectory import StopReason

__all__ = [
    "Action",
    "AsyncEnv",
    "Env",
    "Episode",
    "GeneratedTasks",
    "ListedTasks",
    "Observation",
    "Step",
    "Task",
    "TaskSet",
    "Verdict",
    "as_message",
    "ensure_env",
    "make",
    "register",
    "register_entry_points",
]

Action = Message | str | Mapping[str, Any]
"""The assistant's message: as a `Message`, as its text, or in the OpenAI wire form."""


class Step(NamedTuple):
    """What `step` returns: Gymnasium's five values, named."""

    observation: Observation
    """New messages for the policy; empty when the episode ended by an answer."""
    reward: float
    terminated: bool
    """The environment ended the episode with a verdict."""
    truncated: bool
    """A limit ended the episode; the environment judged what there was."""
    info: dict[str, Any]
    """`tool_calls` (list of ToolCallRecord), `parse_error` (bool), `metrics` (dict, filled at the end), `stop_reason`
    (a StopReason's value, None while the episode goes on), `state_key` (name of the state now reached), and at the end
    `answer` (the final answer's text, None where none was given) and, within a rollout, `judge_seconds` (how long the
    verdict took)."""


class Env(gymnasium.Env[Observation, Any], ABC):
    """Base of every environment; subclasses set `splits` and implement `tasks`, `reset` and `step`.

    `reset` begins with `task = self.choose_task(seed, options)`.
    """

    splits: tuple[str, ...] = ("train", "test")
    """The task splits that there are; the first is what `reset` draws from by default."""
    reset_options: frozenset[str] = frozenset({"task"})
    """Keys that `reset(options=)` knows."""

    def __init__(self, *, split: str | None = None, render_mode: str | None = None) -> None:
        """`split` is what `reset` draws a task from when none is named. Raises `ConfigError`."""
        self.split = self.splits[0] if split is None else split
        self.check_split(self.split)
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            modes = list(self.metadata["render_modes"])
            raise ConfigError(f"render_mode={render_mode!r} is unknown; {nearest(render_mode, modes)}")
        self.render_mode = render_mode
        self.action_space = ActionSpace()
        self.observation_space = ObservationSpace()

    # -- tasks ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split; raises `ConfigError` if there is no such split."""

    def task(self, task_id: str) -> Task:
        """The task called `split:name`; raises `ConfigError` if there is none."""
        return self.tasks(task_id.partition(":")[0]).by_id(task_id)

    def gold(self, task: Task) -> Any:
        """The task's reference solution in a form that JSON takes; None if there is none. Never shown to the policy."""
        return None

    def fingerprint(self, task: Task) -> Any:
        """What of a task decides how an answer is judged, the same on every machine; evaluation suites pin it.

        Made of numbers, texts, bytes, mappings, sequences, sets and dataclasses. By default all of `Task.data`.
        """
        return task.data

    def choose_task(self, seed: int | None, options: Mapping[str, Any] | None) -> Task:
        """Seed the random numbers and give the task that `options` name, else one drawn from `self.split`."""
        gymnasium.Env.reset(self, seed=seed)
        options = options or {}
        for key in options:
            if key not in self.reset_options:
                raise ConfigError(f"reset option {key!r} is unknown; {nearest(str(key), sorted(self.reset_options))}")
        if "task" in options:
            return self.task(options["task"])
        tasks = self.tasks(self.split)
        if not len(tasks):
            raise ConfigError(f"split={self.split!r} has no tasks")
        return tasks[int(self.np_random.integers(len(tasks)))]

    def check_split(self, split: str) -> None:
        """Raise `ConfigError` unless `split` is one of `splits`."""
        if split not in self.splits:
            raise ConfigError(f"split={split!r} is unknown; {nearest(str(split), list(self.splits))}")

    # -- what a policy needs ---------------------------------------------------------------------------------------

    def tool_schemas(self) -> list[dict[str, Any]]:
        """The tools that every episode has, in the OpenAI form; empty for an environment without tools.

        Where a task has tools of its own, `reset` gives all tools of its episode as `info["tools"]`, in the same form:
        they are what the policy is shown in that episode, and what the record keeps (`Trajectory.info`).
        """
        return []

    def oracle_action(self) -> Message:
        """The message that a perfect policy gives in the present state (warm starts, scripted oracles).

        Raises `NotImplementedError` where the environment has no oracle.
        """
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def finish(self, reason: StopReason) -> Verdict:
        """Whoever drives the episode ends it here (turn or token limit): judge what there is, release what it held.

        The verdict's reward belongs to the last turn. The next call is a reset.
        """
        return Verdict(0.0)

    # -- the coroutine face ------------------------------------------------------------------------------------------

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """`reset` as a coroutine."""
        return await in_thread(self.reset, seed=seed, options=options)

    async def astep(self, action: Action) -> Step:
        """`step` as a coroutine."""
        return Step(*await in_thread(self.step, action))  # type: ignore[arg-type]

    async def afinish(self, reason: StopReason) -> Verdict:
        """`finish` as a coroutine."""
        return await in_thread(self.finish, reason)

    async def aclose(self) -> None:
        """`close` as a coroutine."""
        await in_thread(self.close)

    # -- branching in mid-episode ------------------------------------------------------------------------------------

    def snapshot(self) -> Any:
        """The state of the running episode, by value; raises `EnvError` where it cannot be copied."""
        raise EnvError(f"{type(self).__name__} cannot be copied in mid-episode")

    def restore(self, state: Any) -> None:
        """Continue from a snapshot of this environment or of another one made alike; leaves the snapshot as it is."""
        raise EnvError(f"{type(self).__name__} cannot be copied in mid-episode")

    async def asnapshot(self) -> Any:
        """`snapshot` as a coroutine."""
        return await in_thread(self.snapshot)

    async def arestore(self, state: Any) -> None:
        """`restore` as a coroutine."""
        await in_thread(self.restore, state)


class AsyncEnv(Env):
    """An environment that is coroutines by nature: subclasses implement `areset` and `astep`."""

    @abstractmethod
    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode: opening messages and info."""

    @abstractmethod
    async def astep(self, action: Action) -> Step:
        """Take the assistant's message."""

    async def afinish(self, reason: StopReason) -> Verdict:
        """End the episode from outside: judge what there is, release what it held."""
        return Verdict(0.0)

    async def aclose(self) -> None:
        """Release everything. Idempotent."""

    async def asnapshot(self) -> Any:
        """The state of the running episode, by value."""
        raise EnvError(f"{type(self).__name__} cannot be copied in mid-episode")

    async def arestore(self, state: Any) -> None:
        """Continue from a snapshot."""
        raise EnvError(f"{type(self).__name__} cannot be copied in mid-episode")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """`areset` for blocking code, on a private event loop."""
        return run_sync(self.areset(seed=seed, options=options))

    def step(self, action: Action) -> Step:
        """`astep` for blocking code, on a private event loop."""
        return run_sync(self.astep(action))

    def finish(self, reason: StopReason) -> Verdict:
        """`afinish` for blocking code, on a private event loop."""
        return run_sync(self.afinish(reason))

    def close(self) -> None:
        """`aclose` for blocking code, on a private event loop."""
        run_sync(self.aclose())

    def snapshot(self) -> Any:
        """`asnapshot` for blocking code."""
        return run_sync(self.asnapshot())

    def restore(self, state: Any) -> None:
        """`arestore` for blocking code."""
        run_sync(self.arestore(state))


def as_message(action: Action) -> Message:
    """The assistant's message from any of its forms; raises `EnvError` for anything else."""
    if isinstance(action, str):
        return assistant(action)
    if isinstance(action, Mapping):
        try:
            action = Message.from_wire(dict(action))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise EnvError(f"an action must be the assistant's message; {where}: {first['msg']}") from None
    if not isinstance(action, Message):
        raise EnvError(f"an action must be a Message, text or a message in wire form, not {type(action).__name__}")
    if action.role is not Role.ASSISTANT:
        raise EnvError(f"an action must be the assistant's message, not one of role {str(action.role)!r}")
    return action


def ensure_env(env: gymnasium.Env[Any, Any]) -> Env:
    """`env` itself if it is an `Env`, else an `Env` around it: a wrapper's stack or a plain Gymnasium environment."""
    return env if isinstance(env, Env) else ForeignEnv(env)


class ForeignEnv(Env):
    """Any Gymnasium environment as an `Env`; its blocking methods run in threads.

    Around wrappers of an `Env`, what the inner environment offers (tasks, tools, oracle) passes through, and the inner
    environment judges what a wrapper (`TimeLimit`) cuts short. No snapshots: wrappers have state of their own.

    Around a plain environment over text, a task is a seed: `train:17` and `test:17` reset it with seeds of their own,
    whatever seed the episode has, so that the members of a group play the same problem. Its observations may be text
    or messages; it gets messages, or text if its action space is `gymnasium.spaces.Text`.
    """

    num_seeds = 2**31
    """Tasks a split of a plain environment."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env = env
        inner = env.unwrapped
        self._inner: Env | None = inner if isinstance(inner, Env) else None
        if self._inner is not None:
            self.splits = self._inner.splits
            self.reset_options = self._inner.reset_options
        super().__init__(split=self._inner.split if self._inner else None)
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.spec = env.spec

    def tasks(self, split: str) -> TaskSet:
        if self._inner is not None:
            return self._inner.tasks(split)
        self.check_split(split)
        return GeneratedTasks(split, self.num_seeds, lambda index: Task(f"{split}:{index}", split, ()))

    def gold(self, task: Task) -> Any:
        return self._inner.gold(task) if self._inner else None

    def fingerprint(self, task: Task) -> Any:
        return self._inner.fingerprint(task) if self._inner else super().fingerprint(task)

    def tool_schemas(self) -> list[dict[str, Any]]:
        return self._inner.tool_schemas() if self._inner else []

    def oracle_action(self) -> Message:
        return self._inner.oracle_action() if self._inner else super().oracle_action()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if self._inner is not None:
            observation, info = self.env.reset(seed=seed, options=options)
            return _as_observation(observation), info
        task = self.choose_task(seed, options)
        rest = {key: value for key, value in (options or {}).items() if key != "task"}
        observation, info = self.env.reset(seed=derive_seed("task", task.id) % 2**32, options=rest)
        return _as_observation(observation), {"task": {"id": task.id, "split": task.split}, **info}

    def step(self, action: Action) -> Step:
        message = as_message(action)
        taken = message.text if isinstance(self.env.action_space, spaces.Text) else message
        observation, reward, terminated, truncated, info = self.env.step(taken)
        common: dict[str, Any] = {"tool_calls": [], "parse_error": False, "metrics": {}, "stop_reason": None}
        info = {**common, **info}
        if terminated or truncated:
            cut = info["stop_reason"] is None and not terminated
            if cut and self._inner is not None:
                verdict = self._inner.finish(StopReason.MAX_TURNS)
                reward = float(reward) + verdict.reward
                info |= {"metrics": dict(verdict.metrics), "answer": verdict.answer}
            info["stop_reason"] = info["stop_reason"] or str(StopReason.MAX_TURNS if cut else StopReason.TERMINATED)
        return Step(_as_observation(observation), float(reward), bool(terminated), bool(truncated), info)

    def finish(self, reason: StopReason) -> Verdict:
        return self._inner.finish(reason) if self._inner else Verdict(0.0)

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()


def _as_observation(observation: Any) -> Observation:
    if isinstance(observation, str):
        return (user(observation),) if observation else ()
    if isinstance(observation, Message):
        return (observation,)
    if isinstance(observation, tuple | list):
        return tuple(item if isinstance(item, Message) else Message.from_wire(item) for item in observation)
    raise EnvError(f"an observation must be text or messages, not {type(observation).__name__}")
