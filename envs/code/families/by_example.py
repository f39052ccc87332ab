"""The family `by_example`: a one-line function with a hole in it, which only running the tests can fill.

The question names the form, `f(x) = x + ?`; what `?` stands for is nowhere in it. The tool runs an attempt on examples
and says what was expected, from which the constants follow; hidden tests ask for other arguments. Short enough for a
policy that writes character by character. Level 1: the first example shows the constant itself. Level 2: the constant
must be computed from the example. Level 3: two constants, the first example shows one of them. Level 4: two constants,
to be computed.

Invariant: in a form the examples leave one choice of constants, and `consistent` finds it from what was shown alone.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..grader import Case
from .draft import Unsuitable, compiled

NAME = "f"
_HIDDEN = 12
_NUMBERS = tuple(range(2, 100))
_DIGITS = tuple(range(2, 10))
_TEXTS = tuple(a + b for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True, slots=True)
class Form:
    """An expression with holes."""

    text: str
    """`?` for each constant; x is an integer, s a text."""
    choices: tuple[tuple[int | str, ...], ...]
    """What each hole may hold."""
    first: tuple[int | str, ...]
    """Arguments of the public tests, in their order."""

    @property
    def argument(self) -> str:
        return "s" if isinstance(self.first[0], str) else "x"

    @property
    def question(self) -> str:
        return f"f({self.argument}) = {self.text}"

    def code(self, constants: Sequence[int | str]) -> str:
        """The function with its holes filled."""
        pieces = self.text.split("?")
        filled = "".join(f"{piece}{constant!r}" for piece, constant in zip(pieces, constants, strict=False))
        return f"def f({self.argument}): return {filled}{pieces[-1]}"

    def __call__(self, argument: int | str, constants: Sequence[int | str]) -> int | str:
        """The value of the form with these constants."""
        value: int | str = _evaluator(self.text, self.argument)(argument, *constants)
        return value


@cache
def _evaluator(text: str, argument: str) -> Callable[..., Any]:
    holes = [f"c{number}" for number in range(text.count("?"))]
    for hole in holes:
        text = text.replace("?", hole, 1)
    return compiled(f"def f({', '.join([argument, *holes])}): return {text}", NAME)


FORMS: dict[int, tuple[Form, ...]] = {
    1: (
        Form("x + ?", (_NUMBERS,), (0, 1)),
        Form("x * ?", (_NUMBERS,), (1, 2)),
        Form("? - x", (_NUMBERS,), (0, 1)),
        Form("x * x + ?", (_NUMBERS,), (0, 2)),
        Form("x * 2 + ?", (_NUMBERS,), (0, 1)),
        Form("? - x * x", (_NUMBERS,), (0, 2)),
        Form("s + ?", (_TEXTS,), ("", "a")),
        Form("? + s", (_TEXTS,), ("", "a")),
    ),
    2: (
        Form("x + ?", (_NUMBERS,), (3, 10)),
        Form("x - ?", (_NUMBERS,), (3, 10)),
        Form("? - x", (_NUMBERS,), (2, 10)),
        Form("x * ?", (_DIGITS,), (2, 3)),
        Form("x * 2 + ?", (_NUMBERS,), (2, 5)),
        Form("x * 2 - ?", (_NUMBERS,), (2, 5)),
        Form("s + ?", (_TEXTS,), ("ab", "x")),
        Form("? + s + '!'", (_TEXTS,), ("ab", "x")),
    ),
    3: (
        Form("x * ? + ?", (_DIGITS, _NUMBERS), (0, 1, 2)),
        Form("? - x * ?", (_NUMBERS, _DIGITS), (0, 1, 2)),
        Form("x // ? + ?", (_DIGITS, _NUMBERS), (0, 72, 71, 70)),
        Form("? + s + ?", (_TEXTS, _TEXTS), ("", "-")),
    ),
    4: (
        Form("x * ? - ?", (_DIGITS, _NUMBERS), (3, 5, 6)),
        Form("(x + ?) * ?", (_NUMBERS, _DIGITS), (1, 2, 4)),
        Form("x * x * ? + ?", (_DIGITS, _NUMBERS), (2, 3, 4)),
        Form("s * ? + ?", (_DIGITS, _TEXTS), ("z-", "b")),
    ),
}


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A form with its constants, and tests."""

    form: Form
    constants: tuple[int | str, ...]
    public: list[Case]
    hidden: list[Case]

    @property
    def solution(self) -> str:
        return self.form.code(self.constants)

    def behaviour(self) -> str:
        """Equal for puzzles whose functions agree on a fixed sample, whatever their forms."""
        sample = ("", "a", "zq", "ab") if self.form.argument == "s" else (0, 1, 2, 3, -5, 71, 72, 100)
        return f"{self.form.argument} {[self.form(argument, self.constants) for argument in sample]}"


def draw(rng: random.Random, level: int) -> Puzzle:
    """A puzzle of that level; raises `Unsuitable` where the examples leave several choices of constants."""
    form = rng.choice(FORMS[level])
    constants = tuple(rng.choice(choices) for choices in form.choices)
    public = [Case((argument,), form(argument, constants)) for argument in form.first]
    if next(itertools.islice(consistent(form, public), 1, None), None) is not None:
        raise Unsuitable
    hidden: dict[int | str, Case] = {}
    while len(hidden) < _HIDDEN:
        argument: int | str = rng.randint(-50, 200)
        if form.argument == "s":
            argument = "".join(rng.choice("abcxyz ") for _ in range(rng.randint(0, 6)))
        if argument not in form.first:
            hidden[argument] = Case((argument,), form(argument, constants))
    return Puzzle(form, constants, public, list(hidden.values()))


def consistent(form: Form, shown: Sequence[Case]) -> Iterator[tuple[int | str, ...]]:
    """The choices of constants that agree with the examples, in a fixed order."""
    texts = [case.expected for case in shown if isinstance(case.expected, str)]
    choices = [
        [choice for choice in hole if isinstance(choice, int) or all(choice in text for text in texts)]
        for hole in form.choices
    ]
    for constants in itertools.product(*choices):
        if all(form(case.args[0], constants) == case.expected for case in shown):
            yield constants


_SHOWN = re.compile(r"^f\((?P<argument>[^\n]*?)\): expected (?P<expected>[^\n]*?), got ", re.MULTILINE)


def examples_in(text: str) -> list[Case]:
    """The examples that a result of the tool shows."""
    return [
        Case((ast.literal_eval(found["argument"]),), ast.literal_eval(found["expected"]))
        for found in _SHOWN.finditer(text)
    ]


def next_attempt(form: Form, results: Sequence[str]) -> tuple[str, bool]:
    """What to write after these results of the tool, by them alone, and whether it is certain."""
    shown = [case for text in results for case in examples_in(text)]
    first, second = itertools.islice(itertools.chain(consistent(form, shown), (None, None)), 2)
    if first is None:
        raise ValueError(f"no constants of {form.question!r} agree with what the tool showed")
    return form.code(first), second is None
