"""Adaptive concurrency: every line of its table, and that it finds the engine's slots and stays there."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.engines.base import EngineLoad
from agentrl.errors import ConfigError
from agentrl.rollouts.concurrency import AdaptiveConcurrency


def at(limit: int, **options: Any) -> AdaptiveConcurrency:
    """A state after slow start that acts on every observation."""
    state = AdaptiveConcurrency(start=limit, **{"patience": 1, "cooldown": 0, "floor": 2, "ceiling": 200, **options})
    state.slow_start = False
    return state


@pytest.mark.parametrize(
    ("load", "in_flight", "expected"),
    [
        pytest.param(EngineLoad(100, 0), 100, 106, id="room and the limit binds"),
        pytest.param(EngineLoad(100, 0), 130, 106, id="room, more in flight than the limit of now"),
        pytest.param(EngineLoad(99, 0), 99, 100, id="the limit does not bind"),
        pytest.param(EngineLoad(95, 5), 100, 100, id="a few wait: settled"),
        pytest.param(EngineLoad(90, 9), 100, 100, id="just tolerated"),
        pytest.param(EngineLoad(90, 10), 100, 80, id="too many wait"),
        pytest.param(EngineLoad(0, 1), 1, 80, id="one waits and nothing runs"),
        pytest.param(EngineLoad(100, 0, 0.85), 100, 106, id="the cache has room"),
        pytest.param(EngineLoad(100, 0, 0.86), 100, 100, id="the cache fills"),
        pytest.param(EngineLoad(100, 0, 0.95), 100, 80, id="the cache is nearly full"),
        pytest.param(EngineLoad(50, 0, 0.99), 50, 80, id="a full cache counts although the limit does not bind"),
        pytest.param(EngineLoad(0, 0, 0.0), 0, 100, id="idle"),
    ],
)
def test_the_table_of_transitions(load: EngineLoad, in_flight: int, expected: int) -> None:
    state = at(100)
    assert state.observe(load, in_flight) == expected == state.limit


def test_slow_start_doubles_until_the_first_pressure() -> None:
    state = AdaptiveConcurrency(floor=1, ceiling=1000, patience=1, cooldown=0)
    assert [state.observe(EngineLoad(state.limit, 0), state.limit) for _ in range(5)] == [2, 4, 8, 16, 32]
    assert state.observe(EngineLoad(16, 16), 32) == 25
    assert state.observe(EngineLoad(25, 0), 25) == 26


def test_pressure_must_last_and_a_calm_moment_forgives_it() -> None:
    state = at(100, patience=3)
    crowded, calm = EngineLoad(50, 50), EngineLoad(98, 2)
    assert [state.observe(load, 100) for load in (crowded, crowded, calm, crowded, crowded, crowded)] == [100] * 5 + [
        80
    ]


def test_a_change_is_followed_by_its_cooldown() -> None:
    state = at(100, cooldown=2)
    crowded = EngineLoad(50, 50)
    assert [state.observe(crowded, 100) for _ in range(7)] == [80, 80, 80, 64, 64, 64, 51]


def test_the_limit_stops_at_floor_and_ceiling() -> None:
    state = at(3)
    assert [state.observe(EngineLoad(1, 9), 10) for _ in range(3)] == [2, 2, 2]
    state = at(198)
    assert [state.observe(EngineLoad(300, 0), 300) for _ in range(2)] == [200, 200]
    assert AdaptiveConcurrency(floor=4, ceiling=8, start=99).limit == 8
    assert AdaptiveConcurrency(floor=4, ceiling=8).limit == 4


def simulate(slots: int, start: int, steps: int, delay: int = 1) -> list[int]:
    """An engine of `slots`, always as many requests as the limit lets in; its load is seen `delay` steps late."""
    state = AdaptiveConcurrency(floor=1, ceiling=4096, start=start)
    seen = [state.limit] * delay
    limits = []
    for _ in range(steps):
        in_flight = seen.pop(0)
        running = min(in_flight, slots)
        limits.append(state.observe(EngineLoad(running, in_flight - running), in_flight))
        seen.append(state.limit)
    return limits


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 10, 16, 33, 64, 100, 256, 1000])
@pytest.mark.parametrize("start", [1, 40, 4096])
@pytest.mark.parametrize("delay", [1, 2])
def test_it_finds_the_slots_from_below_and_above_and_stays(slots: int, start: int, delay: int) -> None:
    limits = simulate(slots, start, 700, delay)[300:]
    allowed = max(1, 0.25 * slots)
    assert slots - allowed <= min(limits)
    assert max(limits) <= slots + allowed


@pytest.mark.parametrize("slots", [16, 33, 64, 100, 256, 1000])
@pytest.mark.parametrize("start", [1, 4096])
def test_it_does_not_flap(slots: int, start: int) -> None:
    assert len(set(simulate(slots, start, 700)[300:])) == 1


def test_it_follows_an_engine_that_loses_and_regains_slots() -> None:
    state = AdaptiveConcurrency(ceiling=512)

    def settle(slots: int) -> int:
        for _ in range(300):
            running = min(state.limit, slots)
            state.observe(EngineLoad(running, state.limit - running), state.limit)
        return state.limit

    assert 200 <= settle(200) <= 250
    assert 40 <= settle(40) <= 50
    assert 200 <= settle(200) <= 250


loads = st.builds(
    EngineLoad,
    running=st.integers(0, 300),
    waiting=st.integers(0, 300),
    cache_used=st.none() | st.floats(0, 1),
)


@given(
    st.lists(st.tuples(loads, st.integers(0, 600)), max_size=60),
    st.integers(1, 50),
    st.integers(0, 200),
    st.none() | st.integers(1, 500),
    st.integers(0, 4),
)
def test_never_outside_its_bounds_and_the_same_for_the_same_observations(
    observations: list[tuple[EngineLoad, int]], floor: int, span: int, start: int | None, cooldown: int
) -> None:
    def limits() -> list[int]:
        state = AdaptiveConcurrency(floor=floor, ceiling=floor + span, start=start, cooldown=cooldown)
        return [state.limit] + [state.observe(load, in_flight) for load, in_flight in observations]

    first = limits()
    assert all(floor <= limit <= floor + span for limit in first)
    assert limits() == first
    changes = [index for index in range(1, len(first)) if first[index] != first[index - 1]]
    assert all(later - earlier > cooldown for earlier, later in pairwise(changes))


def test_random_noise_of_arrivals_does_not_drive_it_down() -> None:
    chance = random.Random(0)
    state = AdaptiveConcurrency(ceiling=512, start=100)
    for _ in range(500):
        in_flight = state.limit
        running = min(in_flight, 100)
        burst = chance.randrange(1, 30) if chance.random() < 0.1 else 0  # admitted at the engine's next step
        state.observe(EngineLoad(max(1, running - burst), in_flight - running + burst), in_flight)
    assert 75 <= state.limit <= 125


@pytest.mark.parametrize(
    "options",
    [
        {"floor": 0},
        {"floor": 9, "ceiling": 8},
        {"decrease": 1.0},
        {"decrease": 0.0},
        {"cache_room": 0.97},
        {"cache_full": 1.5},
        {"patience": 0},
        {"cooldown": -1},
        {"tolerance": -0.1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="concurrency: "):
        AdaptiveConcurrency(**options)
