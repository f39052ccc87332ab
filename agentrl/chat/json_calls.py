"""Tool calls in JSON, read the same way by every format that writes them so.

Read as models write it, without guessing: line breaks inside strings are accepted, arguments may come as a JSON string
or under `parameters`, the object may be the OpenAI wire form. Single quotes, trailing commas and comments are errors
that are named, since repairing them would teach the policy to write them.

Invariant: nothing raises; a fault becomes the error of a `ReadCall` that carries the raw text. Reading costs time in
proportion to what is read, not to the text that it stands in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentrl.chat.tool_calls import ReadCall
from agentrl.messages import ToolCall

_DECODER = json.JSONDecoder(strict=False)
_WINDOW = 1024
"""Characters that are looked at first: a decoding error counts the lines of all that the decoder was given."""
_LONGEST_TOKEN = 16
"""An error so near to the end of the window may come from the cut; `-Infinity` and `\\ud800\\udc00` are shorter."""


class Raw(NamedTuple):
    """The text of a call as it stands between its tags."""

    text: str
    end: int
    """Position behind the closing tag, or where the call breaks off."""
    closed: bool


def decode(text: str, begin: int) -> tuple[Any, int]:
    """The JSON value that starts at `begin`, and the position behind it.

    Raises `json.JSONDecodeError`, whose position counts from `begin`, and `RecursionError`.
    """
    window = _WINDOW
    while True:
        part = text[begin : begin + window]
        whole = begin + window >= len(text)
        try:
            value, end = _DECODER.raw_decode(part)
        except json.JSONDecodeError as error:
            if whole or not (error.pos > window - _LONGEST_TOKEN or error.msg.startswith("Unterminated")):
                raise
        except ValueError as error:  # an integer of more digits than Python converts
            raise json.JSONDecodeError(str(error).partition(";")[0], "", 0) from None
        else:
            if whole or end < window:
                return value, begin + end
        window *= 8


def skip_space(text: str, position: int) -> int:
    """The next position whose character is no white space."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


class Tags:
    """A pair of tags around one JSON call, such as `<tool_call>` and `</tool_call>`."""

    def __init__(self, opening: str, closing: str) -> None:
        self.opening, self.closing = opening, closing
        self._boundary = re.compile(f"{re.escape(opening)}|{re.escape(closing)}")

    def until_close(self, text: str, start: int, search: int) -> Raw:
        """From `start` to the closing tag, which is sought from `search`.

        An opening tag before the closing one means that the closing tag is missing.
        """
        found = self._boundary.search(text, search)
        closed = found is not None and found[0] == self.closing
        stop = found.start() if found else len(text)
        return Raw(text[start:stop].strip(), found.end() if found and closed else stop, closed)

    def read(self, text: str, start: int) -> tuple[ReadCall, int]:
        """The call whose opening tag ends at `start`, and the position behind it.

        The JSON is read before the closing tag is looked for, so that a tag inside a string ends nothing.
        """
        begin = skip_space(text, start)
        try:
            value, end = decode(text, begin)
        except (ValueError, RecursionError) as error:
            raw = self.until_close(text, start, start)
            cut = f"cut off: no {self.closing}, and the JSON is incomplete or invalid"
            return ReadCall("", raw.text, json_fault(error, raw.text) if raw.closed else cut), raw.end
        raw = self.until_close(text, start, end)
        trailing = text[end : raw.end - len(self.closing)].strip() if raw.closed else ""
        if trailing:
            return ReadCall("", raw.text, f"text after the JSON object: {trailing[:40]!r}"), raw.end
        # Without a closing tag a whole JSON object still is a call, and what follows it is content.
        return call_from_value(value, raw.text), raw.end if raw.closed else end

    def write(self, call: ToolCall) -> str:
        """The call between the tags; a call with an error as its raw text."""
        return f"{self.opening}\n{call.arguments if call.error is not None else object_text(call)}\n{self.closing}"


def json_fault(error: Exception, raw: str) -> str:
    """What is wrong with the JSON text `raw`, for the policy to read."""
    if not raw:
        return "empty call: no JSON object between the tags"
    if isinstance(error, RecursionError):
        return "invalid JSON: nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON: {error.msg} at character {error.pos}"
    return f"invalid JSON: {error}"


def call_from_value(value: Any, raw: str) -> ReadCall:
    """The call that a decoded JSON value stands for; wrong shapes become the call's error."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return ReadCall("", raw, f"expected a JSON object, got {json_kind(value)}")
    name = value.get("name")
    if not isinstance(name, str) or not name or not is_text(name):
        reason = "missing key 'name'" if name is None else f"'name' must be a non-empty string, got {json_kind(name)}"
        return ReadCall("", raw, reason)
    return call_from_arguments(name, value.get("arguments", value.get("parameters")), raw)


def call_from_arguments(name: str, arguments: Any, raw: str) -> ReadCall:
    """A call of `name` with decoded arguments: an object, its JSON text, or None for none."""
    if isinstance(arguments, str):
        try:
            arguments = _DECODER.decode(arguments.strip()) if arguments.strip() else {}
        except (ValueError, RecursionError):
            return ReadCall(name, raw, "'arguments' is a string that holds no JSON object")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return ReadCall(name, raw, f"'arguments' must be a JSON object, got {json_kind(arguments)}")
    return ReadCall(name, dump(arguments))


def arguments_of(call: ToolCall) -> dict[str, Any] | None:
    """The arguments decoded; None if the call's text is no JSON object, as in messages from elsewhere."""
    if not call.arguments.strip():
        return {}
    try:
        arguments = _DECODER.decode(call.arguments)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def arguments_text(call: ToolCall) -> str:
    """The arguments as one line of JSON; as they stand if they are no JSON object."""
    arguments = arguments_of(call)
    return call.arguments if arguments is None else dump(arguments)


def object_text(call: ToolCall, key: str = "arguments") -> str:
    """`{"name": ..., "arguments": {...}}`."""
    return f'{{"name": {dump(call.name)}, "{key}": {arguments_text(call)}}}'


def dump(value: Any) -> str:
    """JSON in the usual spacing, not escaped to ASCII unless it holds lone surrogates."""
    text = json.dumps(value, ensure_ascii=False)
    return text if is_text(text) else json.dumps(value)


def is_text(text: str) -> bool:
    """False for lone surrogates, which JSON escapes can spell and neither UTF-8 nor pydantic accepts."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def json_kind(value: Any) -> str:
    """The kind of a decoded JSON value, for messages."""
    if value is None:
        return "null"
    kinds: Mapping[type, str] = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), type(value).__name__)
