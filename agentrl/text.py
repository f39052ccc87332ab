"""Untrusted text for a person's eyes: what a policy or a tool wrote, in a terminal or on a page.

Invariant: what comes out has no character that moves the cursor, changes colours, reorders what stands around it or
is invisible; each such character is shown by a symbol or by its number, so that nothing can hide.
"""

from __future__ import annotations

import unicodedata

_KEPT = frozenset("\n\t\u200c\u200d")  # the joiners shape Persian, Indic scripts and emoji; they reorder nothing
_CONTROL_PICTURES = 0x2400  # U+2400 + n is the symbol of control character n, for n < 32
_DELETE = 0x7F
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def visible(text: str) -> str:
    """`text` with control, bidirectional and other invisible characters made visible; line ends become newlines."""
    text = text.replace("\r\n", "\n")
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def one_line(text: str, width: int = 200) -> str:
    """`text` as one visible line of at most `width` characters."""
    line = " ".join(visible(text[: 4 * width]).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def clip(text: str, limit: int, tail: int) -> tuple[str, str, int]:
    """`(head, tail, characters left out between them)`; all of it is head where `text` has no more than `limit`."""
    if len(text) <= limit:
        return text, "", 0
    return text[: limit - tail], text[len(text) - tail :], len(text) - limit


def _shown(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _INVISIBLE:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if code == _DELETE:
        return "\u2421"
    return f"⟨U+{code:04X}⟩"
