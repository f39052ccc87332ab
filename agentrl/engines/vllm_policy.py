"""A live policy as files that vLLM reads, with the digests that vLLM must then report.

Invariant: `Published.expected` are the digests of exactly what was written, under every name of the checkpoint, tied
names included; `Published.check` accepts nothing but an engine that serves all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from agentrl.engines.vllm_worker import canonical
from agentrl.engines.weights import digests_hash, distinct, tensor_digests
from agentrl.errors import ConfigError, EngineError

LoraMode = Literal["merge", "adapter"]
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Sizes of vLLM's slots for adapters."""


@dataclass(frozen=True)
class Published:
    """What one `write` put on disk."""

    folder: Path
    expected: dict[str, str]
    """Digest of each tensor by each of its names."""
    distinct: tuple[str, ...]
    """One name of each tensor: what the hash is over."""

    def check(self, served: Mapping[str, str]) -> str:
        """The hash of what the engine serves; raises `EngineError` for the first tensor that is not what was written.

        `served` are the engine's own digests. The hash is that of `agentrl.engines.weights.module_hash` for the same
        weights in the same type (except that -0.0 counts as +0.0).
        """
        for name, digest in self.expected.items():
            if served.get(name) != digest:
                found = "serves other numbers for" if name in served else "does not show"
                raise EngineError(f"the weights in vLLM are not the published ones: it {found} {name!r}")
        stray = [name for name in served if ".lora_" in name and name not in self.expected]
        if stray:
            raise EngineError(f"the weights in vLLM are not the published ones: it adapts {stray[0]!r} too")
        return digests_hash({name: served[name] for name in self.distinct})


class PolicyFiles:
    """Writes a policy's weights; knows LoRA layers as peft injects them into the module."""

    def __init__(self, model: Any, dtype: torch.dtype, lora: LoraMode = "merge") -> None:
        """`dtype` is what vLLM computes in. Raises `ConfigError` for `adapter` where the policy has no plain LoRA."""
        self.model = model
        self.dtype = dtype
        self.adapted = _adapted(model)
        self.by_adapter = lora == "adapter"
        self.rank = 0
        """Of the slots that vLLM needs for adapters; 0: none."""
        if self.by_adapter:
            _check_plain(self.adapted)
            largest = max(layer.r[name] for layer, name in self.adapted.values())
            self.rank = next((rank for rank in RANKS if rank >= largest), 0)
            if not self.rank:
                raise ConfigError(f"engine 'vllm': lora='adapter' holds ranks up to {RANKS[-1]}, not {largest}")

    @torch.no_grad()
    def write(self, folder: Path) -> Published:
        """The whole policy in transformers form, adapters merged unless they travel by themselves."""
        folder.mkdir(parents=True)
        state = self._state()
        once = distinct(state)
        save_file({name: tensor.contiguous() for name, tensor in once.items()}, folder / "model.safetensors")
        config = json.loads(self.model.config.to_json_string(use_diff=False))
        config["architectures"] = [type(self.model).__name__]
        (folder / "config.json").write_text(json.dumps(config))
        digests = tensor_digests({name: canonical(tensor) for name, tensor in once.items()})
        first = {_place(tensor): name for name, tensor in once.items()}
        expected = {name: digests[first[_place(tensor)]] for name, tensor in state.items()}
        return Published(folder, expected, tuple(once))

    @torch.no_grad()
    def write_adapter(self, folder: Path, base: Published) -> Published:
        """The adapter alone, in peft's form, on top of `base`."""
        folder.mkdir(parents=True)
        files: dict[str, Tensor] = {}
        served: dict[str, Tensor] = {}
        for path, (layer, name) in self.adapted.items():
            a = layer.lora_A[name].weight.detach().to(self.dtype).cpu().contiguous()
            b = layer.lora_B[name].weight.detach().to(self.dtype).cpu().contiguous()
            files[f"base_model.model.{path}.lora_A.weight"], files[f"base_model.model.{path}.lora_B.weight"] = a, b
            served[f"{path}.lora_A"], served[f"{path}.lora_B"] = canonical(a), canonical(b * layer.scaling[name])
        save_file(files, folder / "adapter_model.safetensors")
        layer, name = next(iter(self.adapted.values()))
        settings = {
            "peft_type": "LORA",
            "r": layer.r[name],
            "lora_alpha": layer.lora_alpha[name],
            "target_modules": sorted({path.rpartition(".")[2] for path in self.adapted}),
            "bias": "none",
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        digests = tensor_digests(served)
        return Published(folder, base.expected | digests, (*base.distinct, *digests))

    def _state(self) -> dict[str, Tensor]:
        """The module's tensors under the names of a model without adapters, in the engine's type, on the CPU.

        Tied tensors stay one tensor.
        """
        own = self.model.state_dict()
        merged: dict[tuple[Any, ...], Tensor] = {}
        state: dict[str, Tensor] = {}
        for name, tensor in own.items():
            if ".lora_" in name:
                continue
            plain = name.replace(".base_layer.", ".")
            place = _place(tensor)
            if place not in merged:
                merged[place] = self._merged(name, tensor).detach().to(self.dtype).cpu()
            state[plain] = merged[place]
        return state

    def _merged(self, name: str, tensor: Tensor) -> Tensor:
        path, _, kind = name.rpartition(".base_layer.")
        if self.by_adapter or kind != "weight" or path not in self.adapted:
            return tensor
        layer, adapter = self.adapted[path]
        return tensor if layer.merged else tensor + layer.get_delta_weight(adapter)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.data_ptr(), tuple(tensor.shape), id(tensor) if tensor.numel() == 0 else 0)


def _adapted(model: Any) -> dict[str, tuple[Any, str]]:
    """Every LoRA layer by its path, with the name of its one active adapter."""
    found = {}
    for path, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            active = [name for name in module.active_adapters if name in module.lora_A]
            if len(active) > 1:
                raise ConfigError(f"engine 'vllm' serves one LoRA adapter; {path} has {len(active)} active")
            if active:
                found[path] = (module, active[0])
    return found


def _check_plain(adapted: Mapping[str, tuple[Any, str]]) -> None:
    if not adapted:
        raise ConfigError("engine 'vllm': lora='adapter' needs a policy with LoRA (model.lora)")
    for path, (layer, name) in adapted.items():
        if layer.scaling[name] != layer.lora_alpha[name] / layer.r[name] or layer.use_dora.get(name):
            raise ConfigError(f"engine 'vllm': lora='adapter' needs plain LoRA, which {path} is not; use lora='merge'")
