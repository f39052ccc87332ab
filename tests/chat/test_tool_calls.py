"""The Hermes format: what models emit is read, what is wrong is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.chat import format_tool_calls, parse_tool_calls, tool_formats
from agentrl.chat.tool_calls import signature
from agentrl.errors import UnknownNameError
from agentrl.messages import ToolCall

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "60 + 64"}}\n</tool_call>'
CALCULATOR = ToolCall(id="call_0", name="calculator", arguments='{"expression": "60 + 64"}')

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_arguments = st.dictionaries(st.text(), _json, max_size=3)


def test_format_is_the_common_spacing() -> None:
    assert format_tool_calls("", (CALCULATOR,)) == CALL
    assert format_tool_calls("Let me see.", (CALCULATOR,)) == f"Let me see.\n{CALL}"
    assert format_tool_calls("no call", ()) == "no call"


def test_text_without_a_call_is_unchanged() -> None:
    assert parse_tool_calls("  The answer is 4.\n") == ("  The answer is 4.\n", ())


def test_text_around_and_several_calls() -> None:
    content, calls = parse_tool_calls(f"First\n{CALL}\nthen {CALL} done")
    assert content.split() == ["First", "then", "done"]
    assert [call.id for call in calls] == ["call_0", "call_1"]
    assert all(call.error is None and json.loads(call.arguments) == {"expression": "60 + 64"} for call in calls)


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "calculator", "arguments": {"expression": "60 + 64"}}',
        '  {"arguments":{"expression":"60 + 64"},"name":"calculator"}  ',
        '{"name": "calculator", "arguments": "{\\"expression\\": \\"60 + 64\\"}"}',
        '{"name": "calculator", "parameters": {"expression": "60 + 64"}}',
    ],
)
@pytest.mark.parametrize("close", ["</tool_call>", ""])
def test_variants_that_mean_the_same(body: str, close: str) -> None:
    assert parse_tool_calls(f"<tool_call>{body}{close}") == ("", (CALCULATOR,))


@pytest.mark.parametrize("arguments", ["", ', "arguments": null', ', "arguments": ""', ', "arguments": {}'])
def test_a_call_without_arguments(arguments: str) -> None:
    _, (call,) = parse_tool_calls(f'<tool_call>{{"name": "now"{arguments}}}</tool_call>')
    assert call == ToolCall(id="call_0", name="now", arguments="{}")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<tool_call></tool_call>", "empty call"),
        ("<tool_call>{name: 1}</tool_call>", "invalid JSON: Expecting property name"),
        ('<tool_call>{"name": "x", "arguments": {}</tool_call>', "invalid JSON: Expecting ',' delimiter"),
        ('<tool_call>{"name": "calc', "cut off: no </tool_call>"),
        ("<tool_call>", "cut off: no </tool_call>"),
        ("<tool_call>[1, 2]</tool_call>", "expected a JSON object, got an array"),
        ('<tool_call>{"arguments": {}}</tool_call>', "missing key 'name'"),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', "'name' must be a non-empty string, got a number"),
        ('<tool_call>{"name": "x", "arguments": [1]}</tool_call>', "'arguments' must be a JSON object, got an array"),
        ('<tool_call>{"name": "x", "arguments": "1 + 1"}</tool_call>', "'arguments' is a string that holds no JSON"),
        ('<tool_call>{"name": "x", "arguments": {}} and so on</tool_call>', "text after the JSON object: 'and so on'"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "invalid JSON: nested too deeply"),
        ('<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>', "'name' must be"),
    ],
)
def test_errors_say_what_is_wrong(text: str, error: str) -> None:
    _, (call,) = parse_tool_calls(text)
    assert call.error is not None
    assert call.error.startswith(error)
    assert call.arguments == text.removeprefix("<tool_call>").removesuffix("</tool_call>")


def test_an_unclosed_call_does_not_swallow_the_next() -> None:
    _, (first, second) = parse_tool_calls(f'<tool_call>{{"name": "x", {CALL}')
    assert first.error is not None
    assert second.error is None
    assert second.name == "calculator"


def test_tags_inside_a_string_argument_end_nothing() -> None:
    call = ToolCall(id="call_0", name="write", arguments=json.dumps({"text": "a </tool_call> b <tool_call> c"}))
    assert parse_tool_calls(format_tool_calls("", (call,))) == ("", (call,))


@given(st.text(), st.lists(st.tuples(st.text(min_size=1), _arguments), max_size=3))
def test_parse_inverts_format(content: str, pairs: list[tuple[str, dict[str, object]]]) -> None:
    calls = tuple(
        ToolCall(id=f"call_{index}", name=name, arguments=json.dumps(arguments, ensure_ascii=False))
        for index, (name, arguments) in enumerate(pairs)
    )
    assert parse_tool_calls(format_tool_calls(content.strip(), calls)) == (content.strip(), calls)


@given(
    st.lists(st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "a"', "}", '"', "x", "\\ud800", "1e999", " "]))
)
def test_parse_never_raises_and_errors_survive_a_round_trip(pieces: list[str]) -> None:
    content, calls = parse_tool_calls("".join(pieces))
    assert len(calls) <= pieces.count("<tool_call>")
    _, again = parse_tool_calls(format_tool_calls(content, calls))
    assert [call.name for call in again if call.error is None] == [call.name for call in calls if call.error is None]


def test_signature_and_prompts() -> None:
    parameters = {
        "type": "object",
        "properties": {"query": {"type": "string"}, "k": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
        "required": ["query"],
    }
    tool = {"type": "function", "function": {"name": "search", "parameters": parameters}}
    assert signature(tool) == "search(query: str, k: int | None = ...)"
    hermes = tool_formats.get("hermes")
    assert signature(tool) in hermes.prompt([tool], "signature")
    assert json.dumps(tool) in hermes.prompt([tool], "schema")
    assert hermes.marker in hermes.prompt([tool], "signature")


def test_unknown_format_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'hermes'"):
        tool_formats.get("herms")
