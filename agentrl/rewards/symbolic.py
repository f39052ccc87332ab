"""Two expressions compared by math-verify and sympy. Runs in a worker process only: it may take for ever.

math-verify's own timeouts are switched off (they are signals); whoever calls this kills it. What it gets wrong and is
put right here: it compares decimals by absolute rounding, so that 0.0000001 is 0; it reads letters side by side as
products, so that a word equals its anagrams, and plain `sin(x)` as s*i*n(x); it compares a lone variable by its
spelling, so that x is not x/2 + x/2. What it reads well are LaTeX, sets, relations and matrices; it reads variables
without regard to capitals.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from agentrl.rewards.comparison import SIGNIFICANT, same

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the missing timeout
_CONFIG = (LatexExtractionConfig(),)  # the reader of plain expressions hands text to a parser that evaluates it
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|min|max|gcd|lcm"
_PLAIN_FUNCTION = re.compile(rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])")
_PLAIN_CONSTANT = re.compile(r"(?<![A-Za-z\\])(pi|infty)(?![A-Za-z])")
_PLAIN_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt\s*\(((?:[^()]|\([^()]*\))*)\)")
_PRECISION = 60
_EXACT = 45
"""Digits to which two expressions without decimals must agree."""
_BINARY = 12
"""Digits that decimals inside an expression, or too short ones, keep in binary."""
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3,}")


def equal(answer: str, gold: str) -> bool:
    """`comparison.same` with sympy for the expressions."""
    return same(answer, gold, expressions)


def expressions(answer: str, gold: str) -> bool:
    """Whether two expressions are equal as mathematics; False where one of them cannot be read."""
    left, right = _parsed(answer), _parsed(gold)
    if left is None or right is None:
        return False
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return bool(verify(right, left, timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True))
    left, right = _imaginary(left).doit(), _imaginary(right).doit()
    if left == right:
        return True
    if (close := _numerically(left, right)) is not None:
        return close
    return bool(sympy.simplify(left - right) == 0)


def _imaginary(side: Any) -> Any:
    """`i` as the imaginary unit where it is the only letter."""
    letters = list(side.free_symbols)
    return side.subs(letters[0], sympy.I) if [letter.name for letter in letters] == ["i"] else side


def _parsed(text: str) -> Any:
    text = _PLAIN_ROOT.sub(r"\\sqrt{\1}", text)
    text = _PLAIN_CONSTANT.sub(r"\\\1 ", _PLAIN_FUNCTION.sub(r"\\\1 ", text))
    text = re.sub(r"(?<=[\w)}])\s*\*\s*(?=[\w({\\])", r" \\cdot ", text)
    if _WORD.search(_COMMAND.sub(" ", text)):
        return None
    found = parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found and not isinstance(found[0], str) else None


def _numerically(left: Any, right: Any) -> bool | None:
    """Decide numbers: rationals exactly, others by their relative distance; None where one is no finite number."""
    for side in (left, right):
        if side.free_symbols or side.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
            return None
    if isinstance(left, sympy.Rational) and isinstance(right, sympy.Rational):
        return False  # they are not the same one
    a, b = sympy.N(left, _PRECISION), sympy.N(right, _PRECISION)
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return None
    digits = min(_digits(left), _digits(right))
    tolerance = sympy.Float(10, _PRECISION) ** (1 - digits if digits >= SIGNIFICANT else -_BINARY)
    return bool(abs(a - b) <= max(abs(a), abs(b)) * tolerance)


def _digits(side: Any) -> int:
    """Digits to which an expression counts: those of a number written as a decimal, else what can be computed."""
    if side.is_Float:
        return len(str(side).strip("-0").replace(".", "").lstrip("0"))
    return _BINARY if side.has(sympy.Float) else _EXACT
