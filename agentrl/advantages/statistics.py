"""Group statistics: the one place where a reward is compared with the rewards of its peers.

A statistic names its unit (the method that is called), its peer rule, whether it leaves the member itself out, its ddof
and eps, and what a value without any peer gets. Invariants: members that are all equal get exactly 0, whatever the
floats of the mean are (std <= 1e-6 max(1, |mean|) counts as equal); nothing is ever divided by zero; the numbers do not
depend on the order of the peers beyond rounding.

Source: methods specification, section 0 "Group statistics" and T1.4 (peer rules).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agentrl.advantages.base import Array
from agentrl.components import one_of
from agentrl.errors import ConfigError

EQUAL_TOLERANCE = 1e-6
"""Relative spread below which a group carries no signal: far above float noise (1e-7 for float32 rewards), far below
any reward difference that means something."""

Singleton = Literal["zero", "raw"]
"""What a value without any peer gets: 0, or itself (as verl does, whose group of one has mean 0 and std 1)."""


class PeerRule(StrEnum):
    """What member j contributes to the statistic at turn t of another member (T1.4); T_j is j's number of turns."""

    ALIVE = "alive"
    """Its value at turn t if T_j >= t, else nothing."""
    PAD_ZERO = "pad_zero"
    """Its value at turn t if T_j >= t, else 0."""
    PAD_FINAL = "pad_final"
    """Its value at turn t if T_j >= t, else its last value; 0 if it has no turn at all."""
    EPISODE = "episode"
    """Its first value whatever t is (for returns: that of the episode); 0 if it has no turn at all."""
    NONE = "none"
    """Nothing: no value has a peer."""


def is_equal(mean: Array, std: Array) -> NDArray[np.bool_]:
    """Whether values with this mean and std count as all equal."""
    return np.asarray(std <= EQUAL_TOLERANCE * np.maximum(1.0, np.abs(mean)))


def mean_and_std(values: Array, ddof: Literal[0, 1] = 1) -> tuple[float, float]:
    """Of all values, at least one, shape (G,); the std is exactly 0 where they count as all equal, or are one."""
    mean = values.mean()
    std = np.sqrt(((values - mean) ** 2).sum() / max(len(values) - ddof, 1))
    return float(mean), 0.0 if is_equal(mean, std) else float(std)


@dataclass(frozen=True)
class GroupStatistic:
    """Distance of a value from its peers, optionally in units of their spread."""

    leave_one_out: bool
    """The baseline is the mean of the peers without the member itself, hence independent of it and unbiased."""
    scale: bool
    """Divide by std + eps; the std is of all members, itself included, so that it is one number for a group."""
    ddof: Literal[0, 1] = 1
    """The std is sqrt(sum of squares / (n - ddof)); it also decides, without `scale`, whether members are equal."""
    eps: float = 1e-6
    singleton: Singleton = "zero"

    def __post_init__(self) -> None:
        one_of("ddof", self.ddof, (0, 1))
        one_of("singleton", self.singleton, ("zero", "raw"))
        if not self.eps > 0:
            raise ConfigError(f"eps is {self.eps!r}; it must be above 0")

    def over_trajectories(self, values: Array) -> Array:
        """Unit: trajectory. `values` has shape (G,), one a member; the result too."""
        size = len(values)
        off_diagonal = ~np.eye(size, dtype=np.bool_)
        return self._residuals(values, np.broadcast_to(values, (size, size)), off_diagonal)

    def over_turns(self, values: Sequence[Array], peers: PeerRule) -> list[Array]:
        """Unit: turn. `values` are G arrays of shape (T_i,); turn t is compared with the peers' turn t by `peers`."""
        contributions, present = _contributions(values, peers)
        residuals = []
        for index, own in enumerate(values):
            turns = len(own)
            others = present[:, :turns].T.copy()
            others[:, index] = False
            residuals.append(self._residuals(own, contributions[:, :turns].T, others))
        return residuals

    def over_pool(self, values: Sequence[Array]) -> list[Array]:
        """Unit: value. `values` are G arrays of any lengths; each value's peers are all others, its own array's too."""
        return _split(self.over_trajectories(_joined(values)), values)

    def over_states(self, values: Sequence[Array], keys: Sequence[Sequence[Hashable | None]]) -> list[Array]:
        """Unit: value. `values` and `keys` are G sequences of T_i; peers are the values with an equal key.

        A value's peers may come from its own sequence. Without a key (None) a value has no peer.
        """
        pooled = _joined(values)
        places: dict[Hashable, list[int]] = {}
        for place, key in enumerate(key for member in keys for key in member):
            places.setdefault((place,) if key is None else (None, key), []).append(place)
        result = np.zeros(len(pooled))
        for members in places.values():
            result[members] = self.over_trajectories(pooled[members])
        return _split(result, values)

    def _residuals(self, own: Array, peers: Array, present: NDArray[np.bool_]) -> Array:
        """One row a value: `own` (k,), its peers' values (k, m), which of them there are (k, m); returns (k,)."""
        values = np.concatenate([own[:, None], np.where(present, peers, 0.0)], axis=1, dtype=np.float64)
        counted = np.concatenate([np.ones((len(own), 1), dtype=np.bool_), present], axis=1)
        count = counted.sum(axis=1)
        alone = count == 1
        mean = values.sum(axis=1) / count
        squares = np.where(counted, values - mean[:, None], 0.0) ** 2
        std = np.sqrt(squares.sum(axis=1) / np.maximum(count - self.ddof, 1))
        baseline = values[:, 1:].sum(axis=1) / np.maximum(count - 1, 1) if self.leave_one_out else mean
        residual = values[:, 0] - baseline
        if self.scale:
            residual = residual / (std + self.eps)
        residual = np.where(is_equal(mean, std), 0.0, residual)
        return np.where(alone, values[:, 0] if self.singleton == "raw" else 0.0, residual)


def _joined(values: Sequence[Array]) -> Array:
    return np.concatenate([np.zeros(0), *values])


def _split(pooled: Array, like: Sequence[Array]) -> list[Array]:
    ends = np.cumsum([len(member) for member in like], dtype=np.int64)
    return [pooled[end - len(member) : end] for end, member in zip(ends, like, strict=True)]


def _contributions(values: Sequence[Array], rule: PeerRule) -> tuple[Array, NDArray[np.bool_]]:
    """What each member contributes at each turn, shape (G, max T), and whether it contributes."""
    width = max((len(member) for member in values), default=0)
    table = np.zeros((len(values), width))
    present = np.full(table.shape, rule is not PeerRule.NONE)
    for row, member in enumerate(values):
        table[row, : len(member)] = member
        if rule is PeerRule.ALIVE:
            present[row, len(member) :] = False
        elif rule is PeerRule.PAD_FINAL and len(member):
            table[row, len(member) :] = member[-1]
        elif rule is PeerRule.EPISODE and len(member):
            table[row] = member[0]
    return table, present
