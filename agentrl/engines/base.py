"""Engine: who generates. Tokens in, tokens out.

Invariants: what `generate` returns are the ids that were sampled and their log-probabilities under the distribution
they were sampled from (the given temperature), id for id; every completion says which weights produced it; what an
engine cannot do is refused at start (`require`), never ignored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agentrl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is sampled."""

    max_tokens: int = 256
    temperature: float = 1.0
    """0 is greedy; log-probabilities are then those of temperature 1."""
    seed: int | None = None
    """Seeds this request alone, so that the sample does not depend on what else is in the batch."""
    stop_ids: tuple[int, ...] = ()
    """Token ids that end the completion; the stop token is part of `ids`. Empty: the model's own end-of-turn ids."""


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """A stop token was sampled."""
    LENGTH = "length"
    """`max_tokens` or the model's context was reached."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What was sampled."""

    ids: list[int]
    logprobs: list[float]
    """Log-probability of each id, nats, same length as `ids`."""
    finish_reason: FinishReason
    policy_version: int = 0
    weights_hash: str = ""
    queue_seconds: float = 0.0
    generate_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; asking for more is an error at start."""

    logprobs: bool = True
    seeded: bool = True
    publish: bool = False
    """Weights can be replaced in place."""
    max_context: int | None = None
    """Longest context + completion, tokens."""


class Engine(ABC):
    """Generates completions of token ids."""

    capabilities: Capabilities = Capabilities()
    stop_ids: tuple[int, ...] = ()
    """The model's own end-of-turn ids."""

    @classmethod
    def for_policy(cls, model: Any, *, stop_ids: Sequence[int], **options: Any) -> Engine:
        """The engine that serves a loaded policy, with options from a configuration; raises `ConfigError`."""
        raise ConfigError(f"engine {cls.__name__} serves no model: construct it in Python")

    async def start(self) -> None:  # noqa: B027 - optional: an engine may have nothing to do
        """Acquire what the engine needs. Idempotent."""

    async def close(self) -> None:  # noqa: B027 - optional: an engine may have nothing to do
        """Release everything; pending requests fail with `EngineError`. Idempotent."""

    @abstractmethod
    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """Sample one completion after `prompt_ids`.

        `session` names the episode: its turns share a prefix, whose key-value cache an engine may keep until
        `end_session`. Raises `EngineError`. Cancelling the awaiting task cancels the request.
        """

    async def end_session(self, session: str) -> None:  # noqa: B027 - optional: an engine may have nothing to do
        """Drop what is kept for `session`. Idempotent."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """Announce a caller that generates, works on its own and generates again, until it leaves the context.

        An engine that decodes in lockstep waits until every announced client has a request pending, which makes the
        composition of its batches, and with it every bit of the numbers, independent of timing. Others ignore it.
        """
        yield

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        """Serve `weights` (None: shared in place) as `version` from now on; returns the hash of what is served."""
        raise ConfigError(f"engine {type(self).__name__} cannot replace weights, so it cannot be trained against")

    def require(self, **needs: bool) -> None:
        """Raise `ConfigError` unless every capability named in `needs` is there."""
        lacking = [name for name, needed in needs.items() if needed and not getattr(self.capabilities, name)]
        if lacking:
            raise ConfigError(f"engine {type(self).__name__} cannot do: {', '.join(lacking)}")
