"""Calls in Python's syntax: `[name(argument="value"), other(k=3)]`, or behind `<|python_tag|>`.

The list is what Llama 3.2's and Llama 4's documentation call pythonic, and what Google's guide prompts Gemma 3 for;
`<|python_tag|>name.call(argument="value")` is how Llama 3.1 calls the tools that it knows from its training. Behind the
tag may also stand code for an interpreter: it becomes a call of the tool `python`.

A list counts where a line begins with it. Arguments are literals (`python_calls.py`); those without a name take the
names of the tool's parameters in order where the schemas are known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from agentrl.chat.json_calls import dump, skip_space
from agentrl.chat.python_calls import CALLEE, call_text, read_call, read_calls
from agentrl.chat.tool_calls import MarkedFormat, PromptStyle, ReadCall, Reading, Schemas, Tools, listed, tool_formats
from agentrl.messages import ToolCall

TAG = "<|python_tag|>"

_PROMPT = """You have access to functions. To call some, answer with a list of calls in Python's syntax only:
[name(argument="value", other=3), second_name(argument="value")]

Functions:
{tools}"""
_SIGNATURE_PROMPT = """Tools: {tools}
Call tools:
[name(argument="value"), other_name(...)]"""


class PythonTagFormat(MarkedFormat):
    """`[calculator(expression='60 + 64')]`."""

    marker = "[func_name1(params_name1=params_value1"
    opening = re.compile(rf"{re.escape(TAG)}|^[ \t]*+\[\s*+(?=\w[\w.\-]*+\()", re.MULTILINE)

    def __init__(self, interpreter: str = "python", argument: str = "code") -> None:
        """`interpreter` is the tool that code behind the tag is for, `argument` what it calls the code."""
        self.interpreter, self.argument = interpreter, argument

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading:
        if match[0] != TAG:
            return Reading(*read_calls(text, match.end(), schemas))
        begin = skip_space(text, match.end())
        if text.startswith("[", begin) and CALLEE.match(text, skip_space(text, begin + 1)):
            return Reading(*read_calls(text, skip_space(text, begin + 1), schemas))
        if self._is_code(text, begin, schemas):
            end = text.find(TAG, begin)
            end = len(text) if end < 0 else end
            return Reading([ReadCall(self.interpreter, dump({self.argument: text[begin:end].strip()}))], end)
        call, end = read_call(text, begin, schemas)
        return Reading([call], end)

    def _is_code(self, text: str, begin: int, schemas: Schemas | None) -> bool:
        """True if the text behind the tag calls no tool that is offered, and the interpreter is."""
        callee = CALLEE.match(text, begin)
        if schemas is None:
            return callee is None and bool(text[begin:].strip())
        name = callee[0].removesuffix(".call") if callee else ""
        return self.interpreter in schemas and name not in schemas and bool(text[begin : begin + 1])

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        lines = [content] if content else []
        for failed, group in groupby(calls, lambda call: call.error is not None):
            texts = [call_text(call) for call in group]
            lines += [_raw(text) for text in texts] if failed else [f"[{', '.join(texts)}]"]
        return "\n".join(lines)

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        return (_SIGNATURE_PROMPT if style == "signature" else _PROMPT).format(tools=listed(tools, style))


def _raw(text: str) -> str:
    """The raw text of a call with an error, so that it is read as one again."""
    return f"[{text}]" if CALLEE.match(text) else f"{TAG}{text}"


tool_formats.register("python_tag", PythonTagFormat())
