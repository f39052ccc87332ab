"""The tool `calculator`: exact values of expressions in numbers, nothing else.

The expression is parsed by Python's own parser, never evaluated by it. Plain arithmetic is computed over
`fractions.Fraction` by walking the tree, on the event loop itself: a call takes microseconds, since numbers and all
intermediate results have at most `MAX_BITS` bits and an expression `MAX_LENGTH` characters. What has functions,
constants or roots in it is built as a sympy expression from a list of allowed names in a worker process that can be
killed (`symbolic.py`). Invariant: the same expression gives the same exact text, or a refusal that says why.
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
from agentrl.registry import nearest
from agentrl.signature import parameters_model
from agentrl.tool import Tool, ToolResult
from agentrl.workers import WorkerDied, WorkerTimeout, shared_pool

MAX_LENGTH = 300
"""Characters of an expression; this bounds its depth, too."""
MAX_BITS = 2048
"""Bits of a numerator or denominator: about 600 digits."""
MAX_EXPONENT = 1024
SECONDS = 10.0
"""What an expression with functions may take in its worker; the usual one takes milliseconds."""
FUNCTIONS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("sqrt", "cbrt", "abs", "factorial", "floor", "ceil", "exp", "ln", "log2", "log10"), (1, 1)),
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "radians", "degrees"), (1, 1)),
    **dict.fromkeys(("min", "max", "gcd", "lcm"), (2, 16)),
    **dict.fromkeys(("binomial", "comb", "perm", "mod"), (2, 2)),
    "log": (1, 2),
    "round": (1, 2),
}
"""The least and the greatest number of arguments."""
CONSTANTS = ("pi", "e", "E")
_DECIMAL_DIGITS = 30
"""A rational is shown as a decimal if it is one of at most so many digits after the point, else as a fraction."""


class Refused(Exception):
    """The expression cannot be computed; the text says why, for the policy to read."""


class NotRational(Refused):
    """The expression is no plain arithmetic of rational numbers; the text says why."""


class Calculator(Tool):
    """Computes an expression in numbers exactly."""

    name = "calculator"

    def __init__(self, *, max_operations: int | None = None, functions: bool = True) -> None:
        """Raises `ConfigError`.

        Args:
            max_operations: operations and functions that one expression may contain; None is no limit.
            functions: whether there are functions (`sqrt`, `gcd`, `sin` ...), constants and roots, or arithmetic alone.
        """
        if max_operations is not None and max_operations < 1:
            raise ConfigError(f"tool 'calculator': max_operations={max_operations!r} must be at least 1")
        self.max_operations = max_operations
        self.functions = functions
        if functions:
            self.parameters = _WITH_FUNCTIONS

    async def call(
        self, expression: Annotated[str, Field(description="numbers with + - * / // % ** and parentheses")]
    ) -> ToolResult:
        try:
            tree = parsed(expression, self.max_operations)
            try:
                value: Fraction | str = evaluate(tree, expression.strip())
            except NotRational:
                if not self.functions:
                    raise
                check_names(tree)
                value = await _by_algebra(expression.strip())
        except Refused as refusal:
            return ToolResult(f"Error: {refusal}", "failed")
        return ToolResult(show(value) if isinstance(value, Fraction) else value, data=value)


async def _by_algebra(expression: str) -> Fraction | str:
    """The value, or its exact text with a decimal where it is irrational."""
    try:
        kind, value = await shared_pool().run("agentrl.tools.symbolic:compute", expression, timeout=SECONDS)
    except (WorkerTimeout, WorkerDied):
        raise Refused("it takes too long to compute") from None
    if kind == "refused":
        raise Refused(value)
    return Fraction(*value) if kind == "rational" else str(value)


def parsed(expression: str, max_operations: int | None = None) -> ast.expr:
    """The tree of an expression; raises `Refused`, whose text says what is wrong, for the policy to read."""
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
    operations = sum(isinstance(node, ast.BinOp | ast.Call) for node in ast.walk(tree))
    if max_operations is not None and operations > max_operations:
        allowed = "one operation" if max_operations == 1 else f"{max_operations} operations"
        raise Refused(f"only {allowed} a call; this has {operations}")
    return tree


def evaluate(tree: ast.expr, source: str) -> Fraction:
    """The exact value of plain arithmetic; raises `NotRational` for what is more, and `Refused`."""
    try:
        return _value(tree, source)
    except ZeroDivisionError:
        raise Refused("division by zero") from None


def check_names(tree: ast.expr) -> None:
    """Raise `Refused` unless every name is one of `FUNCTIONS` or `CONSTANTS`, and used as what it is."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in called and node.id not in CONSTANTS:
            if node.id in FUNCTIONS:
                raise Refused(f"{node.id} is a function: write {node.id}(...)")
            raise Refused(f"unknown name {node.id[:40]!r}; {nearest(node.id[:40], [*FUNCTIONS, *CONSTANTS])}")
        if isinstance(node, ast.Call):
            _check_call(node)
        if isinstance(node, ast.BinOp) and type(node.op) not in _OPERATIONS and not isinstance(node.op, ast.Pow):
            raise Refused(_unknown_operator(node.op))


def _check_call(node: ast.Call) -> None:
    if not isinstance(node.func, ast.Name):
        raise Refused("a product needs its sign: write 2*(3), not 2(3)")
    name = node.func.id
    if name not in FUNCTIONS:
        raise Refused(f"unknown function {name[:40]!r}; {nearest(name[:40], list(FUNCTIONS))}")
    least, most = FUNCTIONS[name]
    if node.keywords or not least <= len(node.args) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise Refused(f"{name} takes {wanted} argument{'s' * (most > 1)}")


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
        return number(node, source)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        operand = _value(node.operand, source)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, source), _value(node.right, source)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _OPERATIONS:
            return _bounded(Fraction(_OPERATIONS[type(node.op)](left, right)))
        raise Refused(_unknown_operator(node.op))
    if isinstance(node, ast.Name):
        raise NotRational(f"unknown name {node.id[:40]!r}; only numbers can be used")
    if isinstance(node, ast.Call):
        raise NotRational(_ONLY)
    if isinstance(node, ast.Tuple):
        raise Refused("a comma is not part of a number: write 1234, not 1,234")
    raise Refused(_ONLY)


def _unknown_operator(operation: ast.operator) -> str:
    return "only + - * / // % ** are known" + (" (power is **, not ^)" * isinstance(operation, ast.BitXor))


def number(node: ast.Constant, source: str) -> Fraction:
    """The number as it is written in `source`; raises `Refused`."""
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
        raise NotRational("a power must be a whole number")
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
_ONLY = "only numbers, + - * / // % ** and parentheses can be used"
_DESCRIPTION = "numbers with + - * / // % ** and parentheses, the constants pi and e, and the functions " + ", ".join(
    FUNCTIONS
)


def _with_functions(expression: Annotated[str, Field(description=_DESCRIPTION)]) -> None:
    """The signature of `Calculator.call` where there are functions."""


_WITH_FUNCTIONS = parameters_model("tool 'calculator'", _with_functions, {})
