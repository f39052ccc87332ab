"""The XML-like format of Qwen3-Coder and Qwen 3.5: a tag for the function, one for each parameter, values as raw text.

Nothing is escaped in it, so the type of a value comes from the tool's schema (`schema_values.py`), and a value ends at
the first tag of the format. What cannot be spelled so that it is read back (a value that holds such a tag, a string
that would be read as a number) is written as in Hermes, `<tool_call>` around JSON, which is read here as well.
A call may lack its `</parameter>` tags and the outer `<tool_call>`; without `</function>` it is cut off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agentrl.chat.hermes import TOOL_CALL
from agentrl.chat.json_calls import arguments_of, dump, skip_space
from agentrl.chat.schema_values import property_schema, read_value, spells
from agentrl.chat.tool_calls import (
    MarkedFormat,
    PromptStyle,
    ReadCall,
    Reading,
    Schemas,
    Tools,
    listed,
    schemas_by_name,
    tool_formats,
)
from agentrl.messages import ToolCall

_FUNCTION = re.compile(r"<function=([^<>\n]++)>")
_PARAMETER = re.compile(r"<parameter=([^<>\n]++)>\n?")
_TAG = re.compile(r"</?tool_call>|<function=|</function>|<parameter=|</parameter>")
_NAME = re.compile(r"[^<>\n]++")

_SCHEMA_PROMPT = """# Tools

You have access to the following functions:

<tools>
{tools}
</tools>

To call a function, answer in this format, with nothing after it:

<tool_call>
<function=example_function>
<parameter=first_parameter>
value
</parameter>
<parameter=second_parameter>
a value may
span several lines
</parameter>
</function>
</tool_call>

Reasoning may stand before the call. Give every required parameter. Several calls follow one another."""
_SIGNATURE_PROMPT = """Tools: {tools}
Call a tool: <tool_call>
<function=NAME>
<parameter=ARGUMENT>
value
</parameter>
</function>
</tool_call>"""


class Qwen3CoderFormat(MarkedFormat):
    """`<tool_call>`, `<function=calculator>`, `<parameter=expression>`, `60 + 64`, closing tags, a line each."""

    marker = "<function="
    opening = re.compile(r"<tool_call>|<function=")

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading:
        wrapped = match[0] == TOOL_CALL.opening
        begin = skip_space(text, match.end()) if wrapped else match.start()
        if wrapped and not text.startswith("<function=", begin):
            if text.startswith(("{", "["), begin):
                call, end = TOOL_CALL.read(text, match.end())
                return Reading([call], end)
            raw = TOOL_CALL.until_close(text, match.end(), match.end())
            found = f"got {raw.text[:40]!r}" if raw.text else "got nothing"
            return Reading([ReadCall("", raw.text, f"expected <function=name>, {found}")], raw.end)
        call, end = _read_function(text, begin, schemas)
        if call.error is None:
            after = skip_space(text, end)
            end = after + len(TOOL_CALL.closing) if text.startswith(TOOL_CALL.closing, after) else end
        return Reading([call], end)

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        schemas = None if tools is None else schemas_by_name(tools)
        return "\n".join(([content] if content else []) + [_call_text(call, schemas) for call in calls])

    def format_result(self, text: str) -> str:
        """The answer between `<tool_response>` tags."""
        return f"<tool_response>\n{text}\n</tool_response>"

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        return (_SIGNATURE_PROMPT if style == "signature" else _SCHEMA_PROMPT).format(tools=listed(tools, style))


def _read_function(text: str, begin: int, schemas: Schemas | None) -> tuple[ReadCall, int]:
    """The call whose `<function=` is at `begin`; the position behind its `</function>`, or where it breaks off."""
    function = _FUNCTION.match(text, begin)
    if function is None:
        return _broken(text, begin, begin + len("<function="), "", "the name in <function=...> is missing or broken")
    name = function[1]
    parameters = (schemas or {}).get(name)
    arguments: dict[str, Any] = {}
    position = skip_space(text, function.end())
    while not text.startswith("</function>", position):
        parameter = _PARAMETER.match(text, position)
        if parameter is None:
            found = text[position : position + 40]
            reason = f"expected <parameter=name> or </function>, got {found!r}" if found else "cut off: no </function>"
            return _broken(text, begin, position, name, reason)
        tag = _TAG.search(text, parameter.end())
        if tag is None or tag[0] not in ("</parameter>", "<parameter=", "</function>"):
            return _broken(text, begin, parameter.end(), name, f"cut off: no </parameter> for {parameter[1]!r}")
        value = text[parameter.end() : tag.start()].removesuffix("\n")
        arguments[parameter[1]] = read_value(value, property_schema(parameters, parameter[1]))
        position = skip_space(text, tag.end() if tag[0] == "</parameter>" else tag.start())
    return ReadCall(name, dump(arguments)), position + len("</function>")


def _broken(text: str, begin: int, search: int, name: str, reason: str) -> tuple[ReadCall, int]:
    """A call with an error: all to `</tool_call>`, or to where the next call begins."""
    position = search
    while (tag := _TAG.search(text, position)) and tag[0] not in ("<tool_call>", "</tool_call>", "<function="):
        position = tag.end()
    stop = tag.start() if tag else len(text)
    end = tag.end() if tag and tag[0] == "</tool_call>" else stop
    return ReadCall(name, text[begin:stop].strip(), reason), end


def _call_text(call: ToolCall, schemas: Schemas | None) -> str:
    arguments = arguments_of(call)
    if call.error is not None or arguments is None or not _NAME.fullmatch(call.name):
        return TOOL_CALL.write(call)
    parameters = (schemas or {}).get(call.name)
    lines = [f"<function={call.name}>"]
    for name, value in arguments.items():
        text = value if isinstance(value, str) else dump(value)
        fits = _NAME.fullmatch(name) and not _TAG.search(text)
        if not fits or not spells(text, value, property_schema(parameters, name)):
            return TOOL_CALL.write(call)
        lines += [f"<parameter={name}>", text, "</parameter>"]
    return "\n".join([TOOL_CALL.opening, *lines, "</function>", TOOL_CALL.closing])


tool_formats.register("qwen3_coder", Qwen3CoderFormat())
