"""Filters, orders and pages of episodes, on every database against the same thing done in Python."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from agentrl.errors import StoreError
from agentrl.store import EpisodeQuery, EpisodeSummary, RunStore
from agentrl.store import query as queries
from agentrl.store.query import SORTS
from agentrl.store.schema import ORDERED
from agentrl.trajectory import StopReason, ToolCallRecord
from tests.store.episodes import INF, NAN, plain

COUNT = 60


def fill(store: RunStore, name: str = "a") -> int:
    """Episodes of few different values, so that orders have ties; some without a reward or a duration."""
    run, draw = store.begin_run(name, ""), random.Random(0)
    for number in range(COUNT):
        made = plain(draw.randint(0, 3), draw.choice([0.0, 1.0, 0.5, NAN, -INF]), task_id=f"train:{number % 7}")
        made.seconds = draw.choice([NAN, 1.0, 2.5])
        made.env_id = draw.choice(["Env_A", "env%b"])
        made.info = {"level": draw.randint(1, 2)}
        made.metrics = draw.choice([{"correct": 1.0}, {"correct": 0.0}, {}])
        made.stop_reason = draw.choice([StopReason.TERMINATED, StopReason.MAX_TURNS])
        if made.turns and number % 3 == 0:
            made.turns[0].tool_calls = [ToolCallRecord("t", "{}", "no", "failed", 0.5)] * draw.randint(0, 2)
        store.add_episode(run, draw.choice(["train", "eval/a"]), number % 4, f"g{number % 5}", number, made)
    return run


def pages(store: RunStore, query: EpisodeQuery) -> list[EpisodeSummary]:
    """All pages, by cursor."""
    found: list[EpisodeSummary] = []
    while page := store.page(query):
        found += page
        query = replace(query, after=query.cursor(page[-1]))
    return found


def test_every_filter_selects_what_python_selects(store: RunStore) -> None:
    run = fill(store)
    fill(store, "other")
    every = store.page(EpisodeQuery(run, limit=1000))
    assert len(every) == COUNT == store.count(EpisodeQuery(run))
    cases = {
        "phase": ("train", lambda row: row.phase == "train"),
        "step": (2, lambda row: row.step == 2),
        "env_id": ("env%b", lambda row: row.env_id == "env%b"),
        "task_id": ("train:3", lambda row: row.task_id == "train:3"),
        "group": ("g1", lambda row: row.group == "g1"),
        "level": (2, lambda row: row.level == 2),
        "stop_reason": ("max_turns", lambda row: row.stop_reason is StopReason.MAX_TURNS),
        "min_reward": (0.5, lambda row: row.reward >= 0.5),
        "max_reward": (0.5, lambda row: row.reward <= 0.5),
        "min_turns": (2, lambda row: row.turns >= 2),
        "text": ("n:3", lambda row: "n:3" in row.task_id),
    }
    several = [(name, *case) for name, case in cases.items()]
    several += [("correct", value, lambda row, value=value: row.correct is value) for value in (True, False)]
    several += [("correct", "none", lambda row: row.correct is None)]
    several += [("errors", value, lambda row, value=value: (row.tool_errors > 0) is value) for value in (True, False)]
    several += [("text", text, lambda row: False) for text in ("TRAIN", "%", "_", "nothing")]
    for name, value, wanted in several:
        query = replace(EpisodeQuery(run, limit=1000), **{name: value})
        expected = [row.id for row in every if wanted(row)]
        assert [row.id for row in store.page(query)] == expected, name
        assert store.count(query) == len(expected), name
        assert expected or name == "text", name
    both = EpisodeQuery(run, phase="train", correct=True, min_turns=1, limit=1000)
    assert [row.id for row in store.page(both)] == [
        row.id for row in every if row.phase == "train" and row.correct and row.turns >= 1
    ]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_are_the_whole_order_once(store: RunStore, sort: str) -> None:
    run = fill(store)
    every = store.page(EpisodeQuery(run, limit=1000))
    for descending in (False, True):
        valued = [row for row in every if not math.isnan(getattr(row, sort))]
        rest = [row for row in every if math.isnan(getattr(row, sort))]
        valued.sort(key=lambda row: (getattr(row, sort), row.id), reverse=descending)
        rest.sort(key=lambda row: row.id, reverse=descending)
        expected = [row.id for row in valued + rest]
        for limit in (7, 1000):
            query = EpisodeQuery(run, sort=sort, descending=descending, limit=limit)  # type: ignore[arg-type]
            assert [row.id for row in pages(store, query)] == expected
        for offset in (0, 5, len(valued), COUNT - 2, COUNT + 5):
            query = EpisodeQuery(run, sort=sort, descending=descending, limit=4, offset=offset)  # type: ignore[arg-type]
            assert [row.id for row in store.page(query)] == expected[offset : offset + 4]
        around = [None, *expected, None]
        query = EpisodeQuery(run, sort=sort, descending=descending)  # type: ignore[arg-type]
        for before, here, after in list(zip(around, around[1:], around[2:], strict=False))[::9]:
            assert here is not None
            assert store.neighbours(here, query) == (before, after)


WIDE: list[dict[str, object]] = [
    {},
    {"phase": "train"},
    {"correct": False},
    {"phase": "train", "correct": "none"},
]
"""Filters beside which an index gives the order."""
NARROW = {
    "episodes_task": [{"task_id": "train:3"}, {"task_id": "train:3", "phase": "train"}],
    "sqlite_autoindex_episodes": [{"phase": "train", "step": 2}, {"phase": "train", "step": 2, "group": "g1"}],
    "episodes_run": [{"stop_reason": "max_turns"}, {"level": 2}, {"text": "n:3"}, {"errors": True}, {"min_turns": 2}],
}
"""Filters that leave few rows by the index that leads to them."""


def ways(store: RunStore, query: EpisodeQuery, ask: Callable[..., object] = queries.page) -> list[str]:
    """How SQLite means to find a page: a line for each statement."""
    with store._reading() as connection:
        statements: list[tuple[str, Any]] = []
        keep = lambda *args: statements.append((args[2], args[3]))  # noqa: E731
        event.listen(connection, "before_cursor_execute", keep)
        ask(connection, query)
        event.remove(connection, "before_cursor_execute", keep)
        return [
            " | ".join(str(row[3]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values))
            for text, values in statements
            if text.startswith("SELECT")
        ]


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize("sort", SORTS)
def test_a_page_neither_sorts_the_run_nor_walks_through_it_in_another_order(store: RunStore, sort: str) -> None:
    run = fill(store)
    for descending in (False, True):
        query = EpisodeQuery(run, sort=sort, descending=descending)  # type: ignore[arg-type]
        wide = WIDE if sort in ORDERED else [{}, {"phase": "train"}] if sort == "id" else []
        for filters in wide:
            for way in ways(store, replace(query, **filters)):  # type: ignore[arg-type]
                assert "TEMP B-TREE" not in way, filters
        if sort in ("id", "step"):
            continue
        for index, cases in NARROW.items():
            for filters in cases:
                for way in ways(store, replace(query, **filters)):  # type: ignore[arg-type]
                    assert way.startswith(f"SEARCH episodes USING INDEX {index}"), (filters, way)
    of_group = EpisodeQuery(run, phase="train", step=2, group="g1", sort=sort)  # type: ignore[arg-type]
    assert all("sqlite_autoindex_episodes" in way for way in ways(store, of_group))
    (counted,) = ways(store, EpisodeQuery(run, level=2), queries.count)
    assert counted.startswith("SEARCH episodes USING INDEX episodes_run")
    bounded = EpisodeQuery(run, min_reward=0.0, sort="id")
    assert ["TEMP B-TREE" in way for way in ways(store, bounded)] == [False]


def test_neighbours_stay_within_the_filter(store: RunStore) -> None:
    run = fill(store)
    query = EpisodeQuery(run, correct=True, sort="reward", limit=1000)
    ids = [row.id for row in store.page(query)]
    for before, here, after in zip([None, *ids[:-1]], ids, [*ids[1:], None], strict=True):
        assert store.neighbours(here, query) == (before, after)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["id", "reward", "tokens"])
def test_paging_neither_skips_nor_repeats_while_episodes_are_added(
    store: RunStore, sort: str, descending: bool
) -> None:
    run = fill(store)
    query = EpisodeQuery(run, sort=sort, descending=descending, limit=5)  # type: ignore[arg-type]
    before = {row.id for row in store.page(replace(query, limit=1000))}
    seen: list[int] = []
    page = store.page(query)
    while page:
        seen += [row.id for row in page]
        for reward in (NAN, -INF, 0.0, 0.7, 2.0):
            if len(seen) < COUNT:
                store.add_episode(run, "later", 0, "g", len(seen) * 10 + int(reward == 0.7), plain(1, reward))
        query = replace(query, after=query.cursor(page[-1]))
        page = store.page(query)
    assert len(seen) == len(set(seen))
    assert before <= set(seen)


def test_a_wrong_order_or_cursor_is_one_line(store: RunStore) -> None:
    run = fill(store)
    for query, expected in (
        (EpisodeQuery(run, sort="rewards"), "sort='rewards' is no order of episodes.*reward"),  # type: ignore[arg-type]
        (EpisodeQuery(run, after="x"), "after='x' is no cursor of the order 'id'"),
        (EpisodeQuery(run, after="1.5,2"), "no cursor"),
        (EpisodeQuery(run, sort="reward", after="1.0,"), "no cursor"),
        (EpisodeQuery(run, after=f"{2**63},1"), "no cursor"),
        (EpisodeQuery(run, sort="reward", after=f"1.0,{-(2**63)}"), "no cursor"),
    ):
        with pytest.raises(StoreError, match=expected) as caught:
            store.page(query)
        assert "\n" not in str(caught.value)


def test_an_episode_that_is_not_there_is_one_line(store: RunStore) -> None:
    run = fill(store)
    with pytest.raises(StoreError, match="has no episode of id 4711"):
        store.episode(4711)
    with pytest.raises(StoreError, match="has no episode of id 4711"):
        store.neighbours(4711, EpisodeQuery(run))


def test_an_id_leads_to_its_episode_alone(store: RunStore) -> None:
    run = store.begin_run("a", "")
    store.add_episode(run, "train", 1, "g", 0, plain(1, 1.0))
    store.add_episode(run, "train", 2, "g", 0, plain(1, 2.0))
    first, second = (row.id for row in store.page(EpisodeQuery(run)))
    assert store.episode(first).trajectory == plain(1, 1.0)
    store.add_episode(run, "train", 1, "g", 0, plain(2, 3.0))
    assert store.episode(first).trajectory == plain(2, 3.0)
    store.discard_after(run, 0, ["train"])
    store.add_episode(run, "train", 1, "g", 0, plain(1, 4.0))
    (new,) = store.page(EpisodeQuery(run))
    assert new.id not in (first, second)
