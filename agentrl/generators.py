"""Tasks of an environment's own generators: endless, seeded, with splits that share no problem.

Invariant: task i of a split is a function of (name, seed, split, i, levels) alone. A hash of the problem's key decides
to which split it belongs, so that no problem of one split occurs in another, whatever the seeds and sizes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from agentrl.errors import ConfigError
from agentrl.messages import Message
from agentrl.seeding import derive_seed
from agentrl.task import GeneratedTasks, Task

_ATTEMPTS = 1000
"""Draws for one task; every other problem belongs to its split, so more are needed only where there are none."""
SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class Problem:
    """What a generator draws."""

    question: str
    data: dict[str, Any]
    """What the environment needs to judge an answer: `Task.data`."""


def _question(problem: Problem) -> str:
    return problem.question


def split_of(key: str) -> str:
    """The split that a problem of this key belongs to: half of all keys to each."""
    return SPLITS[blake2b(key.encode(), digest_size=1).digest()[0] & 1]


def generated_tasks(
    name: str,
    split: str,
    size: int,
    *,
    levels: Sequence[int],
    seed: int,
    draw: Callable[[random.Random, int], Problem],
    opening: Callable[[Problem], tuple[Message, ...]],
    key: Callable[[Problem], str] = _question,
) -> GeneratedTasks:
    """`size` tasks of a split, which take `levels` in turn.

    `draw(rng, level)` makes a problem, `opening` its first messages, `key` is what makes two problems the same. `name`
    keeps the random numbers of two environments apart. A task of which no draw falls into its split raises
    `ConfigError` when it is asked for: the options leave too few problems.
    """

    def make(index: int) -> Task:
        level = levels[index % len(levels)]
        for attempt in range(_ATTEMPTS):
            problem = draw(random.Random(derive_seed(name, seed, split, index, attempt)), level)
            if split_of(key(problem)) == split:
                return Task(f"{split}:{index}", split, opening(problem), problem.data, level)
        raise ConfigError(f"{name}: no problem of level {level} belongs to the split {split!r}; the options allow few")

    return GeneratedTasks(split, size, make)


def check_sizes(**sizes: int) -> None:
    """Raise `ConfigError` for a negative number of tasks."""
    for key, size in sizes.items():
        if size < 0:
            raise ConfigError(f"{key}={size} must not be negative")
