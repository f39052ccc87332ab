"""Messages in the OpenAI wire form: a round trip changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentrl.messages import Message, Role, TextPart, ToolCall, assistant, system, tool_result, user

texts = st.text(max_size=20)
calls = st.builds(ToolCall, id=texts, name=texts, arguments=texts)
contents = texts | st.lists(st.builds(TextPart, text=texts), max_size=3).map(tuple)
messages = st.builds(
    Message,
    role=st.sampled_from(Role),
    content=contents,
    tool_calls=st.lists(calls, max_size=3).map(tuple),
    tool_call_id=st.none() | texts,
    name=st.none() | texts,
)
marked_calls = st.builds(ToolCall, id=texts, name=texts, arguments=texts, error=st.none() | texts)
marked = st.builds(Message, role=st.just(Role.ASSISTANT), content=contents, tool_calls=st.tuples(marked_calls))


@given(messages)
def test_wire_round_trip(message: Message) -> None:
    wire = message.to_wire()
    assert Message.from_wire(wire) == message
    assert Message.from_wire(json.loads(json.dumps(wire))) == message


@given(messages | marked)
def test_pydantic_round_trip_keeps_parse_errors_too(message: Message) -> None:
    assert Message.model_validate_json(message.model_dump_json()) == message
    assert Message.model_validate(message.model_dump()) == message


@given(messages)
def test_the_text_is_the_parts_joined(message: Message) -> None:
    parts = message.content
    assert message.text == (parts if isinstance(parts, str) else "".join(part.text for part in parts))


def test_the_wire_form_is_openais() -> None:
    call = ToolCall(id="call_1", name="calculator", arguments='{"expression": "1+1"}')
    assert assistant("hm", (call,)).to_wire() == {
        "role": "assistant",
        "content": "hm",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "calculator", "arguments": '{"expression": "1+1"}'},
            }
        ],
    }
    assert tool_result("2", "call_1", "calculator").to_wire() == {
        "role": "tool",
        "content": "2",
        "tool_call_id": "call_1",
        "name": "calculator",
    }
    assert system("s").to_wire() == {"role": "system", "content": "s"}
    assert user("u").to_wire() == {"role": "user", "content": "u"}


def test_what_servers_send_is_read() -> None:
    """Null content beside tool calls, null tool calls, arguments as an object."""
    wire = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
    }
    message = Message.from_wire(wire)
    assert message.text == ""
    assert message.tool_calls == (ToolCall(id="1", name="f", arguments='{"x": 1}'),)
    assert Message.from_wire({"role": "user", "content": "hi", "tool_calls": None}) == user("hi")


def test_reading_does_not_change_what_was_given() -> None:
    wire: dict[str, Any] = {"role": "user", "content": None}
    Message.from_wire(wire)
    assert wire == {"role": "user", "content": None}


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"role": "robot", "content": "x"},
        {"role": "user", "content": 3},
        {"role": "user", "content": "x", "extra": 1},
        {"role": "user", "content": [{"type": "image", "text": "x"}]},
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
    ],
)
def test_anything_else_is_refused(wire: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Message.from_wire(wire)


def test_messages_are_values() -> None:
    message = user("a")
    with pytest.raises(ValidationError):
        message.content = "b"  # type: ignore[misc]
    assert len({user("a"), user("a"), user("b")}) == 2
