"""Opening a store so that nothing can write to it.

Invariant: the database itself refuses writes (SQLite `mode=ro`, PostgreSQL read-only transactions); a store of an older
schema is refused in one line that says how to bring it up to date, and only `bring_up_to_date`, which a user asks
for, does that. A SQLite reader beside a writer may leave the usual `-shm` and `-wal` files; a folder that cannot be
written and holds no log is read as a file that nobody changes.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from agentrl.errors import StoreError
from agentrl.store import SCHEMA_VERSION, RunStore
from agentrl.store.database import file_of

_VERSION = "agentrl_schema"
_READ_ONLY = "-c default_transaction_read_only=on"


def open_for_reading(target: str) -> RunStore:
    """A store that cannot be changed through what is returned; raises `StoreError`."""
    file = file_of(target)
    if file is not None:
        _check(file)
    url = _read_only_url(target) if file is None else _file_url(file)
    try:
        store = RunStore(url)
    except StoreError as error:
        raise StoreError(_without_option(str(error), url, file)) from error
    store.place = _without_option(store.place, url, file)
    return store


def bring_up_to_date(target: str) -> None:
    """Bring a store up to date; raises `StoreError`."""
    file = file_of(target)
    if file is not None and not file.is_file():
        raise StoreError(f"store {str(file)!r}: there is no such file")
    RunStore(target if file is None else file).close()


def frozen(file: Path) -> bool:
    """Whether SQLite could not make its shared memory beside the file, and no log is there to be read through it."""
    beside = [Path(f"{file}{suffix}") for suffix in ("-shm", "-wal")]
    return not os.access(file.parent, os.W_OK) and not any(part.exists() for part in beside)


def _file_url(file: Path) -> str:
    query = {"mode": "ro", "uri": "true"} | ({"immutable": "1"} if frozen(file) else {})
    return URL.create("sqlite", database=f"file:{quote(str(file))}", query=query).render_as_string()


def _without_option(text: str, url: str, file: Path | None) -> str:
    """`text` that names a store as its user named it, without what was added here."""
    return re.sub(r"[?&]options=[^'\s]*", "", text) if file is None else text.replace(url, str(file))


def _read_only_url(target: str) -> str:
    try:
        url = make_url(target)
    except (ArgumentError, ValueError):
        return target  # the store says what is wrong with it
    if not url.get_backend_name().startswith("postgres"):
        return target
    options = url.query.get("options", "")
    given = options if isinstance(options, str) else " ".join(options)
    return url.update_query_dict({"options": f"{given} {_READ_ONLY}".strip()}).render_as_string(hide_password=False)


def _check(file: Path) -> None:
    """Refuse what is no store of the present schema, without the store's own opening, which would make it one."""
    uri = f"file:{quote(str(file))}?mode=ro{'&immutable=1' if frozen(file) else ''}"
    try:
        connection = sqlite3.connect(uri, uri=True)
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            row = connection.execute("SELECT version FROM agentrl_schema").fetchone() if _VERSION in tables else None
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"store {str(file)!r} cannot be opened: {error}") from error
    if not tables:
        raise StoreError(f"store {str(file)!r} is empty: nothing has been written to it yet")
    if row is not None and isinstance(row[0], int) and row[0] < SCHEMA_VERSION:
        raise StoreError(
            f"store {str(file)!r} has schema {row[0]}, of an older agentrl; agentrl view --migrate brings it up to date"
        )
