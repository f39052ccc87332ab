"""KL divergence of a tempered reference from the policy, over the whole vocabulary (RAPO, 57).

Invariants: whole logits never exist, of neither model: the forward pass keeps no chunk of them and the backward pass
makes each again; the reference carries no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from agentrl import needs
from agentrl.components import checked_options
from agentrl.errors import ConfigError
from agentrl.learner.logprobs import CHUNK_ELEMENTS
from agentrl.learner.quantities import tempering

if TYPE_CHECKING:
    from agentrl.learner.batch import PackedTokens
    from agentrl.learner.policy import Policy


class ForwardKL:
    """The quantity `forward_kl(phi_min=..., low=..., high=...)` of a training pass: KL(pihat || policy), with gradient.

    Costs a forward pass of the reference, and the output head's products of both models once more, in each pass.
    """

    def __init__(self, policy: Policy, name: str) -> None:
        """`name` is the need; raises `ConfigError` for one that no training pass computes."""
        kind, options = needs.split(name)
        if kind != "forward_kl":
            raise ConfigError(f"loss: no training pass computes {name}; valid: entropy, uniform, forward_kl")
        self.name = name
        self.options: dict[str, Any] = checked_options("forward_kl", tempering, options, bound=1)
        self.policy = policy
        policy.keep_reference()

    def __call__(self, tokens: PackedTokens, states: Tensor, rewards: Tensor, temperature: float) -> Tensor:
        """Shape (n,), nats; `states` are the policy's, `rewards` those of each token's trajectory."""
        return self.policy.forward_kl(tokens, states, tempering(rewards, **self.options), temperature)


def forward_kl(
    hidden: Tensor, head: nn.Linear, reference: Tensor, reference_head: nn.Linear, phi: Tensor, temperature: float
) -> Tensor:
    """sum_v pihat(v) (log pihat(v) - log pi(v)) of n tokens, shape (n,), float32.

    `hidden`, `reference`: last states that predict them, shape (n, width); `phi`: shape (n,). Under autocast the heads
    multiply in autocast's type, the softmax is float32. The gradient in the logits is pi - pihat.
    """
    chunk = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    parts = [
        checkpoint(_of_chunk, hidden[part], head, reference[part], reference_head, phi[part], temperature,
                   use_reentrant=False, preserve_rng_state=False)
        for part in (slice(start, start + chunk) for start in range(0, len(hidden), chunk))
    ]  # fmt: skip
    return torch.cat(parts)


def _of_chunk(
    hidden: Tensor, head: nn.Linear, reference: Tensor, reference_head: nn.Linear, phi: Tensor, temperature: float
) -> Tensor:
    log_p = _log_softmax(linear(hidden, head.weight, head.bias), 1.0 / temperature)
    with torch.no_grad():
        logits = linear(reference, reference_head.weight, reference_head.bias)
        log_q = _log_softmax(logits, phi[:, None] / temperature)
        q = log_q.exp()
    return (q * (log_q - log_p)).sum(-1)


def _log_softmax(logits: Tensor, scale: Tensor | float) -> Tensor:
    return (logits.float() * scale).log_softmax(-1)
