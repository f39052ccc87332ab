"""The weights of a checkpoint, read tensor by tensor: a model is never in memory.

A checkpoint is what `--model` takes (hub id, folder, GGUF file, built-in name), a run's folder (its trained policy), a
checkpoint folder of a run, or a LoRA adapter, which is merged into its base as each tensor is read. Invariant: what
`read` returns is the number that the model computes with, in float32; files in which it is not (quantised ones) are
refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from agentrl.errors import ModelError
from agentrl.models import resolve
from agentrl.models.text import one_line

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of safetensors files that are numbers as they stand."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that can be read."""

    shape: tuple[int, ...]
    dtype: str
    """As stored: float32, bfloat16 ..."""
    load: Callable[[], Tensor]


@dataclass
class Weights:
    """An open checkpoint; a context manager that closes its files."""

    name: str
    """As the user wrote it."""
    path: Path
    model_type: str | None
    """From config.json; None for a run's checkpoint, which has none."""
    entries: dict[str, Entry]
    files: ExitStack = field(default_factory=ExitStack)

    def read(self, name: str) -> Tensor:
        """The tensor on the CPU, in float32 (float64 stays); raises `ModelError` for weights that are not finite."""
        tensor = self.entries[name].load()
        tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"model {self.name!r} cannot be measured: {name} has entries that are not finite")
        return tensor

    @property
    def dtypes(self) -> list[str]:
        """Types that the tensors are stored in."""
        return sorted({entry.dtype for entry in self.entries.values()})

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()


def open_weights(name: str) -> Weights:
    """The checkpoint called `name`; raises `ModelError` in one line."""
    path = Path(name).expanduser()
    if (path / "config.yaml").is_file():
        if not (path / "policy").is_dir():
            raise ModelError(f"{name!r} holds a run without a trained policy: agentrl train --resume {name}")
        path = path / "policy"
    whole = (path / "config.json").is_file()
    if (path / "adapter_config.json").is_file() and not whole:
        from agentrl.probe.adapter import open_adapter

        return open_adapter(name, path, open_weights)
    if (path / "manifest.json").is_file() and (path / "model.safetensors").is_file() and not whole:
        return _run_checkpoint(name, path)
    source = resolve(name if path == Path(name).expanduser() else str(path))
    return _model_folder(name, source.path)


def _run_checkpoint(name: str, path: Path) -> Weights:
    """A `step-...` folder: the trained parameters under their own names."""
    weights = Weights(name, path, None, {})
    weights.entries.update(file_entries(name, [path / "model.safetensors"], weights.files))
    if any(".lora_" in entry for entry in weights.entries):
        weights.files.close()
        raise ModelError(f"{name!r} is a checkpoint of adapters alone: give the run's folder, or its policy")
    return weights


def _model_folder(name: str, path: Path) -> Weights:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        raise ModelError(
            f"model {name!r} is quantised ({method}): its files hold codes, not weights; give the unquantised model"
        )
    weights = Weights(name, path, config["model_type"], {})
    weights.entries.update(file_entries(name, _files_of(path), weights.files))
    if config.get("tie_word_embeddings"):
        weights.entries.pop("lm_head.weight", None)  # a second copy of the input embeddings
    return weights


def _files_of(path: Path) -> list[Path]:
    """The weight files of a model folder that `resolve` accepted, safetensors first."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (path / single).is_file():
            return [path / single]
        index = path / f"{single}.index.json"
        if index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [path / shard for shard in sorted(set(shards))]
    raise ModelError(f"model folder {str(path)!r} has no weights")


def file_entries(name: str, files: list[Path], stack: ExitStack) -> Iterator[tuple[str, Entry]]:
    """Every tensor of the files, unread; `stack` closes them. Raises `ModelError`."""
    for file in files:
        try:
            yield from _safetensors(file, stack) if file.suffix == ".safetensors" else _pickled(file)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"model {name!r}: {file.name} cannot be read ({one_line(error)})") from error


def _safetensors(file: Path, stack: ExitStack) -> Iterator[tuple[str, Entry]]:
    opened: Any = stack.enter_context(safe_open(file, framework="pt"))
    for key in opened.keys():  # noqa: SIM118 (not a mapping)
        part = opened.get_slice(key)
        code = part.get_dtype()
        if code not in FLOATS:
            raise ModelError(f"{str(file)!r} is quantised: {key} is stored as {code}; give the unquantised model")
        yield key, Entry(tuple(part.get_shape()), FLOATS[code], partial(opened.get_tensor, key))


def _pickled(file: Path) -> Iterator[tuple[str, Entry]]:
    """The older format, mapped into memory: pages are read as they are used."""
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    for key, tensor in state.items():
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ModelError(f"{str(file)!r} is quantised: {key} is stored as {tensor.dtype}; give the unquantised one")
        yield key, Entry(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.detach)
