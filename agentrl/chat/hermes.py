"""The Hermes format, `<tool_call>` tags around a JSON object, as Hermes, Qwen 2.5 and Qwen 3 write it.

Tolerant in what it reads (text around, several calls, a missing closing tag, arguments as a JSON string, `parameters`
for `arguments`), exact in what it reports. The JSON is read before the closing tag is looked for, so that a tag inside
a string argument ends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentrl.chat.json_calls import Tags
from agentrl.chat.tool_calls import MarkedFormat, PromptStyle, Reading, Schemas, Tools, listed, tool_formats
from agentrl.messages import ToolCall

TOOL_CALL = Tags("<tool_call>", "</tool_call>")

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


class HermesFormat(MarkedFormat):
    """`<tool_call>\\n{"name": "calculator", "arguments": {"expression": "60 + 64"}}\\n</tool_call>`."""

    marker = '<tool_call>\n{"name"'
    opening = re.compile(re.escape(TOOL_CALL.opening))

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading:
        call, end = TOOL_CALL.read(text, match.end())
        return Reading([call], end)

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        """Content that ends a line, such as closed thinking, gets no further line break: Qwen 3 writes it so."""
        blocks = "\n".join(TOOL_CALL.write(call) for call in calls)
        separator = "\n" if content and blocks and not content.endswith("\n") else ""
        return content + separator + blocks

    def format_result(self, text: str) -> str:
        """The answer between `<tool_response>` tags."""
        return f"<tool_response>\n{text}\n</tool_response>"

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        template = _SIGNATURE_PROMPT if style == "signature" else _SCHEMA_PROMPT
        return template.format(tools=listed(tools, style))


HERMES = HermesFormat()
tool_formats.register("hermes", HERMES)


def parse_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Content outside the `<tool_call>` tags, and the calls; see `ToolCallFormat.parse`."""
    return HERMES.parse(text)


def format_tool_calls(content: str, calls: Sequence[ToolCall]) -> str:
    """The inverse of `parse_tool_calls`, in the spacing of Hermes and Qwen."""
    return HERMES.format(content, calls)
