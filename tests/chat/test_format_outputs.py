# ruff: noqa: E501 - the tables hold outputs as they are, one a line
"""What models of each family really write, whole and damaged, and what each format makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentrl.chat import CodeFenceFormat, TagFormat, tool_formats
from agentrl.chat.mistral import MistralFormat
from agentrl.errors import ConfigError
from agentrl.messages import ToolCall
from tests.chat.test_format_properties import BUNDLED

DEEPSEEK = {
    "CALLS": "<｜tool▁calls▁begin｜>",  # noqa: RUF001
    "/CALLS": "<｜tool▁calls▁end｜>",  # noqa: RUF001
    "CALL": "<｜tool▁call▁begin｜>",  # noqa: RUF001
    "/CALL": "<｜tool▁call▁end｜>",  # noqa: RUF001
    "SEP": "<｜tool▁sep｜>",  # noqa: RUF001
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "zip": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "hourly": {"type": "boolean"},
                "fields": {"type": "array", "items": {"type": "string"}},
                "unit": {"$ref": "#/$defs/Unit"},
            },
            "$defs": {"Unit": {"enum": ["1", "2"], "type": "string"}},
            "required": ["city"],
        },
    },
}
PYTHON = {
    "type": "function",
    "function": {"name": "python", "parameters": {"type": "object", "properties": {"code": {"type": "string"}}}},
}


def spell(text: str) -> str:
    """DeepSeek's tokens for {CALL} and so on."""
    for name, token in DEEPSEEK.items():
        text = text.replace("{" + name + "}", token)
    return text


def read(name: str, text: str, tools: Any = None) -> tuple[str, list[tuple[str, Any]]]:
    content, calls = tool_formats.get(name).parse(text, tools)
    return content, [(call.name, call.error or json.loads(call.arguments)) for call in calls]


def weather(**arguments: Any) -> tuple[str, dict[str, Any]]:
    return "weather", arguments


PARIS = weather(city="Paris")
WHOLE: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    # qwen3_coder
    (
        "qwen3_coder",
        "I look.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        "I look.",
        [weather(city="Paris", days=3)],
    ),
    ("qwen3_coder", "<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>", "", [PARIS]),
    ("qwen3_coder", "<tool_call><function=weather><parameter=city>Paris</parameter></function></tool_call>", "", [PARIS]),
    ("qwen3_coder", "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</function>\n</tool_call>", "", [PARIS]),
    (
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n<parameter=zip>\n75001\n</parameter>\n</function>",
        "",
        [weather(city="Paris", zip=75001)],
    ),
    ("qwen3_coder", "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [("now", {})]),
    ("qwen3_coder", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', "", [PARIS]),
    # llama3
    ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3", '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3", '{"type": "function", "name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3", '{"function": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3", '{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}', "", [PARIS]),
    (
        "llama3",
        'Two calls:\n{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "now", "parameters": {}};',
        "Two calls:",
        [PARIS, ("now", {})],
    ),
    ("llama3", '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
    # mistral
    ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}, "id": "D681PevKs"}]', "", [PARIS]),
    ("mistral", 'So:[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}]', "So:", [PARIS]),
    ("mistral", '[TOOL_CALLS] [{"arguments": {"city": "Paris"}, "name": "weather"}, {"name": "now"}', "", [PARIS, ("now", {})]),
    ("mistral", '[TOOL_CALLS]weather{"city": "Paris"}[TOOL_CALLS]now{}', "", [PARIS, ("now", {})]),
    ("mistral", '[TOOL_CALLS]weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}', "", [PARIS]),
    ("mistral_v11", '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}', "", [PARIS]),
    ("mistral", '[TOOL_CALLS]{"name": "weather", "arguments": {"city": "Paris"}}', "", [PARIS]),
    # deepseek
    (
        "deepseek",
        spell('Well.{CALLS}{CALL}function{SEP}weather\n```json\n{"city": "Paris"}\n```{/CALL}\n{CALL}function{SEP}now\n```json\n{}\n```{/CALL}{/CALLS}'),
        "Well.",
        [PARIS, ("now", {})],
    ),
    ("deepseek", spell('{CALLS}{CALL}weather{SEP}{"city": "Paris"}{/CALL}{/CALLS}'), "", [PARIS]),
    ("deepseek_v31", spell('{CALL}function{SEP}weather\n```json\n{"city": "Paris"}\n```{/CALL}'), "", [PARIS]),
    ("deepseek", '<|tool▁calls▁begin|><|tool_call_begin|>weather<|tool▁sep|>{"city": "Paris"}<|tool▁call▁end|>', "", [PARIS]),
    ("deepseek", spell('{CALLS}{CALL}function{SEP}weather\n```json\n{"city": "Paris"}\n```'), "", [PARIS]),
    # gemma
    ("gemma", 'A moment.<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|>', "A moment.", [PARIS]),
    ("gemma", "<start_function_call>call:weather{city:<escape>Paris<escape>}<end_function_call>", "", [PARIS]),
    (
        "gemma",
        '<|tool_call>call:weather{city:"Paris",days:3,hourly:true,fields:[<|"|>a<|"|>,<|"|>b<|"|>],at:{x:-1.5,"y":null}}<tool_call|>',
        "",
        [weather(city="Paris", days=3, hourly=True, fields=["a", "b"], at={"x": -1.5, "y": None})],
    ),
    ("gemma", '<|tool_call>call:weather{city:<|"|>Paris<|"|>}', "", [PARIS]),
    # harmony
    (
        "harmony",
        "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
        "<think>\nNeed the weather.\n</think>",
        [PARIS],
    ),
    ("harmony", ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Paris"}', "", [PARIS]),
    ("harmony", "<|channel|>analysis to=python code<|message|>print(1)<|call|>", "", [("python", {"code": "print(1)"})]),
    (
        "harmony",
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.<|return|>",
        "<think>\nEasy.\n</think>\n\nIt is 4.",
        [],
    ),
    ("harmony", "<|channel|>final<|message|>It is 4.", "It is 4.", []),
    # python_tag
    ("python_tag", "[weather(city='Paris')]", "", [PARIS]),
    ("python_tag", 'Let me look.\n[weather(city="Paris", days=3), now()]', "Let me look.", [weather(city="Paris", days=3), ("now", {})]),
    ("python_tag", '<|python_tag|>weather.call(city="Paris")', "", [PARIS]),
    ("python_tag", '[get-weather(city="Paris", hourly=true, at={"x": [1, -2.5]}, unit=None)]', "", [("get-weather", {"city": "Paris", "hourly": True, "at": {"x": [1, -2.5]}, "unit": None})]),
    ("python_tag", "[weather(city='a ] b ) \\' c', zip=\"\"\"x\n(\"\"\")]", "", [weather(city="a ] b ) ' c", zip="x\n(")]),
    ("python_tag", "<|python_tag|>import math\nmath.pi", "", [("python", {"code": "import math\nmath.pi"})]),
    ("python_tag", "The list [1, 2] and f(x).", "The list [1, 2] and f(x).", []),
    # code_fence
    ("code_fence", 'Look:\n```tool\n{"name": "weather", "arguments": {"city": "Paris"}}\n```\nDone.', "Look:\n\nDone.", [PARIS]),
    ("code_fence", '```json\n{"name": "weather", "arguments": {"city": "Paris"}}\n```', "", [PARIS]),
    ("code_fence", '```json\n{"name": "Ada"}\n```', '```json\n{"name": "Ada"}\n```', []),
    ("code_fence", "```python\nprint(1)\n```", "", [("python", {"code": "print(1)"})]),
    ("code_fence", '```tool_code\nprint(weather(city="Paris"))\n```', "", [PARIS]),
    ("code_fence", "```tool_code\n[weather(city='Paris'), now()]\n```", "", [PARIS, ("now", {})]),
    ("code_fence", "```cpp\nint x;\n```", "```cpp\nint x;\n```", []),
    # tags
    ("tags", "<think>x</think>\n<search> capital of France </search>", "<think>x</think>", [("search", {"query": "capital of France"})]),
    ("tags", "<python>\nif x:\n    y\n</python>", "", [("python", {"code": "if x:\n    y"})]),
    ("tags", "<answer> 4 </answer>", "", [("submit", {"answer": "4"})]),
    ("tags", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', "", [PARIS]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "content", "calls"), WHOLE)
def test_what_models_write(name: str, text: str, content: str, calls: list[tuple[str, Any]]) -> None:
    assert read(name, text) == (content, calls)


ERRORS: list[tuple[str, str, str, str, str]] = [
    ("qwen3_coder", "<tool_call>\n<function=weather>\n<parameter=city>\nPar", "weather", "cut off: no </parameter> for 'city'", "<function=weather>\n<parameter=city>\nPar"),
    ("qwen3_coder", "<tool_call>\n<function=weather>\n", "weather", "cut off: no </function>", "<function=weather>"),
    ("qwen3_coder", "<tool_call>\nweather\n</tool_call>", "", "expected <function=name>, got 'weather'", "weather"),
    ("qwen3_coder", "<tool_call></tool_call>", "", "expected <function=name>, got nothing", ""),
    ("qwen3_coder", "<tool_call><function=f>Paris</function></tool_call>", "f", "expected <parameter=name> or </function>", "<function=f>Paris</function>"),
    ("llama3", '{"name": "weather", "parameters": {"city": "Par', "", "cut off", '{"name": "weather", "parameters": {"city": "Par'),
    ("llama3", "{\"name\": \"weather\", \"parameters\": {'city': 1}}", "", "invalid JSON: Expecting property name", "{\"name\": \"weather\", \"parameters\": {'city': 1}}"),
    ("llama3", "<|python_tag|>print(1)", "", "invalid JSON: Expecting value at character 0", "print(1)"),
    ("llama3", '{"name": "weather", "parameters": [1]}', "weather", "'arguments' must be a JSON object, got an array", '{"name": "weather", "parameters": [1]}'),
    ("mistral", "[TOOL_CALLS] [{'name': 'x'}]", "", "invalid JSON: Expecting property name", "{'name': 'x'}]"),
    ("mistral", "[TOOL_CALLS]", "", "empty call", ""),
    ("mistral", "[TOOL_CALLS]weather and more", "", "expected [ or name[ARGS]{", "weather and more"),
    ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": ', "", "invalid JSON: Expecting value", 'weather[ARGS]{"city":'),
    ("deepseek", spell('{CALL}function{SEP}weather\n```json\n{"city": "Par'), "weather", "cut off: invalid JSON", spell('function{SEP}weather\n```json\n{"city": "Par')),
    ("deepseek", spell("{CALL}weather{/CALL}"), "", "the call has no separator", "weather"),
    ("deepseek", spell('{CALL}{SEP}{"a": 1}{/CALL}'), "", "the call has no name", spell('{SEP}{"a": 1}')),
    ("gemma", "<|tool_call>call:weather{city:Paris}<tool_call|>", "weather", "expected a value (strings stand between", "call:weather{city:Paris}"),
    ("gemma", '<|tool_call>call:weather{city:<|"|>Par', "weather", "cut off: a string lacks its closing", 'call:weather{city:<|"|>Par'),
    ("gemma", "<|tool_call>weather()<tool_call|>", "", "expected call:name{...}", "weather()"),
    ("gemma", "<|tool_call>call:f{x:" + "[" * 5000 + "<tool_call|>", "f", "nested too deeply", "call:f{x:" + "[" * 5000),
    ("harmony", '<|channel|>commentary to=functions.weather<|message|>{"city": "Par', "weather", "cut off: no <|call|>", '{"city": "Par'),
    ("harmony", "<|channel|>commentary to=functions.weather<|message|>{x}<|call|>", "weather", "invalid JSON: Expecting property name", "{x}"),
    ("harmony", "<|channel|>commentary to=functions.weather<|message|><|call|>", "weather", "empty call", ""),
    ("python_tag", "[weather(city='Par", "weather", "cut off", "weather(city='Par"),
    ("python_tag", "[weather('Paris')]", "weather", "an argument has no name", "weather('Paris')"),
    ("python_tag", "[weather(city=get())]", "weather", "only literal values can be given, not 'call'", "weather(city=get())"),
    ("python_tag", "[weather(city=__import__('os').name)]", "weather", "only literal values", "weather(city=__import__('os').name)"),
    ("python_tag", "[weather(city=x y)]", "weather", "invalid Python", "weather(city=x y)"),
    ("python_tag", "[weather(city='a', city='b')]", "weather", "argument 'city' is given twice", "weather(city='a', city='b')"),
    ("python_tag", "[weather(x=" + "(" * 5000 + ")" * 5000 + ")]", "weather", "invalid Python", "weather(x=" + "(" * 5000 + ")" * 5000 + ")"),
    ("code_fence", '```tool\n{"name": "weather"', "", "cut off: no closing fence", '{"name": "weather"'),
    ("code_fence", "```tool\nweather\n```", "", "invalid JSON: Expecting value", "weather"),
    ("code_fence", '```json\n{"name": "weather", "arguments": {"city": }}\n```', "", "invalid JSON", '{"name": "weather", "arguments": {"city": }}'),
    ("code_fence", "```python\nprint(1", "python", "cut off: no closing fence", "print(1"),
    ("code_fence", "```tool_code\nx = 1\n```", "", "expected name(argument=value, ...), got 'x = 1'", "x = 1"),
    ("tags", "<search>capital of", "search", "cut off: no </search>", "<search>capital of"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "called", "error", "raw"), ERRORS)
def test_errors_say_what_is_wrong_and_keep_the_text(name: str, text: str, called: str, error: str, raw: str) -> None:
    content, (call,) = tool_formats.get(name).parse(text)
    assert call.error is not None
    assert call.error.startswith(error)
    assert (content, call.name, call.arguments) == ("", called, raw)


def test_a_fault_costs_one_call_and_not_the_others() -> None:
    assert read("python_tag", "[weather(city=x), now()]")[1][1] == ("now", {})
    assert read("mistral", '[TOOL_CALLS] [{"name": "now"}, {"name": ')[1][0] == ("now", {})
    two = spell('{CALLS}{CALL}weather{SEP}{x}{/CALL}{CALL}now{SEP}{}{/CALL}{/CALLS}')  # fmt: skip
    assert [name for name, _ in read("deepseek", two)[1]] == ["weather", "now"]
    assert read("tags", "<search>one <search>two</search>")[1][1] == ("search", {"query": "two"})


@pytest.mark.parametrize(
    ("argument", "text", "value"),
    [
        ("city", "42", "42"),
        ("city", "null", "null"),
        ("city", '{"a": 1}', '{"a": 1}'),
        ("days", "42", 42),
        ("days", " 42", 42),
        ("days", "many", "many"),
        ("zip", "null", None),
        ("zip", "075", "075"),
        ("zip", "42", "42"),
        ("hourly", "true", True),
        ("hourly", "True", True),
        ("hourly", "yes", "yes"),
        ("fields", '["a", "b"]', ["a", "b"]),
        ("fields", "['a', 'b']", ["a", "b"]),
        ("fields", "a, b", "a, b"),
        ("unit", "1", "1"),
        ("unknown", "1.10", "1.10"),
        ("unknown", "1.5", 1.5),
        ("unknown", "NaN", "NaN"),
    ],
)
def test_raw_values_take_their_type_from_the_schema(argument: str, text: str, value: object) -> None:
    call = f"<tool_call>\n<function=weather>\n<parameter={argument}>\n{text}\n</parameter>\n</function>\n</tool_call>"
    assert read("qwen3_coder", call, [WEATHER]) == ("", [weather(**{argument: value})])


def test_strings_of_digits_stay_in_the_models_own_form_where_the_schema_is_known() -> None:
    coder = tool_formats.get("qwen3_coder")
    call = ToolCall(id="call_0", name="weather", arguments='{"city": "42"}')
    assert "<parameter=city>\n42\n</parameter>" in coder.format("", [call], [WEATHER])
    assert '{"city": "42"}' in coder.format("", [call])


def test_arguments_without_a_name_take_the_schemas_order() -> None:
    assert read("python_tag", "[weather('Paris', 3)]", [WEATHER]) == ("", [weather(city="Paris", days=3)])
    _, ((_, error),) = read("python_tag", "[python('a', 'b')]", [PYTHON])
    assert error == "2 arguments without a name, but python takes 1"


def test_what_is_not_on_offer_is_content() -> None:
    fence = "```python\nprint(1)\n```"
    assert read("code_fence", fence, [WEATHER]) == (fence, [])
    assert read("code_fence", fence, [PYTHON])[1] == [("python", {"code": "print(1)"})]
    assert read("tags", "<answer>4</answer>", [PYTHON]) == ("<answer>4</answer>", [])
    assert read("python_tag", "<|python_tag|>print(1)", [PYTHON])[1] == [("python", {"code": "print(1)"})]


def test_line_breaks_inside_json_strings_are_accepted() -> None:
    text = '<tool_call>\n{"name": "python", "arguments": {"code": "a = 1\nprint(a)"}}\n</tool_call>'
    assert read("hermes", text)[1] == [("python", {"code": "a = 1\nprint(a)"})]


def test_long_json_is_read_whole() -> None:
    call = ToolCall(id="call_0", name="python", arguments=json.dumps({"code": "x = 'é\\u2028'\n" * 5000}))
    for name in ("hermes", "llama3", "mistral", "deepseek", "harmony", "code_fence"):
        written = tool_formats.get(name)
        assert json.loads(written.parse(written.format("", [call]))[1][0].arguments) == json.loads(call.arguments)


def test_formats_of_ones_own_configuration() -> None:
    tags = TagFormat({"lookup": ("weather", "city"), "run": ("python", "code")}, result="information")
    assert tags.parse("<lookup>Paris</lookup>")[1][0].arguments == '{"city": "Paris"}'
    assert tags.format_result("sunny") == "<information>\nsunny\n</information>"
    assert "<run>code</run>" in tags.prompt([PYTHON], "signature")
    with pytest.raises(ConfigError, match="tag 'a b'"):
        TagFormat({"a b": ("x", "y")})
    with pytest.raises(ConfigError, match="at least one tag"):
        TagFormat({})
    fences = CodeFenceFormat("action", {"sql": ("sql", "query")})
    assert fences.parse("```sql\nSELECT 1\n```")[1][0].name == "sql"
    assert fences.parse("```python\nx\n```")[1] == ()
    assert fences.format("", [ToolCall(id="c", name="f")]).startswith("```action\n")
    assert MistralFormat(array=False).format("", [ToolCall(id="c", name="f")]) == "[TOOL_CALLS]f[ARGS]{}"


@pytest.mark.parametrize("name", BUNDLED)
def test_prompts_offer_the_tools_and_an_example_that_is_read(name: str) -> None:
    written = tool_formats.get(name)
    schema, line = written.prompt([WEATHER, PYTHON], "schema"), written.prompt([WEATHER, PYTHON], "signature")
    assert json.dumps(WEATHER) in schema
    assert "weather(city: str, days: int = ...," in line
    assert len(line) < len(schema)
    for prompt in (schema, line):
        assert written.parse(prompt)[1], "the prompt shows no call in the format"
    assert "sunny" in written.format_result("sunny")


def test_the_examples_of_the_documentation_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tool_calls.md").read_text()
    try:
        for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(code, {"__name__": "example"})
        assert capsys.readouterr().out.count("capital of France") == 2
    finally:
        for name in ("lookup_tags", "sql_fences", "arrow"):
            tool_formats._registered.pop(name, None)


def test_the_documentation_names_every_bundled_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tool_calls.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(BUNDLED)
