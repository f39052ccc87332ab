"""A plain function as an objective: the shortest way to a loss of one's own.

    @agentrl.objective("my_loss")
    def my_loss(batch: TokenBatch, *, eps: float = 0.2) -> Tensor: ...

The function gets the flat policy tokens of a micro-batch and returns one loss a token; what follows the batch in its
signature are options. Invariant: what it returned is checked for its shape, and masked tokens count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.objectives.base import Objective, TokenBatch, TokenLoss
from agentrl.registry import objectives

LossFunction = Callable[..., Tensor]
"""`f(batch, **options)`: the loss of each token, shape (n,)."""

F = TypeVar("F", bound=LossFunction)


def objective(
    name: str,
    *,
    needs: Iterable[str] = (),
    current: Iterable[str] = (),
    unit: Literal["token", "trajectory", "group"] = "token",
) -> Callable[[F], F]:
    """Register a function `TokenBatch -> Tensor` as the objective called `name`.

    `needs` name columns of the scoring pass (`reference`, `entropy` ...), `current` quantities of the training pass;
    `unit` is what must lie in one micro-batch as a whole. Raises `ConfigError` if the name is taken.
    """

    def decorate(function: F) -> F:
        def build(options: Mapping[str, Any]) -> FunctionObjective:
            made = FunctionObjective(function, options, name)
            made.needs, made.current, made.unit = frozenset(needs), frozenset(current), unit
            return made

        function.build_objective = build  # type: ignore[attr-defined]
        objectives.register(name, function)
        return function

    return decorate


class FunctionObjective(Objective):
    """An objective around a function. It may have a gradient where the advantage is 0."""

    zero_without_advantage = False

    def __init__(self, function: LossFunction, options: Mapping[str, Any] | None = None, name: str = "") -> None:
        """`name` is how error messages call it; the function's own name by default."""
        self.function = function
        self.options = dict(options or {})
        self.name = name or getattr(function, "__name__", "function")

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        loss = self.function(batch, **self.options)
        if not isinstance(loss, Tensor) or loss.shape != batch.logprobs.shape:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(
                f"objective {self.name!r} returned {shape} for {len(batch.logprobs)} tokens; return a loss a token"
            )
        return TokenLoss(loss)
