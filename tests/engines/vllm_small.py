"""What the tests of the vLLM engines share: prompts, changed weights, the processes that must not stay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from agentrl.engines import vllm_process

STOP = 3
"""Ends a turn of the tiny model."""


def prompt_of(seed: int, length: int = 12) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(5, 130, (length,), generator=draw).tolist()


def descendants() -> set[vllm_process.Process]:
    return {process for process in vllm_process.tree(os.getpid())[1:] if process.alive and is_vllm(process.pid)}


OTHERS = (b"resource_tracker", b"agentrl.workers")
"""Helpers that live as long as this process: multiprocessing's own, and the verifiers' pool of other test modules."""


def is_vllm(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return not any(other in command for other in OTHERS)


def perturb(model: Any, scale: float = 0.02, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))
