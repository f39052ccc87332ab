"""What an evaluation may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ConfigError
from agentrl.evaluation.budget import Budget, Prices


def test_prices_are_dollars_a_million_tokens() -> None:
    assert Prices(input=2.0, output=8.0).of(1_000_000, 500_000) == 6.0
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="--price-output"):
            Prices(output=wrong)


def test_without_a_limit_everybody_is_admitted_and_a_limit_needs_prices() -> None:
    budget = Budget(None, None)
    budget.add(10**9, 10**9)
    assert budget.admits(1000) and budget.spent == 0.0
    with pytest.raises(ConfigError, match=r"limits.cost=1 needs --price-input"):
        Budget(None, 1.0)


def test_nobody_knows_what_the_first_costs() -> None:
    budget = Budget(Prices(output=1.0), 1e-6)
    assert budget.admits(0) and not budget.admits(1)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 400))
def test_the_limit_is_passed_by_what_the_last_ones_cost_above_the_mean_at_most(
    tokens: list[int], places: int, limit: int
) -> None:
    budget = Budget(Prices(output=1e6), float(limit))
    waiting, playing = list(tokens), []
    while (waiting and budget.admits(len(playing))) or playing:
        while waiting and len(playing) < places and budget.admits(len(playing)):
            playing.append(waiting.pop(0))
        budget.add(0, playing.pop(0))
    assert budget.spent <= max(limit, tokens[0]) + places * max(tokens)
    if not waiting:
        assert budget.spent == sum(tokens)
    else:
        assert budget.spent + budget.spent / budget.episodes > limit
