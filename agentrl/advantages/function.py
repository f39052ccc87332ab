"""A plain function as an estimator: the shortest way to credit of one's own.

    @agentrl.advantage("my_credit")
    def my_credit(group: list[TurnTable], *, gamma: float = 1.0) -> list[float]: ...

The function gets one group and returns one number a trajectory, or one array of T_i numbers a trajectory. What follows
the group in its signature are options, named in the configuration like those of a bundled component. Invariant: what
the function returned is checked for shape and finiteness before it becomes credit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from agentrl.advantages.base import Array, Credit, Stage, Transform, TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import advantages

CreditFunction = Callable[..., Sequence[float] | Sequence[Array]]
"""`f(group, **options)`: a number a trajectory, or an array of shape (T_i,) a trajectory."""

F = TypeVar("F", bound=CreditFunction)


def advantage(name: str) -> Callable[[F], F]:
    """Register a function `list[TurnTable] -> list[float] | list[Array]` as the advantage called `name`.

    Numbers are added to the trajectory layer, arrays to the turn layer. Raises `ConfigError` if the name is taken.
    """

    def decorate(function: F) -> F:
        advantages.register(name, function)
        return function

    return decorate


class FunctionTransform(Transform):
    """An estimator around a function."""

    stage = Stage.ESTIMATE

    def __init__(self, function: CreditFunction, options: Mapping[str, Any] | None = None, name: str = "") -> None:
        """`name` is how error messages call it; the function's own name by default."""
        self.function = function
        self.options = dict(options or {})
        self.name = name or getattr(function, "__name__", "function")

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return [self._add(credit) for credit in groups]

    def _add(self, credit: Credit) -> Credit:
        values = list(self.function(list(credit.tables), **self.options))
        if len(values) != len(credit.tables):
            raise ConfigError(
                f"advantage {self.name!r} returned {len(values)} values for a group of {len(credit.tables)}"
            )
        arrays = [self._finite(value) for value in values]
        if all(array.ndim == 0 for array in arrays):
            return replace(credit, trajectory=credit.trajectory + np.array(arrays, dtype=np.float64))
        for array, table in zip(arrays, credit.tables, strict=True):
            self._check_turns(array, table)
        return replace(credit, turns=tuple(old + new for old, new in zip(credit.turns, arrays, strict=True)))

    def _finite(self, value: object) -> Array:
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            raise ConfigError(f"advantage {self.name!r} returned {value!r}, which is no number and no array") from None
        if not np.isfinite(array).all():
            raise ConfigError(f"advantage {self.name!r} returned {value!r}, which is not finite")
        return array

    def _check_turns(self, array: Array, table: TurnTable) -> None:
        if array.shape != (table.num_turns,):
            raise ConfigError(
                f"advantage {self.name!r} returned shape {array.shape} for a trajectory of {table.num_turns} turns; "
                f"return one number a trajectory or an array of shape ({table.num_turns},)"
            )
