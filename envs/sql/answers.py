"""Reading the answer to a question about a database: a query, or one value."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from agentrl.rewards.answers import MAX_TEXT, last_boxed, numeric_match, parse_number
from agentrl.rewards.formats import AnswerFormat
from agentrl.task import Episode

from .judge import RELATIVE

_FENCED = re.compile(r"```(?:sql|sqlite)?\s*\n?(.*?)```", re.DOTALL | re.IGNORECASE)
_STARTS = re.compile(
    r"^[ \t]*(?:SELECT\b|WITH\s+(?:RECURSIVE\s+)?[\"\w]+\s*(?:\([^)]*\)\s*)?AS\b)", re.IGNORECASE | re.MULTILINE
)
_ENDS = re.compile(r";[ \t]*$", re.MULTILINE)
_STATED = re.compile(r"\banswer\s*(?::|=|\bis\b:?)\s*", re.IGNORECASE)


def read_query(episode: Episode, answer_format: AnswerFormat) -> str | None:
    """The query that was answered.

    With `ANY` it is, in this order, in the last fenced block, or begins at the first line that begins with SELECT or
    WITH, or follows the last "answer is"; it ends with the first line that ends with a semicolon.
    """
    if answer_format is not AnswerFormat.ANY:
        return answer_format.read(episode)
    text = episode.answer[-MAX_TEXT:]
    fenced = _FENCED.findall(text)
    if fenced:
        text = fenced[-1]
    elif start := _STARTS.search(text):
        text = text[start.start() :]
    else:
        text = _stated(text) or ""
    return _ENDS.split(text.strip(), maxsplit=1)[0] or None


def read_value(episode: Episode, answer_format: AnswerFormat, wanted: Any) -> str | None:
    """The value that was answered; with `ANY` a wanted text is what follows "answer is", else the whole message."""
    if answer_format is not AnswerFormat.ANY or not isinstance(wanted, str):
        return answer_format.read(episode)
    text = episode.answer[-MAX_TEXT:]
    found = last_boxed(text) or _stated(text.strip().rpartition("\n")[2]) or text
    return found.strip().removesuffix(".").strip("'\"` *") or None


def same_value(given: str, wanted: Any) -> bool:
    """Whether the text is the value: integers and texts exactly, floats within the relative tolerance."""
    if isinstance(wanted, str):
        return given == wanted
    given = given.removesuffix("%")  # a percentage is asked for as a number from 0 to 100
    if parse_number(given) is None:
        return False
    tolerance = abs(Fraction(wanted)) * Fraction(RELATIVE) if isinstance(wanted, float) else Fraction(0)
    return numeric_match(given, wanted, tolerance)


def _stated(text: str) -> str | None:
    found = list(_STATED.finditer(text))
    return text[found[-1].end() :] if found else None
