"""Templates: every value that a template prints is made visible and escaped; there is no other way to print one.

jinja2's `finalize` sees each printed value before the escape does, so a template's author cannot forget it. What is
already markup (a macro's result) passes: macros are made of templates.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agentrl.text import one_line, visible

MINUS = "\u2212"
NOTHING = "\u2013"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_FOUR_DIGITS = Context(prec=4, rounding=ROUND_HALF_UP)  # ties as JavaScript rounds them: charts show the same numbers


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The package's templates."""
    made = Environment(
        loader=PackageLoader("agentrl.viewer", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "figure": figure,
        "brief": brief,
        "count": count,
        "percent": percent,
        "seconds": seconds,
        "line": one_line,
        "words": words,
        "moment": moment,
        "ago": ago,
        "plural": plural,
    }
    made.globals["icon"] = icon
    return made


def render(name: str, **values: Any) -> str:
    """The page of that template."""
    return environment().get_template(name).render(**values)


def figure(value: float | None) -> str:
    """A number with four significant digits."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else f"{MINUS}∞"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", MINUS)
    return f"{float(_FOUR_DIGITS.create_decimal_from_float(value)):.4g}".replace("-", MINUS)


def brief(value: float | None, digits: int = 3) -> str:
    """A number with few significant digits, for narrow places."""
    return figure(value if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}"))


def count(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return NOTHING if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def seconds(value: float | None) -> str:
    """A duration in the unit that people would use."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 0.9995:  # what rounds to a second is one
        return f"{1000 * value:.3g} ms"
    if value < _MINUTE:
        return f"{value:.3g} s"
    whole = round(value)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def words(name: object) -> str:
    """`max_turns` as people write it."""
    return str(name).replace("_", " ")


def moment(stamp: float | None) -> str:
    """Seconds since the epoch as date and time, UTC."""
    return NOTHING if stamp is None else datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(stamp: float | None) -> str:
    """How long ago that was."""
    if stamp is None:
        return NOTHING
    passed = max(0.0, time.time() - stamp)
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if passed >= unit:
            return f"{passed // unit:.0f} {name} ago"
    return "just now"


def plural(number: int, noun: str) -> str:
    """`3 turns`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


@lru_cache(maxsize=1)
def _icons() -> dict[str, str]:
    text = (resources.files("agentrl.viewer") / "templates" / "icons.txt").read_text(encoding="utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines() if line.strip())


def icon(name: str) -> Markup:
    """A small drawing of the package's own, hidden from screen readers: words stand beside it."""
    return Markup('<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d="{}"/></svg>').format(
        _icons()[name]
    )


def _shown(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    return visible(value) if isinstance(value, str) else value
