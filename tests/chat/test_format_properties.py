"""What every registered tool-call format keeps: nothing raises, reading inverts writing, in linear time."""

from __future__ import annotations

import json
import string
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agentrl.chat import ToolCallFormat, tool_formats
from agentrl.messages import Message, ToolCall, assistant

BUNDLED = (
    "code_fence",
    "deepseek",
    "deepseek_v31",
    "gemma",
    "harmony",
    "hermes",
    "llama3",
    "mistral",
    "mistral_v11",
    "python_tag",
    "qwen3_coder",
    "tags",
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "python",
            "description": "runs code",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "search",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}, "k": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
            },
        },
    },
]
PIECES = {
    "code_fence": ["```tool\n", "```python\n", "```json\n", "```tool_code\n", "```", "print(", "\n"],
    "deepseek": [
        "<｜tool▁calls▁begin｜>",  # noqa: RUF001
        "<｜tool▁call▁begin｜>",  # noqa: RUF001
        "function",
        "<｜tool▁sep｜>",  # noqa: RUF001
        "python",
        "\n```json\n",
        "\n```",
        "<｜tool▁call▁end｜>",  # noqa: RUF001
        "<｜tool▁calls▁end｜>",  # noqa: RUF001
    ],
    "gemma": ["<|tool_call>", "call:", "f", "{", "x:", '<|"|>', "[", "]", ",", "<tool_call|>", "<start_function_call>"],
    "harmony": [
        "<|start|>",
        "assistant",
        "<|channel|>",
        "analysis",
        "commentary",
        " to=functions.f",
        " to=python",
        "<|constrain|>json",
        "<|message|>",
        "<|end|>",
        "<|call|>",
        "<|return|>",
    ],
    "hermes": ["<tool_call>", "</tool_call>"],
    "llama3": ["<|python_tag|>", '{"name": "f", "parameters": ', '{"x": 1}', "; ", "\n"],
    "mistral": ["[TOOL_CALLS]", "[", "]", "f", "[ARGS]", "[CALL_ID]", "a1b2c3d4e", ","],
    "python_tag": ["<|python_tag|>", "[", "f(", "x=", "1", "'", '"""', ")", "]", ", ", "\n", ".call("],
    "qwen3_coder": [
        "<tool_call>",
        "</tool_call>",
        "<function=f>",
        "<function=",
        "</function>",
        "<parameter=x>",
        "</parameter>",
        "\n",
    ],
    "tags": ["<search>", "</search>", "<python>", "</python>", "<tool_call>", "</tool_call>", "\n"],
}
JSON_PIECES = ['{"name": "f"', '{"name": "f", "arguments": {"x": 1}}', "{", "}", '"', "x", "\\ud800", "1e999", " ", "é"]

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_tricky = st.sampled_from(
    [
        *("42", "true", "null", "1.10", "[1]", '{"a": 1}', " x ", "\n", "a\n", "\nb", "", "```", "a\n```\nb"),
        *("</tool_call>", "a </parameter> b", "</search>", "<python>x", '<|"|>', "<|", "<escape>", '"', "\\", "'''"),
        *("<|call|>", "[TOOL_CALLS]", "<｜tool▁call▁end｜>", '{"name": "f", "parameters": {}}', "]", ")", "\ud7ff"),  # noqa: RUF001
    ]
)
_arguments = st.dictionaries(
    st.sampled_from(["code", "query", "k", "x y", "class", "", "a>b", "é", '"', "<|"]), _values | _tricky, max_size=3
) | st.fixed_dictionaries({"code": _tricky | st.text(max_size=12)})
_names = st.sampled_from(["python", "search", "submit", "get-weather", "f", "print", "class", "2nd"]) | st.text(
    string.ascii_letters + string.digits + "_", min_size=1, max_size=64
)
_calls = st.lists(st.tuples(_names, _arguments), max_size=3)
_thoughts = st.sampled_from(["", "<think>\nhm\n</think>\n\n", "<think>\n\n</think>\n\nso\n", "<think>\na"])
_CHECKS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def get(name: str) -> ToolCallFormat:
    return tool_formats.get(name)


def pieces_of(name: str) -> list[str]:
    family = next(family for family in PIECES if name.startswith(family))
    return PIECES[family]


def made(pairs: list[tuple[str, dict[str, Any]]]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(id=f"call_{index}", name=name, arguments=json.dumps(arguments, ensure_ascii=False))
        for index, (name, arguments) in enumerate(pairs)
    )


def test_all_are_registered() -> None:
    assert set(BUNDLED) <= set(tool_formats.names())


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["unknown tools", "known tools"])
@pytest.mark.parametrize("name", BUNDLED)
@_CHECKS
@given(thought=_thoughts, content=st.text(max_size=30), pairs=_calls)
def test_parse_inverts_format(
    name: str, tools: list[dict[str, Any]] | None, thought: str, content: str, pairs: list[tuple[str, dict[str, Any]]]
) -> None:
    written = get(name)
    content = (thought + content).strip()
    assume(written.parse(content, tools) == (content, ()))
    calls = made(pairs)
    assert written.parse(written.format(content, calls, tools), tools) == (content, calls)


@pytest.mark.parametrize("name", BUNDLED)
@_CHECKS
@given(data=st.data())
def test_no_text_raises_and_what_was_read_is_read_again(name: str, data: st.DataObject) -> None:
    pieces = st.lists(st.sampled_from(pieces_of(name) * 2 + JSON_PIECES) | st.text(max_size=3), max_size=14)
    text = "".join(data.draw(pieces))
    tools = data.draw(st.sampled_from([None, TOOLS, []]))
    check_reading(get(name), text, tools)


@pytest.mark.parametrize("name", BUNDLED)
@_CHECKS
@given(data=st.data(), pairs=_calls.filter(bool), content=st.text(max_size=10))
def test_damaged_calls_never_raise(
    name: str, data: st.DataObject, pairs: list[tuple[str, dict[str, Any]]], content: str
) -> None:
    text = get(name).format(content, made(pairs))
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(begin + 8, len(text))))
        text = text[:begin] + data.draw(st.sampled_from(["", "", " ", "\n", "}", '"', "x"])) + text[end:]
    text = text[: data.draw(st.integers(0, len(text)))] if data.draw(st.booleans()) else text
    check_reading(get(name), text, None)


def check_reading(written: ToolCallFormat, text: str, tools: list[dict[str, Any]] | None) -> None:
    content, calls = written.parse(text, tools)
    assert [call.id for call in calls] == [f"call_{index}" for index in range(len(calls))]
    for call in calls:
        assert call.error or isinstance(json.loads(call.arguments), dict)
        assert call.error != ""
    assert Message.from_wire(assistant(content, calls).to_wire()).text == content
    again = written.parse(written.format("", [call for call in calls if call.error is None], tools), tools)[1]
    assert [(call.name, call.arguments) for call in again] == [
        (call.name, call.arguments) for call in calls if call.error is None
    ]


@pytest.mark.parametrize("name", BUNDLED)
@_CHECKS
@given(text=st.text())
def test_any_text_can_be_read(name: str, text: str) -> None:
    check_reading(get(name), text, None)


@pytest.mark.parametrize("name", BUNDLED)
@_CHECKS
@given(raw=st.text(max_size=20))
def test_a_call_with_an_error_and_one_from_elsewhere_can_be_written(name: str, raw: str) -> None:
    broken = ToolCall(id="call_0", name="", arguments=raw, error="bad")
    foreign = ToolCall(id="call_1", name="search", arguments=raw)
    text = get(name).format("see", [broken, foreign], TOOLS)
    assert text.startswith("see") or name == "harmony"
    assert raw in text


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_reading_takes_linear_time(name: str) -> None:
    """A megabyte of what a format looks for, and shorter runs of the rest; quadratic reading takes minutes."""
    parts = pieces_of(name)
    began = time.perf_counter()
    get(name).parse(parts[0] * (1_000_000 // len(parts[0])))
    for unit in (part + tail for part in parts for tail in ("", "{", '{"a":"', "[[")):
        get(name).parse(unit * (15_000 // len(unit)))
    assert time.perf_counter() - began < 60
