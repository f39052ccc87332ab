"""Calls in fenced code blocks, for models that know no format of their own and for agents that answer in code.

Three kinds of blocks, by the language behind the opening fence: JSON in `tool`, `tool_call` or `json`; a Python call in
`tool_code`, as Gemma writes it, `print` around it or not; and code that is itself the argument of a tool, `python` at
first, as in ReTool's and VerlTool's answers. A `json` block that has not the shape of a call is content, and so is a
code block whose tool is known not to be on offer.

A block begins at a line of its own and ends at the next line of only a fence; where a further block begins first, it
lacks its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentrl.chat.json_calls import (
    arguments_of,
    call_from_value,
    decode,
    dump,
    json_fault,
    object_text,
    skip_space,
)
from agentrl.chat.python_calls import read_call, read_calls
from agentrl.chat.tool_calls import MarkedFormat, PromptStyle, ReadCall, Reading, Schemas, Tools, listed, tool_formats
from agentrl.messages import ToolCall

_FENCE = re.compile(r"^[ ]{0,3}`{3,}+[ \t]*+([\w\-]*+)[ \t]*+$", re.MULTILINE)
_CALLS = "tool_code"
_DATA = "json"
_SHAPE = re.compile(r'"(?:arguments|parameters)"\s*+:')
_CUT = "cut off: no closing fence"

_SCHEMA_PROMPT = """You have these tools:
{tools}

To call one, write a fenced block with the tool's name and its arguments in JSON:
{call}"""


class Code(NamedTuple):
    """The tool that a block of code is for, and the argument that the code is."""

    tool: str
    argument: str


class _Block(NamedTuple):
    """Where a block ends."""

    stop: int
    """Position of its closing fence, or of what ends it without one."""
    end: int
    """Position behind the fence."""
    closed: bool


class CodeFenceFormat(MarkedFormat):
    """ "```tool" and a line end before `{"name": "calculator", "arguments": {"expression": "60 + 64"}}`."""

    marker = "```tool"

    def __init__(self, language: str = "tool", code: Mapping[str, Code | tuple[str, str]] | None = None) -> None:
        """`language` is that of the blocks that are written; `code` maps further languages to tool and argument."""
        self.language = language
        blocks = {"python": Code("python", "code"), "py": Code("python", "code")} if code is None else code
        self.code = {name: Code(*target) for name, target in blocks.items()}
        self._json = {language, "tool", "tool_call", _DATA} - self.code.keys()
        names = sorted({*self._json, _CALLS, *self.code}, key=len, reverse=True)
        self.opening = re.compile(rf"^[ ]{{0,3}}```({'|'.join(map(re.escape, names))})[ \t]*+(?:\n|\Z)", re.MULTILINE)

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading | None:
        language, begin = match[1], match.end()
        if language in self.code:
            return self._read_code(text, begin, self.code[language], schemas)
        if language == _CALLS:
            return _read_python(text, begin, schemas)
        return _read_json(text, begin, must=language != _DATA)

    def _read_code(self, text: str, begin: int, code: Code, schemas: Schemas | None) -> Reading | None:
        if schemas is not None and code.tool not in schemas:
            return None
        block = _block(text, begin)
        body = text[begin : block.stop]
        if not block.closed:
            return Reading([ReadCall(code.tool, body.strip(), _CUT)], block.end)
        return Reading([ReadCall(code.tool, dump({code.argument: body.removesuffix("\n")}))], block.end)

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        return "\n".join(([content] if content else []) + [self._written(call) for call in calls])

    def _written(self, call: ToolCall) -> str:
        arguments = arguments_of(call) if call.error is None else None
        for language, code in self.code.items():
            if code.tool == call.name and arguments is not None and [*arguments] == [code.argument]:
                body = arguments[code.argument]
                if isinstance(body, str) and not _FENCE.search(body):
                    return f"```{language}\n{body}\n```"
        body = call.arguments if call.error is not None else object_text(call)
        return f"```{self.language}\n{body}\n```"

    def format_result(self, text: str) -> str:
        """The answer in a block named `output`."""
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`{3,}", text)), 0)
        return f"{fence}output\n{text}\n{fence}"

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        call = f'```{self.language}\n{{"name": NAME, "arguments": {{...}}}}\n```'
        if style == "signature":
            return f"Tools: {listed(tools, style)}\nCall a tool:\n{call}"
        return _SCHEMA_PROMPT.format(tools=listed(tools, style), call=call)


def _read_json(text: str, begin: int, *, must: bool) -> Reading | None:
    """The call of a JSON block. `must`: whatever is in it counts as one."""
    start = skip_space(text, begin)
    try:
        value, end = decode(text, start)
    except (ValueError, RecursionError) as error:
        block = _block(text, begin)
        raw = text[begin : block.stop].strip()
        if not must and not _SHAPE.search(raw):
            return None
        reason = json_fault(error, raw) if block.closed else f"{_CUT}, and the JSON is incomplete or invalid"
        return Reading([ReadCall("", raw, reason)], block.end)
    block = _block(text, end)
    raw = text[begin : block.stop].strip()
    if not must and not _SHAPE.search(text[start:end]):
        return None
    trailing = text[end : block.stop].strip()
    if block.closed and trailing:
        return Reading([ReadCall("", raw, f"text after the JSON object: {trailing[:40]!r}")], block.end)
    # Without its fence a block of whole JSON still is a call, and what follows is content.
    return Reading([call_from_value(value, raw)], block.end if block.closed else end)


def _read_python(text: str, begin: int, schemas: Schemas | None) -> Reading:
    """The calls of a `tool_code` block: one, a list, or one a line; `print(...)` around a call is taken off."""
    block = _block(text, begin)
    body = text[begin : block.stop].strip()
    calls: list[ReadCall] = []
    position = 0
    while position < len(body) and not (calls and calls[-1].error):
        if body.startswith("[", position):
            read, position = read_calls(body, position + 1, schemas)
            calls += read
        else:
            printed = body.startswith("print(", position)
            call, position = read_call(body, position + len("print(") * printed, schemas)
            position += printed and body.startswith(")", position)
            calls.append(call)
        position = skip_space(body, position)
    if not calls:
        calls = [ReadCall("", body, "empty call: nothing in the block")]
    return Reading(calls, block.end)


def _block(text: str, search: int) -> _Block:
    """The end of a block, which is sought from `search`."""
    fence = _FENCE.search(text, search)
    if fence is None or fence[1]:
        stop = len(text) if fence is None else fence.start()
        return _Block(stop, stop, False)
    return _Block(fence.start(), fence.end(), True)


tool_formats.register("code_fence", CodeFenceFormat())
