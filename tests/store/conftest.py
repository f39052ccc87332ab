"""Stores on every database that agentrl writes to: a test that takes `place` or `store` runs once on each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentrl.store import RunStore

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of the tests' own."""
    pytest.importorskip("psycopg")
    from tests.tools.postgres_server import WRITER, programs, running

    binaries = programs()
    if binaries is None:
        pytest.skip("no PostgreSQL server's programs here (Debian: apt-get install postgresql)")
    with running(binaries) as server:
        with server.connect() as connection:
            connection.execute(f"CREATE DATABASE stores OWNER {WRITER}")
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where nothing is yet."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    from tests.tools.postgres_server import WRITER

    server, name = request.getfixturevalue("postgres"), f"store{next(_NUMBERS)}"
    with server.connect("stores") as connection:
        connection.execute(f"CREATE SCHEMA {name} AUTHORIZATION {WRITER}")
    return f"{server.url(WRITER, 'stores')}&options=-csearch_path%3D{name}"


@pytest.fixture
def store(place: str) -> Iterator[RunStore]:
    with RunStore(place) as opened:
        yield opened
