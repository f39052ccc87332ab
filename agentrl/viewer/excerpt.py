"""Long texts: what a page shows of one, and where the rest is fetched.

Invariant: a page's size does not depend on the length of any text in an episode; every character that is left out is
counted, and a link loads it. A text is named by its address (`turn.3.observation.0`), read by `text_at`, and an address
that names nothing is `None`, never an error of the server's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.messages import Message
from agentrl.text import clip, visible
from agentrl.trajectory import Trajectory

LIMIT, TAIL = 6000, 1500  # characters of one text on a page; answers tend to stand at the end
SHORTEST = 200  # what is shown of each where a page has very many texts
CHUNK = 100_000  # characters that one request for more brings
READABLE_JSON = 20_000  # characters of arguments that are worth laying out


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Visible text, cut in the middle where it was too long."""

    address: str
    head: str
    cut: int = 0
    """Characters left out."""
    tail: str = ""
    start: int = 0
    """The first character that is left out."""

    @classmethod
    def of(cls, text: str, address: str, limit: int = LIMIT) -> Excerpt:
        """`limit`: characters that are shown."""
        end = limit * TAIL // LIMIT
        head, tail, cut = clip(text, limit, end)
        return cls(address, visible(head), cut, visible(tail), limit - end)

    def __bool__(self) -> bool:
        return bool(self.head)


def text_at(trajectory: Trajectory, address: str) -> str | None:
    """The whole text under an address, as it was recorded; None if there is none."""
    kind, *rest = address.split(".")
    match kind, rest:
        case "opening", [index]:
            return _text(trajectory.opening, index)
        case "error", []:
            return trajectory.error
        case "turn", [turn, *part]:
            number = _number(turn)
            return None if number is None or number >= len(trajectory.turns) else _of_turn(trajectory, number, part)
    return None


def _of_turn(trajectory: Trajectory, number: int, part: Sequence[str]) -> str | None:
    turn = trajectory.turns[number]
    match part:
        case ["message"]:
            return turn.message.text
        case ["observation", index]:
            return _text(turn.observation, index)
        case ["arguments", index]:
            at = _number(index)
            calls = turn.message.tool_calls
            return None if at is None or at >= len(calls) else readable(calls[at].arguments)
    return None


def readable(arguments: str) -> str:
    """The arguments of a call for people: a name and a value a line where that is possible, else as they are."""
    if len(arguments) > READABLE_JSON:
        return arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(parsed, dict) or not parsed:
        return arguments
    return "\n".join(f"{name} = {_value(value)}" for name, value in parsed.items())


def _value(value: object) -> str:
    if isinstance(value, str) and "\n" in value:
        return f"\n{value}"
    return json.dumps(value, ensure_ascii=False)


def _text(messages: Sequence[Message], index: str) -> str | None:
    at = _number(index)
    return None if at is None or at >= len(messages) else messages[at].text


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
