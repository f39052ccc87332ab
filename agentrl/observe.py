"""How a run tells whoever watches it what happens: the live display, plain log lines, a notebook, nobody.

Invariant: observers only look. The trainer calls them on its own thread between pieces of work; an observer must be
quick and must not raise.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentrl.trajectory import Trajectory


class Observer:
    """Does nothing; subclasses override what they want to see."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A phase begins: `load`, `evaluate base`, `warm start`, `train` ...; `total` counts its units of progress."""

    def advance(self, count: int = 1, **values: float) -> None:
        """`count` units of the present phase are done; `values` are what there is to show (loss, accuracy ...)."""

    def activity(self, name: str, done: int, total: int) -> None:
        """`done` of `total` pieces of the present unit (`rollout`: episodes, `update`: micro-batches)."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A training step is finished, with all of its metrics."""

    def episode(self, phase: str, trajectory: Trajectory) -> None:
        """An episode finished."""

    def note(self, text: str) -> None:
        """One line that a person should see, now and in the log."""

    def close(self) -> None:
        """The run ended, by whatever way."""
