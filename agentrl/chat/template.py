"""One tokenizer with its chat template: messages to text, text to ids, safely.

Invariant: the control tokens of a rendered text are the template's own or the tool-call format's. Where a message, a
call's arguments or a tool's schema spells one (`<|im_start|>` in a tool's answer, say) it is replaced by a placeholder
before the template runs and encoded as plain characters afterwards; all other text is encoded together, so that
harmless conversations get the template's usual ids. Encoding is safe across threads.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agentrl.errors import ChatError
from agentrl.messages import Message, Role, ToolCall

_COPYING = threading.Lock()
"""Held while a tokenizer is copied."""


_FRAME = re.compile(r"<[|\uff5c].*[|\uff5c]>")
"""Shape of an added token that frames turns; some vocabularies (DeepSeek's) do not flag theirs as special."""


class Tokenizer(Protocol):
    """What the chat needs of a `transformers` tokenizer."""

    chat_template: Any
    eos_token_id: int | None
    unk_token_id: int | None

    @property
    def all_special_tokens(self) -> list[str]: ...
    @property
    def added_tokens_decoder(self) -> dict[int, Any]: ...
    def encode(self, text: str, **options: Any) -> list[int]: ...
    def decode(self, token_ids: list[int], **options: Any) -> Any: ...
    def convert_tokens_to_ids(self, tokens: str) -> Any: ...
    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...


class Hiding:
    """Takes control tokens out of texts: `spans[i]` is what the i-th placeholder stands for."""

    def __init__(self, control: re.Pattern[str], texts: Iterable[str] = ()) -> None:
        """`texts` are all that will be hidden or rendered: the placeholders are words that none of them contains."""
        self.spans: list[str] = []
        self._control = control
        self._nonce = _unused("xctl", list(texts))
        self.placeholder = re.compile(re.escape(self._nonce) + r"(\d+)x")

    def text(self, text: str) -> str:
        """The text with a placeholder for every control token that it spells."""
        return self._control.sub(self._hide, text)

    def message(self, message: Message) -> Message:
        """The message with its content and its calls hidden."""
        if not any(self._control.search(text) for text in texts_of(message)):
            return message
        calls = tuple(self._call(call) for call in message.tool_calls)
        name = self.text(message.name) if message.name else None
        return message.model_copy(update={"content": self.text(message.text), "tool_calls": calls, "name": name})

    def value(self, value: Any) -> Any:
        """A JSON value (a tool's schema) with its strings hidden."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, list | tuple) else value

    def _hide(self, match: re.Match[str]) -> str:
        self.spans.append(match[0])
        return f"{self._nonce}{len(self.spans) - 1}x"

    def _call(self, call: ToolCall) -> ToolCall:
        return call.model_copy(update={"name": self.text(call.name), "arguments": self.text(_unescaped(call))})


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation with placeholders for what its contents spell."""

    text: str
    hiding: Hiding

    @property
    def plain(self) -> str:
        """The text with its contents in full, as the template alone would give it."""
        return self.hiding.placeholder.sub(lambda match: self.hiding.spans[int(match[1])], self.text)

    def after(self, position: int) -> Rendered:
        """The part that starts at character `position` of the text with placeholders."""
        return Rendered(self.text[position:], self.hiding)

    def behind(self, prefix: str) -> Rendered | None:
        """What follows `prefix` in the plain text, None if that does not start with it."""
        if not self.plain.startswith(prefix):
            return None
        hidden = plain = 0
        for match in self.hiding.placeholder.finditer(self.text):
            if plain + match.start() - hidden >= len(prefix):
                break
            plain += match.start() - hidden + len(self.hiding.spans[int(match[1])])
            hidden = match.end()
        return self.after(hidden + len(prefix) - plain) if plain <= len(prefix) else None


class ChatTemplate:
    """Renders and encodes with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises `ChatError` if the tokenizer has no chat template."""
        if getattr(tokenizer, "chat_template", None) is None:
            name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
            raise ChatError(
                f"tokenizer {name!r} has no chat template: use an instruction-tuned model, or set "
                "tokenizer.chat_template to a Jinja template such as ChatML"
            )
        self.tokenizer = tokenizer
        self._copies: list[Tokenizer] = []  # none or one, shared by all copies of this template
        self.tools: list[dict[str, Any]] | None = None
        """Schemas handed to the template at each rendering; None where the template does not present tools."""
        tokens = [(str(token), index, token.special) for index, token in tokenizer.added_tokens_decoder.items()]
        added = {token: index for token, index, special in tokens if special or _FRAME.fullmatch(token)}
        named = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in tokenizer.all_special_tokens}
        self.control: dict[str, int] = {**added, **named}
        """Control tokens, text to id."""
        longest_first = sorted(self.control, key=len, reverse=True)
        self.control_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def hiding(self, messages: Sequence[Message]) -> Hiding:
        """Placeholders that are safe in a rendering of `messages`."""
        texts = [text for message in messages for text in texts_of(message)]
        return Hiding(self.control_pattern, [*texts, json.dumps(self.tools, ensure_ascii=False)])

    def render(self, messages: Sequence[Message], *, generation_prompt: bool, hiding: Hiding | None = None) -> Rendered:
        """The template's text for `messages`; raises `ChatError` if the template refuses them.

        `hiding` is what the messages' contents were hidden by; None for probes, which spell no control token.
        """
        hiding = hiding or Hiding(self.control_pattern)
        tools = self.tools and [hiding.value(tool) for tool in self.tools]
        try:
            text: str = self.tokenizer.apply_chat_template(
                [_wire(message) for message in messages],
                tools=tools,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except Exception as error:  # a template is somebody else's program: whatever it raises is its refusal
            roles = ", ".join(str(message.role) for message in messages)
            reason = " ".join(str(error).split())
            raise ChatError(f"the chat template refuses messages with the roles {roles}: {reason}") from error
        return Rendered(text, hiding)

    def encode(self, rendered: Rendered, *, after: int | None = None) -> list[int]:
        """Ids of a rendered text, no special tokens added.

        `after` is the token that stands right before the text in its context: tokenizers that treat the start of a
        text, or what follows a special token, in their own way then see the text where it will be.
        """
        pieces = rendered.hiding.placeholder.split(rendered.text)
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                ids += self._encode_plain(rendered.hiding.spans[int(piece)])
            elif piece:
                ids += self._encode_after(piece, after) if index == 0 and after is not None else self._encode(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, control tokens included."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text of `ids` where it stands, behind `before`: some decoders drop a space that begins a text."""
        anchor = list(before[-1:])
        whole, dropped = self.decode([*anchor, *ids]), self.decode(anchor) if anchor else ""
        return whole.removeprefix(dropped) if whole.startswith(dropped) else self.decode(ids)

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _splitting(self) -> Tokenizer:
        """A copy of the tokenizer for `split_special_tokens`, which switches a state that all of its calls share: with
        one tokenizer, threads that encode would have to wait for one another, and the event loop for them."""
        with _COPYING:
            if not self._copies:
                self._copies.append(copy.deepcopy(self.tokenizer))
            return self._copies[0]

    def _encode_after(self, text: str, token: int) -> list[int]:
        ids = self._encode(self.decode([token]) + text)
        return ids[1:] if ids[:1] == [token] else self._encode(text)

    def _encode_plain(self, text: str) -> list[int]:
        """Ids of a text that spells a control token, none of them that token."""
        forbidden = set(self.control.values()) - {self.tokenizer.unk_token_id}
        ids = self._splitting().encode(text, add_special_tokens=False, split_special_tokens=True)
        if forbidden.isdisjoint(ids):
            return ids
        # A vocabulary that holds the whole control token as an ordinary word: only single characters are safe.
        spelled = [token for character in text for token in self._encode(character)]
        return [token for token in spelled if token not in forbidden]


def texts_of(message: Message) -> list[str]:
    """Every text of a message that a template may write."""
    calls = [text for call in message.tool_calls for text in (call.name, _unescaped(call))]
    return [message.text, message.name or "", *calls]


def _wire(message: Message) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": str(message.role), "content": message.text}
    if message.role is Role.TOOL:
        entry |= {"tool_call_id": message.tool_call_id or "", "name": message.name or ""}
    if message.tool_calls:
        entry["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _loaded(call.arguments)}}
            for call in message.tool_calls
        ]
    return entry


def _loaded(arguments: str) -> Any:
    """The value of a call's arguments; a text that is no JSON stands for itself."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _unescaped(call: ToolCall) -> str:
    """The arguments with escapes such as `\\u003c` resolved where they may spell a control token."""
    if "\\u" not in call.arguments or (value := _loaded(call.arguments)) is call.arguments:
        return call.arguments
    text = json.dumps(value, ensure_ascii=False)
    return call.arguments if any("\ud800" <= character <= "\udfff" for character in text) else text


def _unused(stem: str, contents: Sequence[str]) -> str:
    """A word of letters and digits, which every template filter leaves alone, that no content contains."""
    count = 0
    while any(f"{stem}{count}q" in content for content in contents):
        count += 1
    return f"{stem}{count}q"
