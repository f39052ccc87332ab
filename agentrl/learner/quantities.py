"""Quantities of the scoring pass: numbers about sampled tokens under the weights that sampled them.

A quantity is computed from the logits that predict a policy token (some tokens at a time; whole logits are never
stored), from the last hidden states of a trajectory's policy tokens, or from the log-probabilities of its prompt.
Components ask by name (`agentrl.needs`); `@quantity("name")` registers a further one. Invariant: a quantity is a
constant of the update: it is computed without gradient, before the weights move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor

from agentrl import needs
from agentrl.components import checked_options
from agentrl.errors import ConfigError
from agentrl.registry import quantities

Columns = Mapping[str, Tensor]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Quantity:
    """One requested quantity."""

    name: str
    """The need that asked for it."""
    function: Callable[..., Tensor]
    source: Literal["logits", "states", "prompt"]
    of: Literal["policy", "reference"]

    def __call__(self, *args: Any) -> Tensor:
        return self.function(*args)


def quantity(
    name: str,
    *,
    source: Literal["logits", "states", "prompt"] = "logits",
    of: Literal["policy", "reference"] = "policy",
) -> Callable[[F], F]:
    """Register a quantity.

    `logits`: f(logits, targets, columns, **options) -> (c,): float32 logits / temperature (c, V) of c policy tokens,
    the sampled ids (c,), and their known columns, `reward` among them. `states`: f(hidden, **options) -> () or (d,):
    float32 states after the final norm (L_i, width) of one trajectory's policy tokens. `prompt`:
    f(logprobs, **options) -> (): of the tokens before the first policy token but the very first, shape (P - 1,).
    Options are numbers. `of` says which model.
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
    return Quantity(text, lambda *args: function(*args, **checked), source, of)


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
