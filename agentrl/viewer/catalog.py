"""Which stores there are: one file, one run's folder, a folder of many runs, or a database URL.

Invariant: a request names a store by its slug, and a slug is looked up among the places that the scan found; no part of
a request ever becomes a path. Stores are opened for reading only, when they are first asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agentrl.errors import StoreError
from agentrl.store import RunStore
from agentrl.store.database import file_of
from agentrl.store.folder import CONFIG_FILE, STORE_FILE, place_of
from agentrl.viewer.opening import frozen, open_for_reading

DEPTH = 3  # runs/eval/<name>/store.sqlite is the deepest that agentrl itself writes
PASSED_OVER = frozenset({"checkpoints", "policy", "node_modules", "__pycache__"})
ABSENT = 0
GONE = (ABSENT, ABSENT)
"""The stamp of a store whose file is not there."""
_NO_SLUG = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """A store that can be opened."""

    slug: str
    """Its name in addresses: letters, digits, dots, dashes, underscores and tildes."""
    title: str
    """What people call it: its folder below the one that is shown, or the URL without its password."""
    target: str
    """File or database URL."""

    @property
    def folder(self) -> Path | None:
        """The folder that the store lies in; None for one on a server."""
        file = file_of(self.target)
        return None if file is None else file.parent

    @property
    def stamp(self) -> tuple[object, ...] | None:
        """Changes whenever the store is written; None where that cannot be told without asking the database."""
        file = file_of(self.target)
        if file is None:
            return None
        found: list[object] = []
        for suffix in ("", "-wal"):
            try:
                state = os.stat(f"{file}{suffix}")
            except FileNotFoundError:
                found.append(ABSENT)
            else:
                found.append((state.st_mtime_ns, state.st_size, state.st_ino))
        return tuple(found)


class Catalog:
    """The stores under `target`, found again at each asking, so that a run that begins later is seen.

    Raises `StoreError`, one line, if there is nothing to show.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._open: dict[str, tuple[object, RunStore]] = {}
        self._known: dict[str, Place] = {}
        self._lock = threading.Lock()
        places = self.places()
        if not places:
            raise StoreError(
                f"{target!r} holds no store ({STORE_FILE}, up to {DEPTH} folders deep); agentrl train makes one"
            )
        if len(places) == 1:  # that cannot be read: an error at start; among many it is a line in the list
            self.open(places[0])

    def places(self) -> list[Place]:
        """Every store, by title, as the folders are now."""
        return find_places(self.target)

    def place(self, slug: str) -> Place | None:
        """The store of that slug; the folders are looked through again only where the last look did not find it."""
        known = self._known.get(slug)
        if known is None or known.stamp == GONE:
            self._known = {place.slug: place for place in self.places()}
        return self._known.get(slug)

    def open(self, place: Place) -> RunStore:
        """The store, open for reading; raises `StoreError`."""
        identity = _identity(place.target)
        with self._lock:
            known = self._open.get(place.target)
            if known is not None and known[0] == identity:
                return known[1]
            store = open_for_reading(place.target)
            self._open[place.target] = (identity, store)
        if known is not None:
            known[1].close()
        return store

    def close(self) -> None:
        """Close every store."""
        with self._lock:
            for _, store in self._open.values():
                store.close()
            self._open.clear()


def default_target() -> str:
    """What is shown when nothing is named: `runs` here, else this folder."""
    return "runs" if Path("runs").is_dir() else "."


def find_places(target: str) -> list[Place]:
    """The stores that `target` means; none where a folder holds none. Raises `StoreError` if there is no such thing."""
    if "://" in target:
        return [Place("store", _without_password(target), target)]
    root = Path(target)
    if not os.path.exists(root):
        known = "give a store, a run's folder or a folder of runs"
        raise StoreError(f"{target!r}: there is no such file or folder that you may read; {known}")
    folder = (root.parent if root.is_file() else root).absolute()
    title = folder.name or str(folder)
    own = str(root) if root.is_file() else target_of(root)
    if own is not None:
        return [Place(_slug(title), title, own)]
    found = {place: title for title, place in sorted(_stores(root, DEPTH), reverse=True)}  # a shared one stands once
    return sorted((Place(_slug(title), title, place) for place, title in found.items()), key=lambda place: place.title)


def target_of(folder: Path) -> str | None:
    """The store of a run's folder: its own file, or the shared one that its configuration names; None if none."""
    try:
        stamp = os.stat(folder / CONFIG_FILE).st_mtime_ns
    except OSError:
        stamp = 0
    shared = _shared(folder, stamp) if stamp else None
    own = folder / STORE_FILE
    return shared or (str(own) if os.path.isfile(own) else None)  # `isfile` is False where one may not look


@lru_cache(maxsize=4096)
def _shared(folder: Path, _stamp: int) -> str | None:
    """The shared store that the configuration names, remembered until the file changes."""
    try:
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if not re.search(r"^store\s*:\s*\S", text, re.MULTILINE):  # most have none, and reading YAML takes milliseconds
        return None
    try:
        place = str(place_of(folder))
    except StoreError:  # `store: null`, and no file of its own
        return None
    return None if place == str(folder / STORE_FILE) else place


def _stores(folder: Path, depth: int, above: str = "") -> Iterator[tuple[str, str]]:
    """`(path below the root, file or URL of the store)`; links are not followed, so that a circle ends."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # a folder that may not be read holds nothing for this user
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False) or entry.name.startswith(".") or entry.name in PASSED_OVER:
            continue
        title, inner = f"{above}{entry.name}", Path(entry.path)
        if (target := target_of(inner)) is not None:
            yield title, target
        elif depth > 1:
            yield from _stores(inner, depth - 1, f"{title}/")


def _identity(target: str) -> object:
    """Changes when another file stands under the name, or when the file begins to be written: it is opened anew."""
    file = file_of(target)
    if file is None or not file.exists():
        return None
    return file.stat().st_ino, frozen(file)


def _slug(title: str) -> str:
    """`title` as one path segment of an address; a digest keeps apart what would look the same."""
    plain = _NO_SLUG.sub("~", title).strip(".") or "store"
    if plain.replace("~", "/") == title:  # nothing but slashes was replaced: no other title gives the same
        return plain
    return f"{plain}~{hashlib.blake2b(title.encode(errors='surrogateescape'), digest_size=3).hexdigest()}"


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1@", url)
