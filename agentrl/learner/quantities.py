"""Quantities of the scoring pass: numbers about sampled tokens under the weights that sampled them.

A quantity is computed from the logits that predict a policy token (some tokens at a time; whole logits are never
stored), from the last hidden states of a trajectory's policy tokens, or from the log-probabilities of its prompt.
Components ask by name (`agentrl.needs`); `@quantity("name")` registers a further one. Invariant: a quantity is a
constant of the update: it is computed without gradient, before the weights move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from agentrl import needs
from agentrl.advantages.arm import num_least_certain
from agentrl.components import checked_options
from agentrl.errors import ConfigError
from agentrl.learner.effective_rank import rank_dynamics
from agentrl.registry import quantities

FILTERED = -1e4
"""Log-probability of what a filtered distribution leaves out: finite, so that differences are, and below any other."""

Columns = Mapping[str, Tensor]

F = TypeVar("F", bound=Callable[..., Any])

Source = Literal["logits", "states", "prompt", "values", "value_after", "answer"]


@dataclass(frozen=True)
class Quantity:
    """One requested quantity."""

    name: str
    """The need that asked for it."""
    function: Callable[..., Tensor]
    source: Source
    of: Literal["policy", "reference", "critic"]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_tokens(self) -> bool:
        """A number a policy token; else of the trajectory."""
        return self.source in ("logits", "values")

    def __call__(self, *args: Any) -> Tensor:
        return self.function(*args)


def quantity(
    name: str,
    *,
    source: Source = "logits",
    of: Literal["policy", "reference", "critic"] = "policy",
) -> Callable[[F], F]:
    """Register a quantity.

    `logits`: f(logits, targets, columns, **options) -> (c,): float32 logits / temperature (c, V) of c policy tokens,
    the sampled ids (c,), and their known columns, `reward` among them. `states`: f(hidden, **options) -> () or (d,):
    float32 states after the final norm (L_i, width) of one trajectory's policy tokens. `prompt`:
    f(logprobs, **options) -> (): of the tokens before the first policy token but the very first, shape (P - 1,).
    `values`: f(values, **options) -> (c,): of the critic, (c,) for the states before c policy tokens. `value_after`:
    f(value, **options) -> (): of the critic, for the state after a trajectory's last policy token; both have
    of="critic". `answer`: f(logprobs, closing=..., **options) -> (): of the task's gold answer behind the text
    `closing` where a turn begins (`agentrl.learner.answers`). Options are numbers or text. `of` says which model.
    """

    def decorate(function: F) -> F:
        quantities.register(name, function)
        function.source, function.of = source, of  # type: ignore[attr-defined]
        return function

    return decorate


def build(text: str) -> Quantity:
    """The quantity that a need asks for; raises `UnknownNameError` or `ConfigError`."""
    name, options = needs.split(text)
    function = quantities.get(name)
    source, of = getattr(function, "source", None), getattr(function, "of", None)
    if source is None or of is None:
        raise ConfigError(f"quantity {name!r} was not registered by @quantity")
    checked = checked_options(f"quantity {name!r}", function, options, bound=3 if source == "logits" else 1)
    return Quantity(text, lambda *args: function(*args, **checked), source, of, checked)


# -- bundled -----------------------------------------------------------------------------------------------------------


@quantity("logprobs")
def logprobs(logits: Tensor, targets: Tensor, columns: Columns) -> Tensor:
    """The learner's own log-probability of the sampled token, nats."""
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)


@quantity("reference", of="reference")
def reference(logits: Tensor, targets: Tensor, columns: Columns) -> Tensor:
    """Log-probability of the sampled token under the reference policy, nats."""
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)


@quantity("entropy")
def entropy(logits: Tensor, targets: Tensor, columns: Columns) -> Tensor:
    """Entropy of the distribution that the token was sampled from, nats."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@quantity("uniform")
def uniform(logits: Tensor, targets: Tensor, columns: Columns) -> Tensor:
    """Mean of log-probabilities over the vocabulary (value of the uniform policy, ROVER), nats."""
    return logits.mean(-1) - logits.logsumexp(-1)


@quantity("values", source="values", of="critic")
def values(values: Tensor) -> Tensor:
    """The critic's value of the state before each policy token."""
    return values


@quantity("values_after", source="value_after", of="critic")
def values_after(value: Tensor) -> Tensor:
    """The critic's value of the state after the trajectory's last policy token."""
    return value


@quantity("answer_probability", source="answer")
def answer_probability(logprobs: Tensor, *, closing: str) -> Tensor:
    """Geometric mean of the probabilities of the gold answer's tokens, 0 to 1 (IGPO)."""
    return logprobs.mean().exp()


@quantity("min_p_proxy")
def min_p_proxy(logits: Tensor, targets: Tensor, columns: Columns, *, kappa: float) -> Tensor:
    """Log-probability of the sampled token once those below `kappa` times the largest probability are taken out and the
    rest is renormalised, nats; `FILTERED` for a token that is taken out (Lp-Reg)."""
    kept = logits >= logits.amax(-1, keepdim=True) + math.log(kappa)
    own = logits.gather(1, targets[:, None])[:, 0] - logits.where(kept, logits.new_tensor(-torch.inf)).logsumexp(-1)
    return torch.where(kept.gather(1, targets[:, None])[:, 0], own, FILTERED)


def tempering(reward: Tensor, *, phi_min: float = 0.5, low: float = 0.0, high: float = 1.0) -> Tensor:
    """phi(r) = phi_min + (1 - phi_min) (r - low) / (high - low) within [phi_min, 1], RAPO's exponent of the reference.

    phi = 1 keeps the reference, phi = 0 makes it uniform: a low reward flattens it. The shape is inferred.
    """
    return (phi_min + (1 - phi_min) * (reward - low) / (high - low)).clamp(phi_min, 1.0)


@quantity("tempered_reference", of="reference")
def tempered_reference(
    logits: Tensor, targets: Tensor, columns: Columns, *, phi_min: float = 0.5, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """log pihat of the sampled token, pihat = softmax(phi(R) z_ref): normalised after tempering, nats."""
    phi = tempering(columns["reward"], phi_min=phi_min, low=low, high=high)
    return (phi[:, None] * logits).log_softmax(-1).gather(1, targets[:, None])[:, 0]


@quantity("embedding", source="states")
def embedding(hidden: Tensor) -> Tensor:
    """Mean of a trajectory's last hidden states over its policy tokens, shape (width,)."""
    return hidden.mean(0)


@quantity("prompt_confidence", source="prompt")
def prompt_confidence(logprobs: Tensor, *, fraction: float = 0.2) -> Tensor:
    """exp of the mean log-probability of the prompt's least certain `fraction` of tokens; 1 where it has none (ARM)."""
    if not len(logprobs):
        return logprobs.new_ones(())
    return logprobs.topk(num_least_certain(len(logprobs), fraction), largest=False).values.mean().exp()


quantity("effective_rank", source="states")(rank_dynamics)
