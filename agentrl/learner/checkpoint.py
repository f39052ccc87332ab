"""Checkpoints: everything that a run needs to go on, whole or not at all.

A checkpoint is written into a hidden sibling folder, flushed to the disk and renamed; its manifest, written last, holds
the size and SHA-256 of every file. Invariants: a folder with the final name is complete; a resumed run continues with
the bits of one that was not interrupted, on one CPU; nothing in a checkpoint is executed when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agentrl.errors import CheckpointError
from agentrl.learner.update import Learner

FORMAT = 2
"""Raised whenever a reader of the previous number would go wrong."""
MANIFEST = "manifest.json"
CRITIC = "critic.safetensors"
_NAME = re.compile(r"step-(\d{8})")


def save_checkpoint(folder: Path, learner: Learner, step: int, state: dict[str, Any], *, keep: int = 1) -> Path:
    """Write `folder/step-<step>` atomically and delete all but the `keep` newest; returns its path.

    It holds the trained weights, the optimiser, the critic with its own where there is one, every random state (Python,
    numpy, torch, GPUs) and `state`, the trainer's own, which must be JSON. Raises `CheckpointError` if the disk
    refuses.
    """
    final = folder / f"step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".draft-*"):  # of a writer that was killed: a run has one writer
            shutil.rmtree(torn, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
        try:
            _write(draft, learner, state)
            _publish(draft, final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"checkpoint {str(final)!r} cannot be written: {error.strerror or error}") from error
    for old in _complete(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`; None if there is none. Torn ones are passed over."""
    return next(iter(_complete(folder)), None)


def load_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Restore weights, optimiser and random states into `learner`'s run; returns the trainer's state.

    Every file is verified before anything is changed. Raises `CheckpointError` in one line: missing, incomplete,
    corrupt, of another format, of another model.
    """
    _verify(path)
    try:
        weights = load_file(path / "model.safetensors", device=str(learner.policy.device))
        training = torch.load(path / "optimiser.pt", map_location=learner.policy.device, weights_only=True)
        randomness = json.loads((path / "random.json").read_text(encoding="utf-8"))
        state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    _check_same(path, weights, learner.policy.trainable(), "model")
    critic = _read_critic(path, learner)
    _restore_weights(learner.policy.trainable(), weights)
    if learner.critic is not None:
        _restore_weights(learner.critic.trainable(), critic[0])
        learner.critic.load_training_state(critic[1])
    try:
        learner.optimiser.load_state_dict(training["optimiser"])
    except ValueError as error:
        raise CheckpointError(f"checkpoint {str(path)!r} is of another optimiser: {error}") from error
    learner.steps = int(training["steps"])
    _set_random_state(randomness)
    return state


def _write(draft: Path, learner: Learner, state: dict[str, Any]) -> None:
    weights = {name: weight.detach().contiguous() for name, weight in learner.policy.trainable().items()}
    save_file(weights, draft / "model.safetensors")
    torch.save({"optimiser": learner.optimiser.state_dict(), "steps": learner.steps}, draft / "optimiser.pt")
    if learner.critic is not None:
        values = {name: weight.detach().contiguous() for name, weight in learner.critic.trainable().items()}
        save_file(values, draft / CRITIC)
        torch.save(learner.critic.training_state(), draft / "critic.pt")
    (draft / "random.json").write_text(json.dumps(_random_state()), encoding="utf-8")
    (draft / "state.json").write_text(json.dumps(state), encoding="utf-8")
    files = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(draft.iterdir())}
    (draft / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), encoding="utf-8")


def _publish(draft: Path, final: Path) -> None:
    """Give the draft its final name once every byte is on the disk."""
    for file in draft.iterdir():
        _flush(file)
    _flush(draft)
    if final.exists():  # the same step once more: the rename needs the name free
        os.rename(final, draft.with_name(draft.name + "-old"))
    os.rename(draft, final)
    _flush(final.parent)
    shutil.rmtree(draft.with_name(draft.name + "-old"), ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _complete(folder: Path) -> list[Path]:
    """Checkpoints whose files are all there with their sizes, newest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and not _missing(path):
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found, reverse=True)]


def _missing(path: Path) -> str | None:
    """What makes the folder incomplete, in words; None if nothing does."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, entry in manifest["files"].items():
            if (path / name).stat().st_size != entry["bytes"]:
                return f"{name} has the wrong size"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def _verify(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {str(path)!r} does not exist")
    if flaw := _missing(path):
        raise CheckpointError(f"checkpoint {str(path)!r} is incomplete: {flaw}")
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {str(path)!r} has format {manifest.get('format')}, this version reads {FORMAT}"
        )
    for name, entry in manifest["files"].items():
        if _sha256(path / name) != entry["sha256"]:
            raise CheckpointError(f"checkpoint {str(path)!r} is corrupt: {name} is not what was written")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_critic(path: Path, learner: Learner) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The critic's weights and training state; nothing of either where the run has no critic."""
    if (path / CRITIC).exists() != (learner.critic is not None):
        there = "has a" if learner.critic is None else "has no"
        raise CheckpointError(f"checkpoint {str(path)!r} {there} critic; resume with the configuration that wrote it")
    if learner.critic is None:
        return {}, {}
    device = learner.policy.device
    try:
        weights = load_file(path / CRITIC, device=str(device))
        state: dict[str, Any] = torch.load(path / "critic.pt", map_location=device, weights_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    _check_same(path, weights, learner.critic.trainable(), "critic")
    return weights, state


def _check_same(path: Path, weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], what: str) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in own.items()}
    stored = {name: tuple(weight.shape) for name, weight in weights.items()}
    if shapes != stored:
        name = next(iter(sorted(set(shapes.items()) ^ set(stored.items()))))[0]
        raise CheckpointError(
            f"checkpoint {str(path)!r} is of another {what}: "
            f"{name} is {stored.get(name)} there, {shapes.get(name)} here"
        )


def _restore_weights(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])


def _random_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in gpus],
    }


def _set_random_state(stored: dict[str, Any]) -> None:
    version, words, gauss = stored["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = stored["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(stored["torch"], dtype=torch.uint8))
    # A machine with fewer GPUs continues with what it has: no part of a run draws from a GPU's stream.
    with contextlib.suppress(RuntimeError):
        for index, state in enumerate(stored["cuda"]):
            torch.cuda.set_rng_state(torch.tensor(state, dtype=torch.uint8), index)
