"""LoRA on a policy: how adapters begin, what the model was before them, and how they are written.

Two ways to begin. `default`: B is zero, so the base under the adapters is the model that training began with. `pissa`:
A and B hold the top singular directions and the base keeps the rest, so the base alone is no model at all; what
training began with is base + initial adapters. Invariant: whoever asks for the start (a reference, a critic's trunk,
the adapter in peft form) gets the model as it was handed over, to rounding, whichever way the adapters began and
whenever it asks.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from agentrl.config import LoraConfig
from agentrl.errors import ModelError


class Adapters:
    """peft's wrapper around a model into which adapters were injected."""

    def __init__(self, model: PreTrainedModel, lora: LoraConfig) -> None:
        """Inject them; raises `ModelError` for modules that are not there."""
        self.wrapper = _inject(model, lora)
        self._initial = _state(self.wrapper) if lora.init == "pissa" else None
        """The first adapters, where they hold a part of the model."""

    @property
    def base_is_start(self) -> bool:
        """Whether the model with its adapters off is the one that training began with."""
        return self._initial is None

    def start(self) -> PreTrainedModel:
        """A copy of the model as it was before any adapter."""
        wrapper = copy.deepcopy(self.wrapper)
        if self._initial is None:
            return cast(PreTrainedModel, wrapper.unload())
        import peft

        peft.set_peft_model_state_dict(wrapper, self._initial)
        return cast(PreTrainedModel, wrapper.merge_and_unload())

    def merged(self) -> PreTrainedModel:
        """A copy of the model with the adapters as they are now merged into it."""
        return cast(PreTrainedModel, copy.deepcopy(self.wrapper).merge_and_unload())

    def save(self, folder: Path) -> None:
        """Write peft's form of what changed since the start: an ordinary adapter of the base model.

        After `pissa` that is B A - B0 A0, of twice the rank: peft would otherwise apply the adapters to a base that has
        lost nothing.
        """
        if self._initial is None:
            self.wrapper.save_pretrained(str(folder))
            return
        folder.mkdir(parents=True, exist_ok=True)
        change = {}
        for key, now in _state(self.wrapper).items():
            side = 0 if ".lora_A." in key else 1
            then = self._initial[key] if side == 0 else -self._initial[key]
            change[key] = torch.cat([now, then], dim=side).contiguous().cpu()
        save_file(change, folder / "adapter_model.safetensors")
        settings = copy.deepcopy(self.wrapper.peft_config["default"])
        settings.r, settings.lora_alpha = 2 * settings.r, 2 * settings.lora_alpha  # their ratio scales the change
        settings.init_lora_weights, settings.inference_mode = True, True
        settings.save_pretrained(str(folder))


def _state(wrapper: Any) -> dict[str, Tensor]:
    import peft

    return {name: weight.detach().clone() for name, weight in peft.get_peft_model_state_dict(wrapper).items()}


def _inject(model: PreTrainedModel, lora: LoraConfig) -> Any:
    import peft

    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=0.0,
        target_modules=lora.target_modules,
        init_lora_weights="pissa" if lora.init == "pissa" else True,
    )
    # Adapters start from numbers of their own: the same model gives the same adapters in every process.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            return peft.get_peft_model(model, settings)
        except ValueError as error:
            raise ModelError(
                f"model.lora.target_modules={lora.target_modules!r}: {' '.join(str(error).split())}"
            ) from error
