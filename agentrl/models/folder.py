"""Whether a folder holds a model in transformers form, judged by its files alone (nothing is loaded)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHARDED_WEIGHTS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def folder_fault(folder: Path) -> str | None:
    """What keeps `folder` from being a model, with what to do; None when config and all weights are there."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return "it is a LoRA adapter without its base: merge it into the base model and give that folder"
        return "it has no config.json: give the folder that save_pretrained wrote"
    config = _read_json(folder / "config.json")
    if config is None or "model_type" not in config:
        return "its config.json is no transformers configuration (valid JSON with a model_type)"
    return _weights_fault(folder)


def _weights_fault(folder: Path) -> str | None:
    if any((folder / name).is_file() for name in SINGLE_WEIGHTS):
        return None
    for name in SHARDED_WEIGHTS:
        if (folder / name).is_file():
            shards = (_read_json(folder / name) or {}).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                return f"its {name} lists no weights"
            missing = sorted(shard for shard in set(shards.values()) if not (folder / shard).is_file())
            return f"the weights {missing[0]} named by {name} are missing: copy them there" if missing else None
    return f"it has no weights: expected {SINGLE_WEIGHTS[0]}, its sharded form or {SINGLE_WEIGHTS[1]}"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
