"""Rows of a task file: somebody's questions and answers on disk or on the hub, read into dictionaries.

Invariant: whatever is wrong with a file is one `ConfigError` that names the file and the row; a row that is returned
has every key that its reader requires.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from agentrl.errors import ConfigError
from agentrl.registry import nearest

HUB = "hf://datasets/"
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")


def read_rows(source: str | Path, *, required: Sequence[str] = (), what: str) -> list[dict[str, Any]]:
    """The rows of a `.jsonl`, `.json` (a list, or an object of which one value is a list), `.csv` or `.parquet` file.

    Text files may be gzipped (`.gz`). `hf://datasets/owner/name/file` is fetched from the hub and cached. `what` names
    the option in error messages. Raises `ConfigError` for a file that is absent, malformed or empty, and for a row that
    lacks a required key.
    """
    path = _local(source, what)
    rows = []
    for number, row in _rows(path, what):
        if not isinstance(row, dict):
            raise ConfigError(f"{what}={str(source)!r}, row {number}: expected an object, not {type(row).__name__}")
        for key in required:
            if key not in row:
                offer = nearest(key, [str(present) for present in row])
                raise ConfigError(f"{what}={str(source)!r}, row {number}: there is no key {key!r}; {offer}")
        rows.append(row)
    if not rows:
        raise ConfigError(f"{what}={str(source)!r} has no rows")
    return rows


def read_lines(source: str | Path, *, what: str) -> list[tuple[int, dict[str, Any]]]:
    """(line number, object) of a file with an object a line, whatever its name ends in; blank lines are left out.

    Gzipped files, files on the hub and errors as in `read_rows`.
    """
    path = _local(source, what)
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        with _opened(path) as file:
            for number, row in _text_rows(file, ".jsonl", path, what):
                if not isinstance(row, dict):
                    raise ConfigError(f"{what}={str(source)!r}, line {number}: expected an object a line")
                rows.append((number, row))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}={str(path)!r} cannot be read: {error}") from error
    if not rows:
        raise ConfigError(f"{what}={str(source)!r} has no rows")
    return rows


def _local(source: str | Path, what: str) -> Path:
    """The file on this machine."""
    path = _fetched(str(source), what) if str(source).startswith(HUB) else Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"{what}={str(source)!r}: there is no such file")
    return path


def _rows(path: Path, what: str) -> Iterator[tuple[int, Any]]:
    suffix = next((end for end in reversed(path.suffixes) if end != ".gz"), "")
    if suffix not in _SUFFIXES:
        raise ConfigError(f"{what}={str(path)!r}: the kind {suffix!r} is unknown; valid: {', '.join(_SUFFIXES)}")
    try:
        if suffix == ".parquet":
            yield from enumerate(_parquet(path, what), 1)
            return
        with _opened(path) as file:
            yield from _text_rows(file, suffix, path, what)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{what}={str(path)!r} cannot be read: {error}") from error


def _text_rows(file: IO[str], suffix: str, path: Path, what: str) -> Iterator[tuple[int, Any]]:
    if suffix == ".csv":
        yield from enumerate(csv.DictReader(file), 1)
    elif suffix == ".json":
        yield from enumerate(_listed(_parsed(file.read(), path, what, 1), path, what), 1)
    else:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parsed(line, path, what, number)


def _listed(value: Any, path: Path, what: str) -> list[Any]:
    if isinstance(value, list):
        return value
    lists = [item for item in value.values() if isinstance(item, list)] if isinstance(value, dict) else []
    if len(lists) != 1:
        raise ConfigError(f"{what}={str(path)!r}: expected a list of objects, or an object that holds one list")
    return list(lists[0])


def _parsed(text: str, path: Path, what: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what}={str(path)!r}, line {number}: not JSON: {error}") from None


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _parquet(path: Path, what: str) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ConfigError(f"{what}={str(path)!r}: Parquet files need pyarrow: pip install pyarrow") from None
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise ConfigError(f"{what}={str(path)!r} cannot be read: {str(error).splitlines()[0]}") from error
    return rows


def _fetched(source: str, what: str) -> Path:
    """The cached copy of a file of a dataset on the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    owner, _, rest = source.removeprefix(HUB).partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and file):
        raise ConfigError(f"{what}={source!r}: expected {HUB}owner/name/file")
    try:
        return Path(hf_hub_download(f"{owner}/{name}", file, repo_type="dataset"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"{what}={source!r} cannot be fetched: {str(error).splitlines()[0]}") from error
