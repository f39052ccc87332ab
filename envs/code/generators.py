"""Problems of the environment's own: a family, its statement, its tests.

Invariant: what makes two problems the same is what their functions do, not how they are worded: the key is the values
on a fixed sample of inputs, so that no function of `train` is asked for in `test` under other words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from agentrl.errors import ConfigError
from agentrl.generators import Problem
from agentrl.registry import nearest

from . import wire
from .families import FAMILIES, Draft, Unsuitable, by_example
from .families.draft import draw_cases
from .grader import Case

BY_EXAMPLE = "by_example"
MAX_LEVEL = 4
_DRAWS = 1000
"""Functions drawn for one problem; a few in a hundred are unsuitable."""


def check_families(families: Sequence[str]) -> None:
    """Raise `ConfigError` for a family that there is not, or for none at all."""
    names = [*FAMILIES, BY_EXAMPLE]
    if not families:
        raise ConfigError(f"families=() must name at least one; valid: {', '.join(names)}")
    for name in families:
        if name not in names:
            raise ConfigError(f"families: {name!r} is unknown; {nearest(name, names)}")


def draw_problem(rng: random.Random, level: int, families: Sequence[str], brief: bool) -> Problem:
    """A problem of one of the families; `brief` asks a puzzle by its form alone."""
    family = rng.choice(list(families))
    for _ in range(_DRAWS):
        try:
            if family == BY_EXAMPLE:
                return _puzzle(rng, level, brief)
            return _problem(rng, level, family)
        except Unsuitable:
            continue
    raise ConfigError(f"family {family!r}: no suitable function of level {level} was found")


def key(problem: Problem) -> str:
    """Equal for problems whose functions do the same."""
    return str(problem.data["behaviour"])


def example(name: str, case: Case) -> str:
    """A test as it stands in a statement."""
    return f"{called(name, case)} == {wire.show(wire.encode(case.expected))}"


def called(name: str, case: Case) -> str:
    """A test's call as Python text."""
    arguments = [wire.show(wire.encode(argument)) for argument in case.args]
    return f"{name}({', '.join(arguments)})"


def _problem(rng: random.Random, level: int, family: str) -> Problem:
    draft: Draft = FAMILIES[family](rng, level)
    public, hidden = draw_cases(draft, rng)
    examples = "\n".join(example(draft.name, case) for case in public)
    question = f"Write this Python function.\n\n{draft.signature}\n\n{draft.task}\n\nExamples:\n{examples}"
    data = {
        "family": family,
        "entry_point": draft.name,
        "solution": draft.solution,
        "public": public,
        "hidden": hidden,
        "behaviour": draft.behaviour(),
    }
    return Problem(question, data)


def _puzzle(rng: random.Random, level: int, brief: bool) -> Problem:
    puzzle = by_example.draw(rng, level)
    question = puzzle.form.question
    if not brief:
        question = (
            f"Write the Python function f in the form\n\n{question}\n\nwhere each ? is a constant that is not told. "
            "Run the tests to see what is expected."
        )
    data = {
        "family": BY_EXAMPLE,
        "entry_point": by_example.NAME,
        "solution": puzzle.solution,
        "public": puzzle.public,
        "hidden": puzzle.hidden,
        "behaviour": puzzle.behaviour(),
        "form": puzzle.form,
    }
    return Problem(question, data)
