"""The viewer over every kind of database that a store may be: it reads, and cannot write."""

from __future__ import annotations

import pytest

from agentrl.errors import StoreError
from agentrl.store import RunStore
from agentrl.viewer.opening import open_for_reading
from tests.store.conftest import place, postgres
from tests.viewer.conftest import Site
from tests.viewer.synthetic import add_group, training_metrics

__all__ = ["place", "postgres"]


def test_pages_come_from_any_database(place: str) -> None:
    with RunStore(place) as store:
        run = store.begin_run("anywhere", "steps: 2")
        store.log(run, "train", 1, training_metrics(1, 2))
        add_group(store, run, 1, 0)
    site = Site(place)
    slug = site.catalog.places()[0].slug
    assert "1 / 2 steps" in site.get("/")
    assert site.json(f"/data/{slug}/{run}/series")["phases"]["train"]["steps"] == [1]
    page = site.get(f"/runs/{slug}/{run}/episodes?correct=yes&sort=reward&down=1")
    assert page.count("data-row>") == 2
    assert "The reasoning is sound." in site.get(f"/runs/{slug}/{run}/episodes/1")
    with RunStore(place) as store:
        store.log(run, "train", 2, training_metrics(2, 2))
    assert "2 / 2 steps" in site.get("/")
    site.catalog.close()


def test_no_database_is_written(place: str) -> None:
    RunStore(place).close()
    with open_for_reading(place) as store, pytest.raises(StoreError, match=r"read-?only"):
        store.begin_run("x", "")
    with RunStore(place) as store:
        assert store.runs() == []


def test_an_empty_database_stays_empty(place: str) -> None:
    with pytest.raises(StoreError) as error:
        open_for_reading(place)
    assert "default_transaction_read_only" not in str(error.value) and "\n" not in str(error.value)
