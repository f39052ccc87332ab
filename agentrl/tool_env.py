"""ToolEnv: what most environments subclass. It parses, calls tools, keeps limits and the state of each episode.

A subclass says which tools there are, what the tasks are and what an episode was worth:

    class Shop(ToolEnv):
        tools = ["python", search]
        def tasks(self, split): ...
        def judge(self, episode): return Verdict(float(episode.answer == episode.task.data["gold"]))

Invariant: a message with tool calls is answered by one `tool` message a call, in order, whatever went wrong; a message
without is the answer and ends the episode. Every session that a reset opened is closed at the episode's end, at the
next reset or at close, whichever comes first. The verdict is computed here, outside what the agent can touch.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, ClassVar

from gymnasium.error import ResetNeeded

from agentrl.env import Action, AsyncEnv, Observation, Step, as_message
from agentrl.errors import ConfigError, EnvError
from agentrl.messages import Message, tool_result
from agentrl.task import Episode, Task, Verdict
from agentrl.throttle import current_episode, waited
from agentrl.tool import Tool, ToolResult, Toolset, call_tool, resolve_tools
from agentrl.trajectory import StopReason, ToolCallRecord

__all__ = ["Episode", "ToolEnv", "Verdict"]

ToolSource = str | Tool | type[Tool | Toolset] | Callable[..., Any]
"""A tool, a class of tools or of toolsets, a function, or a registered name."""

_log = logging.getLogger(__name__)
INVALID_CALLS = frozenset({"unknown_tool", "invalid_arguments", "parse"})
"""Errors of the call itself, as opposed to those of the tool: no tool ran."""


@dataclass(frozen=True)
class _Snapshot:
    episode: Episode
    """Without tools."""
    sessions: dict[str, Any]
    random_state: Any


class ToolEnv(AsyncEnv):
    """An environment of tools. Subclasses set `tools` and implement `tasks` and `judge`."""

    tools: ClassVar[Sequence[ToolSource]] = ()
    """Names, tools, classes of tools or of toolsets, functions."""
    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium declares it for instances

    def __init__(
        self,
        *,
        split: str | None = None,
        render_mode: str | None = None,
        max_turns: int = 16,
        max_invalid_turns: int = 3,
        max_calls: int = 16,
        tools: Sequence[str] | None = None,
        tool_options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            split: what `reset` draws a task from when none is named.
            render_mode: `ansi` for `render` to give the conversation as text.
            max_turns: assistant's messages after which the episode is cut and judged.
            max_invalid_turns: turns in a row without one valid call after which the episode is cut and judged.
            max_calls: calls of one message that are executed; the others are answered with an error.
            tools: names of the tools to offer instead of the class's; empty for none.
            tool_options: options of tools by the name of the tool.
        """
        super().__init__(split=split, render_mode=render_mode)
        for key, value in {
            "max_turns": max_turns,
            "max_invalid_turns": max_invalid_turns,
            "max_calls": max_calls,
        }.items():
            if value < 1:
                raise ConfigError(f"{key}={value!r} must be at least 1")
        self.max_turns = max_turns
        self.max_invalid_turns = max_invalid_turns
        self.max_calls = max_calls
        if tools is not None:
            self.tools = self._chosen(tools)  # type: ignore[misc]  # this instance's instead of the class's
        self._tools = self._resolve(dict(tool_options or {}))
        self._episode: Episode | None = None
        self._open: list[Tool] = []

    # -- what a subclass says --------------------------------------------------------------------------------------

    @abstractmethod
    def judge(self, episode: Episode) -> Verdict | Awaitable[Verdict]:
        """What the ended episode is worth; may be a coroutine. `episode.tools` are still open."""

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        """Reward of a turn that called tools, the verdict not included."""
        return 0.0

    def state_key(self, episode: Episode) -> str:
        """Name of the state that the episode is in: equal where the policy has the same before it.

        By default task and tool results so far, not the policy's own words. Override it where tools have side effects
        that their results do not show.
        """
        digest = blake2b(episode.task.id.encode(), digest_size=8)
        for record in episode.calls:
            digest.update(b"\x00" + record.result.encode())
        return digest.hexdigest()

    def episode_tool_options(self, task: Task) -> Mapping[str, Mapping[str, Any]]:
        """Options of tools for an episode of `task`, by the tool's name: which database, which files.

        They stand above the options that the tools were made with; tools that are not on offer are left out.
        """
        return {}

    def task_tools(self, task: Task) -> Sequence[ToolSource]:
        """Tools that an episode of `task` has beside the environment's: those of no other task, made from its data.

        Their names must differ from the others'.
        """
        return ()

    # -- the environment ---------------------------------------------------------------------------------------------

    @property
    def episode(self) -> Episode:
        """The running or last episode; raises `ResetNeeded` before the first."""
        if self._episode is None:
            raise ResetNeeded("there is no episode yet: call reset first")
        return self._episode

    def tool_schemas(self) -> list[dict[str, Any]]:
        return [tool.schema() for tool in self._tools.values()]

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        await self._close_sessions()
        task = self.choose_task(seed, options)
        own_seed = int(self.np_random.integers(2**63 - 1)) if seed is None else seed
        episode = Episode(task, own_seed, messages=list(task.messages), tools=self._offered(task))
        given = self.episode_tool_options(task)
        episode.tool_options = {name: dict(options) for name, options in given.items() if name in episode.tools}
        self._episode = None
        await self._open_sessions(episode)
        self._episode = episode
        info: dict[str, Any] = {"task": self._record(task), "state_key": self.state_key(episode)}
        if episode.tools.keys() != self._tools.keys():
            info["tools"] = [tool.schema() for tool in episode.tools.values()]
        return task.messages, info

    async def astep(self, action: Action) -> Step:
        episode = self._running()
        try:
            message = with_calls(as_message(action))
            episode.messages.append(message)
            if not message.tool_calls:
                episode.tool_calls.append([])
                return await self._end(episode, StopReason.TERMINATED, (), 0.0)
            observation, records = await self._call(episode, message)
            episode.messages += observation
            episode.tool_calls.append(records)
            reward = float(self.turn_reward(episode, records))
            if episode.submission is not None:
                return await self._end(episode, StopReason.TERMINATED, observation, reward)
            invalid = all(record.error in INVALID_CALLS for record in records)
            episode.invalid_streak = episode.invalid_streak + 1 if invalid else 0
            if episode.invalid_streak >= self.max_invalid_turns:
                return await self._end(episode, StopReason.INVALID_CALLS, observation, reward)
            if episode.turns >= self.max_turns:
                return await self._end(episode, StopReason.MAX_TURNS, observation, reward)
        except BaseException:
            episode.stop_reason = episode.stop_reason or StopReason.ENV_ERROR
            await self._close_sessions()
            raise
        episode.rewards.append(reward)
        return Step(observation, reward, False, False, self._info(episode, {}))

    async def afinish(self, reason: StopReason) -> Verdict:
        return await self._judge(self._running(), reason)

    async def aclose(self) -> None:
        await self._close_sessions()

    def render(self) -> Any:
        """The conversation as text (`ansi`)."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(_rendered(message) for message in self.episode.messages)

    # -- branching -----------------------------------------------------------------------------------------------------

    async def asnapshot(self) -> Any:
        episode = self._running()
        sessions = {name: await tool.snapshot() for name, tool in episode.tools.items()}
        return _Snapshot(_copied(episode), sessions, copy.deepcopy(self.np_random.bit_generator.state))

    async def arestore(self, state: Any) -> None:
        if not isinstance(state, _Snapshot):
            raise EnvError(f"not a snapshot of {type(self).__name__}: {type(state).__name__}")
        await self._close_sessions()
        episode = _copied(state.episode)
        episode.tools = self._offered(episode.task)
        self._episode = None
        await self._open_sessions(episode)
        for name, session in state.sessions.items():
            await episode.tools[name].restore(session)
        self.np_random.bit_generator.state = state.random_state
        self._episode = episode

    # -- within --------------------------------------------------------------------------------------------------------

    def _chosen(self, names: Sequence[str]) -> list[ToolSource]:
        """The class's own tools of these names, which may be in no registry, and registered ones."""
        own = {_tool_name(source): source for source in type(self).tools}
        return [own.get(name, name) for name in names]

    def _resolve(self, options: dict[str, Mapping[str, Any]]) -> dict[str, Tool]:
        tools: dict[str, Tool] = {}
        for source in self.tools:
            for made in resolve_tools(source, **dict(options.pop(_tool_name(source), {}))):
                if made.name in tools:
                    raise ConfigError(f"{type(self).__name__}: there are two tools named {made.name!r}")
                tools[made.name] = made
        if options:
            valid = f"valid: {', '.join(tools)}" if tools else "there are no tools"
            raise ConfigError(f"tool_options: {next(iter(options))!r} is no tool here; {valid}")
        return tools

    def _offered(self, task: Task) -> dict[str, Tool]:
        """The tools of an episode."""
        offered = dict(self._tools)
        for made in (made for source in self.task_tools(task) for made in resolve_tools(source)):
            if made.name in offered:
                raise EnvError(f"task {task.id!r}: there are two tools named {made.name!r}")
            offered[made.name] = made
        return offered

    def _running(self) -> Episode:
        episode = self.episode
        if episode.stop_reason is not None:
            raise ResetNeeded("the episode has ended: call reset first")
        return episode

    def _record(self, task: Task) -> dict[str, Any]:
        record = {"id": task.id, "split": task.split, "level": task.level}
        gold = self.gold(task)
        return record if gold is None else {**record, "gold": gold}

    async def _call(self, episode: Episode, message: Message) -> tuple[Observation, list[ToolCallRecord]]:
        executed = message.tool_calls[: self.max_calls]
        answers = await asyncio.gather(*(call_tool(episode.tools, call) for call in executed))
        for call in message.tool_calls[self.max_calls :]:
            text = f"Error: not executed; at most {self.max_calls} calls a message"
            answers.append((ToolResult(text, "failed"), ToolCallRecord(call.name, call.arguments, text, "failed")))
        submitted = next((result.data for result, _ in answers if result.final), None)
        episode.submission = None if submitted is None else str(submitted)
        pairs = zip(message.tool_calls, answers, strict=True)
        observation = tuple(tool_result(result.text, call.id, call.name) for call, (result, _) in pairs)
        return observation, [record for _, record in answers]

    async def _end(self, episode: Episode, reason: StopReason, observation: Observation, reward: float) -> Step:
        time = asyncio.get_running_loop().time
        began, queued = time(), waited()
        verdict = await self._judge(episode, reason)
        seconds = max(0.0, time() - began - (waited() - queued))
        total = reward + verdict.reward
        episode.rewards.append(reward)
        terminated = reason is StopReason.TERMINATED
        info = self._info(episode, dict(verdict.metrics)) | {"answer": verdict.answer}
        if current_episode() is not None:  # elsewhere the same actions give the same info, as Gymnasium wants it
            info["judge_seconds"] = seconds
        return Step(observation, total, terminated, not terminated, info)

    async def _judge(self, episode: Episode, reason: StopReason) -> Verdict:
        episode.stop_reason = reason
        try:
            verdict = self.judge(episode)
            judged = await verdict if inspect.isawaitable(verdict) else verdict
            return judged if judged.answer is not None else replace(judged, answer=episode.answer or None)
        finally:
            await self._close_sessions()

    def _info(self, episode: Episode, metrics: dict[str, float]) -> dict[str, Any]:
        records = episode.tool_calls[-1]
        return {
            "tool_calls": list(records),
            "parse_error": any(record.error == "parse" for record in records),
            "metrics": metrics,
            "state_key": self.state_key(episode),
            "stop_reason": str(episode.stop_reason) if episode.stop_reason else None,
        }

    async def _open_sessions(self, episode: Episode) -> None:
        for tool in episode.tools.values():
            self._open.append(tool)  # before it is opened: a session half open is closed, too
            try:
                await tool.open(episode)
            except BaseException as error:
                await self._close_sessions()
                if isinstance(error, Exception):
                    raise EnvError(f"tool {tool.name!r} could not be opened: {error}") from error
                raise

    async def _close_sessions(self) -> None:
        while self._open:
            tool = self._open.pop()
            try:
                await tool.close()
            except Exception:  # the other sessions must be closed all the same
                _log.warning("tool %r could not be closed", tool.name, exc_info=True)


def _tool_name(source: ToolSource) -> str:
    return source if isinstance(source, str) else getattr(source, "name", getattr(source, "__name__", ""))


def with_calls(message: Message) -> Message:
    """The message with the tool calls that stand in its text in Hermes tags."""
    if message.tool_calls or "<tool_call>" not in message.text:
        return message
    from agentrl.chat import parse_tool_calls  # only for text: policies behind a renderer come parsed

    content, calls = parse_tool_calls(message.text)
    return message.model_copy(update={"content": content, "tool_calls": tuple(calls)})


def _copied(episode: Episode) -> Episode:
    return replace(
        episode,
        messages=list(episode.messages),
        tool_calls=[list(records) for records in episode.tool_calls],
        rewards=list(episode.rewards),
        tools={},
        state=copy.deepcopy(episode.state),
    )


def _rendered(message: Message) -> str:
    calls = "".join(f"\n  -> {call.name}({call.arguments})" for call in message.tool_calls)
    return f"{message.role}: {message.text}{calls}"
