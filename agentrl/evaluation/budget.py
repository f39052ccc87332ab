"""What an evaluation may cost, and what it has cost.

Invariant: an episode is begun only while what is spent, together with what those under way will spend at the mean so
far, is below the limit; what the last ones cost more than the mean is all that can go over it.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.errors import ConfigError

FIRST = 1
"""Episodes begun at once while nobody knows what one costs."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars for a million tokens."""

    input: float = 0.0
    """Of the context that the model is given, counted anew in every turn, as endpoints bill it."""
    output: float = 0.0
    """Of what it writes."""

    def __post_init__(self) -> None:
        for key in ("input", "output"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ConfigError(f"--price-{key} {getattr(self, key)!r} must be a number of dollars, 0 or more")

    def of(self, prompt_tokens: int, tokens: int) -> float:
        """Dollars that so many tokens cost."""
        return (self.input * prompt_tokens + self.output * tokens) / 1e6


class Budget:
    """The money of one evaluation."""

    def __init__(self, prices: Prices | None, limit: float | None) -> None:
        """Raises `ConfigError` for a limit without prices: it could never be reached."""
        if limit is not None and prices is None:
            raise ConfigError(f"limits.cost={limit:g} needs --price-input and --price-output, dollars a million tokens")
        self.priced = prices is not None
        self.prices, self.limit = prices or Prices(), limit
        self.spent = 0.0
        self.episodes = 0

    def add(self, prompt_tokens: int, tokens: int) -> None:
        """Count an episode."""
        self.charge(prompt_tokens, tokens)
        self.episodes += 1

    def charge(self, prompt_tokens: int, tokens: int) -> None:
        """Count tokens of no episode that is left."""
        self.spent += self.prices.of(prompt_tokens, tokens)

    def admits(self, under_way: int) -> bool:
        """Whether one more may begin while `under_way` others play."""
        if self.limit is None:
            return True
        if not self.episodes:
            return under_way < FIRST
        return self.spent + (under_way + 1) * self.spent / self.episodes <= self.limit
