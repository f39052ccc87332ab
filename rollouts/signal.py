"""When a group can carry no learning signal: the rule behind early stops and dynamic sampling (DAPO, B7).

A group whose judged members all have the same outcome (the verdict where there is one, else the reward) is of no use.
That is certain once all have finished, or once too few can still be judged. With `stop_after` it is guessed earlier:
after that many equal outcomes the members still playing are stopped. A task with success rate p is then given up by
mistake with probability p^k + (1-p)^k (k = `stop_after`), so hard and easy tasks are thinned out further than by the
certain rule.
"""

from __future__ import annotations

from collections.abc import Sequence

LEAST = 2
"""Judged members that a comparison needs."""


def no_signal(outcomes: Sequence[float], outstanding: int, stop_after: int | None = None) -> bool:
    """Whether a group with these outcomes, beside which `outstanding` may still be judged, is to be given up."""
    if len(outcomes) + outstanding < LEAST:
        return True
    if outcomes and min(outcomes) != max(outcomes):
        return False
    return outstanding == 0 or (stop_after is not None and len(outcomes) >= stop_after)
