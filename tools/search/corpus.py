"""Corpora: JSON lines with `id`, `title` and `text`, plain or gzipped, read one document at a time.

Also read as they are: `contents` with the title as its first line (FlashRAG, Search-R1), `text` as a list of sentences
or paragraphs (HotpotQA), an `_id` (BEIR). Invariant: a line that is no document is a `ConfigError` that names file and
line; blank lines are skipped.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from agentrl.errors import ConfigError

MAX_TITLE = 500
"""Characters of a title; the rest is cut off."""


@dataclass(frozen=True, slots=True)
class Document:
    """An article."""

    id: str
    title: str
    text: str


def check_corpus(path: Path) -> None:
    """Raise `ConfigError` unless there is a file at `path` whose first document can be read."""
    if next(read_corpus(path), None) is None:
        raise ConfigError(f"corpus {path} has no documents")


def read_corpus(path: Path) -> Iterator[Document]:
    """The documents in the file's order. Raises `ConfigError`."""
    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _document(path, number, line)
    except (OSError, EOFError) as error:
        raise ConfigError(f"corpus {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def content_hash(path: Path) -> str:
    """32 hex digits that depend on the file's bytes alone. Raises `ConfigError`."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise ConfigError(f"corpus {path} cannot be read: {error.strerror or error}") from None


def title_key(title: str) -> str:
    """A title as it is looked up: without regard to case and runs of white space."""
    return " ".join(title[:MAX_TITLE].casefold().split())


def document(row: Any, default_id: str = "") -> Document | None:
    """The document in a row of a corpus, or None if there is none."""
    if not isinstance(row, dict):
        return None
    title, text = row.get("title"), row.get("text")
    if text is None and isinstance(row.get("contents"), str):
        first, _, rest = row["contents"].partition("\n")
        title, text = (title or first.strip().strip('"'), rest) if rest else (title, first)
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = " ".join(part.strip() for part in text)
    if not isinstance(text, str) or not isinstance(title, str | None):
        return None
    name = str(row.get("id", row.get("_id", default_id)))
    return Document(_clean(name)[:MAX_TITLE], _clean(title or name)[:MAX_TITLE], _clean(text))


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _document(path: Path, number: int, line: bytes) -> Document:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(f"corpus {path}:{number} is not JSON: {line[:60]!r}") from None
    found = document(row, str(number))
    if found is None:
        raise ConfigError(f"corpus {path}:{number} has no text: expected the keys id, title and text")
    return found


def _clean(text: str) -> str:
    """Lone surrogates, which JSON can carry, cannot be indexed."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
