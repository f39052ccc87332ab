"""What a family draws, and how a problem with tests is made of it.

A family is a function of random numbers and a level; it writes the statement and the reference solution from the same
parameters. Invariant: expected values are what the reference solution returns here, in the trainer's process, which
runs no other code than ours for it; and a problem tells functions apart: its hidden answers are not mostly the same.
"""

from __future__ import annotations

import copy
import random
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import wire
from ..grader import Case

Arguments = tuple[Any, ...]
MIN_HIDDEN, MAX_HIDDEN = 12, 24
PUBLIC = 3
"""Two where a function has only two answers."""
_PROBES = 16
"""Inputs on which functions are compared for `Draft.behaviour`."""
_MOST_COMMON = 0.6
"""Largest share of the hidden tests that may have the same answer."""


class Unsuitable(Exception):
    """The function drawn is too poor for a problem: draw another."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A function to be written."""

    name: str
    parameters: str
    """As in its signature, with types."""
    returns: str
    """The type of its value."""
    task: str
    """What it computes, in sentences."""
    body: str
    """The reference solution below the signature."""
    inputs: Callable[[random.Random], Arguments]
    """Draws arguments. Functions of the same kind share it, so that equal ones can be recognised."""
    edges: Sequence[Arguments] = ()
    """Edge cases that every problem of the kind has among its hidden tests."""

    @property
    def signature(self) -> str:
        return f"def {self.name}({self.parameters}) -> {self.returns}:"

    @property
    def solution(self) -> str:
        return f"{self.signature}\n{textwrap.indent(textwrap.dedent(self.body).strip(), '    ')}\n"

    def behaviour(self) -> str:
        """Equal for functions that agree on a fixed sample of inputs, however they are worded or written."""
        function = compiled(self.solution, self.name)
        probes = [self.inputs(random.Random(f"probe {number}")) for number in range(_PROBES)]
        outputs = [function(*copy.deepcopy(probe)) for probe in probes]
        return f"{self.parameters} {wire.canonical(wire.encode([probes, outputs]))}"


Family = Callable[[random.Random, int], Draft]


def compiled(source: str, name: str) -> Callable[..., Any]:
    """The function `name` of a trusted program."""
    space: dict[str, Any] = {"__name__": "reference"}
    exec(compile(source, "<reference>", "exec"), space)
    function: Callable[..., Any] = space[name]
    return function


def draw_cases(draft: Draft, rng: random.Random) -> tuple[list[Case], list[Case]]:
    """Public and hidden tests, no arguments twice. Raises `Unsuitable`."""
    function = compiled(draft.solution, draft.name)
    wanted = rng.randint(MIN_HIDDEN, MAX_HIDDEN - len(draft.edges))
    drawn: dict[str, Arguments] = {repr(edge): edge for edge in draft.edges}
    for _ in range(4 * (wanted + PUBLIC)):
        arguments = draft.inputs(rng)
        drawn.setdefault(repr(arguments), arguments)
        if len(drawn) == len(draft.edges) + wanted + PUBLIC:
            break
    else:
        raise Unsuitable
    cases = [Case(arguments, function(*copy.deepcopy(arguments))) for arguments in drawn.values()]
    answers = Counter(wire.canonical(wire.encode(case.expected)) for case in cases)
    if answers.most_common(1)[0][1] > _MOST_COMMON * len(cases):
        raise Unsuitable
    public: dict[str, Case] = {}
    for case in cases[len(draft.edges) :]:  # examples with different answers say more
        if len(public) < PUBLIC:
            public.setdefault(wire.canonical(wire.encode(case.expected)), case)
    shown = list(public.values())
    return shown, [case for case in cases if case not in shown]


def steps(phrases: Sequence[str]) -> str:
    """Steps as a sentence or a numbered list."""
    if len(phrases) == 1:
        return f"{phrases[0]}."
    return "Do this in order:\n" + "\n".join(f"{number}. {phrase}." for number, phrase in enumerate(phrases, 1))


def integers(rng: random.Random, longest: int = 12, low: int = -30, high: int = 60) -> list[int]:
    """A list of integers in which some occur twice."""
    values = [rng.randint(low, high) for _ in range(rng.randint(0, longest))]
    if values and rng.random() < 0.5:
        values += rng.choices(values, k=rng.randint(1, 3))
    rng.shuffle(values)
    return values


WORDS = (
    *("apple", "river", "Stone", "cloud", "Green", "moon", "table", "fox", "Echo", "noon", "level", "zebra", "ant"),
    *("Olive", "kite", "rust", "queen", "ox", "Piano", "glass", "wolf", "seed", "Iron", "mint", "abba", "storm"),
)


def sentence(rng: random.Random, most: int = 7) -> str:
    """Words and a few digits and marks between blanks."""
    pieces = []
    for _ in range(rng.randint(0, most)):
        roll = rng.random()
        pieces.append(str(rng.randint(0, 99)) if roll < 0.15 else rng.choice(WORDS) + ("!" if roll > 0.9 else ""))
    return " ".join(pieces)
