"""Log-probabilities of chosen tokens without whole logits.

The output head runs over the positions that predict policy tokens only, some tokens at a time; the backward pass makes
each chunk's logits again, so at most one chunk of (tokens, vocabulary) exists in float32. Invariant: value and gradient
equal those of float32 log-softmax over whole logits, whatever the chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

CHUNK_ELEMENTS = 2**25
"""Logits of one chunk: 128 MiB in float32. Smaller chunks add up the head's gradient more often."""


@dataclass(frozen=True)
class Scores:
    """Of n tokens, shape (n,) each, float32."""

    logprobs: Tensor
    """log softmax(logits / temperature) at the target, nats."""
    entropy: Tensor
    """Entropy of the distribution at temperature, nats; zeros unless asked for."""
    uniform: Tensor
    """Mean of log softmax(logits / temperature) over the vocabulary, nats, no gradient; zeros unless asked for."""
    greedy: Tensor
    """bool: the target has the largest logit; False unless asked for."""


def token_logprobs(
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    uniform: bool = False,
    greedy: bool = False,
    chunk_tokens: int | None = None,
) -> Scores:
    """Score `targets` (n,) from the hidden states (n, width) that predict them.

    Under autocast the head's product is computed in autocast's type, the softmax in float32.
    """
    chunk = chunk_tokens or max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    options = _Options(_product_dtype(hidden), temperature, entropy, uniform, greedy, chunk)
    return Scores(*_ChunkedHead.apply(hidden, head.weight, head.bias, targets, options))  # type: ignore[no-untyped-call]


@torch.no_grad()
def chunked_logits(hidden: Tensor, head: nn.Linear, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """The chunks of `hidden` (n, width) that `token_logprobs` makes, and their float32 logits / temperature."""
    chunk = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    options = _Options(_product_dtype(hidden), temperature, False, False, False, chunk)
    cast = head.weight.to(options.dtype)
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        yield part, _logits(hidden[part], cast, head.bias, options)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


@dataclass(frozen=True)
class _Options:
    dtype: torch.dtype
    temperature: float
    entropy: bool
    uniform: bool
    greedy: bool
    chunk: int


class _ChunkedHead(torch.autograd.Function):
    """With z = logits / temperature: d logp_y / dz = onehot(y) - p; d entropy / dz = -p (log p + entropy)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = len(targets)
        normaliser, logprobs, entropy, uniform = (
            torch.zeros(count, dtype=torch.float32, device=hidden.device) for _ in range(4)
        )
        greedy = torch.zeros(count, dtype=torch.bool, device=hidden.device)
        cast = weight.to(options.dtype)
        for start in range(0, count, options.chunk):
            part = slice(start, start + options.chunk)
            logits = _logits(hidden[part], cast, bias, options)
            normaliser[part] = logits.logsumexp(-1)
            logprobs[part] = logits.gather(1, targets[part, None])[:, 0] - normaliser[part]
            if options.uniform:
                uniform[part] = logits.mean(-1) - normaliser[part]
            if options.greedy:
                greedy[part] = logits.argmax(-1) == targets[part]
            if options.entropy:
                log_p = logits.sub_(normaliser[part, None])
                entropy[part] = -(log_p.exp() * log_p).sum(-1)
        ctx.save_for_backward(hidden, cast, bias, targets, normaliser, entropy)
        ctx.options, ctx.weight_dtype = options, weight.dtype
        ctx.mark_non_differentiable(uniform, greedy)
        return logprobs, entropy, uniform, greedy

    @staticmethod
    def backward(
        ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden, cast, bias, targets, normaliser, entropy = ctx.saved_tensors
        options: _Options = ctx.options
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(cast, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        for start in range(0, len(targets), options.chunk):
            part = slice(start, start + options.chunk)
            log_p = _logits(hidden[part], cast, bias, options).sub_(normaliser[part, None])
            grad = _logit_gradient(
                log_p, targets[part], grad_logprobs[part], grad_entropy[part], entropy[part], options
            )
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            low = grad.to(options.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = low @ cast
            if grad_weight is not None:
                grad_weight += low.T @ hidden[part].to(options.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.to(ctx.weight_dtype)
        return grad_hidden, grad_weight, grad_bias, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, options: _Options) -> Tensor:
    """float32 logits / temperature, shape (chunk, vocabulary), free to be overwritten."""
    low = linear(hidden.to(options.dtype), weight, None if bias is None else bias.to(options.dtype))
    logits = low.float()
    return logits if options.temperature == 1.0 else logits.div_(options.temperature)


def _logit_gradient(
    log_p: Tensor, targets: Tensor, grad_logprobs: Tensor, grad_entropy: Tensor, entropy: Tensor, options: _Options
) -> Tensor:
    """Gradient with respect to the raw logits, float32; overwrites `log_p`."""
    if options.entropy:
        factor = (log_p + entropy[:, None]).mul_(grad_entropy[:, None]).add_(grad_logprobs[:, None])
        grad = log_p.exp_().mul_(factor).neg_()
    else:
        grad = log_p.exp_().mul_(-grad_logprobs[:, None])
    grad.scatter_add_(1, targets[:, None], grad_logprobs[:, None].to(grad.dtype))
    return grad if options.temperature == 1.0 else grad.div_(options.temperature)
