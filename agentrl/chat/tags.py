"""Calls as tags of their own, such as `<search>query</search>` in Search-R1 and `<python>code</python>` in others.

Each tag stands for a tool and that one of its arguments which the text between the tags is. A call that a tag cannot
spell (another tool, more arguments, a text that holds the tag) is written as in Hermes, `<tool_call>` around JSON, and
read so as well. Where the tools on offer are known, a tag whose tool is not among them is content: an `<answer>` then
stays for the environment to judge.

The text between tags is stripped of white space, unless it begins and ends with a line break: then of these two only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentrl.chat.hermes import TOOL_CALL
from agentrl.chat.json_calls import arguments_of, dump
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
from agentrl.errors import ConfigError
from agentrl.messages import ToolCall

_NAME = re.compile(r"[A-Za-z][\w\-]*")


class Target(NamedTuple):
    """What a tag stands for."""

    tool: str
    argument: str


BUNDLED = {
    "search": Target("search", "query"),
    "python": Target("python", "code"),
    "sql": Target("sql", "query"),
    "calculator": Target("calculator", "expression"),
    "shell": Target("shell", "command"),
    "submit": Target("submit", "answer"),
    "answer": Target("submit", "answer"),
}
"""The bundled tools and their main arguments. Of several tags for a tool the first is written."""


class TagFormat(MarkedFormat):
    """`<calculator>60 + 64</calculator>`."""

    def __init__(self, tags: Mapping[str, Target | tuple[str, str]], *, result: str = "result") -> None:
        """`tags` maps a tag to a tool and its argument; `result` is the tag around the tools' answers.

        Raises `ConfigError` for a tag that is no name.
        """
        if not tags:
            raise ConfigError("a format of tags needs at least one tag")
        for tag in (*tags, result):
            if not _NAME.fullmatch(tag):
                raise ConfigError(f"tag {tag!r}: expected letters, digits, '_' or '-', such as 'search'")
        self.tags = {tag: Target(*target) for tag, target in tags.items()}
        self.result = result
        self.opening = re.compile("|".join([TOOL_CALL.opening, *(f"<{re.escape(tag)}>" for tag in self.tags)]))
        self._ends = {tag: re.compile(rf"<(/?){re.escape(tag)}>") for tag in self.tags}

        self.marker = f"<{next(iter(self.tags))}>"

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading | None:
        if match[0] == TOOL_CALL.opening:
            call, end = TOOL_CALL.read(text, match.end())
            return Reading([call], end)
        tag = match[0][1:-1]
        target = self.tags[tag]
        if schemas is not None and target.tool not in schemas:
            return None
        boundary = self._ends[tag].search(text, match.end())
        if boundary is None or not boundary[1]:
            stop = boundary.start() if boundary else len(text)
            raw = text[match.start() : stop].strip()
            return Reading([ReadCall(target.tool, raw, f"cut off: no </{tag}>")], stop)
        body = _unwrapped(text[match.end() : boundary.start()])
        return Reading([ReadCall(target.tool, dump({target.argument: body}))], boundary.end())

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        offered = None if tools is None else schemas_by_name(tools)
        return "\n".join(([content] if content else []) + [self._written(call, offered) for call in calls])

    def _written(self, call: ToolCall, offered: Schemas | None) -> str:
        if call.error is not None:
            return call.arguments if self.opening.match(call.arguments) else TOOL_CALL.write(call)
        arguments = arguments_of(call) or {}
        for tag, target in self.tags.items():
            body = arguments.get(target.argument)
            known = offered is None or target.tool in offered
            if known and target.tool == call.name and len(arguments) == 1 and isinstance(body, str):
                inner = body if body == body.strip() and "\n" not in body else f"\n{body}\n"
                if not self._ends[tag].search(body):
                    return f"<{tag}>{inner}</{tag}>"
        return TOOL_CALL.write(call)

    def format_result(self, text: str) -> str:
        """The answer between tags."""
        return f"<{self.result}>\n{text}\n</{self.result}>"

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        how = "\n".join(self._usage(tools))
        if style == "signature":
            return f"Tools: {listed(tools, style)}\nCall a tool:\n{how}"
        return f"You have these tools:\n{listed(tools, style)}\n\nTo call one, write\n{how}"

    def _usage(self, tools: Tools) -> list[str]:
        offered = schemas_by_name(tools)
        first = {target.tool: (tag, target.argument) for tag, target in reversed(self.tags.items())}
        lines = [f"<{tag}>{argument}</{tag}>" for tool, (tag, argument) in first.items() if tool in offered]
        if any(tool not in first for tool in offered):
            call = '{"name": NAME, "arguments": {...}}'
            lines.append(f"{TOOL_CALL.opening}\n{call}\n{TOOL_CALL.closing}")
        return lines


def _unwrapped(body: str) -> str:
    framed = len(body) > 1 and body.startswith("\n") and body.endswith("\n")
    return body[1:-1] if framed else body.strip()


tool_formats.register("tags", TagFormat(BUNDLED))
