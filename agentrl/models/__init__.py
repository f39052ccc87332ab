"""Models by name: a hub id, a folder, a GGUF file or a built-in model. Each ends as a folder that transformers loads.

    source = resolve("smollm2-135m-instruct")
    tokenizer, model = load_tokenizer(source), load_model(source)

What needs torch is imported on first use, so that naming, listing and fetching models stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentrl.models.listing import ModelInfo, fetch, list_models
from agentrl.models.progress import Report
from agentrl.models.resolve import kind_of, resolve
from agentrl.models.source import ModelKind, ModelSource

if TYPE_CHECKING:
    from agentrl.models.load import has_chat_template, load_model, load_tokenizer
    from agentrl.models.tiny import build_tiny

__all__ = [
    "ModelInfo",
    "ModelKind",
    "ModelSource",
    "Report",
    "build_tiny",
    "fetch",
    "has_chat_template",
    "kind_of",
    "list_models",
    "load_model",
    "load_tokenizer",
    "resolve",
]

_NEED_TORCH = {"build_tiny": "tiny", "has_chat_template": "load", "load_model": "load", "load_tokenizer": "load"}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
