"""One token a row from a batch of logits, with its log-probability under the very distribution it was drawn from.

Invariant: the token of a row depends on its logits, its temperature and its own uniform number, on nothing else in the
batch. Drawing inverts the cumulative distribution in float64, so that one uniform number a token suffices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sample(logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
    """Draw from `logits` (rows, vocabulary).

    `uniforms` in [0, 1) decide each row's token; a temperature of 0 takes the most likely one, and its log-probability
    is then that of temperature 1. Returns ids and log-probabilities (nats).
    """
    device = logits.device
    greedy = torch.tensor([temperature == 0 for temperature in temperatures], device=device)
    scale = torch.tensor([temperature or 1.0 for temperature in temperatures], device=device)
    scaled = logits.float()
    if any(temperature not in (0, 1) for temperature in temperatures):
        scaled = scaled / scale[:, None]
    logprobs = torch.log_softmax(scaled, dim=-1)
    if all(temperature == 0 for temperature in temperatures):
        chosen = logprobs.argmax(-1, keepdim=True)
    else:
        cumulative = torch.cumsum(logprobs.exp(), dim=-1, dtype=torch.float64)
        target = torch.tensor(uniforms, dtype=torch.float64, device=device)[:, None] * cumulative[:, -1:]
        # right=True: the first entry above the target, which is never a token of probability zero.
        chosen = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[-1] - 1)
        if bool(greedy.any()):
            chosen = torch.where(greedy[:, None], logprobs.argmax(-1, keepdim=True), chosen)
    return chosen[:, 0].tolist(), logprobs.gather(-1, chosen)[:, 0].tolist()
