"""Chat messages and tool calls in the OpenAI wire form.

Invariant: `Message.from_wire(m.to_wire()) == m`. Content is text or a list of typed parts, so that images can come
later without a change of shape. Text is a view: the tokens that the policy sampled are kept in the trajectory.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TextPart(BaseModel):
    """A piece of text in a message of several parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    type: Literal["text"] = "text"
    text: str


class ToolCall(BaseModel):
    """One call of a tool, as the policy wrote it: the arguments are the raw JSON text, valid or not."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    name: str
    arguments: str = "{}"
    """JSON text of an object. Kept as text, so that a malformed call can be recorded and answered."""
    error: str | None = None
    """Why the call could not be parsed; None for a well-formed one. Not part of the wire form."""

    @model_validator(mode="before")
    @classmethod
    def _accept_wire(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("function"), dict):
            function = data["function"]
            arguments = function.get("arguments", "{}")
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            return {"id": data.get("id", ""), "name": function.get("name", ""), "arguments": text}
        return data

    def to_wire(self) -> dict[str, Any]:
        """The call in the OpenAI form."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class Message(BaseModel):
    """One chat message. Accepts the OpenAI wire form (also with nested `function`) as it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Role
    content: str | tuple[TextPart, ...] = ""
    tool_calls: tuple[ToolCall, ...] = Field(default=())
    tool_call_id: str | None = None
    """For role `tool`: which call this message answers."""
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_null_content(cls, data: Any) -> Any:
        if isinstance(data, dict):
            nulls = {key for key in ("content", "tool_calls") if key in data and data[key] is None}
            return {key: value for key, value in data.items() if key not in nulls}
        return data

    @property
    def text(self) -> str:
        """The message's text, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def to_wire(self) -> dict[str, Any]:
        """The message in the OpenAI form, without empty fields."""
        content = self.content if isinstance(self.content, str) else [part.model_dump() for part in self.content]
        wire: dict[str, Any] = {"role": str(self.role), "content": content}
        if self.tool_calls:
            wire["tool_calls"] = [call.to_wire() for call in self.tool_calls]
        if self.tool_call_id is not None:
            wire["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            wire["name"] = self.name
        return wire

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Message:
        """Read a message in the OpenAI form; raises `pydantic.ValidationError` on anything else."""
        return cls.model_validate(wire)

    @model_serializer(mode="wrap")
    def _drop_defaults(self, handler: Any) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        defaults = type(self).model_fields
        return {key: value for key, value in fields.items() if getattr(self, key) != defaults[key].default}


def system(text: str) -> Message:
    """A system message."""
    return Message(role=Role.SYSTEM, content=text)


def user(text: str) -> Message:
    """A user message."""
    return Message(role=Role.USER, content=text)


def assistant(text: str = "", tool_calls: tuple[ToolCall, ...] = ()) -> Message:
    """A message of the policy's."""
    return Message(role=Role.ASSISTANT, content=text, tool_calls=tool_calls)


def tool_result(text: str, call_id: str, name: str | None = None) -> Message:
    """A tool's answer to the call `call_id`."""
    return Message(role=Role.TOOL, content=text, tool_call_id=call_id, name=name)
