"""Mistral's formats behind the control token `[TOOL_CALLS]`.

Tokenizers up to version 7 write one JSON array, `[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`; from version 11 on
each call has a token of its own, `[TOOL_CALLS]name[ARGS]{...}`, before 13 also `[CALL_ID]` and at times no `[ARGS]`.
All are read by both names; `mistral` writes the array, `mistral_v11` the newer form. The ids of nine characters that
Mistral's own service adds are read over: calls are numbered here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentrl.chat.json_calls import (
    arguments_text,
    call_from_arguments,
    call_from_value,
    decode,
    dump,
    json_fault,
    object_text,
    skip_space,
)
from agentrl.chat.tool_calls import MarkedFormat, PromptStyle, ReadCall, Reading, Schemas, Tools, listed, tool_formats
from agentrl.messages import ToolCall

TOKEN = "[TOOL_CALLS]"
_HEADER = re.compile(r"([\w.\-]++)\s*+(?:\[CALL_ID\]\s*+\w*+\s*+)?+(?:\[ARGS\]\s*+)?+(?=\{)")

_SCHEMA_PROMPT = """You can call these tools:
{tools}

To call some, write {call}"""


class MistralFormat(MarkedFormat):
    """`[TOOL_CALLS] [{"name": "calculator", "arguments": {...}}]`, or `[TOOL_CALLS]calculator[ARGS]{...}`."""

    marker = "[AVAILABLE_TOOLS]"
    opening = re.compile(re.escape(TOKEN))

    def __init__(self, *, array: bool = True) -> None:
        """`array`: whether calls are written as one JSON array or each behind a token of its own."""
        self.array = array

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading:
        begin = skip_space(text, match.end())
        if text.startswith("[", begin) and not text.startswith(TOKEN, begin):
            return _read_array(text, begin + 1)
        header = _HEADER.match(text, begin)
        start = header.end() if header else begin
        try:
            value, end = decode(text, start)
        except (ValueError, RecursionError) as error:
            following = self.opening.search(text, match.end())
            end = following.start() if following else len(text)
            raw = text[begin:end].strip()
            reason = json_fault(error, raw)
            if raw and not header and not raw.startswith("{"):
                reason = f"expected [ or name[ARGS]{{, got {raw[:40]!r}"
            return Reading([ReadCall("", raw, reason)], end)
        raw = text[begin:end]
        return Reading([call_from_arguments(header[1], value, raw) if header else call_from_value(value, raw)], end)

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        if self.array and all(call.error is None for call in calls):
            return content + (f"{TOKEN} [{', '.join(object_text(call) for call in calls)}]" if calls else "")
        return content + "".join(self._written(call) for call in calls)

    def _written(self, call: ToolCall) -> str:
        if call.error is not None:
            return f"{TOKEN}{call.arguments}"
        if self.array:
            return f"{TOKEN} [{object_text(call)}]"
        return f"{TOKEN}{call.name}[ARGS]{arguments_text(call)}"

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        array = f'{TOKEN} [{{"name": NAME, "arguments": {{...}}}}]'
        call = array if self.array else f"{TOKEN}NAME[ARGS]{{...}}"
        if style == "signature":
            return f"Tools: {listed(tools, style)}\nCall a tool: {call}"
        return _SCHEMA_PROMPT.format(tools=listed(tools, style), call=call)

    def format_result(self, text: str) -> str:
        """As between Mistral's tokens for results."""
        return f'[TOOL_RESULTS] {{"content": {dump(text)}}}[/TOOL_RESULTS]'


def _read_array(text: str, begin: int) -> Reading:
    """The calls of an array from behind its bracket, one by one, so that a fault costs one call and not all."""
    calls: list[ReadCall] = []
    position = skip_space(text, begin)
    while not text.startswith("]", position):
        try:
            value, end = decode(text, position)
        except (ValueError, RecursionError) as error:
            found = text.find(TOKEN, position)
            end = len(text) if found < 0 else found
            raw = text[position:end].strip()
            if calls and not raw:  # whole calls, and only the bracket is missing
                return Reading(calls, end)
            reason = json_fault(error, raw) if raw else "cut off: no JSON object in the array"
            return Reading([*calls, ReadCall("", raw, reason)], end)
        calls.append(call_from_value(value, text[position:end]))
        position = skip_space(text, end)
        if text.startswith(",", position):
            position = skip_space(text, position + 1)
        elif not text.startswith("]", position):
            return Reading(calls, end)
    return Reading(calls, position + 1)


tool_formats.register("mistral", MistralFormat())
tool_formats.register("mistral_v11", MistralFormat(array=False))
