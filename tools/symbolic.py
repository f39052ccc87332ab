"""The calculator's expressions with functions, roots and constants, by sympy. Runs in a worker process only.

The tree that Python's parser gives is rebuilt with sympy's classes, node by node; nothing is evaluated from text.
Invariant: a function is called only after its arguments were checked to be real and its result to be of bounded size;
what slips through is ended by whoever called.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import sympy
from sympy import Integer, Rational

from .calculator import MAX_BITS, Refused, check_names, number, parsed

SHOWN_DIGITS = 10
"""Of the decimal beside an irrational value."""
MAX_SHOWN = 200
"""Characters of an exact irrational value; a longer one is shown as its decimal alone."""
MAX_FACTORIAL = 300
MAX_BINOMIAL = 2048


def compute(expression: str) -> tuple[str, Any]:
    """`("rational", (numerator, denominator))`, `("irrational", text)` or `("refused", reason)`."""
    try:
        tree = parsed(expression)
        check_names(tree)
        value = _real(sympy.expand(sympy.radsimp(sympy.sqrtdenest(_built(tree, expression)))))
    except Refused as refusal:
        return "refused", str(refusal)
    except (TypeError, ValueError, RecursionError, NotImplementedError, ArithmeticError) as error:
        return "refused", f"it cannot be computed: {str(error)[:100]}"
    if isinstance(value, Rational):
        _bounded(value)
        return "rational", (int(value.p), int(value.q))
    decimal = f"~{sympy.N(value, SHOWN_DIGITS)}"
    exact = str(value)
    return "irrational", f"{exact} ({decimal})" if len(exact) <= MAX_SHOWN else decimal


def _built(node: ast.expr, source: str) -> Any:
    if isinstance(node, ast.Constant):
        value = number(node, source)
        return Rational(value.numerator, value.denominator)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        operand = _built(node.operand, source)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _real(_OPERATIONS[type(node.op)](_built(node.left, source), _built(node.right, source)))
    if isinstance(node, ast.Name):
        return sympy.pi if node.id == "pi" else sympy.E
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_built(argument, source) for argument in node.args]
        return _real(_FUNCTIONS[node.func.id](*arguments))
    raise Refused("only numbers, operations, functions and parentheses can be used")


def _real(value: Any) -> Any:
    if value.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        raise Refused("division by zero, or a function where it has no value")
    if value.is_real is False or (value.has(sympy.I) and abs(sympy.im(sympy.N(value))) > 1e-9):
        raise Refused("the result is not a real number")
    return _bounded(value) if isinstance(value, Rational) else value


def _bounded(value: Any) -> Any:
    if max(int(value.p).bit_length(), int(value.q).bit_length()) > MAX_BITS:
        raise Refused("the result is too large")
    return value


def _power(base: Any, exponent: Any) -> Any:
    if base == 0 and exponent.is_negative:
        raise Refused("division by zero")
    size = abs(sympy.N(exponent, 10)) * abs(sympy.log(abs(sympy.N(base, 10)), 2).evalf(10)) if base != 0 else 0
    if size > MAX_BITS:
        raise Refused("the result is too large")
    return base**exponent


def _quotient(left: Any, right: Any) -> Any:
    if right == 0:
        raise Refused("division by zero")
    return left / right


def _modulo(left: Any, right: Any) -> Any:
    if right == 0:
        raise Refused("division by zero")
    return left - right * sympy.floor(left / right)


def _whole(name: str, limit: int | None, *values: Any) -> list[Any]:
    for value in values:
        if not isinstance(value, Integer):
            raise Refused(f"{name} takes whole numbers")
        if limit is not None and not 0 <= value <= limit:
            raise Refused(f"{name} takes numbers from 0 to {limit}")
    return list(values)


def _gcd(*values: Any) -> Any:
    return Integer(sympy.igcd(*_whole("gcd", None, *values)))


def _lcm(*values: Any) -> Any:
    result = Integer(sympy.ilcm(*_whole("lcm", None, *values)))
    return _bounded(result)


def _factorial(value: Any) -> Any:
    return sympy.factorial(*_whole("factorial", MAX_FACTORIAL, value))


def _binomial(n: Any, k: Any) -> Any:
    return sympy.binomial(*_whole("binomial", MAX_BINOMIAL, n, k))


def _permutations(n: Any, k: Any) -> Any:
    n, k = _whole("perm", MAX_FACTORIAL, n, k)
    return sympy.ff(n, k)


def _logarithm(value: Any, base: Any = sympy.E) -> Any:
    if not value.is_positive or not base.is_positive or base == 1:
        raise Refused("log takes positive numbers, and a base that is not 1")
    # a quotient of logarithms is no number that anybody would recognise: log(8, 2) is 3
    return sympy.simplify(sympy.log(value, base))


def _round(value: Any, places: Any = sympy.S.Zero) -> Any:
    places = int(_whole("round", 30, places)[0])
    scaled = sympy.floor(abs(value) * 10**places + Rational(1, 2))
    return sympy.sign(value) * scaled / Integer(10) ** places


def _root(value: Any, degree: int) -> Any:
    if degree % 2 == 0 and value.is_negative:
        raise Refused("the result is not a real number")
    return sympy.real_root(value, degree)


_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: _quotient,
    ast.FloorDiv: lambda left, right: sympy.floor(_quotient(left, right)),
    ast.Mod: _modulo,
    ast.Pow: _power,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": lambda value: _root(value, 2),
    "cbrt": lambda value: _root(value, 3),
    "abs": sympy.Abs,
    "factorial": _factorial,
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
    "round": _round,
    "exp": lambda value: _power(sympy.E, value),
    "ln": _logarithm,
    "log": _logarithm,
    "log2": lambda value: _logarithm(value, Integer(2)),
    "log10": lambda value: _logarithm(value, Integer(10)),
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "asin": sympy.asin,
    "acos": sympy.acos,
    "atan": sympy.atan,
    "radians": lambda value: value * sympy.pi / 180,
    "degrees": lambda value: value * 180 / sympy.pi,
    "min": sympy.Min,
    "max": sympy.Max,
    "gcd": _gcd,
    "lcm": _lcm,
    "binomial": _binomial,
    "comb": _binomial,
    "perm": _permutations,
    "mod": _modulo,
}
