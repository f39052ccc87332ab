"""One token a row from a batch of logits, with its log-probability under the very distribution it was drawn from.

Invariant: the token of a row depends on its logits, its temperature, its nucleus and its own uniform number, on nothing
else in the batch. Drawing inverts the cumulative distribution, block by block, so that one uniform number a token
suffices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 256
"""Weights are summed in blocks, and cumulated only over blocks and inside the chosen one: a third of the time."""
LIKELIEST = 1024
"""Ids among which a nucleus is looked for before the whole vocabulary is sorted: a tenth of the time."""


def sample(
    logits: Tensor,
    temperatures: Sequence[float],
    uniforms: Sequence[float],
    top_ps: Sequence[float] | None = None,
) -> tuple[list[int], list[float]]:
    """Draw from `logits` (rows, vocabulary); the softmax is float32, the cumulative sums are float64.

    `uniforms` in [0, 1) decide each row's token; a temperature of 0 takes the most likely one, and its log-probability
    is then that of temperature 1. `top_ps` in (0, 1] keep each row's nucleus at its temperature, and what is kept is
    renormalised; they do nothing at temperature 0. Returns ids and log-probabilities (nats). Raises
    `FloatingPointError` for a row whose logits are no distribution.
    """
    scaled = logits.float()
    if any(temperature not in (0, 1) for temperature in temperatures):
        scale = torch.tensor([temperature or 1.0 for temperature in temperatures], device=logits.device)
        scaled = scaled / scale[:, None]
    peak, most_likely = scaled.max(dim=-1, keepdim=True)
    weights = (scaled - peak).exp_()
    for row, top_p in enumerate(top_ps or ()):
        if top_p < 1 and temperatures[row] > 0:
            _keep_nucleus(weights[row], top_p)
    blocks = _blocks(weights).sum(-1).double().cumsum(-1)
    total = blocks[:, -1:]
    if not bool(torch.isfinite(total).all()):
        raise FloatingPointError("the model's logits are not finite")
    chosen = _draw(weights, blocks, torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * total)
    greedy = torch.tensor([temperature == 0 for temperature in temperatures], device=logits.device)
    chosen = torch.where(greedy[:, None], most_likely, chosen)
    logprobs = (scaled.gather(-1, chosen) - peak).double() - total.log()
    return chosen[:, 0].tolist(), logprobs[:, 0].tolist()


def entropies(logits: Tensor) -> list[float]:
    """Entropy (nats) of each row's softmax at temperature 1, over the whole vocabulary, in float32 sums."""
    logarithms = torch.log_softmax(logits.float(), dim=-1)
    return torch.special.entr(logarithms.exp()).sum(-1).tolist()  # type: ignore[no-any-return]  # of a vector


def _keep_nucleus(weights: Tensor, top_p: float) -> None:
    """Set all but the nucleus of one row to zero, in place: the fewest likeliest ids whose mass reaches `top_p`.

    An id is kept if those that are likelier fall short of it; of equals the one with the lower number is the likelier.
    """
    wanted = top_p * weights.double().sum()
    ordered = weights.topk(min(LIKELIEST, len(weights))).values
    if ordered.double().sum() < wanted:
        ordered = weights.sort(descending=True).values
    kept = int((ordered.double().cumsum(-1) - ordered < wanted).sum())
    least = ordered[kept - 1]
    equal = torch.nonzero(weights == least)[:, 0]
    surplus = equal[kept - int((weights > least).sum()) :]
    weights[weights < least] = 0.0
    weights[surplus] = 0.0


def _draw(weights: Tensor, blocks: Tensor, target: Tensor) -> Tensor:
    """Index of the first token whose cumulative weight is above `target`, (rows, 1)."""
    block = torch.searchsorted(blocks, target, right=True).clamp_(max=blocks.shape[1] - 1)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp_(min=0)), 0.0)
    rows = torch.arange(len(weights), device=weights.device)
    inside = _blocks(weights)[rows, block[:, 0]].double().cumsum(-1)
    index = torch.searchsorted(inside, target - before, right=True)
    # The sums inside a block may differ from the block's own in the last bit: never past its last possible token.
    last = torch.searchsorted(inside, inside[:, -1:].contiguous())
    return block * BLOCK + torch.minimum(index, last)


def _blocks(weights: Tensor) -> Tensor:
    missing = -weights.shape[1] % BLOCK
    return (pad(weights, (0, missing)) if missing else weights).view(len(weights), -1, BLOCK)
