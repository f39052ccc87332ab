"""Which tasks a training step samples: the contract of task samplers, and the seeded shuffle that is the default.

Invariant: what a sampler draws for a step is a function of (seed, step, its own state), and its state is in the
checkpoint, so that a resumed run samples the tasks that an uninterrupted one would have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from agentrl.registry import samplers
from agentrl.seeding import derive_seed, draw
from agentrl.task import TaskSet
from agentrl.trajectory import Group

Probe = Callable[[Sequence[int], int], Awaitable[list[float]]]
"""`await probe(indices, episodes)`: share of correct ones among `episodes` of each task under the present policy."""


class Sampler(ABC):
    """Draws tasks. Options are constructor keywords; subclasses are registered by name in `registry.samplers`."""

    async def begin(self, tasks: TaskSet, seed: int, probe: Probe) -> None:  # noqa: B027 - most need no start
        """Called once before the first step of a run, not of a resumed one; `load_state_dict` stands in for it."""

    @abstractmethod
    def draw(self, tasks: TaskSet, step: int, wanted: int, seed: int) -> Iterator[int]:
        """Indices of the tasks of step `step` (from 1): the first `wanted`, then others without end, for refills."""

    def observe(self, groups: Sequence[Group]) -> None:  # noqa: B027 - most look at nothing
        """The groups that a step trained on."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as JSON-able values; goes into checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most remember nothing
        """Restore what `state_dict` gave."""


@samplers.register("shuffled")
class Shuffled(Sampler):
    """Every task once in a seeded order, then in another."""

    def draw(self, tasks: TaskSet, step: int, wanted: int, seed: int) -> Iterator[int]:
        """See `Sampler.draw`."""
        yield from draw(wanted, (step - 1) * wanted, len(tasks), seed)
        refill = derive_seed(seed, "refill", step)
        for place in count():
            yield from draw(1, place, len(tasks), refill)
