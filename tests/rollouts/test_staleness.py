"""Staleness admission: the published capacities, the books, and a queue that never delivers a sample too old."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ConfigError
from agentrl.rollouts.staleness import StalenessAdmission, capacity, is_stale


@pytest.mark.parametrize(
    ("version", "accepted", "running", "bound", "expected"),
    [(0, 0, 0, 0, 4), (0, 4, 0, 0, 0), (0, 4, 0, 1, 4), (3, 14, 2, 1, 4), (3, 20, 1, 1, -1)],
)
def test_capacity_of_steps_of_four(version: int, accepted: int, running: int, bound: int, expected: int) -> None:
    assert capacity(version, accepted, running, bound, per_step=4) == expected


def test_is_stale_beyond_the_bound() -> None:
    assert [is_stale(3, current, 2) for current in (2, 3, 5, 6)] == [False, False, False, True]
    assert [is_stale(3, current, 0) for current in (3, 4)] == [False, True]


def test_bound_zero_is_synchronous() -> None:
    admission = StalenessAdmission(bound=0, per_step=3)
    assert [admission.begin() for _ in range(4)] == [True, True, True, False]
    assert [admission.accept(0) for _ in range(3)] == [True] * 3
    assert not admission.begin()
    admission.version = 1
    assert (admission.capacity, admission.accepted, admission.running) == (3, 3, 0)


def test_rejected_samples_give_their_slots_back() -> None:
    admission = StalenessAdmission(bound=0, per_step=2)
    for _ in range(100):  # counted as accepted, they would stop the run here
        assert admission.begin()
        admission.reject()
    assert (admission.accepted, admission.running, admission.capacity) == (0, 0, 2)


def test_a_straggler_is_rejected_and_replaced() -> None:
    admission = StalenessAdmission(bound=1, per_step=2)
    assert admission.begin()  # the straggler, begun at version 0
    for version in range(3):
        admission.version = version
        assert admission.begin()
        assert admission.begin()
        assert admission.accept(version)
        assert admission.accept(version)
    assert admission.running == 1
    assert not admission.accept(0)
    assert (admission.accepted, admission.running) == (6, 0)


def test_a_sample_is_judged_by_when_its_turn_will_come() -> None:
    admission = StalenessAdmission(bound=1, per_step=2)
    for _ in range(4):
        assert admission.begin()
    assert [admission.accept(0) for _ in range(4)] == [True] * 4
    admission.version = 1
    assert admission.begin()
    # four are accepted before it, so that version 2 will be trained on it
    assert not admission.accept(0)


def test_a_version_that_is_ahead_of_the_books_counts() -> None:
    admission = StalenessAdmission(bound=1, per_step=4)
    assert admission.begin()
    assert admission.begin()
    admission.version = 2  # a trainer that steps without full batches
    assert not admission.accept(0)
    assert admission.accept(1)


def test_a_resumed_run_continues_the_books() -> None:
    admission = StalenessAdmission(bound=2, per_step=8, version=5)
    assert (admission.accepted, admission.running, admission.capacity) == (40, 0, 24)


def test_mistakes_are_errors() -> None:
    for options in ({"bound": -1, "per_step": 1}, {"bound": 0, "per_step": 0}):
        with pytest.raises(ConfigError, match="staleness: "):
            StalenessAdmission(**options)
    admission = StalenessAdmission(1, 1, version=2)
    with pytest.raises(RuntimeError, match="never began"):
        admission.reject()
    with pytest.raises(RuntimeError, match="never began"):
        admission.accept(2)
    with pytest.raises(ValueError, match="do not go back"):
        admission.version = 1


@given(
    bound=st.integers(0, 4),
    per_step=st.integers(1, 6),
    start=st.integers(0, 3),
    train_time=st.floats(0, 5),
    tail=st.floats(0.1, 3),
    filtered=st.floats(0, 0.4),
    seed=st.integers(0, 2**32),
)
def test_a_queue_never_delivers_a_sample_older_than_the_bound(
    bound: int, per_step: int, start: int, train_time: float, tail: float, filtered: float, seed: int
) -> None:
    """Generation times are heavy-tailed, some samples are filtered; a group's head is its oldest member's version."""
    chance = random.Random(seed)
    admission = StalenessAdmission(bound, per_step, version=start)
    events: list[tuple[float, int, str, int]] = []
    buffer: list[int] = []
    now, serial, training, steps = 0.0, 0, False, 0

    def schedule(delay: float, kind: str, head: int = 0) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(events, (now + delay, serial, kind, head))

    while steps < 12:
        while admission.begin():
            schedule(chance.lognormvariate(0, tail), "generated", admission.version)
        if not training and len(buffer) >= per_step:
            heads, buffer = buffer[:per_step], buffer[per_step:]
            assert max(admission.version - head for head in heads) <= bound
            training = True
            schedule(train_time, "trained")
        assert events, "the queue is stuck"
        now, _, kind, head = heapq.heappop(events)
        if kind == "trained":
            training, steps = False, steps + 1
            admission.version += 1
        elif chance.random() < filtered:
            admission.reject()
        elif admission.accept(head):
            buffer.append(head)
    assert admission.accepted == (start + steps) * per_step + len(buffer)
    assert admission.version == start + steps
