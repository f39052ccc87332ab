"""What an update reports: sums over micro-batches that become means, and where the seconds went.

Invariant: a mean over micro-batches is the sum of their sums over the sum of their counts, never a mean of means.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from agentrl.objectives.base import Sums

MAX_LOG_RATIO = 20.0
"""Bound of a log-ratio before exp, as everywhere."""


class Tally:
    """Collects the numbers of one update."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)
        self._largest: dict[str, float] = {}

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add a sum over `count` things."""
        self._sums[name] += total
        self._counts[name] += count

    def add_sums(self, sums: Sums) -> None:
        """Add a component's diagnostics."""
        for name, (total, count) in sums.items():
            self.add(name, float(total), float(count))

    def add_mismatch(self, learner: Tensor, recorded: Tensor) -> None:
        """How far the learner's log-probabilities are from the engine's, before any step; both of shape (n,).

        `mismatch/kl` is the k3 estimate of KL(engine || learner), nats a token.
        """
        log_ratio = (learner.detach() - recorded).double()
        bounded = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        count = float(len(log_ratio))
        self.add("mismatch/mean_abs", float(log_ratio.abs().sum()), count)
        self.add("mismatch/kl", float((torch.expm1(bounded) - bounded).sum()), count)
        largest = float(log_ratio.abs().max()) if len(log_ratio) else 0.0
        self._largest["mismatch/max_abs"] = max(largest, self._largest.get("mismatch/max_abs", 0.0))

    @property
    def mismatch(self) -> float | None:
        """`mismatch/mean_abs` so far, nats a token; None where nothing was compared."""
        count = self._counts["mismatch/mean_abs"]
        return self._sums["mismatch/mean_abs"] / count if count else None

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the wall-clock time of the block to `seconds/<part>`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[f"seconds/{part}"] += time.perf_counter() - began

    def metrics(self) -> dict[str, float]:
        """Means, maxima and seconds by name."""
        means = {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name] > 0}
        return {**means, **self._largest, **self._seconds}
