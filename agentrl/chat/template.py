"""One tokenizer with its chat template: messages to text, text to ids, safely.

Invariant: the control tokens of a rendered text are the template's own. Where a message's content spells one
(`<|im_start|>` in a tool's answer, say) it is replaced by a placeholder before the template runs and encoded as plain
characters afterwards; all other text is encoded together, so that harmless conversations get the template's usual ids.
Encoding is safe across threads.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agentrl.errors import ChatError
from agentrl.messages import Message, Role

_ENCODING = threading.Lock()
"""Held while a tokenizer encodes: `split_special_tokens` switches a state that all calls of the tokenizer share."""


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


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation in which `spans[i]` stands for the placeholder `mark(i)`."""

    text: str
    nonce: str
    spans: tuple[str, ...] = ()

    def after(self, position: int) -> Rendered:
        """The part that starts at character `position` of the text with placeholders."""
        return Rendered(self.text[position:], self.nonce, self.spans)

    @property
    def plain(self) -> str:
        """The text with its contents in full, as the template alone would give it."""
        return _placeholder(self.nonce).sub(lambda match: self.spans[int(match[1])], self.text)


def _mark(nonce: str, index: int) -> str:
    return f"{nonce}{index}x"


def _placeholder(nonce: str) -> re.Pattern[str]:
    return re.compile(re.escape(nonce) + r"(\d+)x")


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
        self.tools: list[dict[str, Any]] | None = None
        """Schemas handed to the template at each rendering; None where the template does not present tools."""
        added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        named = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in tokenizer.all_special_tokens}
        self.control: dict[str, int] = {**added, **named}
        """Control tokens, text to id."""
        longest_first = sorted(self.control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def render(self, messages: Sequence[Message], *, generation_prompt: bool) -> Rendered:
        """The template's text for `messages`; raises `ChatError` if the template refuses them."""
        contents = [message.text for message in messages]
        nonce = _unused("xctl", contents)
        spans: list[str] = []

        def hide(match: re.Match[str]) -> str:
            spans.append(match[0])
            return _mark(nonce, len(spans) - 1)

        hidden = [self._control_pattern.sub(hide, content) for content in contents]
        text = self._apply(messages, hidden, generation_prompt)
        return Rendered(text, nonce, tuple(spans))

    def _apply(self, messages: Sequence[Message], contents: Sequence[str], generation_prompt: bool) -> str:
        wire: list[dict[str, Any]] = []
        for message, content in zip(messages, contents, strict=True):
            entry: dict[str, Any] = {"role": str(message.role), "content": content}
            if message.role is Role.TOOL:
                entry |= {"tool_call_id": message.tool_call_id or "", "name": message.name or ""}
            wire.append(entry)
        try:
            text: str = self.tokenizer.apply_chat_template(
                wire, tools=self.tools, tokenize=False, add_generation_prompt=generation_prompt
            )
        except Exception as error:  # a template is somebody else's program: whatever it raises is its refusal
            roles = ", ".join(str(message.role) for message in messages)
            reason = " ".join(str(error).split())
            raise ChatError(f"the chat template refuses messages with the roles {roles}: {reason}") from error
        return text

    def encode(self, rendered: Rendered, *, after: int | None = None) -> list[int]:
        """Ids of a rendered text, no special tokens added.

        `after` is the control token that stands right before the text in its context: tokenizers that treat the start
        of a text, or what follows a special token, in their own way then see the text where it will be.
        """
        pieces = _placeholder(rendered.nonce).split(rendered.text)
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                ids += self._encode_plain(rendered.spans[int(piece)])
            elif piece:
                ids += self._encode_after(piece, after) if index == 0 and after is not None else self._encode(piece)
        return ids

    def encode_content(self, text: str) -> list[int]:
        """Ids of a message's content, control tokens spelled in it as plain characters."""
        ids: list[int] = []
        position = 0
        for match in self._control_pattern.finditer(text):
            ids += self._encode(text[position : match.start()]) + self._encode_plain(match[0])
            position = match.end()
        return ids + self._encode(text[position:])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, control tokens included."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        with _ENCODING:
            return self.tokenizer.encode(text, add_special_tokens=False)

    def _encode_after(self, text: str, token: int) -> list[int]:
        ids = self._encode(self.decode([token]) + text)
        return ids[1:] if ids[:1] == [token] else self._encode(text)

    def _encode_plain(self, text: str) -> list[int]:
        """Ids of a text that spells a control token, none of them that token."""
        forbidden = set(self.control.values()) - {self.tokenizer.unk_token_id}
        with _ENCODING:
            ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if forbidden.isdisjoint(ids):
            return ids
        # A vocabulary that holds the whole control token as an ordinary word: only single characters are safe.
        spelled = [token for character in text for token in self._encode(character)]
        return [token for token in spelled if token not in forbidden]


def _unused(stem: str, contents: Sequence[str]) -> str:
    """A word of letters and digits, which every template filter leaves alone, that no content contains."""
    count = 0
    while any(f"{stem}{count}q" in content for content in contents):
        count += 1
    return f"{stem}{count}q"
