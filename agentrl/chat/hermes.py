"""The Hermes format, `<tool_call>` tags around a JSON object, as Hermes, Qwen 2.5 and Qwen 3 write it.

Tolerant in what it reads (text around, several calls, a missing closing tag, arguments as a JSON string, `parameters`
for `arguments`), exact in what it reports. The JSON is read before the closing tag is looked for, so that a tag inside
a string argument ends nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.chat.tool_calls import PromptStyle, ToolCallFormat, signature, tool_formats
from agentrl.messages import ToolCall

OPEN = "<tool_call>"
CLOSE = "</tool_call>"

_SCHEMA_PROMPT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""Word for word the prompt of Qwen 2.5's chat template, which descends from Hermes 2 Pro's."""

_SIGNATURE_PROMPT = """Tools: {tools}
Call a tool: <tool_call>
{{"name": NAME, "arguments": {{...}}}}
</tool_call>"""


class HermesFormat(ToolCallFormat):
    """`<tool_call>\\n{"name": "calculator", "arguments": {"expression": "60 + 64"}}\\n</tool_call>`."""

    marker = OPEN

    def parse(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """See `ToolCallFormat.parse`. Text without a call comes back as it stands, else stripped at both ends."""
        if OPEN not in text:
            return text, ()
        outside: list[str] = []
        calls: list[ToolCall] = []
        position = 0
        while (start := text.find(OPEN, position)) >= 0:
            outside.append(text[position:start])
            call, position = _read_call(text, start + len(OPEN), f"call_{len(calls)}")
            calls.append(call)
        outside.append(text[position:])
        return "".join(outside).strip(), tuple(calls)

    def format(self, content: str, calls: Sequence[ToolCall]) -> str:
        """See `ToolCallFormat.format`. A call with an error is written as its raw text."""
        blocks = [f"{OPEN}\n{_body(call)}\n{CLOSE}" for call in calls]
        return "\n".join(([content] if content else []) + blocks)

    def format_result(self, text: str) -> str:
        """The answer between `<tool_response>` tags."""
        return f"<tool_response>\n{text}\n</tool_response>"

    def prompt(self, tools: Sequence[Mapping[str, Any]], style: PromptStyle) -> str:
        """See `ToolCallFormat.prompt`."""
        if style == "signature":
            return _SIGNATURE_PROMPT.format(tools=", ".join(signature(tool) for tool in tools))
        return _SCHEMA_PROMPT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def _body(call: ToolCall) -> str:
    if call.error is not None:
        return call.arguments
    arguments = json.loads(call.arguments) if call.arguments.strip() else {}
    return _dump({"name": call.name, "arguments": arguments})


def _read_call(text: str, start: int, call_id: str) -> tuple[ToolCall, int]:
    """The call whose opening tag ends at `start`, and the position behind its closing tag."""
    begin = start
    while begin < len(text) and text[begin].isspace():
        begin += 1
    try:
        value, end = json.JSONDecoder().raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        raw, end, closed = _until_close(text, start, start)
        reason = _json_fault(error, raw) if closed else f"cut off: no {CLOSE}, and the JSON is incomplete or invalid"
        return ToolCall(id=call_id, name="", arguments=raw, error=reason), end
    raw, position, closed = _until_close(text, start, end)
    trailing = text[end : position - len(CLOSE)] if closed else text[end:position]
    if closed and trailing.strip():
        reason = f"text after the JSON object: {trailing.strip()[:40]!r}"
        return ToolCall(id=call_id, name="", arguments=raw, error=reason), position
    # Without a closing tag a whole JSON object still is a call, and what follows it is content.
    return _from_value(value, raw, call_id), position if closed else end


def _until_close(text: str, start: int, search: int) -> tuple[str, int, bool]:
    """Raw text from `start` to the closing tag sought from `search`, the position behind it, and whether it is there.

    An opening tag before the closing one means that the closing tag is missing.
    """
    close, reopened = text.find(CLOSE, search), text.find(OPEN, search)
    if close >= 0 and not 0 <= reopened < close:
        return text[start:close].strip(), close + len(CLOSE), True
    end = reopened if reopened >= 0 else len(text)
    return text[start:end].strip(), end, False


def _json_fault(error: Exception, raw: str) -> str:
    if not raw:
        return "empty call: no JSON object between the tags"
    if isinstance(error, RecursionError):
        return "invalid JSON: nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        offset = max(error.pos - error.doc.find(raw), 0) if raw in error.doc else error.pos
        return f"invalid JSON: {error.msg} at character {offset}"
    return f"invalid JSON: {error}"


def _from_value(value: Any, raw: str, call_id: str) -> ToolCall:
    """The call that a decoded JSON value stands for; wrong shapes become the call's error."""
    if not isinstance(value, dict):
        reason = f"expected a JSON object, got {_json_kind(value)}"
        return ToolCall(id=call_id, name="", arguments=raw, error=reason)
    name = value.get("name")
    if not isinstance(name, str) or not name or not _is_text(name):
        reason = "missing key 'name'" if name is None else f"'name' must be a non-empty string, got {_json_kind(name)}"
        return ToolCall(id=call_id, name="", arguments=raw, error=reason)
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            reason = "'arguments' is a string that holds no JSON object"
            return ToolCall(id=call_id, name=name, arguments=raw, error=reason)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        reason = f"'arguments' must be a JSON object, got {_json_kind(arguments)}"
        return ToolCall(id=call_id, name=name, arguments=raw, error=reason)
    return ToolCall(id=call_id, name=name, arguments=_dump(arguments))


def _dump(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if _is_text(text) else json.dumps(value)


def _is_text(text: str) -> bool:
    """False for lone surrogates, which JSON escapes can spell and neither UTF-8 nor pydantic accepts."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), type(value).__name__)


HERMES = HermesFormat()
tool_formats.register("hermes", HERMES)


def parse_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Content outside the `<tool_call>` tags, and the calls; see `ToolCallFormat.parse`."""
    return HERMES.parse(text)


def format_tool_calls(content: str, calls: Sequence[ToolCall]) -> str:
    """The inverse of `parse_tool_calls`, in the spacing of Hermes and Qwen."""
    return HERMES.format(content, calls)
