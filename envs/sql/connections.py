"""Connections to a database that nobody writes: a private copy in memory, or a file opened read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def opened(content: bytes | Path) -> Iterator[sqlite3.Connection]:
    """A connection to a private copy of the bytes, or to the file, read-only."""
    if isinstance(content, Path):
        connection = sqlite3.connect(f"{content.absolute().as_uri()}?mode=ro", uri=True)
    else:
        connection = sqlite3.connect(":memory:")
        connection.deserialize(content)
    with closing(connection):
        yield connection
