"""What runs inside vLLM's worker process: loading weights in place and reading back what is served.

vLLM mixes `WeightsExtension` into its worker (`worker_extension_cls`), so its methods are called by name from outside.
Invariant: a digest is of the numbers that a forward pass uses, under the names of the checkpoint. vLLM fuses
projections (query, key and value are one matrix), pads the vocabulary and, on a CPU, keeps a linear layer's weights
only in a packed form that cannot be looked at: its own checksums there are those of empty tensors. What is packed is
read through the very kernel that serves it: the layer applied to the unit matrix is its matrix, bit for bit, because
every sum has one term that is not zero.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from agentrl.engines.weights import tensor_digests

ROWS = 256
"""Rows of the unit matrix that go through a packed layer at once: bounds the memory, costs no time."""


class WeightsExtension:
    """Methods of the worker by `collective_rpc`; everything given and returned is plain text and numbers."""

    model_runner: Any

    def agentrl_load(self, folder: str) -> None:
        """Load every weight in place from a folder in transformers form."""
        self.model_runner.reload_weights(weights_path=folder)
        for module in self.model_runner.get_model().modules():
            # vLLM leaves a tied head's packed copy as it was: the policy would go on with the old head.
            if _looks_up(module) and hasattr(module, "cpu_linear"):
                module.quant_method.process_weights_after_loading(module)

    def agentrl_watch(self, owner: int, processes: list[int]) -> None:
        """Kill `processes` and this one when the process `owner` ends: vLLM's own would live on without it."""
        watched = os.pidfd_open(owner)  # taken while the owner waits for this answer, so the id is its own
        Thread(target=_kill_after, args=(watched, processes), daemon=True, name="agentrl-watch").start()

    def agentrl_digests(self, adapter: int = 0) -> dict[str, str]:
        """SHA-256 of every served tensor by its name in the checkpoint, and of LoRA adapter number `adapter`."""
        model = self.model_runner.get_model()
        with torch.no_grad():
            served = dict(_served(model))
            if adapter:
                served.update(_adapter(model, self.model_runner.lora_manager._adapter_manager, adapter))
        return tensor_digests(served)


def _kill_after(watched: int, processes: list[int]) -> None:
    select.select([watched], [], [])
    for process in (*processes, os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def canonical(tensor: Tensor) -> Tensor:
    """`tensor` with +0.0 for -0.0, which a product with the unit matrix cannot tell apart."""
    return tensor.detach() + 0.0


def _served(model: Any) -> Iterator[tuple[str, Tensor]]:
    packed = getattr(model, "packed_modules_mapping", {})
    for path, module in model.named_modules():
        name = path.replace(".base_layer", "")  # LoRA wraps the layer that it adapts
        if _looks_up(module):
            yield f"{name}.weight", canonical(_vocabulary(module))
            continue
        if hasattr(module, "quant_method") and hasattr(module, "weight") and hasattr(module, "input_size"):
            yield from _split(name, "weight", module, packed, _matrix(module, module.input_size))
            if getattr(module, "bias", None) is not None:
                yield from _split(name, "bias", module, packed, module.bias.to(module.params_dtype))
            continue
        if path.endswith("base_layer") or not name.endswith("_stacked"):
            for own, parameter in module.named_parameters(recurse=False):
                yield f"{name}.{own}".lstrip("."), canonical(parameter)


def _looks_up(module: Any) -> bool:
    """Whether it is an embedding or a head."""
    return hasattr(module, "org_vocab_size") and hasattr(module, "weight")


def _vocabulary(module: Any) -> Tensor:
    """The rows of real tokens; of a head that has its own packed copy, as the head applies it."""
    weight: Tensor = module.weight[: module.org_vocab_size]
    if not hasattr(module, "cpu_linear"):
        return weight
    through = _matrix(module, weight.shape[1])[: module.org_vocab_size]
    if torch.equal(through, canonical(weight)):
        return weight
    # The looked-up rows and the applied ones differ: neither may pass for the other.
    return torch.cat([weight, through])


def _matrix(layer: Any, inputs: int) -> Tensor:
    """The (outputs, inputs) matrix that `layer` applies."""
    if not hasattr(layer, "cpu_linear"):
        return canonical(layer.weight)
    dtype = getattr(layer, "params_dtype", None) or layer.weight.dtype
    unit = torch.eye(inputs, dtype=dtype)
    return torch.cat([layer.quant_method.apply(layer, rows, None) for rows in torch.split(unit, ROWS)]).t() + 0.0


def _split(
    name: str, kind: str, module: Any, packed: dict[str, list[str]], tensor: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """A fused tensor as the checkpoint's parts, any other as it is."""
    parent, _, leaf = name.rpartition(".")
    parts = packed.get(leaf, [leaf])
    sizes = module.output_sizes if len(parts) > 1 else [tensor.shape[0]]
    for part, rows in zip(parts, torch.split(tensor, list(sizes)), strict=True):
        yield f"{parent}.{part}.{kind}", canonical(rows)


def _adapter(model: Any, manager: Any, number: int) -> Iterator[tuple[str, Tensor]]:
    """The matrices A and B (scaled) in the slot of adapter `number`: what the adapted layers multiply with."""
    slot, rank = manager.lora_index_to_id.index(number), manager.get_adapter(number).rank
    packed = getattr(model, "packed_modules_mapping", {})
    for name, module in model.named_modules():
        if not hasattr(module, "lora_a_stacked"):
            continue
        parent, _, leaf = name.rpartition(".")
        for part, a, b in zip(packed.get(leaf, [leaf]), module.lora_a_stacked, module.lora_b_stacked, strict=True):
            if a[slot].any():  # a part that the adapter leaves alone is zero
                yield f"{parent}.{part}.lora_A", canonical(a[slot, 0, :rank])
                yield f"{parent}.{part}.lora_B", canonical(b[slot, 0, :, :rank])
