"""Tool-call formats: how a call stands in the text that a policy writes.

Idea: a format is an object that reads calls out of a text, writes them into one, and says in a prompt how to write
them. Each format is one file and one registered name.
Invariant: `parse` never raises and loses nothing: what cannot be read comes back as a `ToolCall` whose `error` says
what is wrong and whose `arguments` are the raw text; `parse(format(content, calls))` gives content and calls back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentrl.messages import ToolCall
from agentrl.registry import Registry

PromptStyle = Literal["schema", "signature"]

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
    """Text that every call contains; a template's own tool prompt is trusted only if it teaches this marker."""

    @abstractmethod
    def parse(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """Split a policy's text into the content outside the calls and the calls in order (ids `call_0`, ...)."""

    @abstractmethod
    def format(self, content: str, calls: Sequence[ToolCall]) -> str:
        """The text of a message with these calls, as the policy is taught to write it."""

    @abstractmethod
    def format_result(self, text: str) -> str:
        """A tool's answer as it stands in a user message, for templates that cannot render the role `tool`."""

    @abstractmethod
    def prompt(self, tools: Sequence[Mapping[str, Any]], style: PromptStyle) -> str:
        """A system prompt that offers `tools` (OpenAI schemas) and says how to call them.

        `schema` lists the whole JSON schemas, `signature` one compact line.
        """


tool_formats: Registry[ToolCallFormat] = Registry("tool_format")
"""Tool-call formats by name (entry-point group `agentrl.tool_formats`)."""


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
