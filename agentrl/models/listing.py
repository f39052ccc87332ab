"""What models there are: the built-in ones, present or not, and what the cache holds besides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentrl.models import cache, packaged
from agentrl.models.progress import Report
from agentrl.models.resolve import TINY, resolve
from agentrl.models.source import ModelKind


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One line of a list of models."""

    name: str
    """What to write after `--model`; for a converted GGUF file the cached folder."""
    kind: ModelKind
    description: str
    path: Path | None
    """The folder on this disk; None where the model is not present."""
    size: int
    """Bytes on disk; 0 where the model is not present."""

    @property
    def present(self) -> bool:
        """Whether it can be used without a network."""
        return self.path is not None


def list_models() -> list[ModelInfo]:
    """Built-in models first, then converted GGUF files. No network, and nothing is built."""
    smollm2 = packaged.SMOLLM2
    source = packaged.cached(smollm2)
    path = source.path if source else None
    built_in = [
        _info(smollm2.name, ModelKind.PACKAGED, "SmolLM2-135M-Instruct, 134.5M parameters", path),
        _info(TINY, ModelKind.TINY, "seeded policy for tests and teaching, 0.7M parameters", _newest_tiny()),
    ]
    converted = [
        _info(str(folder), ModelKind.GGUF, f"converted from {origin.get('name', 'a GGUF file')}", folder)
        for folder, origin in _cached()
        if origin.get("kind") == ModelKind.GGUF
    ]
    return built_in + converted


def fetch(name: str, progress: Report | None = None) -> ModelInfo:
    """Make `name` present on this disk (download, conversion) and say where it lies. Raises `ModelError`."""
    source = resolve(name, progress=progress)
    return _info(source.name, source.kind, str(source.hub_id or source.path.name), source.path)


def _cached() -> list[tuple[Path, dict[str, object]]]:
    folder = cache.models_dir()
    if not folder.is_dir():
        return []
    manifests = [(child, cache.read_manifest(child)) for child in sorted(folder.iterdir())]
    return [(child, manifest.get("origin", {})) for child, manifest in manifests if manifest]


def _newest_tiny() -> Path | None:
    folders = [folder for folder, origin in _cached() if origin.get("kind") == ModelKind.TINY]
    return folders[-1] if folders else None


def _info(name: str, kind: ModelKind, description: str, path: Path | None) -> ModelInfo:
    size = 0 if path is None else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return ModelInfo(name, kind, description, path, size)
