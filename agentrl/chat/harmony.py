"""Harmony, the format of gpt-oss: messages on channels, calls addressed to `functions.<name>`.

A policy's turn begins behind `<|start|>assistant`. The channel `analysis` is its thinking and stands in the content
between `<think>` tags, as other families write it; `final`, and `commentary` without a recipient, are content. A
message with a recipient is a call: JSON for functions, and code where the tool `python` is addressed itself.

Invariant: content is written in channels only beside thinking or calls, so that a plain answer is left to the template,
which writes the header of the channel `final` itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from agentrl.chat.json_calls import arguments_text, call_from_arguments, decode, dump, json_fault, skip_space
from agentrl.chat.tool_calls import PromptStyle, ReadCall, ToolCallFormat, Tools, listed, numbered, tool_formats
from agentrl.messages import ToolCall

NAMESPACE = "functions."
INTERPRETER = "python"
_MESSAGE = "<|message|>"
_ANY = re.compile(r"<\|(?:start|channel|constrain|message|end|call|return)\|>")
_BOUNDARY = re.compile(r"<\|(?:message|end|call|return)\|>")
_STOP = re.compile(r"<\|(?:end|call|return|start)\|>")
_HEADED = re.compile(r"<\|(?:start|channel)\|>")
_RECIPIENT = re.compile(r"\bto=([^\s<]++)")
_CHANNEL = re.compile(r"<\|channel\|>\s*+(\w++)")
_ADDRESS = re.compile(r"\s*+(?:assistant)?+\s*+to=[^\s<]++\s*+")
_THINKING = re.compile(r"<think>\n(.*?)\n</think>(?:\n\n|\Z)", re.DOTALL)
_NEXT = "<|start|>assistant"

_SCHEMA_PROMPT = """# Tools

Calls to these tools must go to the commentary channel: 'functions'.
{tools}

A call is a message such as
{call}"""


class _Piece(NamedTuple):
    """A message of a turn, or text that stands outside of all."""

    text: str
    channel: str = ""
    recipient: str = ""
    cut: bool = False
    """The text ends before the message does."""


class HarmonyFormat(ToolCallFormat):
    """`<|channel|>commentary to=functions.calculator <|constrain|>json<|message|>{"expression": "60 + 64"}<|call|>`."""

    marker = "Calls to these tools must go to the commentary channel: 'functions'."

    def parse(self, text: str, tools: Tools | None = None) -> tuple[str, tuple[ToolCall, ...]]:
        if not _ANY.search(text):
            return text, ()
        content: list[str] = []
        calls: list[ReadCall] = []
        for piece in _pieces(text):
            if piece.recipient:
                calls.append(_read_call(piece))
            elif piece.channel == "analysis":
                content.append(f"<think>\n{piece.text}\n</think>")
            elif piece.text:
                content.append(piece.text)
        joined = "\n\n".join(content)
        return joined.strip() if calls else joined, numbered(calls)

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        thoughts: list[str] = []
        rest = content
        while thought := _THINKING.match(rest):
            thoughts.append(thought[1])
            rest = rest[thought.end() :]
        if not calls and not thoughts:
            return content
        written = [f"<|channel|>analysis{_MESSAGE}{thought}<|end|>" for thought in thoughts]
        if rest and calls:
            written.append(f"<|channel|>commentary{_MESSAGE}{rest}<|end|>")
        elif not calls:
            written.append(f"<|channel|>final{_MESSAGE}{rest}")
        return _NEXT.join([*written, *map(_written, calls)])

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        call = f"<|channel|>commentary to={NAMESPACE}NAME <|constrain|>json{_MESSAGE}{{...}}<|call|>"
        if style == "signature":
            return f"Tools: {listed(tools, style)}\nCall a tool: {call}"
        return _SCHEMA_PROMPT.format(tools=listed(tools, style), call=call)


def _pieces(text: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    position = 0
    while position < len(text):
        boundary = _BOUNDARY.search(text, position)
        head = text[position : boundary.start() if boundary else len(text)]
        if boundary is not None and boundary[0] != _MESSAGE:  # the end of what had no header
            pieces.append(_Piece(head))
            position = boundary.end()
            continue
        headed = _HEADED.search(head)
        before = head[: headed.start()] if headed else head
        header = head if _ADDRESS.fullmatch(before) else head[len(before) :]
        if before.strip() and header != head:
            pieces.append(_Piece(before))
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        name, address = channel[1] if channel else "", recipient[1] if recipient else ""
        if boundary is None:
            pieces.append(_Piece(header, "", address, cut=True))
            break
        stop, position = _body(text, boundary.end(), address)
        pieces.append(_Piece(text[boundary.end() : stop], name, address, cut=stop == len(text)))
    return pieces


def _body(text: str, begin: int, address: str) -> tuple[int, int]:
    """Where a message's text ends, and the next header begins. JSON is passed over first: it may hold tokens."""
    search = begin
    if address:
        try:
            _, search = decode(text, skip_space(text, begin))
        except (ValueError, RecursionError):
            search = begin  # no JSON: it ends with the first token
    stop = _STOP.search(text, search)
    if stop is None:
        return len(text), len(text)
    return stop.start(), stop.start() if stop[0] == "<|start|>" else stop.end()


def _read_call(piece: _Piece) -> ReadCall:
    name, raw = piece.recipient.removeprefix(NAMESPACE), piece.text.strip()
    if not name:
        return ReadCall("", raw, f"the recipient {piece.recipient!r} names no function")
    try:
        value, end = decode(raw, 0)
    except (ValueError, RecursionError) as error:
        if piece.recipient == INTERPRETER and raw:
            return ReadCall(name, dump({"code": raw}))
        cut = "cut off: no <|call|>, and the JSON is incomplete or invalid"
        return ReadCall(name, raw, cut if piece.cut else json_fault(error, raw))
    if piece.recipient == INTERPRETER and (raw[end:].strip() or not isinstance(value, dict)):
        return ReadCall(name, dump({"code": raw}))
    if raw[end:].strip():
        return ReadCall(name, raw, f"text after the JSON object: {raw[end:].strip()[:40]!r}")
    return call_from_arguments(name, value, raw)


def _written(call: ToolCall) -> str:
    arguments = call.arguments if call.error is not None else arguments_text(call)
    return f"<|channel|>commentary to={NAMESPACE}{call.name} <|constrain|>json{_MESSAGE}{arguments}<|call|>"


tool_formats.register("harmony", HarmonyFormat())
