"""Supervised step: the policy imitates demonstrations, by the same packing and chunked scoring as an update.

Invariant: the loss is the mean cross-entropy over the demonstrations' policy tokens, at temperature 1; context and
observations carry none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agentrl.errors import TrainingError
from agentrl.learner.batch import PackedTokens, TrainingRow, pack
from agentrl.learner.optimiser import guarded_step
from agentrl.learner.policy import Policy


def supervised_step(
    policy: Policy,
    rows: Sequence[TrainingRow],
    optimiser: torch.optim.Optimizer,
    *,
    micro_batch_tokens: int = 4096,
    grad_clip: float = 1.0,
) -> dict[str, float]:
    """One optimiser step at the optimiser's own learning rate.

    Returns `loss` (nats a token), `accuracy` (share of policy tokens with the largest logit), `grad_norm` and
    `policy_tokens`, all measured before the step. Raises `TrainingError` without policy tokens and for a loss or
    gradient that is not finite; then nothing is stepped.
    """
    count = sum(len(row.positions) for row in rows)
    if count == 0:
        raise TrainingError("the demonstrations have no policy tokens to imitate")
    optimiser.zero_grad(set_to_none=True)
    loss = correct = 0.0
    for members in pack(rows, micro_batch_tokens):
        tokens = PackedTokens.of([rows[index] for index in members], policy.device)
        scores = policy.score(tokens, greedy=True)
        share = -scores.logprobs.sum() / count
        loss += float(share.detach())
        if not loss < float("inf"):
            optimiser.zero_grad(set_to_none=True)
            raise TrainingError(f"the supervised loss is {loss}; nothing was stepped")
        share.backward()  # type: ignore[no-untyped-call]
        correct += float(scores.greedy.sum())
    norm = guarded_step(optimiser, grad_clip, optimiser.param_groups[0]["lr"])
    return {"loss": loss, "accuracy": correct / count, "grad_norm": norm, "policy_tokens": float(count)}
