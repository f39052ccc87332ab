"""The tool `calculator`: exact arithmetic on numbers, nothing else.

The expression is parsed by Python's own parser and evaluated over `fractions.Fraction` by walking the tree; sympy would
bring symbols, functions and an `eval` that none of this needs. Invariant: a number and every intermediate result have
at most `MAX_BITS` bits, the expression at most `MAX_LENGTH` characters, so that a call takes microseconds and a few
kilobytes; that is why it runs on the event loop itself.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from agentrl.errors import ConfigError
from agentrl.tool import Tool, ToolResult

MAX_LENGTH = 300
"""Characters of an expression; this bounds its depth, too."""
MAX_BITS = 2048
"""Bits of a numerator or denominator: about 600 digits."""
MAX_EXPONENT = 1024
_DECIMAL_DIGITS = 30
"""A rational is shown as a decimal if it is one of at most so many digits after the point, else as a fraction."""


class Refused(Exception):
    """The expression cannot be computed; the text says why, for the policy to read."""


class Calculator(Tool):
    """Computes an arithmetic expression exactly."""

    name = "calculator"

    def __init__(self, *, max_operations: int | None = None) -> None:
        """`max_operations`: operations that one expression may contain; None is no limit."""
        if max_operations is not None and max_operations < 1:
            raise ConfigError(f"tool 'calculator': max_operations={max_operations!r} must be at least 1")
        self.max_operations = max_operations

    async def call(
        self, expression: Annotated[str, Field(description="numbers with + - * / // % ** and parentheses")]
    ) -> ToolResult:
        try:
            value = evaluate(expression, self.max_operations)
        except Refused as refusal:
            return ToolResult(f"Error: {refusal}", "failed")
        return ToolResult(show(value), data=value)


def evaluate(expression: str, max_operations: int | None = None) -> Fraction:
    """The exact value; raises `Refused`, whose text says what is wrong, for the policy to read."""
    expression = expression.strip()
    if len(expression) > MAX_LENGTH:
        raise Refused(f"the expression is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "1 2" and "3(4)" are answered, not warned of
            tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it cannot be parsed"
        raise Refused(f"not an arithmetic expression: {reason}") from None
    operations = sum(isinstance(node, ast.BinOp) for node in ast.walk(tree))
    if max_operations is not None and operations > max_operations:
        allowed = "one operation" if max_operations == 1 else f"{max_operations} operations"
        raise Refused(f"only {allowed} a call; this has {operations}")
    try:
        return _value(tree, expression)
    except ZeroDivisionError:
        raise Refused("division by zero") from None


def show(value: Fraction) -> str:
    """An integer, a finite decimal where it is short, else a fraction in lowest terms."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    digits = max(twos, fives)
    if rest != 1 or digits > _DECIMAL_DIGITS:
        return f"{value.numerator}/{value.denominator}"
    scaled = abs(value.numerator) * 10**digits // value.denominator
    whole, fraction = divmod(scaled, 10**digits)
    return f"{'-' if value < 0 else ''}{whole}.{fraction:0{digits}d}"


def _value(node: ast.expr, source: str) -> Fraction:
    if isinstance(node, ast.Constant):
        return _number(node, source)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        operand = _value(node.operand, source)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, source), _value(node.right, source)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _OPERATIONS:
            return _bounded(Fraction(_OPERATIONS[type(node.op)](left, right)))
        raise Refused("only + - * / // % ** are known" + (" (power is **, not ^)" * isinstance(node.op, ast.BitXor)))
    if isinstance(node, ast.Name):
        raise Refused(f"unknown name {node.id[:40]!r}; only numbers can be used")
    if isinstance(node, ast.Tuple):
        raise Refused("a comma is not part of a number: write 1234, not 1,234")
    raise Refused("only numbers, + - * / // % ** and parentheses can be used")


def _number(node: ast.Constant, source: str) -> Fraction:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise Refused(f"{str(node.value)[:40]!r} is not a number")
    if isinstance(node.value, int):
        return _bounded(Fraction(node.value))
    # the digits as they were written: a float would round 0.1
    text = (ast.get_source_segment(source, node) or "").replace("_", "").lower()
    mantissa, _, exponent = text.partition("e")
    power = int(exponent or "0")
    if abs(power) > MAX_EXPONENT:
        raise Refused(f"the exponent is larger than {MAX_EXPONENT}")
    return _bounded(Fraction(mantissa.removesuffix(".")) * Fraction(10) ** power)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise Refused("a power must be a whole number")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > MAX_EXPONENT or (bits > 1 and (bits - 1) * abs(exponent) > MAX_BITS):
        raise Refused("the result is too large")
    return _bounded(Fraction(base ** int(exponent)))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise Refused("the result is too large")
    return value


_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
