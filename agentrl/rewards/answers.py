"""Exact and numeric match of answers, and finding the answer in a text.

Invariant: these run in the trainer's process on whatever a policy wrote, so every one of them takes time and memory
bounded by constants, whatever the length or the content: long texts are looked at only at their end, numbers have a
bounded number of digits and a bounded exponent.
"""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

MAX_ANSWER = 4096
"""Characters of an answer; a longer one matches nothing."""
MAX_TEXT = 100_000
"""Characters at the end of a text in which an answer is looked for."""
MAX_DIGITS = 1000
"""Digits of a number on either side of the point; a longer one is no number."""
MAX_EXPONENT = 1000
"""Largest exponent, either sign."""

_SPACE = re.compile(r"\s+")
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s?\$?\s?(?P<numerator>{_DECIMAL})(?:\s?/\s?(?P<denominator>{_DECIMAL}))?\s?(?P<percent>%?)"
)
_PARTS = re.compile(r"(?P<whole>[\d,]*)(?:\.(?P<fraction>\d*))?(?:[eE](?P<exponent>[+-]?\d+))?")
_NUMBER_IN_TEXT = re.compile(rf"(?<![\w.])[+-]?\$?{_DECIMAL}(?:/{_DECIMAL})?%?(?![\w])")
_STATED = re.compile(r"\banswer\s*(?::|=|\bis\b:?)\s*", re.IGNORECASE)
_PROSE = re.compile(r"(?<![A-Za-z\\])(?!or\b|and\b)[A-Za-z]{2,} (?!or\b|and\b)[A-Za-z]{2,}")
"""Two words in a row that do not only join answers."""
_BOXED = "\\boxed{"
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00a0": " "})


def exact_match(answer: str, gold: str, *, ignore_case: bool = True, ignore_space: bool = True) -> bool:
    """Whether two texts are the same.

    `ignore_space` strips both and takes every run of white space as one space; `ignore_case` folds case. An empty
    answer or one longer than `MAX_ANSWER` matches nothing.
    """
    if len(answer) > MAX_ANSWER or len(gold) > MAX_ANSWER:
        return False
    if ignore_space:
        answer, gold = (_SPACE.sub(" ", text).strip() for text in (answer, gold))
    if ignore_case:
        answer, gold = answer.casefold(), gold.casefold()
    return bool(answer) and answer == gold


def numeric_match(answer: str, gold: str | int | float | Fraction, tolerance: float | Fraction = 0) -> bool:
    """Whether `answer` is a number within `tolerance` (absolute) of `gold`, compared as exact rationals.

    See `parse_number` for what a number is. Raises `ValueError` if `gold` is none: that is the caller's mistake.
    """
    wanted = parse_number(gold) if isinstance(gold, str) else Fraction(gold)
    if wanted is None:
        raise ValueError(f"gold={gold[:60]!r} is not a number")  # type: ignore[index]
    given = parse_number(answer)
    return given is not None and abs(given - wanted) <= Fraction(tolerance)


def parse_number(text: str) -> Fraction | None:
    """The exact rational that `text` is, or None.

    Accepted: `124`, `-3`, `+3`, `1,234` (groups of three), `3.50`, `.5`, `1e3`, `1/3`, `-7/2`, `50%` (a half). Ignored:
    white space, one leading `$`, one closing full stop, enclosing `$...$` or `\\(...\\)`. Not accepted: words, units,
    mixed numbers, more than `MAX_DIGITS` digits, exponents beyond `MAX_EXPONENT`.
    """
    if len(text) > MAX_ANSWER:
        return None
    text = text.translate(_MINUS).strip()
    for opening, closing in (("\\(", "\\)"), ("$", "$")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            text = text[len(opening) : -len(closing)].strip()
    if text.endswith(".") and text[:-1].count(".") == 0:
        text = text[:-1]
    found = _NUMBER.fullmatch(text)
    if found is None or not text.isascii():
        return None
    numerator = _decimal(found["numerator"])
    denominator = _decimal(found["denominator"]) if found["denominator"] else Fraction(1)
    if numerator is None or not denominator:
        return None
    value = numerator / denominator / (100 if found["percent"] else 1)
    return -value if found["sign"] == "-" else value


def extract_answer(text: str, *, whole: bool = False) -> str | None:
    """The answer that `text` gives, or None; only the last `MAX_TEXT` characters are looked at.

    In this order: (1) what stands in the last `\\boxed{...}`, braces balanced; (2) what follows the last "answer:",
    "answer =" or "answer is", up to the end of the line, after its last "=", reduced to its number if it begins with
    one; (3) the last number in the text. With `whole` a line of (2) stays as it is (`2, 3`, `3*pi`, `12 cm`), unless
    it goes on in prose: for judges that know more than numbers.
    """
    text = text[-MAX_TEXT:].translate(_MINUS)
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    stated = _last(_STATED, text)
    if stated is not None:
        line = text[stated.end() :].split("\n", 1)[0].rpartition("=")[2].strip(" \t\r*")
        if line:
            number = None if whole and not _PROSE.search(line) else _NUMBER_IN_TEXT.match(line)
            return (number[0] if number else line[:MAX_ANSWER]).removesuffix(".")
    number = _last(_NUMBER_IN_TEXT, text)
    return number[0].removesuffix(".") if number else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}`, braces balanced; None if there is none that closes."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth = 1
    begin = start + len(_BOXED)
    for index in range(begin, min(len(text), begin + MAX_ANSWER)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[begin:index].strip()
    return None


def _decimal(text: str) -> Fraction | None:
    """An unsigned decimal, exactly; None if it is too large to be worth computing with."""
    parts = _PARTS.fullmatch(text)
    if parts is None:
        return None
    whole, fraction = parts["whole"].replace(",", ""), parts["fraction"] or ""
    exponent = (parts["exponent"] or "0").lstrip("+")
    if len(whole) > MAX_DIGITS or len(fraction) > MAX_DIGITS or len(exponent) > len(str(MAX_EXPONENT)) + 1:
        return None
    power = int(exponent)
    if abs(power) > MAX_EXPONENT:
        return None
    return Fraction(int(whole + fraction or "0")) * Fraction(10) ** (power - len(fraction))
