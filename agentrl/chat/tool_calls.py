"""Tool-call formats: how a call stands in the text that a policy writes.

Idea: a format is an object that reads calls out of a text, writes them into one, and says in a prompt how to write
them. Each format is one file and one registered name; most say only how a call begins (`MarkedFormat.opening`) and how
one is read from there.
Invariant: `parse` never raises and loses nothing: what cannot be read comes back as a `ToolCall` whose `error` says
what is wrong and whose `arguments` are the raw text; `parse(format(content, calls))` gives content and calls back.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from agentrl.messages import ToolCall
from agentrl.registry import Registry

PromptStyle = Literal["schema", "signature"]
Tools = Sequence[Mapping[str, Any]]
"""OpenAI tool schemas."""
Schemas = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's parameters, by the tool's name."""

_PYTHON_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}


class ToolCallFormat(ABC):
    """Reads and writes tool calls in one textual convention."""

    marker: str
    """A template's own tool prompt is trusted only if it shows this text: most often how a call begins."""

    @abstractmethod
    def parse(self, text: str, tools: Tools | None = None) -> tuple[str, tuple[ToolCall, ...]]:
        """Split a policy's text into the content outside the calls and the calls in order (ids `call_0`, ...).

        Text without a call comes back as it stands, other content stripped at both ends. `tools` are the schemas of
        what was offered, None where they are not known: formats without types of their own read values by them.
        """

    @abstractmethod
    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        """The text of a message with these calls, as the policy is taught to write it.

        A call with an error is written as its raw text. What `tools` are, see `parse`.
        """

    @abstractmethod
    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        """A system prompt that offers `tools` (OpenAI schemas) and says how to call them.

        `schema` lists the whole JSON schemas, `signature` one compact line.
        """

    def format_result(self, text: str) -> str:
        """A tool's answer as it stands in a user message, for templates that cannot render the role `tool`."""
        return f"Tool result:\n{text}"


class ReadCall(NamedTuple):
    """A call as it was read: a `ToolCall` that has no id yet."""

    name: str
    arguments: str
    """JSON text of an object, or the raw text of a call with an error."""
    error: str | None = None


class Reading(NamedTuple):
    """What was read from an opening on."""

    calls: Sequence[ReadCall]
    """Empty for punctuation around calls, which is no content either."""
    end: int
    """Position behind what was read; beyond the opening's start."""


class MarkedFormat(ToolCallFormat):
    """A format whose calls can be found by how they begin.

    Subclasses give `opening` and `read`. Reading is linear as long as `read` looks no further than what it takes.
    """

    opening: re.Pattern[str]
    """Where a call may begin."""

    @abstractmethod
    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading | None:
        """What begins at a match of `opening`; None if it is content after all."""

    def parse(self, text: str, tools: Tools | None = None) -> tuple[str, tuple[ToolCall, ...]]:
        schemas = None if tools is None else schemas_by_name(tools)
        outside: list[str] = []
        read: list[ReadCall] = []
        kept = position = 0
        while match := self.opening.search(text, position):
            reading = self.read(text, match, schemas)
            if reading is None:
                position = max(match.end(), match.start() + 1)
                continue
            outside.append(text[kept : match.start()])
            kept = position = reading.end
            read += reading.calls
        if not kept:
            return text, ()
        outside.append(text[kept:])
        return "".join(outside).strip(), numbered(read)


def numbered(calls: Sequence[ReadCall]) -> tuple[ToolCall, ...]:
    """The calls with the ids `call_0`, `call_1`, ..."""
    return tuple(
        ToolCall(id=f"call_{index}", name=call.name, arguments=call.arguments, error=call.error)
        for index, call in enumerate(calls)
    )


tool_formats: Registry[ToolCallFormat] = Registry("tool_format")
"""Tool-call formats by name (entry-point group `agentrl.tool_formats`)."""


def schemas_by_name(tools: Tools) -> Schemas:
    """The schemas of the tools' parameters."""
    functions = [function_schema(tool) for tool in tools]
    return {str(function["name"]): function.get("parameters") or {} for function in functions}


def listed(tools: Tools, style: PromptStyle) -> str:
    """The tools for a prompt: a line of JSON each, or their signatures in one line."""
    if style == "signature":
        return ", ".join(signature(tool) for tool in tools)
    return "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)


def function_schema(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `function` part of an OpenAI tool schema; a bare function schema is returned as it stands."""
    function: Mapping[str, Any] = tool.get("function", tool)
    return function


def signature(tool: Mapping[str, Any]) -> str:
    """A tool as one Python-like signature, `name(required: str, optional: int = ...)`."""
    function = function_schema(tool)
    parameters = function.get("parameters", {})
    required = parameters.get("required", ())
    arguments = [
        f"{name}: {_python_type(schema)}" + ("" if name in required else " = ...")
        for name, schema in parameters.get("properties", {}).items()
    ]
    return f"{function['name']}({', '.join(arguments)})"


def _python_type(schema: Mapping[str, Any]) -> str:
    options = schema.get("anyOf")
    if options:
        return " | ".join(_python_type(option) for option in options)
    return _PYTHON_TYPES.get(str(schema.get("type")), "any")
