"""The policy: a causal language model that is trained, its reference, and how both are scored.

Trained weights are float32, whatever precision the forward pass runs in. The reference is the model as it was handed
over: the same model with its adapters off under LoRA, else (and under LoRA that began with a part of the model) a
frozen copy that is made only if something needs it.
Invariant: what packed scoring computes is what the model's own forward pass computes, row by row; a model for which a
probe at the start finds a difference is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agentrl.config import LoraConfig
from agentrl.errors import ModelError
from agentrl.learner.adapters import Adapters
from agentrl.learner.attention import ATTENTION, Segments
from agentrl.learner.batch import PackedTokens
from agentrl.learner.divergence import forward_kl
from agentrl.learner.logprobs import Scores, chunked_logits, token_logprobs

PROBE_LENGTHS = (7, 4)
"""Rows of the probe: two, so that a model that mixes packed rows shows itself."""
PROBE_TOLERANCE = 1e-3
"""Largest difference of a probe's logits, relative to the largest logit; float32 rounding is below 1e-5."""


class Policy:
    """A transformers causal language model to train."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        lora: LoraConfig | None = None,
        precision: Literal["bf16", "fp32"] = "bf16",
        gradient_checkpointing: bool = False,
    ) -> None:
        """Take over `model`, in place: float32, no dropout, packed attention, adapters if `lora` is given.

        Raises `ModelError` in one line for a model that packed training would not treat exactly.
        """
        self.model = cast(PreTrainedModel, cast(Any, model).float())
        """The model itself, adapters injected; an in-process engine generates with it."""
        self.precision = precision
        self.gradient_checkpointing = gradient_checkpointing
        self._reference: PreTrainedModel | None = None
        _remove_dropout(self.model)
        cast(nn.Module, self.model).eval()
        _check_exact(self.model)
        self._adapters = None if lora is None else Adapters(self.model, lora)
        if lora is None:
            self.model.requires_grad_(True)
        _head(self.model)
        if gradient_checkpointing:
            _enable_checkpointing(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name: all of them, or the adapters'; tied ones once."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def states(self, tokens: PackedTokens) -> Tensor:
        """Last hidden states that predict the policy tokens of packed rows, shape (n, width); with gradient unless off.

        That of token k has seen the tokens before k and not k itself.
        """
        with self._checkpointing(), self._autocast():
            return _hidden(self.model, tokens.input_ids, tokens.segments).index_select(0, tokens.sources)

    def score(
        self,
        tokens: PackedTokens,
        *,
        states: Tensor | None = None,
        temperature: float = 1.0,
        entropy: bool = False,
        uniform: bool = False,
        greedy: bool = False,
    ) -> Scores:
        """Score the policy tokens of packed rows, with gradient unless grad mode is off.

        `states` are theirs where the caller has them already.
        """
        hidden = self.states(tokens) if states is None else states
        with self._autocast():
            return token_logprobs(
                hidden,
                _head(self.model),
                tokens.targets,
                temperature=temperature,
                entropy=entropy,
                uniform=uniform,
                greedy=greedy,
            )

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""
        return _head(self.model).in_features

    def copy_of_start(self) -> PreTrainedModel:
        """A copy of the model as it was handed over, without adapters; asked for before the first step."""
        if self._adapters is not None:
            return self._adapters.start()
        return copy.deepcopy(self._reference or self.model)

    def forward_kl(self, tokens: PackedTokens, states: Tensor, phi: Tensor, temperature: float) -> Tensor:
        """KL(tempered reference || policy) of each policy token, shape (n,), with gradient (`divergence.forward_kl`).

        `states` are the policy's of `tokens`, `phi` the exponents of the reference, shape (n,).
        """
        with self.reading(reference=True) as reader:
            reference = reader.hidden(tokens).index_select(0, tokens.sources)
            head = _head(reader.model)
        with self._autocast():
            return forward_kl(states, _head(self.model), reference, head, phi, temperature)

    @contextmanager
    def reading(self, *, reference: bool = False) -> Iterator[Reader]:
        """A model to read packed rows with, without gradient: the policy as it is now, or its reference."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            model = self.model
            if reference and self._adapters is not None and self._adapters.base_is_start:
                stack.enter_context(self._adapters.wrapper.disable_adapter())
            elif reference:
                self.keep_reference()
                model = cast(PreTrainedModel, self._reference)
            stack.enter_context(self._autocast())
            yield Reader(model)

    def keep_reference(self) -> None:
        """Freeze the present weights as the reference; has no effect the second time.

        Under LoRA it needs no copy, unless the adapters began with a part of the model: then a copy of the start.
        """
        if self._reference is not None or (self._adapters is not None and self._adapters.base_is_start):
            return
        self._reference = copy.deepcopy(self.model) if self._adapters is None else self._adapters.start()
        self._reference.requires_grad_(False)

    def save_pretrained(self, folder: Path) -> None:
        """Write the policy in transformers form.

        Under LoRA the adapters are merged into the base model, so that the folder loads like any other, and are also
        written in peft form to `folder/adapter`, where `adapter_config.json` names the base model.
        """
        if self._adapters is None:
            self.model.save_pretrained(folder)
            return
        self._adapters.merged().save_pretrained(folder)
        self._adapters.save(folder / "adapter")

    def _autocast(self) -> Any:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """transformers checkpoints in training mode only; an engine must find the model in evaluation mode again."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            yield
            return
        self.model.train()
        try:
            yield
        finally:
            cast(nn.Module, self.model).eval()


@dataclass(frozen=True)
class Reader:
    """Hidden states and logits of packed rows."""

    model: PreTrainedModel

    def hidden(self, tokens: PackedTokens) -> Tensor:
        """Last hidden states after the final norm, shape (T, width)."""
        return _hidden(self.model, tokens.input_ids, tokens.segments)

    def logits(self, hidden: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of float32 logits / temperature for `hidden` (n, width), shape (chunk, vocabulary)."""
        return chunked_logits(hidden, _head(self.model), temperature)


def _hidden(model: PreTrainedModel, input_ids: Tensor, segments: Segments) -> Tensor:
    """Last hidden states of packed rows, shape (T, width)."""
    body = cast(Any, model).get_decoder()
    output = body(input_ids=input_ids, **segments.forward_arguments())
    return cast(Tensor, output.last_hidden_state[0])


def _head(model: PreTrainedModel) -> nn.Linear:
    head = cast(Any, model).get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ModelError(
            f"{type(model).__name__}: its output head is a {type(head).__name__}, not a plain Linear layer"
        )
    return head


def _remove_dropout(model: PreTrainedModel) -> None:
    """Set every dropout to 0: behaviour and policy must be one distribution.

    Modules keep some probabilities as plain numbers (`attention_dropout`), which evaluation mode does not always reach.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)


def _enable_checkpointing(model: Any) -> None:
    options = {"use_reentrant": False}
    try:
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            model.gradient_checkpointing_enable(options)
    except ValueError as error:
        raise ModelError(f"model.gradient_checkpointing: {' '.join(str(error).split())}") from error


@torch.no_grad()
def _check_exact(model: PreTrainedModel) -> None:
    """Refuse a model whose packed logits are not those of its own eager forward pass.

    One probe finds capped, scaled or shifted logits, attention sinks, states that leak from row to row, and
    architectures that ignore the attention interface.
    """
    name = type(model).__name__
    vocabulary = cast(Any, model).get_input_embeddings().weight.shape[0]
    device = next(model.parameters()).device
    ids = (torch.arange(sum(PROBE_LENGTHS), device=device) * 7919 + 1) % vocabulary
    try:
        model.set_attn_implementation("eager")
        alone = [model(input_ids=row[None], use_cache=False).logits[0] for row in torch.split(ids, list(PROBE_LENGTHS))]
        model.set_attn_implementation(ATTENTION)
        packed = _head(model)(_hidden(model, ids[None], Segments.of(PROBE_LENGTHS, device)))
    except (ModelError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{name} cannot be trained on packed rows: {' '.join(str(error).split())}") from error
    if model.config._attn_implementation != ATTENTION:
        raise ModelError(f"{name} cannot be trained on packed rows: its attention cannot be replaced")
    expected = torch.cat(alone).float()
    difference = float((packed.float() - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not difference <= PROBE_TOLERANCE:
        raise ModelError(
            f"{name} cannot be trained on packed rows: its logits differ by {difference:.1e} from its own forward pass "
            "(capped or scaled logits, or a state that leaks between rows)"
        )
