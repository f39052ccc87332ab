"""Chunked scoring equals float32 log-softmax over whole logits, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from agentrl.learner.logprobs import token_logprobs

COUNT, WIDTH, VOCABULARY = 23, 12, 31


def problem(bias: bool = False) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(3)
    hidden = torch.randn(COUNT, WIDTH, requires_grad=True)
    return hidden, nn.Linear(WIDTH, VOCABULARY, bias=bias), torch.randint(VOCABULARY, (COUNT,))


def whole(hidden: Tensor, head: nn.Linear, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(head(hidden).float() / temperature, -1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradient_equal_whole_logits(chunk: int, temperature: float, entropy: bool, bias: bool) -> None:
    hidden, head, targets = problem(bias)
    up, up_entropy = torch.randn(COUNT), torch.randn(COUNT) * entropy
    scores = token_logprobs(
        hidden, head, targets, temperature=temperature, entropy=entropy, greedy=True, chunk_tokens=chunk
    )
    ((scores.logprobs * up).sum() + (scores.entropy * up_entropy).sum()).backward()
    found = [hidden.grad, *(weight.grad for weight in head.parameters())]
    hidden, head, targets = problem(bias)
    expected, expected_entropy = whole(hidden, head, targets, temperature)
    ((expected * up).sum() + (expected_entropy * up_entropy).sum()).backward()
    torch.testing.assert_close(scores.logprobs, expected)
    assert torch.equal(scores.greedy, head(hidden).argmax(-1) == targets)
    if entropy:
        torch.testing.assert_close(scores.entropy, expected_entropy)
    for own, reference in zip(found, [hidden.grad, *(weight.grad for weight in head.parameters())], strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, targets = problem()
    head.requires_grad_(False)
    token_logprobs(hidden, head, targets).logprobs.sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None


def test_autocast_multiplies_in_bf16_and_normalises_in_float32() -> None:
    hidden, head, targets = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = token_logprobs(hidden, head, targets)
    logits = torch.nn.functional.linear(hidden.bfloat16(), head.weight.bfloat16()).float()
    expected = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(scores.logprobs, expected)
    scores.logprobs.sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32
