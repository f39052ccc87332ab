"""Adaptive concurrency: how many requests an engine is given at one time, from what it says of its load.

A pure state machine: observations in, a limit out; no clock, no tasks, so that the same observations always give the
same limits. The idea is congestion control: grow while the engine takes everything, shrink when requests pile up in it,
where they only wait without their caches and cannot be ordered by who should go first.

Invariant: the limit never leaves [floor, ceiling], and changes at most once in `cooldown` + 1 observations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentrl.engines.base import EngineLoad
from agentrl.errors import ConfigError


@dataclass(slots=True)
class AdaptiveConcurrency:
    """A limit that follows the engine's load. `observe` at a steady pace; what counts as

    | engine says                                                     | is       |
    |-----------------------------------------------------------------|----------|
    | waiting > `tolerance` * running, or cache_used >= `cache_full`  | pressure |
    | waiting == 0, and cache_used <= `cache_room` or unknown         | room     |
    | anything between                                                | settled  |

    and what an observation does, first line that applies:

    | observation                                        | limit                                                  |
    |----------------------------------------------------|--------------------------------------------------------|
    | one of `cooldown` after a change                   | stays: the engine does not show the change yet         |
    | pressure, not yet `patience` times in a row        | stays: a burst of new requests looks the same          |
    | pressure                                           | times `decrease`, rounded down; slow start ends        |
    | room, in_flight >= limit, slow start               | doubles                                                |
    | room, in_flight >= limit                           | one sixteenth more, at least one                       |
    | settled, or room that the limit does not keep free | stays                                                  |

    The span between pressure and room is wider than a step of the growth, so that the limit comes to rest in it, a
    little above what the engine runs at one time, instead of swinging about it (engines of fewer than about ten slots
    have no such span: there the limit swings by one step). Growth is in proportion to the limit so that large engines
    are filled as fast as small ones; fairness among many senders, for which networks grow by a constant, is no concern.
    """

    floor: int = 1
    ceiling: int = 1024
    start: int | None = None
    """The first limit; None: the floor."""
    tolerance: float = 0.1
    cache_full: float = 0.95
    cache_room: float = 0.85
    decrease: float = 0.8
    patience: int = 2
    cooldown: int = 2
    limit: int = field(init=False)
    """What holds now."""
    slow_start: bool = field(init=False, default=True)
    """Nothing has ever been too much yet."""
    _strikes: int = field(init=False, default=0)
    _rest: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not 1 <= self.floor <= self.ceiling:
            raise ConfigError(f"concurrency: floor={self.floor!r} must be in [1, ceiling={self.ceiling!r}]")
        if not 0 < self.decrease < 1:
            raise ConfigError(f"concurrency: decrease={self.decrease!r} must be in (0, 1)")
        if not 0 <= self.cache_room <= self.cache_full <= 1:
            raise ConfigError(
                f"concurrency: cache_room={self.cache_room!r}, cache_full={self.cache_full!r} must rise within [0, 1]"
            )
        if self.tolerance < 0 or self.patience < 1 or self.cooldown < 0:
            raise ConfigError(
                f"concurrency: tolerance={self.tolerance!r} and cooldown={self.cooldown!r} must be at least 0, "
                f"patience={self.patience!r} at least 1"
            )
        self.limit = self._within(self.floor if self.start is None else self.start)

    def observe(self, load: EngineLoad, in_flight: int) -> int:
        """The limit after one more observation; `in_flight`: requests that the engine has not answered yet."""
        if self._rest:
            self._rest -= 1
            return self.limit
        if self._pressure(load):
            self._strikes += 1
            if self._strikes >= self.patience:
                self.slow_start = False
                self._change(int(self.limit * self.decrease))
            return self.limit
        self._strikes = 0
        if self._room(load) and in_flight >= self.limit:
            self._change(self.limit + (self.limit if self.slow_start else max(1, self.limit // 16)))
        return self.limit

    def _pressure(self, load: EngineLoad) -> bool:
        full = load.cache_used is not None and load.cache_used >= self.cache_full
        return full or load.waiting > self.tolerance * load.running

    def _room(self, load: EngineLoad) -> bool:
        return load.waiting == 0 and (load.cache_used is None or load.cache_used <= self.cache_room)

    def _change(self, limit: int) -> None:
        self._strikes = 0
        limit = self._within(limit)
        if limit != self.limit:
            self.limit = limit
            self._rest = self.cooldown

    def _within(self, limit: int) -> int:
        return max(self.floor, min(self.ceiling, limit))
