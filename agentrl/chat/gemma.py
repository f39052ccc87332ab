"""Gemma's own format, of Gemma 4 and FunctionGemma: `call:name{key:value}` between control tokens.

Keys stand bare; strings stand between a control token of their own on either side, everything else as in JSON. Gemma 4
and FunctionGemma differ in the tokens only; both are read, and Gemma 4's written. Strings and keys in JSON's quotes are
read too: that is how one is written that holds the control token itself.

Gemma 2 and 3 were trained on no form of their own: there, Google's guide prompts for lists of Python calls
(`python_tag`), and models often answer in fences named `tool_code` (`code_fence`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from agentrl.chat.json_calls import arguments_of, arguments_text, decode, dump, skip_space
from agentrl.chat.tool_calls import MarkedFormat, PromptStyle, ReadCall, Reading, Schemas, Tools, listed, tool_formats
from agentrl.messages import ToolCall


class Dialect(NamedTuple):
    """The control tokens of one family."""

    opening: str
    closing: str
    quote: str


GEMMA4 = Dialect("<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA = Dialect("<start_function_call>", "<end_function_call>", "<escape>")
_DIALECTS = {dialect.opening: dialect for dialect in (GEMMA4, FUNCTION_GEMMA)}
_BOUNDARY = re.compile("|".join(re.escape(token) for dialect in _DIALECTS.values() for token in dialect[:2]))
_NAME = re.compile(r"\s*+call:\s*+([\w.\-]++)\s*+(?=\{)")
_KEY = re.compile(r"[^\s:{}\[\],<>\"]++")
_DEPTH = 64
"""Of objects and arrays in each other."""

_PROMPT = """You have these tools:
{tools}

To call one, write <|tool_call>call:NAME{{ARGUMENT:VALUE,...}}<tool_call|> with strings between <|"|> and <|"|>, such as
<|tool_call>call:find{{text:<|"|>some words<|"|>,count:3}}<tool_call|>"""
_SIGNATURE_PROMPT = """Tools: {tools}
Call a tool: <|tool_call>call:NAME{{ARGUMENT:<|"|>TEXT<|"|>,OTHER:3}}<tool_call|>"""


class _Fault(ValueError):
    """What is wrong with a call's text."""


class GemmaFormat(MarkedFormat):
    """`<|tool_call>call:calculator{expression:<|"|>60 + 64<|"|>}<tool_call|>`."""

    marker = "<|turn>"  # Gemma 4 shows nothing once but its turns: the tools are declared one by one
    opening = re.compile("|".join(map(re.escape, _DIALECTS)))

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading:
        dialect = _DIALECTS[match[0]]
        named = _NAME.match(text, match.end())
        position, name = match.end(), ""
        try:
            if named is None:
                raise _Fault(f"expected call:name{{...}}, got {text[position : position + 40]!r}")
            position, name = named.end(), named[1]
            arguments, position = _Reader(text, dialect.quote).mapping(position + 1, _DEPTH)
            end = skip_space(text, position)
            if text.startswith(dialect.closing, end):
                return Reading([ReadCall(name, dump(arguments))], end + len(dialect.closing))
            if end == len(text) or _BOUNDARY.match(text, end):
                return Reading([ReadCall(name, dump(arguments))], end)
            raise _Fault(f"text after the call: {text[end : end + 40]!r}")
        except _Fault as fault:
            return _failed(text, match.end(), position, name, str(fault))

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        return content + "".join(_written(call) for call in calls)

    def format_result(self, text: str) -> str:
        """The answer between Gemma 4's tokens for tool responses."""
        return f"<|tool_response>response:{{value:{_text(text)}}}<tool_response|>"

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        return (_SIGNATURE_PROMPT if style == "signature" else _PROMPT).format(tools=listed(tools, style))


class _Reader:
    """Reads the values of one call."""

    def __init__(self, text: str, quote: str) -> None:
        self.text, self.quote = text, quote

    def mapping(self, position: int, depth: int) -> tuple[dict[str, Any], int]:
        """The object from behind its brace, and the position behind it."""
        result: dict[str, Any] = {}
        position = skip_space(self.text, position)
        while not self.text.startswith("}", position):
            key, position = self._key(position)
            position = skip_space(self.text, position)
            if not self.text.startswith(":", position):
                raise _Fault(f"expected ':' behind {key!r}{self._found(position)}")
            result[key], position = self._value(position + 1, depth)
            position = self._next(position, "}")
        return result, position + 1

    def _sequence(self, position: int, depth: int) -> tuple[list[Any], int]:
        result: list[Any] = []
        position = skip_space(self.text, position)
        while not self.text.startswith("]", position):
            value, position = self._value(position, depth)
            result.append(value)
            position = self._next(position, "]")
        return result, position + 1

    def _next(self, position: int, close: str) -> int:
        position = skip_space(self.text, position)
        if self.text.startswith(",", position):
            return skip_space(self.text, position + 1)
        if not self.text.startswith(close, position):
            raise _Fault(f"expected ',' or {close!r}{self._found(position)}")
        return position

    def _key(self, position: int) -> tuple[str, int]:
        if self.text.startswith((self.quote, '"'), position):
            return self._string(position)
        if bare := _KEY.match(self.text, position):
            return bare[0], bare.end()
        raise _Fault(f"expected a key{self._found(position)}")

    def _value(self, position: int, depth: int) -> tuple[Any, int]:
        position = skip_space(self.text, position)
        if self.text.startswith((self.quote, '"'), position):
            return self._string(position)
        if depth == 0 and self.text.startswith(("{", "["), position):
            raise _Fault("nested too deeply")
        if self.text.startswith("{", position):
            return self.mapping(position + 1, depth - 1)
        if self.text.startswith("[", position):
            return self._sequence(position + 1, depth - 1)
        try:
            return decode(self.text, position)
        except json.JSONDecodeError:
            raise _Fault(f"expected a value (strings stand between {self.quote}){self._found(position)}") from None

    def _string(self, position: int) -> tuple[str, int]:
        try:
            if self.text.startswith('"', position):
                return decode(self.text, position)
        except json.JSONDecodeError as error:
            raise _Fault(f"invalid string: {error.msg}") from None
        begin = position + len(self.quote)
        end = self.text.find(self.quote, begin)
        if end < 0:
            raise _Fault(f"cut off: a string lacks its closing {self.quote}")
        return self.text[begin:end], end + len(self.quote)

    def _found(self, position: int) -> str:
        return f", got {self.text[position : position + 20]!r}" if position < len(self.text) else ", but it is cut off"


def _failed(text: str, begin: int, search: int, name: str, reason: str) -> Reading:
    """A call with an error: all to its closing token, or to the next opening one."""
    token = _BOUNDARY.search(text, search)
    stop = token.start() if token else len(text)
    end = token.end() if token and token[0] not in _DIALECTS else stop
    return Reading([ReadCall(name, text[begin:stop].strip(), reason)], end)


def _written(call: ToolCall) -> str:
    arguments = arguments_of(call)
    if call.error is not None:
        body = call.arguments
    elif arguments is None:
        body = f"call:{call.name}{arguments_text(call)}"
    else:
        body = f"call:{call.name}{_spelled(arguments)}"
    return f"{GEMMA4.opening}{body}{GEMMA4.closing}"


def _spelled(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        items = [f"{key if _KEY.fullmatch(key) else _text(key)}:{_spelled(item)}" for key, item in value.items()]
        return f"{{{','.join(items)}}}"
    return dump(value)


def _text(text: str) -> str:
    spelled = f"{GEMMA4.quote}{text}{GEMMA4.quote}"
    # what the token would end too early, and what follows a "<" at the end of the text
    return spelled if spelled.find(GEMMA4.quote, 1) == len(spelled) - len(GEMMA4.quote) else dump(text)


tool_formats.register("gemma", GemmaFormat())
