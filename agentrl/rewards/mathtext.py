"""The text of a mathematical answer: brought to one spelling, read as a number, cut into value and unit or into parts.

Nothing here computes: it is pattern matching on texts of at most `MAX_ANSWER` characters and nesting `MAX_NESTING`, so
that it may run where nothing could be killed. Invariant: a reader returns None rather than guess; what it does read
has one value. Numbers are exact rationals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from agentrl.rewards.answers import MAX_ANSWER, parse_number

MAX_NESTING = 40
"""Depth of brackets; what a person writes stays below ten."""
MAX_FACTORIAL = 1_000
MAX_TOWER = 10_000
"""Largest exponent written out in digits, also as the value of a tower of them."""
MAX_DIGITS = 1_000
"""Digits in a row."""

_UNICODE = {
    **{"\u2212": "-", "\u2013": "-", "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u00f7": "/"},
    **{"\u03c0": "\\pi ", "\u221e": "\\infty ", "\u00b0": "^\\circ ", "\u2264": "\\le ", "\u2265": "\\ge "},
    **{"\u222a": "\\cup ", "\u2208": "\\in ", "\u00b1": "\\pm ", "\u2205": "\\emptyset ", "\u2044": "/"},
    **{"\u00b2": "^{2}", "\u00b3": "^{3}", "\u00bd": "\\frac{1}{2}", "\u00bc": "\\frac{1}{4}"},
    **{"\u00be": "\\frac{3}{4}", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u20ac": "\\text{euro}"},
}
_TRANSLATION = str.maketrans(_UNICODE)
_DISCARDED = re.compile(
    r"\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|(?<!\\)\\[,;:! ]|~|\\q?quad(?![a-z])|\\limits"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\{[^{}]*\}|\d|[a-z])\s*(\{[^{}]*\}|\d|[a-z])")
_ROOT_SIGN = re.compile(r"\u221a\s*(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[a-z](?![a-z]))")
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname\*?)\s*\{([^{}]*)\}")
_SPACED = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)(?!,\d)")
_UNBRACED_POWER = re.compile(r"\^(-?\d{2,}|-\d)")


def refused(text: str) -> str | None:
    """Why no algebra system should see this text, or None: what takes for ever is met before it begins."""
    if len(text) > MAX_ANSWER:
        return f"longer than {MAX_ANSWER} characters"
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return f"brackets nested deeper than {MAX_NESTING}"
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        return f"a number of more than {MAX_DIGITS} digits"
    plain = re.sub(r"[\s{}()]|\\[,;:!]", "", text)
    if any(int(number) > MAX_FACTORIAL for number in re.findall(r"(\d+)!", plain)) or re.search(
        r"![^=]*!!|!{3}", plain
    ):
        return f"a factorial beyond {MAX_FACTORIAL}"
    raised = re.sub(r"(?:\^|\*\*)[\s{(]*", "^", re.sub(r"(?<=\d)\s+(?=\^|\*\*)", "", text))
    if any(_tower(chain) > MAX_TOWER for chain in re.findall(r"\^[-+]?(\d+(?:\^[-+]?\d+)*)", raised)):
        return f"an exponent beyond {MAX_TOWER}"
    return None


def _tower(chain: str) -> int:
    """The value of `a^b^c`, or a number beyond `MAX_TOWER`."""
    value = 1
    for level in reversed(chain.split("^")):
        base = int(level.lstrip("+-") or "0")
        if base > MAX_TOWER or (base > 1 and value > MAX_TOWER.bit_length()):
            return MAX_TOWER + 1
        value = base**value
    return value


def normal(text: str) -> str:
    """One spelling for what LaTeX and plain text write in several ways; the value does not change."""
    text = text.strip()
    while text != (inner := _unwrapped(text)):
        text = inner
    text = _DISCARDED.sub(" ", text.translate(_TRANSLATION))
    text = _FRACTION.sub(r"\\frac", text).replace("\\%", "%").replace("\\$", "$")
    text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}").replace("\\leq", "\\le").replace("\\geq", "\\ge")
    text = _SHORT_FRACTION.sub(lambda found: f"\\frac{_braced(found[1])}{_braced(found[2])}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _ROOT_SIGN.sub(r"\\sqrt{\1}", text).replace("\u221a", "sqrt")
    text = re.sub(r"(?<![\\A-Za-z])sqrt(?=\s*\{)", r"\\sqrt", text)
    text = _UNBRACED_POWER.sub(r"^{\1}", text.replace("**", "^"))
    return re.sub(r"\s+", " ", text).strip()


def _unwrapped(text: str) -> str:
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("**", "**")):
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inner.strip() and closing not in inner:
            return inner.strip()
    if text.endswith((".", ",", ";")) and not text.endswith(".."):
        return text[:-1].rstrip()
    return text


def _braced(text: str) -> str:
    return text if text.startswith("{") else f"{{{text}}}"


def words(text: str) -> str | None:
    """A text of plain words, folded; None for anything with mathematics in it."""
    plain = TEXT.sub(r" \1 ", text)
    plain = re.sub(r"[\s.,;:!?'\"*-]+", " ", plain).strip()
    if not re.fullmatch(r"[^\W\d_]+(?: [^\W\d_]+)*", plain) or len(plain) < 2:
        return None
    return None if _MATHEMATICAL & set(plain.split()) else plain.casefold()


def same_but_for_case(left: str, right: str) -> bool:
    """Whether two texts with a word in them differ in capitals only: `3 PM`; a lone variable is no word."""
    return left.casefold() == right.casefold() and re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", right) is not None


_MATHEMATICAL = {
    *("pi", "oo", "inf", "infinity", "xy", "yx", "xyz", "ab", "ba", "abc", "mn", "nm"),
    *("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "max", "min", "gcd", "lcm"),
}
"""Letters only, yet mathematics: constants, products of the commonest variables, functions."""


# -- numbers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    value: Fraction
    digits: int | None = None
    """Significant digits, if it is a decimal with a point; None for what is exact by its form."""
    step: Fraction = Fraction(0)
    """The unit of its last place, if it is such a decimal."""


_MIXED = re.compile(r"(?P<sign>-?)\s*(?P<whole>\d+)\s*(?:\\frac\{(\d+)\}\{(\d+)\}|\s(\d+)/(\d+))")
_LATEX_FRACTION = re.compile(r"(?P<sign>-?)\s*\\frac\s*\{\s*(?P<top>-?[\d.]+)\s*\}\s*\{\s*(?P<bottom>-?[\d.]+)\s*\}")
_REPEATING = re.compile(
    r"(?P<sign>-?)(?P<whole>\d*)\.(?P<fixed>\d*)(?:\\overline\s*\{(\d+)\}|\\bar\s*\{?(\d+)\}?|\\dot\s*\{?(\d)\}?|\((\d+)\))"
)
_SCIENTIFIC = re.compile(
    r"(?P<mantissa>-?[\d.]+)\s*(?:\\times|\\cdot|x|\*)\s*10\s*\^\s*\{?\s*(?P<power>[+-]?\d{1,3})\s*\}?"
)
_DECIMAL = re.compile(r"[+-]?(?P<digits>\d*\.\d+)(?:[eE](?P<power>[+-]?\d{1,3}))?")


def number(text: str) -> Number | None:
    """The number that a text in `normal` spelling is: integers, decimals, `1e3`, `a \\times 10^b`, fractions, mixed
    numbers, repeating decimals, with or without separators of thousands."""
    text = without_thousands(text).strip()
    if _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    if found := _MIXED.fullmatch(text):
        top, bottom = (int(part) for part in found.groups()[2:] if part is not None)
        return _signed(found["sign"], int(found["whole"]) + Fraction(top, bottom)) if bottom else None
    if found := _LATEX_FRACTION.fullmatch(text):
        above, below = parse_number(found["top"]), parse_number(found["bottom"])
        return _signed(found["sign"], above / below) if above is not None and below else None
    if found := _REPEATING.fullmatch(text):
        return _signed(found["sign"], _repeating(found))
    if found := _SCIENTIFIC.fullmatch(text):
        value = parse_number(f"{found['mantissa']}e{found['power']}")
        return None if value is None else Number(value)
    if "%" in text or "$" in text:
        return None
    value = parse_number(text)
    if value is None:
        return None
    decimal = _DECIMAL.fullmatch(text.replace(" ", ""))
    if decimal is None:
        return Number(value)
    places = len(decimal["digits"].partition(".")[2])
    power = int(decimal["power"] or 0)
    significant = len(decimal["digits"].replace(".", "").lstrip("0"))
    return Number(value, significant, Fraction(10) ** (power - places))


def _signed(sign: str, value: Fraction) -> Number:
    return Number(-value if sign == "-" else value)


def _repeating(found: re.Match[str]) -> Fraction:
    period = next(part for part in found.groups()[3:] if part is not None)
    fixed = found["fixed"]
    start = Fraction(int((found["whole"] + fixed) or "0"), 10 ** len(fixed))
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))


def without_thousands(text: str) -> str:
    """The text with separators of thousands removed."""
    return _GROUPED.sub(lambda found: re.sub(r"\D", "", found[0]), text)


# -- parts -------------------------------------------------------------------------------------------------------------

_OPENING, _CLOSING = "([{", ")]}"
_CONJUNCTION = re.compile(r"\\text\s*\{\s*(?:,?\s*(?:or|and)|,)\s*\}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])")


@dataclass(frozen=True, slots=True)
class Parts:
    """A list of answers or a structure of several entries."""

    kind: str
    """`list` (any order, no brackets), `set`, the two brackets of a tuple or interval, `ratio`, `row`, `matrix`."""
    entries: tuple[str, ...]


_MATRIX = re.compile(r"\\begin\s*\{[pbvBV]?(?:small)?matrix\}(.*)\\end\s*\{[pbvBV]?(?:small)?matrix\}")
_ARRAY = re.compile(r"\\begin\s*\{array\}\s*(?:\{[^{}]*\})?(.*)\\end\s*\{array\}")


def parts(text: str) -> Parts | None:
    """The entries of a list, set, tuple, interval, ratio or matrix; None for a single value."""
    if found := _MATRIX.fullmatch(text) or _ARRAY.fullmatch(_bare_of_brackets(text)):
        rows = [row for row in re.split(r"\\\\", found[1]) if row.strip()]
        return Parts("matrix", tuple(f"\\row {row}" for row in rows)) if rows else None
    if text.startswith("\\row "):
        return Parts("row", tuple(cell.strip() for cell in text.removeprefix("\\row ").split("&")))
    listed = _CONJUNCTION.sub(", ", text)
    if ", " in listed or ";" in listed:
        listed = text = without_thousands(listed)  # where there are spaces, tight commas are no separators
    entries = _split(listed, ",;")
    if len(entries) > 1:
        return Parts("list", tuple(entry for entry in entries if entry))
    if text.startswith("\\{") and text.endswith("\\}") and _closes_at_end(text[1:]):
        inner = text[2:-2].strip()
        return Parts("set", tuple(_split(inner, ",;"))) if inner and "|" not in inner and "\\mid" not in inner else None
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closes_at_end(text):
        entries = _split(text[1:-1], ",;")
        if len(entries) > 1 and text[0] == "[" and all(re.fullmatch(r"\[.*\]", entry) for entry in entries):
            return Parts("matrix", tuple("\\row " + "&".join(_split(entry[1:-1], ",")) for entry in entries))
        return Parts(text[0] + text[-1], tuple(entries)) if len(entries) > 1 else None
    ratio = _split(text, ":")
    return Parts("ratio", tuple(ratio)) if len(ratio) > 1 and all(ratio) else None


def _bare_of_brackets(text: str) -> str:
    return text[1:-1].strip() if text[:1] in ("(", "[") and text[-1:] in (")", "]") else text


def _split(text: str, separators: str) -> list[str]:
    """The pieces between separators that stand outside all brackets."""
    pieces, depth, begin = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0 and character in separators:
            pieces.append(text[begin:index].strip())
            begin = index + 1
    return [*pieces, text[begin:].strip()]


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens the text is the one that closes it; half-open intervals count."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return index == len(text) - 1
    return False


_ASSIGNMENT = re.compile(
    r"(?P<name>\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?)\s*(?:=|\\in(?![a-z]))\s*(?P<value>[^=<>]+)"
)


def assignment(text: str) -> tuple[str, str] | None:
    """(variable, value) of `x = 5`, `f(x) = 2x` or `x \\in A`; None for anything else, systems included."""
    found = _ASSIGNMENT.fullmatch(text)
    return (found["name"], found["value"].strip()) if found else None


_ALTERNATIVES = re.compile(r"\\pm(?![a-z])")


def alternatives(text: str) -> str:
    """`a \\pm b` as the list `a + b, a - b`."""
    if len(_ALTERNATIVES.findall(text)) != 1:
        return text
    return f"{_ALTERNATIVES.sub('+', text)} , {_ALTERNATIVES.sub('-', text)}"
