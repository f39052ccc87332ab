"""What a model's name resolved to.

Invariant: once a `ModelSource` exists its model is on this disk, in transformers form (`config.json`, weights,
tokenizer files), so that every kind of model is loaded by the same two calls and nothing later needs a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class ModelKind(StrEnum):
    """Where a model comes from."""

    HUB = "hub"
    """A hub id, `org/name`, kept in the hub's own cache."""
    FOLDER = "folder"
    """A folder in transformers form, used where it lies."""
    GGUF = "gguf"
    """A GGUF file, converted once into agentrl's cache; the key is the file's SHA-256."""
    PACKAGED = "packaged"
    """A built-in name that is had from the hub where there is one, else from a Python package."""
    TINY = "tiny"
    """The seeded policy for tests and teaching, built on the spot."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that is ready to be loaded from `path`."""

    name: str
    """As the user wrote it."""
    kind: ModelKind
    path: Path
    """Folder in transformers form."""
    hub_id: str | None = None
    """`org/name` when the files are a snapshot of the hub's."""
    revision: str | None = None
    """The hub's commit, when the files are a snapshot."""
    sha256: str | None = None
    """SHA-256 of the GGUF file that `path` was converted from."""
