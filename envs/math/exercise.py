"""What an exercise and a generator of them are, and what generators are made with.

Invariant: an exercise is a function of its random numbers; its answer is exact and follows from its steps, each of
which a calculator (or a Python interpreter) computes to the result that is written beside it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

LEVELS = range(1, 7)
"""1: one operation. 2: two or three. 3: a school method. 4: several methods or irrational numbers. 5, 6: a plan."""


@dataclass(frozen=True, slots=True)
class Step:
    """One computation of a solution."""

    text: str
    """An expression for the tool `calculator`, or a program for the tool `python`."""
    result: str
    """What it gives, exactly: an integer, `3/4`, `2*sqrt(3)`; of a program, its last line."""
    tool: Literal["calculator", "python"] = "calculator"


@dataclass(frozen=True, slots=True)
class Exercise:
    """A question, its exact answer, and how to get there."""

    question: str
    answer: str
    steps: tuple[Step, ...]


Generator = Callable[[random.Random], Exercise]
TOPICS: dict[str, dict[int, list[Generator]]] = {}
"""Topic to level to generators; filled by the modules of this folder."""


def generator(topic: str, level: int) -> Callable[[Generator], Generator]:
    """Enter a function into `TOPICS`."""

    def enter(function: Generator) -> Generator:
        TOPICS.setdefault(topic, {}).setdefault(level, []).append(function)
        return function

    return enter


def step(expression: str, result: int | Fraction | str) -> Step:
    """A step for the calculator."""
    return Step(expression, shown(result))


def program(code: str, result: int | Fraction | str) -> Step:
    """A step that takes a program."""
    return Step(code, shown(result), "python")


def exercise(question: str, answer: int | Fraction | str | Sequence[int | Fraction], *steps: Step) -> Exercise:
    """An exercise; several answers are sorted and stand with commas."""
    if isinstance(answer, int | Fraction | str):
        return Exercise(question, shown(answer), steps)
    return Exercise(question, ", ".join(shown(value) for value in sorted(answer)), steps)


def shown(value: int | Fraction | str) -> str:
    """`3`, `3/4`."""
    return str(value)


def nonzero(rng: random.Random, limit: int) -> int:
    """A whole number of at most `limit` either way, not 0."""
    return rng.randint(1, limit) * rng.choice((1, -1))


def polynomial(coefficients: Sequence[int], variable: str = "x") -> str:
    """`2x^3 - x + 5` for (2, 0, -1, 5): highest power first."""
    degree = len(coefficients) - 1
    terms: list[str] = []
    for index, coefficient in enumerate(coefficients):
        power = degree - index
        if not coefficient:
            continue
        factor = "" if abs(coefficient) == 1 and power else str(abs(coefficient))
        body = factor + (variable if power else "") + (f"^{power}" if power > 1 else "")
        sign = ("-" if coefficient < 0 else "") if not terms else (" - " if coefficient < 0 else " + ")
        terms.append(sign + body)
    return "".join(terms) or "0"


def surd(radicand: int, factor: Fraction | int = 1) -> str:
    """`factor * sqrt(radicand)` with the root in lowest terms, as sympy writes it: `2*sqrt(3)`, `3*sqrt(2)/2`, `6`."""
    outside, inside = 1, radicand
    for prime in range(2, int(radicand**0.5) + 1):
        while inside % (prime * prime) == 0:
            inside //= prime * prime
            outside *= prime
    value = Fraction(factor) * outside
    if inside == 1:
        return shown(value)
    top = "" if abs(value.numerator) == 1 else f"{abs(value.numerator)}*"
    bottom = "" if value.denominator == 1 else f"/{value.denominator}"
    return f"{'-' if value < 0 else ''}{top}sqrt({inside}){bottom}"
