"""A small random decoder for engine tests, and a plain forward pass to check the engine against."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agentrl.engines.base import Completion

VOCABULARY = 97
STOP = 5


def make_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Two layers of width 32 with grouped keys; sharp enough that wrong positions or masks change every number."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    }
    return LlamaForCausalLM(LlamaConfig(**options | changes)).eval()


def plain_logprobs(model: Any, prompt: list[int], ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    """(len(ids), vocabulary): log-probabilities at each sampled place by one forward pass without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, dim=-1)


def assert_exact(model: Any, prompt: list[int], completion: Completion, temperature: float = 1.0) -> None:
    """The completion's log-probabilities are those of a plain forward pass."""
    table = plain_logprobs(model, prompt, completion.ids, temperature)
    expected = table.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The kept mass by the definition, one id after the other; zero elsewhere, shape (vocabulary,)."""
    kept = torch.zeros_like(probabilities)
    order = sorted(range(len(probabilities)), key=lambda token: (-float(probabilities[token]), token))
    for token in order:
        if float(kept.sum()) >= top_p:
            break
        kept[token] = probabilities[token]
    return kept / kept.sum()


def assert_nucleus(model: Any, prompt: list[int], completion: Completion, temperature: float, top_p: float) -> int:
    """The log-probabilities are those of the nucleus, by a plain forward pass; returns how many it changed."""
    table = plain_logprobs(model, prompt, completion.ids, temperature).double()
    rows = list(zip(table, completion.ids, strict=True))
    expected = torch.stack([nucleus(row.exp(), top_p)[token].log() for row, token in rows])
    actual = torch.tensor(completion.logprobs, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    return sum(bool(row[token] < value - 1e-3) for (row, token), value in zip(rows, expected, strict=True))


def assert_same(first: list[Completion], second: list[Completion]) -> None:
    """Equal ids, and log-probabilities equal up to rounding."""
    assert [completion.ids for completion in first] == [completion.ids for completion in second]
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)
