"""A policy loss of your own: one function and one decorator, then a name in the configuration.

    python examples/custom_objective.py
    python examples/custom_objective.py loss.objective.sharpness=5 steps=40

The function gets the policy tokens of a micro-batch, flat, and returns one loss a token. Here the hard clip of the
ratio is replaced by a soft one: the further a token has moved in its advantage's direction, the less it pulls.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import agentrl
from agentrl.objectives import TokenBatch


@agentrl.objective("soft_clip")
def soft_clip(batch: TokenBatch, *, sharpness: float = 10.0) -> Tensor:
    """-A rho, weighted by a sigmoid that falls once the ratio has moved by about 1 / sharpness in A's direction."""
    ratio = (batch.logprobs - batch.behaviour).exp()
    moved = (ratio.detach() - 1) * batch.advantages.sign()
    return -ratio * batch.advantages * torch.sigmoid(2 - sharpness * moved)


def main(overrides: Sequence[str]) -> None:
    config = agentrl.load_config(
        recipe="tiny", overrides=["name=soft-clip", "loss.objective.name=soft_clip", *overrides]
    )
    result = agentrl.train(config, observer=agentrl.make_display())
    print(f"accuracy {result.evaluations['trained'].accuracy.value:.1%}, report: {result.report}")


if __name__ == "__main__":
    main(sys.argv[1:])
