"""The cache of converted and built models, one folder each under `<user cache>/models`.

Invariant: a folder under its final name is complete. It is written beside that name, gets a manifest with the size and
SHA-256 of every file, and is renamed at the end, under a lock that two processes respect. A folder that no longer
agrees with its manifest is never handed out: it is built again, with a warning.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from agentrl.errors import ModelError
from agentrl.models.progress import Report

MANIFEST = "agentrl.json"
MANIFEST_FORMAT = 1
LOCK_SECONDS = 1800.0
"""Longest wait for another process: a slow download of a packaged model stays below it."""

Build = Callable[[Path, Path], None]
"""Fills the first folder with the model; the second is scratch space on the same disk, removed afterwards."""


def cache_dir() -> Path:
    """The user's cache folder for agentrl; the environment variable `AGENTRL_CACHE` overrides it."""
    override = os.environ.get("AGENTRL_CACHE")
    return Path(override).expanduser().absolute() if override else user_cache_path("agentrl")


def models_dir() -> Path:
    """Where cached models lie; not created here."""
    return cache_dir() / "models"


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cached model; `{}` where it is missing or unreadable."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == MANIFEST_FORMAT else {}


def fault(folder: Path) -> str | None:
    """What is wrong with a cached model against its manifest, in a few words; None when it is sound."""
    files = read_manifest(folder).get("files")
    if not isinstance(files, dict) or not files:
        return f"{MANIFEST} is missing or unreadable"
    for name, recorded in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != recorded["size"]:
            return f"{name} has {path.stat().st_size} bytes, not the {recorded['size']} recorded"
        if file_sha256(path) != recorded["sha256"]:
            return f"{name} does not match the SHA-256 recorded"
    return None


def find(key: str) -> Path | None:
    """The sound cached model under `key`, or None; never writes, so a read-only cache serves."""
    folder = models_dir() / key
    return folder if folder.is_dir() and fault(folder) is None else None


def ensure(key: str, title: str, origin: dict[str, Any], room: int, build: Build, report: Report) -> Path:
    """The folder of the cached model `key`, built by `build` when it is absent or damaged.

    `title` names the model in messages, `origin` is recorded in the manifest, `room` is the number of bytes that
    building needs. Raises `ModelError` where the cache cannot be written.
    """
    found = find(key)
    if found is not None:
        return found
    folder = models_dir() / key
    with writing(models_dir()):
        models_dir().mkdir(parents=True, exist_ok=True)
        with _locked(key, title, report):
            if folder.exists():
                wrong = fault(folder)
                if wrong is None:  # another process built it while this one waited
                    return folder
                warnings.warn(f"cached model {title} is damaged ({wrong}): building it again", stacklevel=2)
            _require_room(models_dir(), room, title)
            _build(folder, origin, build)
    return folder


def _build(folder: Path, origin: dict[str, Any], build: Build) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process: the lock is ours, so nobody is writing it
    model, scratch = partial / "model", partial / "scratch"
    try:
        model.mkdir(parents=True)
        scratch.mkdir()
        build(model, scratch)
        _write_manifest(model, origin)
        if folder.exists():
            folder.rename(partial / "damaged")
        model.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_manifest(folder: Path, origin: dict[str, Any]) -> None:
    readable = folder.stat().st_mode & 0o666  # as the umask has it; safetensors writes files for the owner only
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(readable)
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": MANIFEST_FORMAT, "origin": origin, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _locked(key: str, title: str, report: Report) -> Iterator[None]:
    lock = FileLock(models_dir() / f".{key}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"waiting for another process that prepares {title}")
            lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise ModelError(
            f"another process has held {lock.lock_file} for {LOCK_SECONDS / 60:.0f} minutes while preparing {title}: "
            "end it and try again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _require_room(folder: Path, room: int, title: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < room:
        raise ModelError(
            f"preparing {title} needs {room / 1e6:.0f} MB, but {folder} has {free / 1e6:.0f} MB free: "
            "make room, or set AGENTRL_CACHE to a folder on another disk"
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write below `folder` into a `ModelError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"no space left in the model cache {folder}: make room, or set AGENTRL_CACHE to another disk"
            ) from error
        raise ModelError(
            f"cannot write the model cache {folder} ({error.strerror or error}): "
            "set AGENTRL_CACHE to a folder that you can write"
        ) from error
