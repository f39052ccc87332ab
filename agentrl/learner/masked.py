"""Sparse training: AdamW that moves the entries of a fixed mask and no others.

The masks are built once, from the weights that training begins with, for the matrices of linear layers; embeddings,
norms and biases train as ever. Invariant: a frozen entry keeps its bits, whatever the moments, the weight decay or the
gradient would do. So the gradient is masked before its norm is taken (what is clipped is what is applied) and again
before the step, the moments of frozen entries stay zero, and weight decay acts inside the mask only.
Source: arXiv 2511.08567; methods specification, 02, item 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentrl.config import MaskConfig
from agentrl.errors import ConfigError
from agentrl.probe.layers import place_of
from agentrl.probe.masks import training_mask
from agentrl.seeding import derive_seed


def build_masks(parameters: Mapping[str, nn.Parameter], config: MaskConfig) -> dict[str, Tensor]:
    """The masks of `parameters`' linear layers by name: bool, each of its matrix' shape and device, True where it
    trains. They depend on the weights as they are now and on `config`. Raises `ConfigError` if there is none.
    """
    if any(".lora_" in name for name in parameters):
        raise ConfigError("optimiser.mask chooses entries of the model's own matrices; model.lora freezes those")
    masks = {}
    for name, weight in parameters.items():
        if place_of(name, tuple(weight.shape)).linear:
            generator = torch.Generator().manual_seed(derive_seed(config.seed, "mask", name))
            # On the CPU, so that a mask does not depend on the device that trains.
            mask = training_mask(weight.detach().cpu(), config.name, config.alpha, config.rank, generator)
            masks[name] = mask.to(weight.device)
    if not masks:
        raise ConfigError("optimiser.mask: the model has no matrix of a linear layer to mask")
    return masks


class MaskedAdamW(torch.optim.AdamW):
    """AdamW whose last parameter group moves inside masks. The masks are part of its state: a checkpoint holds them."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        masked: Mapping[str, nn.Parameter],
        masks: Mapping[str, Tensor],
        **options: Any,
    ) -> None:
        """`groups`: dense parameter groups; `masked`: what moves inside `masks` of the same names, with the weight
        decay that `options` give; other `options` are AdamW's.
        """
        decay = options.pop("weight_decay")
        group = {"params": list(masked.values()), "weight_decay": 0.0, "masked_decay": decay}
        super().__init__([*groups, group], **options)
        self.masks = [masks[name] for name in masked]

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of frozen entries to zero; one that is not finite stays so, for the guard to see."""
        for weight, mask in self._masked():
            if weight.grad is not None:
                weight.grad.mul_(mask)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One AdamW step inside the masks."""
        self.mask_gradients()
        group = self.param_groups[-1]
        if group["masked_decay"]:
            for weight, mask in self._masked():
                if weight.grad is not None:
                    weight.copy_(torch.where(mask, weight * (1 - group["lr"] * group["masked_decay"]), weight))
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        """AdamW's, and the masks as packed bits."""
        packed = [torch.from_numpy(np.packbits(mask.cpu().numpy())) for mask in self.masks]
        return {**super().state_dict(), "masks": packed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both; raises `ValueError` for the state of another optimiser."""
        packed = state_dict.get("masks", [])
        if [len(bits) for bits in packed] != [(mask.numel() + 7) // 8 for mask in self.masks]:
            raise ValueError("it has no masks, or those of another model")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "masks"})
        self.masks = [
            torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=mask.numel()).astype(bool))
            .reshape(mask.shape)
            .to(mask.device)
            for bits, mask in zip(packed, self.masks, strict=True)
        ]

    def _masked(self) -> list[tuple[nn.Parameter, Tensor]]:
        return list(zip(self.param_groups[-1]["params"], self.masks, strict=True))
