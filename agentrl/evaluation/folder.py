"""The folder of an evaluation: the resolved suite, its store, the lock of the process that works on it.

Invariants: a folder belongs to one evaluation, known by the facts that decide its numbers; another one is refused by
the first fact that differs; two processes never work on one folder at once, nor on one run of a shared database. The
episodes lie in its `store.sqlite`, or in a database that evaluations share, which its `config.yaml` names (see
`agentrl.store.folder`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from filelock import FileLock, Timeout

from agentrl.errors import ConfigError, StoreError
from agentrl.evaluation.suite import Suite
from agentrl.evaluation.tasksets import canonical
from agentrl.store import RunRecord, RunStore
from agentrl.store.database import file_of, has_password
from agentrl.store.folder import CONFIG_FILE, STORE_FILE, open_folder, place_of, runs_of

SUITE_FILE = "suite.yaml"
REPORTS = ("report.json", "report.html", "episodes.jsonl")
ROOT = Path("runs") / "eval"
SHOWN = 60


def default_folder(suite: str, model: str, facts: Mapping[str, Any]) -> Path:
    """`runs/eval/<suite>-<model>-<8 hex>`: the same facts, the same folder."""
    address = urlsplit(model).netloc.rpartition("@")[2] if "://" in model else ""
    short = (
        re.sub(r"[^A-Za-z0-9._-]+", "-", address or model.rstrip("/").rpartition("/")[2])[-40:].strip("-.") or "model"
    )
    return ROOT / f"{suite}-{short}-{blake2b(canonical(facts).encode(), digest_size=4).hexdigest()}"


def open_evaluation(folder: Path) -> tuple[RunStore, RunRecord]:
    """The store of a folder's evaluation and its run; raises `StoreError` if there is none."""
    store = open_folder(folder)
    try:
        runs = [run for run in runs_of(folder, store) if run.kind == "eval"]
        if not runs:
            raise StoreError(f"{str(folder)!r} holds no evaluation (agentrl eval SUITE --model MODEL --out FOLDER)")
        return store, next((run for run in runs if run.name == _run_name(folder)), runs[-1])
    except BaseException:
        store.close()
        raise


class EvaluationFolder:
    """A folder that this process works on while it is entered."""

    def __init__(self, path: Path, store: str | None = None) -> None:
        """`store` is a database for the episodes instead of the folder's own file.

        Raises `ConfigError` for one whose password would be written down, `StoreError` for what is no place of a store.
        """
        self.path = path
        self.name = _run_name(path)
        """The run's name in the store."""
        if store is not None and has_password(store):
            raise ConfigError("--store: leave the password out; PostgreSQL reads it from PGPASSWORD or ~/.pgpass")
        file = None if store is None else file_of(store)
        self._shared = store if file is None else str(file.resolve())  # which is read from any other folder, too
        self._lock: FileLock | None = None

    def __enter__(self) -> EvaluationFolder:
        """Make the folder and lock it; raises `ConfigError`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"--out {str(self.path)!r}: another process evaluates into this folder now") from None
        except OSError as error:
            raise ConfigError(f"--out {str(self.path)!r}: the folder cannot be written: {error.strerror}") from None
        self._lock = lock
        return self

    def open(self) -> RunStore:
        """The store of the folder, made where there is none."""
        try:
            place = place_of(self.path)
        except StoreError:
            return self._claimed(RunStore(self._shared or self.path / STORE_FILE))
        if self._shared is not None and str(place) != self._shared:
            raise ConfigError(f"--store {self._shared!r}: the episodes of {str(self.path)!r} are in {str(place)!r}")
        self._shared = place if isinstance(place, str) else None
        return self._claimed(RunStore(place))

    def _claimed(self, store: RunStore) -> RunStore:
        """`store`, in which no other process works on the run of this name, out of whatever folder."""
        try:
            if self._shared is not None and not store.claim(self.name):
                raise ConfigError(
                    f"--store {store.place!r}: another process evaluates into its run {self.name!r} now, out of "
                    f"another folder; choose another name of --out"
                )
        except BaseException:
            store.close()
            raise
        return store

    def find(self, store: RunStore, facts: Mapping[str, Any], fresh: bool) -> RunRecord | None:
        """The evaluation that was begun here with the same facts, None where there is none.

        `fresh` forgets the one that is here, whatever its facts. Raises `ConfigError` for another evaluation, or a run
        that is none.
        """
        where = f"--out {str(self.path)!r}"
        runs = store.runs()
        found = next((run for run in runs if run.name == self.name), None)
        if found is None and self._shared is None and runs:  # a folder that was renamed
            found, self.name = runs[-1], runs[-1].name
        if any(run.kind != "eval" for run in runs if self._shared is None or run is found):
            raise ConfigError(f"{where}: the folder holds a run that is no evaluation; choose another")
        if found is None or not any(phase.episodes for phase in store.phases(found.id)):
            return None  # what never began is in nobody's way
        if fresh:
            store.remove_run(found.id)
            for name in REPORTS:
                (self.path / name).unlink(missing_ok=True)
            return None
        if difference := first_difference(found.meta.get("decides", {}), facts):
            raise ConfigError(f"{where} holds another evaluation: {difference}; choose another folder, or --fresh")
        return found

    def describe(self, suite: Suite) -> None:
        """Write beside the reports what was asked, and where the episodes are. Raises `ConfigError`."""
        try:
            (self.path / SUITE_FILE).write_text(suite.to_yaml(), encoding="utf-8")
            if self._shared is not None:
                place = yaml.safe_dump({"name": self.name, "store": self._shared})
                (self.path / CONFIG_FILE).write_text(place, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out {str(self.path)!r}: the folder cannot be written: {error.strerror}") from None

    def __exit__(self, *_: object) -> None:
        """Let others work on it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str | None:
    """The first fact in which two evaluations differ, in words; None if there is none."""
    for key in dict.fromkeys([*now, *before]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if found := first_difference(old, new, f"{path}{key}."):
                return found
        elif canonical(old) != canonical(new):
            return f"{path}{key} is {_shown(old)} there and {_shown(new)} here"
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _run_name(folder: Path) -> str:
    return folder.name if folder.name.strip(".") else folder.resolve().name
