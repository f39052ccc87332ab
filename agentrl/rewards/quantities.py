"""Values with units: cut apart, and brought to the base unit of their dimension.

Invariant: a unit that the table knows has a dimension and an exact factor; any other word is a unit of its own name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from agentrl.rewards.mathtext import TEXT

_UNITS: dict[str, tuple[str, Fraction]] = {}


def _define(dimension: str, table: dict[str, str | int | Fraction]) -> None:
    for names, factor in table.items():
        for name in names.split():
            _UNITS[name] = (dimension, Fraction(factor))


_define(
    "length",
    {
        "mm millimeter millimetre": Fraction(1, 1000),
        "cm centimeter centimetre": Fraction(1, 100),
        "dm decimeter decimetre": Fraction(1, 10),
        "m meter metre": 1,
        "km kilometer kilometre": 1000,
        "in inch inches": Fraction("0.0254"),
        "ft foot feet": Fraction("0.3048"),
        "yd yard": Fraction("0.9144"),
        "mi mile": Fraction("1609.344"),
    },
)
_define(
    "mass",
    {
        "mg milligram": Fraction(1, 10**6),
        "g gram": Fraction(1, 1000),
        "kg kilogram": 1,
        "oz ounce": Fraction("0.028349523125"),
        "lb pound lbs": Fraction("0.45359237"),
        "tonne": 1000,
    },
)
_define(
    "time",
    {
        "ms millisecond": Fraction(1, 1000),
        "s sec second": 1,
        "min minute": 60,
        "h hr hour": 3600,
        "day": 86400,
        "week": 604800,
    },
)
_define(
    "volume",
    {"ml milliliter millilitre": Fraction(1, 1000), "l L liter litre": 1, "gallon gal": Fraction("3.785411784")},
)
_define("angle", {"degree deg": Fraction(1, 180)})
_define("money", {"$ dollar usd": 1, "cent": Fraction(1, 100)})

_POWER = r"(?:\s*\^\s*\{?[1-3]\}?)?"
_WORD = rf"(?:[A-Za-z]+{_POWER})"
_DEGREES = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?")
_WITH_UNIT = re.compile(rf"(?P<value>.*?[\d)}}\]i])(?P<space>\s*)(?P<unit>{_WORD}(?:\s*(?:/|per|\s)\s*{_WORD}){{0,4}})")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with a unit."""

    value: str
    factor: Fraction
    """Into the base unit of its dimension; 1 where the unit is unknown."""
    dimension: str | None
    """For example `length^2` or `length/time`; None for a unit that the table does not know."""
    unit: str
    """The unit's words, singular and in small letters."""


def quantity(text: str) -> Quantity | None:
    """The value and the unit of `10 cm`, `5\\text{ apples}`, `30^\\circ`, `\\$ 5`, `1011_2`; None without a unit."""
    if text.startswith("$") and (value := text.lstrip("$ ")):
        return Quantity(value, Fraction(1), "money^1", "dollar")
    if found := re.fullmatch(r"([0-9A-Fa-f]+)_\{?(\d{1,2})\}?", text):
        return Quantity(found[1], Fraction(1), None, f"base{found[2]}")
    marked = "\\text" in text or "\\mathrm" in text or "\\mbox" in text
    plain = _DEGREES.sub(" degrees ", TEXT.sub(r" \1 ", text))
    plain = re.sub(r"\s+", " ", plain.rstrip(" .")).strip()
    found = _WITH_UNIT.fullmatch(plain)
    if found is None:
        return None
    unit = found["unit"].strip()
    letters = re.sub(r"[^A-Za-z]", "", unit)
    if not marked and (len(letters) == 1 or not _is_unit(unit)) and not (found["space"] and len(letters) > 2):
        known = letters in _UNITS and found["space"]
        if not known:
            return None
    factor, dimension = _dimension(unit)
    return Quantity(found["value"].strip(), factor, dimension, " ".join(_singular(word) for word in unit.split()))


def _is_unit(unit: str) -> bool:
    return _dimension(unit)[1] is not None


def _singular(word: str) -> str:
    if word in _UNITS:
        return word
    low = word.lower()
    return low if low in _UNITS or low.endswith("ss") or len(low) < 3 else low.removesuffix("s")


def _dimension(unit: str) -> tuple[Fraction, str | None]:
    """(factor, dimension); (1, None) for what the table does not know."""
    factor, dimensions = Fraction(1), dict[str, int]()
    sign, pending = 1, 1
    for word in re.findall(rf"/|{_WORD}", unit):
        if word in ("/", "per"):
            sign = -1
            continue
        if word.lower() in ("square", "sq", "squared", "cubic", "cubed"):
            pending = 3 if word.lower().startswith("cub") else 2
            continue
        name, _, power = re.sub(r"[\s{}]", "", word).partition("^")
        known = _UNITS.get(name) or _UNITS.get(_singular(name))
        if known is None:
            return Fraction(1), None
        exponent = sign * int(power or 1) * pending
        dimensions[known[0]] = dimensions.get(known[0], 0) + exponent
        factor *= known[1] ** exponent
        pending = 1
    return factor, "*".join(f"{name}^{power}" for name, power in sorted(dimensions.items())) or None


def percentage(text: str) -> str | None:
    """The value in front of a percent sign or word; None without one."""
    found = re.fullmatch(r"(.*\S)\s*(?:%|\\text\s*\{\s*(?:%|percent)\s*\}|percent)", text)
    return found[1].strip() if found else None
