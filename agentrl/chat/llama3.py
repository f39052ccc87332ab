"""The JSON format of Llama 3.1 and 3.2: `{"name": ..., "parameters": {...}}`, several separated by `; `.

There are no tags, so an object counts as a call where a line begins with it and it has the keys of one; an answer in
JSON of other keys stays content. Behind `<|python_tag|>` an object must follow. `arguments` for `parameters` and the
keys `type` and `function`, which these models mix in, are accepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from agentrl.chat.json_calls import call_from_value, decode, json_fault, object_text, skip_space
from agentrl.chat.tool_calls import MarkedFormat, PromptStyle, ReadCall, Reading, Schemas, Tools, listed, tool_formats
from agentrl.messages import ToolCall

TAG = "<|python_tag|>"
_SEPARATOR = re.compile(r"\s*+[;,]?\s*+(?=\{)")

_SCHEMA_PROMPT = """You have access to the following functions. To call one, respond with JSON for a function call.
Respond in the format
{{"name": function name, "parameters": dictionary of argument name and its value}}
Separate several calls by "; ". Do not use variables.

{tools}"""
_SIGNATURE_PROMPT = """Tools: {tools}
Call a tool:
{{"name": NAME, "parameters": {{...}}}}"""


class Llama3Format(MarkedFormat):
    """`{"name": "calculator", "parameters": {"expression": "60 + 64"}}`."""

    marker = '{"name": function name, "parameters": dictionary'
    opening = re.compile(
        rf'{re.escape(TAG)}|(?:^|;)[ \t]*+(?=\{{\s*+"(?:name|type|function|parameters|arguments)"\s*+:)', re.MULTILINE
    )

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading | None:
        begin = skip_space(text, match.end())
        must = match[0] == TAG
        calls: list[ReadCall] = []
        while True:
            call, end = self._read_object(text, begin, must)
            if call is None:
                return Reading(calls, begin) if calls else None
            calls.append(call)
            following = _SEPARATOR.match(text, end)
            if following is None:
                semicolon = skip_space(text, end)
                return Reading(calls, semicolon + 1 if text.startswith(";", semicolon) else end)
            begin = following.end()

    def _read_object(self, text: str, begin: int, must: bool) -> tuple[ReadCall | None, int]:
        try:
            value, end = decode(text, begin)
        except (ValueError, RecursionError) as error:
            # What lies before the fault belongs to this call: it is not looked at again.
            fault = begin + error.pos if isinstance(error, json.JSONDecodeError) else len(text)
            following = self.opening.search(text, min(max(fault, begin + 1), len(text)))
            end = following.start() if following else len(text)
            raw = text[begin:end].strip()
            cut = fault >= begin + len(raw) or "Unterminated" in str(error)
            reason = "cut off: the JSON is incomplete" if raw and cut else json_fault(error, raw)
            return ReadCall("", raw, reason), end
        if not must and not _is_call(value):
            return None, end
        if isinstance(value, dict) and isinstance(value.get("function"), str):
            value = {"name": value["function"], **value}
        return call_from_value(value, text[begin:end]), end

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        lines = [content] if content else []
        if calls:
            lines.append("; ".join(_written(call) for call in calls))
        return "\n".join(lines)

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        return (_SIGNATURE_PROMPT if style == "signature" else _SCHEMA_PROMPT).format(tools=listed(tools, style))


def _is_call(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    named = "name" in value or "function" in value
    return named and ("parameters" in value or "arguments" in value or isinstance(value.get("function"), dict))


def _written(call: ToolCall) -> str:
    if call.error is None:
        return object_text(call, "parameters")
    return call.arguments if call.arguments.startswith("{") else f"{TAG}{call.arguments}"


tool_formats.register("llama3", Llama3Format())
