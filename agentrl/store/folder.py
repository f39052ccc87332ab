"""The store of a run's folder: its own `store.sqlite`, or the shared database that its `config.yaml` names.

Invariant: of a shared database, a folder has the one run that its configuration names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from agentrl.errors import StoreError
from agentrl.store import RunStore
from agentrl.store.database import file_of
from agentrl.store.records import RunRecord

STORE_FILE = "store.sqlite"
CONFIG_FILE = "config.yaml"


def place_of(folder: Path) -> Path | str:
    """Where the run of this folder is stored; raises `StoreError` if it holds none."""
    shared = _configured(folder).get("store")
    if isinstance(shared, str):
        return shared
    if not (folder / STORE_FILE).is_file():
        raise StoreError(f"{str(folder)!r} holds no run: it has no {STORE_FILE}")
    return folder / STORE_FILE


def open_folder(folder: Path) -> RunStore:
    """The store of this folder's run; raises `StoreError` if there is none. Nothing is made."""
    place = place_of(folder)
    if _missing(place):
        raise StoreError(f"{str(folder)!r} has its run in the store {str(place)!r}, which is not there")
    return RunStore(place, make=False)


def open_place(place: str | Path) -> RunStore:
    """The store that a person names: a database URL, a store's file, or a run's folder. Raises `StoreError`.

    Nothing is made: a file that is not there is an error, and so is an empty database.
    """
    url = "://" in str(place)
    if not url and Path(place).is_dir():
        return open_folder(Path(place))
    if _missing(place):
        raise StoreError(f"{str(place)!r} does not exist; name a run's folder, a store's file or a database URL")
    return RunStore(str(place) if url else Path(place), make=False)


def _missing(place: Path | str) -> bool:
    """Whether the store is a file that is not there; SQLite looks for itself where it is named by a `file:` address."""
    file = file_of(str(place))
    return file is not None and not str(file).startswith("file:") and not file.is_file()


def runs_of(folder: Path, store: RunStore) -> list[RunRecord]:
    """The runs of the folder: all that its own file holds, or its one run in a shared database."""
    config = _configured(folder)
    if isinstance(config.get("store"), str):
        return [store.run(str(config.get("name", "run")))]
    return store.runs()


def runs_at(place: str | Path, store: RunStore) -> list[RunRecord]:
    """The runs that a person means who names a place as for `open_place`."""
    path = Path(place)
    return runs_of(path, store) if "://" not in str(place) and path.is_dir() else store.runs()


def _configured(folder: Path) -> dict[str, Any]:
    """The folder's configuration; empty where there is none that can be read."""
    try:
        tree = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}
