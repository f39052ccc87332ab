"""Forecast: how many turns an episode has still to go, for longest-remaining-first.

The longest chain bounds the makespan, so whoever has most to do should not wait: Graham's list scheduling with the
longest remaining chain first. Lengths are predicted from episodes that ended: of the same task, else of the same
environment, else the turn limit.

Invariant: a forecast is at least 1 for an episode that plays, and never more than the turn limit leaves.
"""

from __future__ import annotations

from collections import OrderedDict

MEMORY = 10_000
"""Tasks that are remembered; the least recently seen is forgotten first."""
WEIGHT = 0.2
"""Of the newest episode in the running means."""


class Forecast:
    """Running means of turns, by task and by environment."""

    def __init__(self, max_turns: int) -> None:
        self._max_turns = max_turns
        self._means: OrderedDict[tuple[str, str], float] = OrderedDict()

    def observe(self, env: str, task_id: str, turns: int) -> None:
        """An episode of the task ended after `turns` turns."""
        for key in ((env, ""), (env, task_id)):
            mean = self._means.pop(key, float(turns))
            self._means[key] = mean + WEIGHT * (turns - mean)
        while len(self._means) > MEMORY:
            self._means.popitem(last=False)

    def remaining(self, env: str, task_id: str, turns: int) -> float:
        """Turns that an episode with `turns` finished ones is expected to play yet."""
        left = float(self._max_turns - turns)
        expected = self._means.get((env, task_id), self._means.get((env, "")))
        return max(1.0, min(left, left if expected is None else expected - turns))
