"""Tools: what the policy may call, and the one function that calls them.

A typed function with a docstring becomes a tool by `@tool`; a class when it has state (a session an episode). pydantic
builds the JSON schema from the type hints and validates the arguments.

Invariant: whatever goes wrong inside a call - unknown tool, bad JSON, wrong types, timeout, crash - is a `ToolResult`
that the policy reads, never an exception that ends the episode. Only cancellation passes through.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from agentrl import registry
from agentrl.bridge import in_thread
from agentrl.errors import ConfigError, EnvError
from agentrl.messages import ToolCall
from agentrl.registry import nearest
from agentrl.signature import checked_options, docstring_parts, json_schema, parameters_model, readable
from agentrl.throttle import CallSlot, Places, tool_slot
from agentrl.trajectory import ToolCallRecord

if TYPE_CHECKING:
    from agentrl.task import Episode

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What endpoints take as a tool's name."""
_LIMITS = ("timeout", "max_output", "concurrency")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave."""

    text: str
    """What the policy reads."""
    error: str | None = None
    """Kind of failure (`unknown_tool`, `invalid_arguments`, `parse`, `timeout`, `failed`) or None."""
    data: Any = None
    """What the environment may want beside the text; never shown to the policy."""
    final: bool = False
    """Whether the call ends the episode; `data`, as text, is then the answer."""


class Tool(ABC):
    """A tool. Subclasses set `name` and implement `call`, whose typed signature is the tool's schema.

    An instance serves one episode at a time: each environment has its own. The concurrency limit holds for all
    instances of a class together.
    """

    name: str
    """What the policy calls it: letters, digits, `_` and `-`, at most 64."""
    description: str = ""
    """What it is for; by default the class's docstring up to its first section."""
    timeout: float = 30.0
    """Seconds that one call may run; its waits for the concurrency limit, and for a rollout's limits, do not count."""
    max_output: int = 8192
    """Characters of a result that the policy reads; the middle of a longer one is cut, with a note."""
    concurrency: int | None = None
    """Calls that may run at the same time; None is no limit."""
    parameters: type[BaseModel]
    """The arguments, built from the signature of `call`."""
    stateful: ClassVar[bool] = False
    """Whether there is a session an episode: set where `open` is overridden."""

    def __init_subclass__(cls, *, by_instance: bool = False, **kwargs: Any) -> None:
        """`by_instance`: each instance sets `name`, `description` and `parameters`, so the class has none to check."""
        super().__init_subclass__(**kwargs)
        cls.stateful = cls.open is not Tool.open
        if "call" not in vars(cls) or by_instance:
            return
        what = f"tool {getattr(cls, 'name', cls.__name__)!r}"
        _check_name(what, getattr(cls, "name", None))
        if not inspect.iscoroutinefunction(cls.call):
            raise ConfigError(f"{what}: call must be a coroutine (async def); blocking functions become tools by @tool")
        description, arguments = docstring_parts(cls.__doc__)
        if "description" not in vars(cls):
            cls.description = description
        if "parameters" not in vars(cls):
            arguments |= docstring_parts(cls.call.__doc__)[1]
            cls.parameters = parameters_model(what, cls.call, arguments)

    @abstractmethod
    async def call(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work, with validated arguments by name.

        A `str` is the text that the policy reads, a `ToolResult` is taken as it is, None is empty, anything else is
        shown as JSON. Whatever it raises becomes an observation of kind `failed`.
        """

    async def open(self, episode: Episode) -> None:  # noqa: B027 - most tools have no session
        """Begin the session of an episode. What it raises aborts the episode."""

    async def close(self) -> None:  # noqa: B027
        """End the session, whatever happened in it. Idempotent."""

    async def snapshot(self) -> Any:
        """The session's state, by value; raises `EnvError` where there is state that cannot be copied."""
        if self.stateful:
            raise EnvError(f"tool {self.name!r} has a session that cannot be copied in mid-episode")

    async def restore(self, state: Any) -> None:  # noqa: B027
        """Bring a session just opened to the state of a snapshot, which stays as it is."""

    def schema(self) -> dict[str, Any]:
        """The tool in the OpenAI form."""
        function = {"name": self.name, "description": self.description, "parameters": json_schema(self.parameters)}
        return {"type": "function", "function": function}

    @property
    def limit_key(self) -> object:
        """What the concurrency limit is shared by."""
        return type(self)

    def configured(self, *, timeout: float | None = None, max_output: int | None = None, **limits: Any) -> Tool:
        """A copy with other limits (`timeout`, `max_output`, `concurrency`). Raises `ConfigError`."""
        given = {"timeout": timeout, "max_output": max_output}
        given = {key: value for key, value in given.items() if value is not None} | limits
        other = copy.copy(self)
        for key, value in given.items():
            if key not in _LIMITS:
                raise ConfigError(f"tool {self.name!r}: option {key!r} is unknown; {nearest(key, list(_LIMITS))}")
            setattr(other, key, value)
        _check_limits(other)
        return other


class Toolset(ABC):
    """Tools that come together and are known only once it is made, such as those of a server.

    Registered and configured like a tool; where a tool is named, its name stands for all of them.
    """

    name: str
    description: str = ""
    """What it is for; by default the class's docstring up to its first section."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "description" not in vars(cls):
            cls.description = docstring_parts(cls.__doc__)[0]

    @abstractmethod
    def tools(self) -> Sequence[Tool]:
        """The tools; raises `ConfigError` where they cannot be had."""


class FunctionTool(Tool, by_instance=True):
    """A function as a tool; still callable as the function that it was."""

    def __init__(
        self, function: Callable[..., Any], *, name: str | None, description: str | None, inline: bool
    ) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.function = function
        self.name = name or function.__name__
        what = f"tool {self.name!r}"
        _check_name(what, self.name)
        text, arguments = docstring_parts(function.__doc__)
        self.description = description or text
        if not self.description:
            raise ConfigError(f"{what}: the function has no docstring; the policy reads it to know what the tool does")
        self.is_async = inspect.iscoroutinefunction(function)
        if inline and self.is_async:
            raise ConfigError(f"{what}: inline is for plain functions; a coroutine function never runs in a thread")
        self.inline = inline
        self.parameters = parameters_model(what, function, arguments)

    async def call(self, **arguments: Any) -> Any:
        if self.is_async:
            return await self.function(**arguments)
        if self.inline:
            return self.function(**arguments)
        return await in_thread(self.function, **arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def limit_key(self) -> object:
        return self.function


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = 30.0,
    max_output: int = 8192,
    concurrency: int | None = None,
    inline: bool = False,
) -> Callable[[Callable[..., Any]], FunctionTool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = 30.0,
    max_output: int = 8192,
    concurrency: int | None = None,
    inline: bool = False,
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a tool of a typed function with a docstring: `@tool` or `@tool(timeout=5)`.

    Type hints make the schema, the docstring's opening the description; arguments are described by
    `Annotated[..., Field(description=...)]` or by the docstring's `Args:`. A plain function runs in a thread, or
    directly with `inline`, for pure ones that take microseconds: nothing can interrupt those. Python cannot end a
    thread either: after a timeout the policy goes on, the function runs to its end. What must be killed belongs in a
    process. Raises `ConfigError`.
    """

    def decorate(plain: Callable[..., Any]) -> FunctionTool:
        made = FunctionTool(plain, name=name, description=description, inline=inline)
        made.timeout, made.max_output, made.concurrency = timeout, max_output, concurrency
        _check_limits(made)
        return made

    return decorate if function is None else decorate(function)


def resolve_tools(source: str | Tool | type[Tool | Toolset] | Callable[..., Any], **options: Any) -> list[Tool]:
    """As `resolve_tool`, and the tools of a `Toolset`, each with the limits among the options."""
    component = registry.tools.get(source) if isinstance(source, str) else source
    if not (isinstance(component, type) and issubclass(component, Toolset)):
        return [resolve_tool(source, **options)]
    limits = {key: options.pop(key) for key in _LIMITS if key in options}
    made = component(**checked_options(f"tool {component.name!r}", component, options))
    return [item.configured(**limits) for item in made.tools()]


def resolve_tool(source: str | Tool | type[Tool | Toolset] | Callable[..., Any], **options: Any) -> Tool:
    """A tool of one's own from a registered name, a class, an instance or a plain function.

    `timeout`, `max_output` and `concurrency` fit every tool; other options go to a class's constructor. An instance is
    copied (shallowly), so that sessions are not shared. Raises `UnknownNameError` and `ConfigError`.
    """
    component = registry.tools.get(source) if isinstance(source, str) else source
    limits = {key: options.pop(key) for key in _LIMITS if key in options}
    if isinstance(component, type) and issubclass(component, Tool):
        name = getattr(component, "name", component.__name__)
        made = component(**checked_options(f"tool {name!r}", component, options))
        return made.configured(**limits)
    if isinstance(component, Tool):
        return component.configured(**options, **limits)
    if isinstance(component, type) and issubclass(component, Toolset):
        raise ConfigError(f"tool {component.name!r} is a set of tools: name one of them")
    if inspect.isroutine(component):
        return tool(component).configured(**options, **limits)
    raise ConfigError(f"tool {source!r}: expected a name, a Tool or a function, not {type(component).__name__}")


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise ConfigError(f"{what}: name={name!r} must be 1 to 64 letters, digits, '_' or '-'")


def _check_limits(made: Tool) -> None:
    for key in _LIMITS:
        value = getattr(made, key)
        if key == "concurrency" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"tool {made.name!r}: {key}={value!r} must be a positive number")
        if key != "timeout" and not isinstance(value, int):
            raise ConfigError(f"tool {made.name!r}: {key}={value!r} must be a whole number")


# -- calling -----------------------------------------------------------------------------------------------------------


async def call_tool(tools: Mapping[str, Tool], call: ToolCall) -> tuple[ToolResult, ToolCallRecord]:
    """Execute one call of the policy's with the tools on offer, by name.

    Never raises, except `CancelledError` when the caller itself is cancelled; the tool's work is cancelled then, too.
    The record's `queued_seconds` are its waits for the tool's own limit and for those of the rollout (`throttle`).
    """
    result, seconds, queued = await _answer(tools, call)
    limit = tools[call.name].max_output if call.name in tools else Tool.max_output
    result = replace(result, text=_within(_encodable(result.text), limit))
    return result, ToolCallRecord(call.name, call.arguments, result.text, result.error, seconds, queued)


async def _answer(tools: Mapping[str, Tool], call: ToolCall) -> tuple[ToolResult, float, float]:
    """(result, seconds of work, seconds in the queue)."""
    if call.error is not None:
        return ToolResult(f"Error: the tool call could not be parsed: {call.error}", "parse"), 0.0, 0.0
    called = tools.get(call.name)
    if called is None:
        advice = nearest(call.name[:64], list(tools))
        return ToolResult(f"Error: there is no tool {call.name[:64]!r}; {advice}", "unknown_tool"), 0.0, 0.0
    try:
        arguments = called.parameters.model_validate_json(call.arguments.strip() or "{}")
    except ValidationError as error:
        kind = "parse" if error.errors(include_url=False)[0]["type"] == "json_invalid" else "invalid_arguments"
        said = "the arguments are not JSON" if kind == "parse" else "invalid arguments"
        return ToolResult(f"Error: {said}: {readable(error)}", kind), 0.0, 0.0
    except Exception as error:  # a validator of the tool's author
        return ToolResult(f"Error: invalid arguments: {_crash(error)}", "invalid_arguments"), 0.0, 0.0
    values = {name: getattr(arguments, name) for name in type(arguments).model_fields} | (arguments.model_extra or {})
    time = asyncio.get_running_loop().time
    asked = time()
    async with tool_slot(_limit(called)) as slot:
        result = await _bounded(called, values, slot)
        queued = slot.waits.seconds()
        return result, max(0.0, time() - asked - queued), queued


async def _bounded(called: Tool, values: dict[str, Any], slot: CallSlot) -> ToolResult:
    """The call within its timeout. A coroutine that resists cancellation is left behind after a grace period."""
    task = asyncio.ensure_future(_guarded(called, values))
    try:
        if not await _in_time(task, called.timeout, slot):
            await _abandon(task)
            return ToolResult(f"Error: the call did not finish within {called.timeout:g} seconds", "timeout")
        return ToolResult("Error: the tool was cancelled", "failed") if task.cancelled() else task.result()
    except asyncio.CancelledError:
        await _abandon(task)
        raise


async def _in_time(task: asyncio.Task[ToolResult], timeout: float, slot: CallSlot) -> bool:
    """Whether the task ends within `timeout`, its waits from now on not counted."""
    time = asyncio.get_running_loop().time
    end = time() + timeout - slot.waits.seconds()
    while not task.done():
        left = end + slot.waits.seconds() - time()
        if left <= 0 and not slot.waits.under_way:
            return False
        await asyncio.wait({task}, timeout=max(left, _CLOCK_TICK))
    return True


async def _abandon(task: asyncio.Task[ToolResult]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=_CANCEL_GRACE)
    if not task.done():
        _abandoned.add(task)  # the event loop itself keeps only weak references
        task.add_done_callback(_abandoned.discard)


async def _guarded(called: Tool, values: dict[str, Any]) -> ToolResult:
    try:
        return _as_result(await called.call(**values))
    except (Exception, SystemExit) as error:  # the boundary: a crash is the policy's observation
        return ToolResult(f"Error: {_crash(error)}", "failed")


def _as_result(value: Any) -> ToolResult:
    if isinstance(value, ToolResult):
        return value
    if value is None or isinstance(value, str):
        return ToolResult(value or "")
    return ToolResult(to_json(value, fallback=str, inf_nan_mode="constants").decode())


def _crash(error: BaseException) -> str:
    said = str(error).strip()
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _encodable(text: str) -> str:
    """Lone surrogates can be neither tokenised nor stored."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _within(text: str, limit: int) -> str:
    """The beginning and the end of a text that is too long: errors stand at the end of an output."""
    if len(text) <= limit:
        return text
    note = f"\n[... output of {len(text)} characters cut to {limit} ...]\n"
    kept = max(0, limit - len(note))
    tail = kept // 4
    return (text[: kept - tail] + note + (text[-tail:] if tail else ""))[:limit]


def _limit(called: Tool) -> Places | None:
    """The places of the tool's class (or function)."""
    if called.concurrency is None:
        return None
    with _limits_lock:
        return _limits.setdefault((called.limit_key, called.concurrency), Places(called.concurrency))


_CANCEL_GRACE = 1.0
"""Seconds that a cancelled call has for its clean-up before it is left behind."""
_CLOCK_TICK = 0.05
"""Seconds after which the clock of a call that waits for a place is looked at again, where it was about to end."""
_abandoned: set[asyncio.Task[ToolResult]] = set()
_limits: dict[tuple[object, int], Places] = {}
_limits_lock = threading.Lock()
