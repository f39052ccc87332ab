"""What is served, as a hash: the attestation that every turn records.

Invariant: equal names, types, shapes and bytes give equal hashes, in any order and on any device; one changed bit
gives another. SHA-256 releases the interpreter's lock, so tensors are hashed in parallel.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentrl.errors import ConfigError


def weights_hash(weights: Mapping[str, Any]) -> str:
    """SHA-256, 64 hexadecimal digits, over names, types, shapes and bytes of tensors, arrays or bytes-like values."""
    return digests_hash(tensor_digests(weights))


def tensor_digests(weights: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each value by itself: what two processes compare to say which tensor differs."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(weights, pool.map(_digest, weights.values()), strict=True))


def digests_hash(digests: Mapping[str, str]) -> str:
    """The `weights_hash` of the tensors with these `tensor_digests`."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name}\0{digests[name]}\n".encode())
    return total.hexdigest()


def distinct(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a torch state, each once, under the first of its names."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    first: dict[str, Any] = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in seen or tensor.numel() == 0:
            seen.add(key)
            first[name] = tensor
    return first


def module_hash(module: Any) -> str:
    """`weights_hash` of a torch module: every parameter and persistent buffer once, however many names it has."""
    return weights_hash(distinct(module.state_dict()))


def check_weights(model: Any, weights: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a name or shape in `weights` that a torch module lacks, before anything is copied."""
    own = model.state_dict()
    for name, tensor in weights.items():
        if name not in own:
            raise ConfigError(f"published weights name {name!r}, which the model lacks")
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            raise ConfigError(f"published weights do not fit the model: {name!r} has shape {shapes}")


def _digest(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return hashlib.sha256(value).hexdigest()
    header = f"{value.dtype}{tuple(value.shape)}".encode()
    if hasattr(value, "detach"):  # a torch tensor, of a type such as bfloat16 that NumPy may not know
        import torch

        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(header)
    digest.update(memoryview(value).cast("B") if value.flags.c_contiguous else value.tobytes())
    return digest.hexdigest()
