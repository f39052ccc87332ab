"""Questions and databases of one's own, in the form of BIRD or Spider.

A questions file has rows with `question`, `db_id` and the gold SQL under `SQL` (BIRD) or `query` (Spider); the database
of a row is `<databases>/<db_id>/<db_id>.sqlite`. Invariant: a task compares results as its benchmark does: columns in
any order; rows in any order, except where a Spider query says ORDER BY.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentrl.datafiles import read_rows
from agentrl.errors import ConfigError
from agentrl.generators import SPLITS, split_of

from .connections import opened

Source = str | Path | Mapping[str, str | Path]

_NAMED = {
    "train": re.compile(r"(?<![a-z])train(?:ing)?(?![a-z])"),
    "test": re.compile(r"(?<![a-z])(?:dev|test|val|valid|validation)(?![a-z])"),
}
"""Words in the name of a file of one split."""
_LEVELS = {
    **{"simple": 1, "moderate": 2, "challenging": 3},
    **{"easy": 1, "medium": 2, "hard": 3, "extra": 4},
}
"""By the words of BIRD and of Spider; 1 where a row says nothing."""
_SUFFIXES = (".sqlite", ".db")


def file_problems(source: Source, databases: str | Path | None) -> dict[str, list[tuple[str, int, dict[str, Any]]]]:
    """(question, level, task data) by split.

    `source` names the file of each split, or is one file: that of the split that its name contains (`train`; `dev`,
    `test` or `val`), else a hash of database and question divides its rows. Raises `ConfigError`.
    """
    if databases is None:
        raise ConfigError("databases is missing: source needs the folder with <db_id>/<db_id>.sqlite")
    folder = Path(databases).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"databases={str(databases)!r}: there is no such folder")
    problems: dict[str, list[tuple[str, int, dict[str, Any]]]] = {split: [] for split in SPLITS}
    for split, path in _files(source):
        for number, row in enumerate(read_rows(path, required=("question", "db_id"), what="source"), 1):
            place = f"source={str(path)!r}, row {number}"
            text, level, data = _problem(row, folder, place)
            own = split or split_of(f"{row['db_id']}\n{row['question']}")
            problems[own].append((text, level, data))
    return problems


@lru_cache(maxsize=256)
def file_schema(path: Path) -> str:
    """The `CREATE` statements of a database's tables."""
    return "\n".join(_catalog(path, "sql"))


@lru_cache(maxsize=256)
def file_tables(path: Path) -> tuple[str, ...]:
    """The names of a database's tables."""
    return tuple(_catalog(path, "name"))


def _catalog(path: Path, column: str) -> list[str]:
    query = f"SELECT {column} FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    try:
        with opened(path) as connection:
            return [text for (text,) in connection.execute(query)]
    except sqlite3.Error as error:
        raise ConfigError(f"databases: {path} cannot be read: {error}") from error


def _files(source: Source) -> list[tuple[str | None, str | Path]]:
    """(split or None where rows are divided, path) of every file."""
    if isinstance(source, Mapping):
        unknown = next((split for split in source if split not in SPLITS), None)
        if unknown is not None or not source:
            raise ConfigError(f"source: split {unknown!r} is unknown; valid: {', '.join(SPLITS)}")
        return list(source.items())
    name = Path(source).name.lower()
    split = next((split for split, words in _NAMED.items() if words.search(name)), None)
    return [(split, source)]


def _problem(row: Mapping[str, Any], folder: Path, place: str) -> tuple[str, int, dict[str, Any]]:
    query = row.get("SQL") or row.get("query")
    for what, value in {"question": row["question"], "db_id": row["db_id"], "SQL or query": query}.items():
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{place}: {what} must be a text")
    assert isinstance(query, str)
    path = _database(folder, row["db_id"], place)
    text = row["question"].strip()
    evidence = row.get("evidence")
    if isinstance(evidence, str) and evidence.strip():
        text += f"\nHint: {evidence.strip()}"
    ordered = "SQL" not in row and re.search(r"\border\s+by\b", query, re.IGNORECASE) is not None
    level = _LEVELS.get(str(row.get("difficulty") or row.get("hardness") or "").lower(), 1)
    data = {"file": str(path), "query": query.strip(), "ordered": ordered, "permute": True, "change": False}
    return text, level, {**data, "answer": None}


def _database(folder: Path, name: str, place: str) -> Path:
    inside = folder / name
    found = next((path for suffix in _SUFFIXES if (path := inside / f"{name}{suffix}").is_file()), None)
    if found is None or inside.parent != folder or name in (".", ".."):
        raise ConfigError(f"{place}: databases has no file {name}/{name}{_SUFFIXES[0]}")
    return found
