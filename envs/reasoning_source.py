"""reasoning-gym itself: its generators, their configurations and their scorers. Runs in worker processes only.

Some generators draw from Python's or numpy's global random numbers or iterate over sets; in a worker, whose hash seed
is fixed, seeding those makes an item a function of its seed. Invariant: an item is what a fresh data set of one item
with its seed gives; and a scorer never sees text that it would run as a program: some of the package's call `eval` on
answers or hand them to sympy's parser, which does (`harmless`).
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from agentrl.errors import ConfigError
from agentrl.registry import nearest

REFUSED = {
    "boxnet": "a plan is judged, of which there is no reference",
    "composite": "it mixes other generators: make one environment for each",
    "graph_color": "any valid colouring is right, and there is no reference",
    "propositional_logic": "any valid conclusion is right, and there is no reference",
    "rubiks_cube": "any solution is right, and there is no reference",
    "rush_hour": "any solution is right, and there is no reference",
}
"""Generators without a reference answer, and why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One item of a generator."""

    question: str
    answer: str
    entry: bytes
    """The whole item, pickled: only the scorer reads it."""


def names() -> list[str]:
    """Every generator that has a reference answer."""
    return sorted(set(_registered()[0]) - set(REFUSED))


def configurations(name: str, given: Mapping[str, Any], levels: Sequence[int] | None) -> dict[int, dict[str, Any]]:
    """The generator's valid configuration at each level, without seed and size. Raises `ConfigError`."""
    if name in REFUSED:
        raise ConfigError(f"name={name!r} cannot be an environment: {REFUSED[name]}")
    if name not in (valid := names()):
        raise ConfigError(f"name={name!r} is no generator of reasoning-gym; {nearest(name, valid)}")
    fields = [field.name for field in dataclasses.fields(_registered()[0][name][1]) if field.name not in _OWN]
    for key in given:
        if key not in fields:
            raise ConfigError(f"config of {name!r}: option {key!r} is unknown; {nearest(key, fields)}")
    if levels is None:
        return {1: _checked(name, given, fields, f"config of {name!r}")}
    if not levels:
        raise ConfigError("levels=(): one or more, from 1")
    return {
        level: _checked(name, {**_at_level(name, level), **given}, fields, f"level {level} of {name!r}")
        for level in levels
    }


def draw(name: str, config: Mapping[str, Any], seed: int) -> Item:
    """The item of a seed. Raises `ConfigError` for a generator without reference answers."""
    entry = _generators(name, _Configuration(config)).item(seed)
    if not isinstance(entry["answer"], str):
        raise ConfigError(f"name={name!r} has no reference answer")
    return Item(entry["question"], entry["answer"], pickle.dumps(entry))


def score(name: str, config: Mapping[str, Any], answer: str, entry: bytes) -> float:
    """The generator's score of an answer, 0 to 1. Raises what its scorer raises on an answer that it cannot read."""
    item = pickle.loads(entry)
    if not harmless(name, answer, item["answer"]):
        return 0.0
    given = float(_generators(name, _Configuration(config)).base.score_answer(answer, item))
    if given >= 1.0 and name in _STRICTER and not _STRICTER[name](answer, item):
        return 0.0
    return min(1.0, max(0.0, given))


# -- configurations and items ------------------------------------------------------------------------------------------

_OWN = ("seed", "size")
_PROBES = (11, 12345)


def _registered() -> tuple[dict[str, Any], dict[str, Any]]:
    """(generators with their configurations, curricula) of the package by name."""
    import reasoning_gym  # noqa: F401 - its folders enter their generators
    from reasoning_gym.factory import CURRICULA, DATASETS

    return DATASETS, CURRICULA


def _at_level(name: str, level: int) -> dict[str, Any]:
    curricula = _registered()[1]
    if name not in curricula:
        raise ConfigError(f"levels: {name!r} has no curriculum; use config")
    curriculum = curricula[name]()
    most = max(len(attribute.levels) for attribute in curriculum.attributes.values())
    if not 1 <= level <= most:
        raise ConfigError(f"levels: {name!r} has the levels 1 to {most}, not {level}")
    for key, attribute in curriculum.attributes.items():
        curriculum.set_attr_level(key, min(level, len(attribute.levels)) - 1)
    return _options(curriculum.generate_configuration({"seed": 0, "size": 1}))


def _checked(name: str, options: Mapping[str, Any], fields: Sequence[str], what: str) -> dict[str, Any]:
    try:
        made = _generators(name, _Configuration(options)).base.config
    except (AssertionError, ValueError, TypeError) as error:
        said = str(error).splitlines()
        raise ConfigError(f"{what}: {said[0] if said else 'it is invalid'}") from None
    return {key: value for key, value in _options(made).items() if key in fields}


def _options(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in _OWN}


class _Configuration:
    """Options of a generator as a key of a cache."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        self._key = repr(sorted(self.options.items()))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Configuration) and other._key == self._key


class _Generator:
    """A generator with its options. Making a data set may read files: where that depends on no seed it is done once."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._kind, self._config = _registered()[0][name]
        self._options = options
        self.base = self._fresh(0)
        self._reseeds: bool | None = None

    def item(self, seed: int) -> dict[str, Any]:
        if self._reseeds is None:
            self._reseeds = all(self._reseeded(probe) == self._first(probe) for probe in _PROBES)
        entry: dict[str, Any] = self._reseeded_item(seed) if self._reseeds else self._item(self._fresh(seed), seed)
        return entry

    def _fresh(self, seed: int) -> Any:
        _seed_globals(seed)
        return self._kind(self._config(**self._options, seed=seed, size=1))

    def _item(self, data: Any, seed: int) -> Any:
        _seed_globals(seed)
        return data[0]

    def _reseeded_item(self, seed: int) -> Any:
        data = copy.copy(self.base)
        data.seed = seed
        data.config = dataclasses.replace(self.base.config, seed=seed)
        return self._item(data, seed)

    def _first(self, seed: int) -> tuple[str, Any]:
        entry = self._item(self._fresh(seed), seed)
        return entry["question"], entry["answer"]

    def _reseeded(self, seed: int) -> tuple[str, Any] | None:
        entry = self._reseeded_item(seed)
        return entry["question"], entry["answer"]


@lru_cache(maxsize=16)
def _generators(name: str, configuration: _Configuration) -> _Generator:
    return _Generator(name, configuration.options)


def _seed_globals(seed: int) -> None:
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)


# -- answers -----------------------------------------------------------------------------------------------------------

_LITERALS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Generators whose scorer calls `eval` on the answer, expecting a list."""
_LITERAL_NODES = (ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.UnaryOp, ast.USub, ast.Load)
_EXPRESSIONS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Generators whose scorer gives the answer to sympy's parser, which evaluates it."""
_EXPRESSION = re.compile(r"[\w\s+\-*/^().,=]*", re.ASCII)
_MATHEMATICS = frozenset(
    [
        *("exp", "log", "ln", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan"),
        *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "Abs", "pi"),
    ]
)


def harmless(name: str, answer: str, gold: str) -> bool:
    """Whether the generator's scorer may see the answer: False for a program where it would be run."""
    if answer == gold:
        return True
    if name in _LITERALS:
        try:
            tree = ast.parse(answer.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return True  # what is no expression cannot be evaluated either
        return all(isinstance(node, _LITERAL_NODES) for node in ast.walk(tree))
    if name in _EXPRESSIONS:
        used = set(re.findall(r"[A-Za-z_]\w*", answer))
        known = all(len(word) == 1 or word in _MATHEMATICS for word in used)
        return known and _EXPRESSION.fullmatch(answer) is not None and not re.search(r"\.\s*[A-Za-z_]", answer)
    return True


def _same_truth(answer: str, item: Mapping[str, Any]) -> bool:
    """The package's scorer takes any text for true."""
    return answer.strip().casefold() == str(item["answer"]).casefold()


def _makes_24(answer: str, item: Mapping[str, Any]) -> bool:
    """The package's scorer takes any four numbers, so that one answer would solve every puzzle, and 24.5 for 24."""
    from sympy.parsing.sympy_parser import parse_expr

    used = sorted(map(int, re.findall(r"\d+", answer)))
    return used == sorted(item["metadata"]["numbers"]) and parse_expr(answer) == 24


_STRICTER = {"game_of_life_halting": _same_truth, "puzzle24": _makes_24}
"""What must hold beside the package's own score, where that gives wrong answers the full one."""
