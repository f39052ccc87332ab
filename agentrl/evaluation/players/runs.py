"""A run's folder as a model: its trained policy, served as its own evaluations served it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from agentrl.config import RunConfig, load_config
from agentrl.errors import ConfigError, StoreError
from agentrl.evaluation.folder import SUITE_FILE
from agentrl.evaluation.players.base import PlayerSettings, Precision
from agentrl.store.folder import CONFIG_FILE, place_of

PRECISIONS: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""By torch's names, as engines have them."""


def run_of(model: str) -> tuple[Path, RunConfig] | None:
    """The policy and the configuration of a run, where `model` is a run's folder, or the policy or adapter in it.

    None where it is anything else. Raises `ConfigError` for a run without a trained policy.
    """
    path = Path(model).expanduser()
    inside = path.name == "adapter" and path.parent.name == "policy"
    folder = path.parents[1] if inside else path.parent if path.name == "policy" else path
    if not (folder / CONFIG_FILE).is_file() or not _is_run(folder):
        return None
    policy = path if inside else folder / "policy"
    if not policy.is_dir():
        raise ConfigError(f"{model!r} holds a run without a trained policy; agentrl train --resume {folder}")
    return policy, load_config(folder / CONFIG_FILE)


def _is_run(folder: Path) -> bool:
    """Whether a training run is stored for this folder, in its own file or in a shared database."""
    try:
        place_of(folder)
    except StoreError:
        return False
    return not (folder / SUITE_FILE).is_file()  # an evaluation has no policy


def with_run(settings: PlayerSettings, config: RunConfig) -> PlayerSettings:
    """`settings`, where they leave it open, as the run had them: chat options, device, engine, what it computed in.

    `model.precision` is the learner's and no part of it. The run's engine options are taken with its engine only.
    """
    changes: dict[str, Any] = {
        key: getattr(config.model, key)
        for key in ("tool_format", "tool_prompt", "history", "device")
        if getattr(settings, key) is None
    }
    if settings.engine in (None, config.engine.name):
        options = dict(config.engine.options)
        dtype = options.pop("dtype", None)
        changes["engine"] = config.engine.name
        changes["engine_options"] = options | dict(settings.engine_options)
        if settings.precision is None and dtype in PRECISIONS:
            changes["precision"] = PRECISIONS[dtype]
    return replace(settings, **changes)


assert set(PRECISIONS.values()) == set(get_args(Precision))
