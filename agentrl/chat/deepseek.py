"""DeepSeek's formats, marked by control tokens.

V3 and R1 write a call's type, its name and fenced JSON; V3.1 and its kin only the name and the JSON. Both are read by
both names; `deepseek` writes V3's form, `deepseek_v31` the newer one. Tokens that a model spells with plain bars and
underscores are accepted, and so is a call without the tokens around the whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentrl.chat.json_calls import arguments_text, call_from_arguments, decode, json_fault, skip_space
from agentrl.chat.tool_calls import MarkedFormat, PromptStyle, ReadCall, Reading, Schemas, Tools, listed, tool_formats
from agentrl.messages import ToolCall

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001
CALL_BEGIN, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001
SEPARATOR = "<｜tool▁sep｜>"  # noqa: RUF001


def _token(*words: str) -> str:
    return r"<[｜|]tool[▁_]" + "[▁_]".join(words) + r"[｜|]>"  # noqa: RUF001


_TOKEN = re.compile("|".join((_token("calls?", "(?:begin|end)"), _token("sep"))))
_SEPARATED = re.compile(_token("sep"))
_END = re.compile(_token("call", "end"))
_NAMED = re.compile(r"\s*+([^\s`{<]++)\s*+(?:```\w*+)?+\s*+(?=\{)")
_FENCE = re.compile(r"\s*+```[ \t]*+")

_SCHEMA_PROMPT = """## Tools

You have access to the following tools:
{tools}

To call tools, end your answer in exactly this format, with arguments in JSON:
{call}"""


class DeepSeekFormat(MarkedFormat):
    """The type, the name and fenced JSON between DeepSeek's tokens, or the name and bare JSON."""

    marker = CALL_BEGIN
    opening = re.compile("|".join((_token("calls?", "begin"), _token("calls", "end"))))

    def __init__(self, *, fenced: bool = True) -> None:
        """`fenced`: whether calls are written as V3 does, with their type and a code fence, or as V3.1 does."""
        self.fenced = fenced

    def read(self, text: str, match: re.Match[str], schemas: Schemas | None) -> Reading:
        if "calls" in match[0]:
            return Reading((), match.end())
        token = _TOKEN.search(text, match.end())
        if token is None or not _SEPARATED.fullmatch(token[0]):
            return _failed(text, match.end(), match.end(), "", "the call has no separator token between name and JSON")
        name = text[match.end() : token.start()].strip()
        start = skip_space(text, token.end())
        if not text.startswith("{", start):
            named = _NAMED.match(text, token.end())
            name, start = (named[1], named.end()) if named else (name, start)
        try:
            value, end = decode(text, start)
        except (ValueError, RecursionError) as error:
            return _failed(text, match.end(), token.end(), name, json_fault(error, text[start : start + 1]))
        fence = _FENCE.match(text, end)
        after = skip_space(text, fence.end() if fence else end)
        closed = _END.match(text, after)
        following = _TOKEN.search(text, after)
        if (following and not closed and text[after : following.start()].strip()) or not name:
            reason = "text after the JSON object" if name else "the call has no name"
            return _failed(text, match.end(), after, name, reason)
        return Reading([call_from_arguments(name, value, text[match.end() : end])], closed.end() if closed else after)

    def format(self, content: str, calls: Sequence[ToolCall], tools: Tools | None = None) -> str:
        if not calls:
            return content
        separator = "\n" if self.fenced else ""
        return content + CALLS_BEGIN + separator.join(self._written(call) for call in calls) + CALLS_END

    def _written(self, call: ToolCall) -> str:
        if call.error is not None:
            return f"{CALL_BEGIN}{call.arguments}{CALL_END}"
        return self._call(call.name, arguments_text(call))

    def _call(self, name: str, arguments: str) -> str:
        if not self.fenced:
            return f"{CALL_BEGIN}{name}{SEPARATOR}{arguments}{CALL_END}"
        return f"{CALL_BEGIN}function{SEPARATOR}{name}\n```json\n{arguments}\n```{CALL_END}"

    def format_result(self, text: str) -> str:
        """The answer between DeepSeek's tokens for tool outputs."""
        return f"<｜tool▁output▁begin｜>{text}<｜tool▁output▁end｜>"  # noqa: RUF001

    def prompt(self, tools: Tools, style: PromptStyle) -> str:
        call = f"{CALLS_BEGIN}{self._call('NAME', '{...}')}{CALLS_END}"
        if style == "signature":
            return f"Tools: {listed(tools, style)}\nCall a tool: {call}"
        return _SCHEMA_PROMPT.format(tools=listed(tools, style), call=call)


def _failed(text: str, begin: int, search: int, name: str, reason: str) -> Reading:
    """A call with an error: all to its end token, or to the next token that is not a separator."""
    position = search
    while (token := _TOKEN.search(text, position)) and _SEPARATED.fullmatch(token[0]):
        position = token.end()
    stop = token.start() if token else len(text)
    end = token.end() if token and _END.fullmatch(token[0]) else stop
    if token is None:
        reason = f"cut off: {reason}"
    return Reading([ReadCall(name, text[begin:stop].strip(), reason)], end)


tool_formats.register("deepseek", DeepSeekFormat())
tool_formats.register("deepseek_v31", DeepSeekFormat(fenced=False))
