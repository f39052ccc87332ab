"""A LoRA adapter as the model that it makes of its base: W + scale B A, computed as each tensor is read.

Invariant: a merged tensor is the one that peft's own merge gives (same operations, same order); an adapter that is
more than plain LoRA is refused, not approximated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from agentrl.errors import ModelError
from agentrl.models.text import one_line
from agentrl.probe.weights import Entry, Weights, file_entries

PREFIX = "base_model.model."
REBASED = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Initialisations that change the base model: their adapters belong to a base that is on no disk."""

PEFT_ALPHA = 8
"""What peft takes for `lora_alpha` where a configuration has none."""


def open_adapter(name: str, path: Path, open_base: Callable[[str], Weights]) -> Weights:
    """The base model of the adapter in `path` with the adapter merged. Raises `ModelError`."""
    config = _settings(name, path)
    _check_plain(name, config)
    if not (path / "adapter_model.safetensors").is_file():
        raise ModelError(f"adapter {name!r} has no weights: expected adapter_model.safetensors")
    base = _base(name, config["base_model_name_or_path"], open_base)
    weights = Weights(name, path, base.model_type, dict(base.entries))
    weights.files.push(base)
    own = dict(file_entries(name, [path / "adapter_model.safetensors"], weights.files))
    for key, entry in own.items():
        target = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if target.endswith(".lora_B.weight") and key.replace(".lora_B.", ".lora_A.") in own:
            continue
        if target.endswith(".lora_A.weight"):
            module = target.removesuffix(".lora_A.weight")
            place = f"{module}.weight"
            other = own.get(key.replace(".lora_A.", ".lora_B."))
            if place in base.entries and other is not None:
                scale = _scale(config, module, entry.shape[0])
                transposed = bool(config.get("fan_in_fan_out"))
                if _fits(base.entries[place].shape, entry.shape, other.shape, transposed):
                    weights.entries[place] = _merged(base.entries[place], entry, other, scale, transposed)
                    continue
        elif target in base.entries:  # trained as a whole: modules_to_save, biases
            weights.entries[target] = entry
            continue
        weights.files.close()
        raise ModelError(f"adapter {name!r}: {key} fits nothing in its base {base.name!r}; merge it with peft")
    return weights


def _settings(name: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"adapter {name!r}: adapter_config.json cannot be read ({one_line(error)})") from error
    if not isinstance(config, dict) or not isinstance(config.get("lora_alpha", 1.0), int | float):
        raise ModelError(f"adapter {name!r}: adapter_config.json is no configuration of peft's")
    return config


def _base(name: str, base: str, open_base: Callable[[str], Weights]) -> Weights:
    folder = Path(base).expanduser()
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(f"adapter {name!r}: its base {base!r} is an adapter itself; merge that with peft")
    try:
        return open_base(base)
    except ModelError as error:
        raise ModelError(f"adapter {name!r}: base {error}") from error


def _fits(base: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], transposed: bool) -> bool:
    """Whether B A has the shape of the matrix that it is added to."""
    matrices = len(a) == len(b) == 2 and a[0] == b[1]
    return matrices and (b[0], a[1]) == (base[::-1] if transposed else base)


def _check_plain(name: str, config: dict[str, Any]) -> None:
    kind, start = str(config.get("peft_type")), str(config.get("init_lora_weights"))
    if kind != "LORA" or config.get("use_dora"):
        shown = "DoRA" if kind == "LORA" else kind
        raise ModelError(f"adapter {name!r} is of the kind {shown}; only LoRA can be merged here: merge it with peft")
    if start.lower().startswith(REBASED):
        raise ModelError(
            f"adapter {name!r} was initialised by {start}, which changes the base: give the merged model's folder"
        )
    if not config.get("base_model_name_or_path"):
        raise ModelError(f"adapter {name!r} names no base model (base_model_name_or_path in adapter_config.json)")


def _merged(base: Entry, a: Entry, b: Entry, scale: float, transposed: bool) -> Entry:
    def load() -> Tensor:
        change = (b.load().float() @ a.load().float()) * scale
        merged = base.load().float()
        merged += change.T if transposed else change
        return merged

    return Entry(base.shape, "float32", load)


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r of a module, by its pattern where it has one; the square root of r for rank-stabilised LoRA."""
    alpha = float(config.get("lora_alpha", PEFT_ALPHA))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):  # as peft matches them
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
