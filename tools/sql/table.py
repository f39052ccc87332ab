"""A result as the policy reads it: one line a row, cells separated by ` | `, nothing padded, for it pays by token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .answer import Answer

_NOTE = 60
"""Characters kept free for the line that counts what is left out."""


def shown(answer: Answer, *, rows: int, width: int, characters: int) -> str:
    """The answer within `rows` rows, `width` characters a cell and `characters` in all."""
    if answer.error is not None:
        return f"Error: {answer.error}"
    if not answer.columns:
        return "OK" if answer.changed < 0 else f"OK, {_rows(answer.changed)} changed"
    lines = [" | ".join(_cell(name, width) for name in answer.columns)]
    room = characters - len(lines[0]) - _NOTE
    for row in answer.rows[:rows]:
        line = " | ".join(_cell(_text(value), width) for value in row)
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    left = len(answer.rows) + answer.more - (len(lines) - 1)
    if left:
        lines.append(f"({'' if answer.exact else 'more than '}{left} more row{'s' * (left != 1 or not answer.exact)})")
    elif not answer.rows:
        lines.append("(no rows)")
    return "\n".join(lines)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _text(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return value if value not in ("", "NULL") else f"'{value}'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        return f"x'{raw[:16].hex()}'" if len(raw) <= 16 else f"x'{raw[:16].hex()}...' ({len(raw)} bytes)"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def _cell(text: str, width: int) -> str:
    """A cell stays on its line."""
    if not text.isprintable():
        text = "".join(_escaped(text[: width + 1]))
    return text if len(text) <= width else text[: width - 3] + "..."


def _escaped(text: str) -> Iterable[str]:
    for character in text:
        if character.isprintable():
            yield character
        else:
            yield character.encode("unicode_escape", "backslashreplace").decode()
