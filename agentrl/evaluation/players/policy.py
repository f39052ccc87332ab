"""A local model as a player, in this process or in a vLLM of its own: hub id, folder, GGUF, built-in name, adapter.

An adapter (peft's folder, with adapter_config.json) is merged into its base model as it is loaded, so that every engine
serves it at the base's speed and its weights have a hash.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl import models, registry
from agentrl.engines.base import Engine
from agentrl.env import Env
from agentrl.errors import ConfigError, ModelError
from agentrl.evaluation.players.base import PlayerKind, PlayerSettings
from agentrl.evaluation.players.played import RolloutPlayer
from agentrl.evaluation.players.runs import PRECISIONS

if TYPE_CHECKING:
    from agentrl.chat import ChatRenderer

ADAPTER_CONFIG = "adapter_config.json"
ENGINES = ("transformers", "vllm")
"""Engines that serve a model of ours."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this disk, or one that `agentrl.models` fetches."""

    name: str
    """What `agentrl.models` resolves: the model's, or that of an adapter's base."""
    adapter: Path | None = None


def local_model(name: str, base: str | None) -> LocalModel:
    """What `name` means, judged without loading anything; `base` replaces the base that an adapter names.

    Raises `ModelError`.
    """
    folder = Path(name).expanduser()
    if not (folder / ADAPTER_CONFIG).is_file() or (folder / "config.json").is_file():
        if base is not None:
            raise ConfigError(f"base={base!r} has no meaning for {name!r}, which is no adapter ({ADAPTER_CONFIG})")
        models.kind_of(name)
        return LocalModel(name)
    try:
        named = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"adapter {name!r}: its {ADAPTER_CONFIG} cannot be read: {error}") from None
    if not any(folder.glob("adapter_model.*")):
        raise ModelError(f"adapter {name!r} has no weights: expected adapter_model.safetensors")
    found = base or named
    if not found:
        raise ModelError(f"adapter {name!r} names no base model: give it with --base")
    try:
        models.kind_of(found)
    except ModelError as error:
        raise ModelError(f"adapter {name!r} needs its base model, give it with --base: {error}") from None
    return LocalModel(found, folder)


class PolicyPlayer(RolloutPlayer):
    """A model whose weights are loaded here."""

    def __init__(self, model: str, settings: PlayerSettings, local: LocalModel) -> None:
        """Raises `ConfigError` for an engine that serves no local model and for options that it does not have."""
        super().__init__(model, settings)
        self.local = local
        self.engine_name = settings.engine or "transformers"
        if self.engine_name in ("openai", "scripted"):
            raise ConfigError(
                f"engine={self.engine_name!r} serves no local model; use {' or '.join(ENGINES)}, or an endpoint"
            )
        registry.engines.get(self.engine_name)
        if settings.token_entropy and self.engine_name != "transformers":
            raise ConfigError(f"token_entropy: engine {self.engine_name!r} does not record it; use transformers")
        if self.engine_name == "vllm" and settings.device not in (None, "auto"):
            raise ConfigError(f"device={settings.device!r} has no meaning for vLLM, which chooses its own")
        self.kind = PlayerKind.VLLM if self.engine_name == "vllm" else PlayerKind.POLICY

    def describe(self) -> dict[str, Any]:
        """See `Player.describe`."""
        settings = self.settings
        return super().describe() | {
            "base": self.local.name if self.local.adapter else None,
            "weights_hash": self.weights_hash,
            "engine": self.engine_name,
            "engine_options": dict(settings.engine_options),
            "precision": settings.precision or "fp32",
            "tool_format": settings.tool_format or "auto",
            "tool_prompt": settings.tool_prompt or "schema",
            "history": settings.history or "template",
        }

    async def start(self) -> None:
        if self._engine is not None:
            return
        engine = self._load()
        try:
            await engine.start()
        except BaseException:
            await engine.close()
            raise
        self._engine = engine

    def renderer(self, env: Env) -> ChatRenderer:
        return self._rendering(env.tool_schemas())

    def _load(self) -> Engine:
        """The engine around the loaded model."""
        from agentrl.models.load import load_tokenizer

        source = models.resolve(self.local.name)
        self._tokenizer = _adapter_tokenizer(self.local.adapter) or load_tokenizer(source)
        stop_ids = self._rendering([]).stop_ids  # of requests that name none; a tokenizer without template shows here
        model = self._load_model(source)
        options = dict(self.settings.engine_options)
        if self.settings.token_entropy:
            options["token_entropy"] = True
        engine_class = registry.engines.get(self.engine_name)
        engine: Engine = engine_class.for_policy(model, stop_ids=stop_ids, **options)
        return engine

    def _load_model(self, source: models.ModelSource) -> Any:
        import torch

        from agentrl.models.load import load_model

        torch_names = {short: name for name, short in PRECISIONS.items()}
        dtype = getattr(torch, torch_names[self.settings.precision or "fp32"])
        device = self.settings.device or "auto"
        if device == "auto":  # vLLM has memory of its own: here the model only lies until it is written
            device = "cuda" if torch.cuda.is_available() and self.engine_name != "vllm" else "cpu"
        model = load_model(source, dtype=dtype, device=device)
        return model if self.local.adapter is None else _merged(model, self.local.adapter)


def _adapter_tokenizer(adapter: Path | None) -> Any:
    """The tokenizer that was saved beside an adapter, if there is one: training may have changed its template."""
    from agentrl.models.load import TOKENIZER_FILES, load_tokenizer

    if adapter is None or not any((adapter / name).is_file() for name in TOKENIZER_FILES):
        return None
    return load_tokenizer(models.ModelSource(str(adapter), models.ModelKind.FOLDER, adapter))


def _merged(model: Any, adapter: Path) -> Any:
    """`model` with the adapter's changes in its weights; raises `ModelError` for one that was made for another."""
    from peft import PeftModel

    try:
        adapted: Any = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
        merged = adapted.merge_and_unload(safe_merge=True)
    except Exception as error:  # whatever peft raises, the adapter and its base do not go together
        text = " ".join(str(error).split())
        raise ModelError(f"adapter {str(adapter)!r} does not fit its base model: {text[:300]}") from error
    return merged.eval()
