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

from agentrl.errors import ConfigError, EngineError
from agentrl.messages import Message
from agentrl.trajectory import Switch


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is sampled."""

    max_tokens: int = 256
    temperature: float = 1.0
    """0 is greedy; log-probabilities are then those of temperature 1."""
    top_p: float = 1.0
    """Nucleus: at the temperature, the likeliest ids are kept until their mass reaches this, and the log-probability of
    a sampled id is that of the kept ones, renormalised. Without effect at temperature 0."""
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
    """Version of the weights that sampled the first id."""
    weights_hash: str = ""
    queue_seconds: float = 0.0
    """Until the request began to run."""
    prefill_seconds: float = 0.0
    """From there to the first sampled id; 0.0 where the engine does not tell it from decoding."""
    decode_seconds: float = 0.0
    switches: tuple[Switch, ...] = ()
    """Where weights published in mid-completion took over."""
    entropies: list[float] | None = None
    """Entropy (nats) of the whole distribution at temperature 1, untruncated, that each id was sampled at; None where
    the engine does not record it (`Capabilities.token_entropy`)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine without token ids answered (`Capabilities.tokens` is False): text, of no use for training."""

    message: Message
    finish_reason: FinishReason
    prompt_tokens: int | None = 0
    """None where the server does not say."""
    completion_tokens: int | None = 0
    seconds: float = 0.0
    """From the call to the answer, failed attempts included."""
    queue_seconds: float = 0.0
    """Part of `seconds` that passed before the request was sent."""
    reasoning: str = ""
    """What the model thought first, where the engine tells it apart; no part of the message."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine has to do at a moment; what adaptive concurrency looks at."""

    running: int
    """Requests that are being decoded."""
    waiting: int
    """Requests that wait for room in the engine itself."""
    cache_used: float | None = None
    """Part of the key-value cache in use, in [0, 1]; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; asking for more is an error at start."""

    logprobs: bool = True
    seeded: bool = True
    publish: bool = False
    """Weights can be replaced in place."""
    publish_in_flight: bool = False
    """Weights can be replaced while requests are in flight: they go on under the new ones (`Completion.switches`)."""
    lockstep: bool = False
    """Nothing is decoded while an announced client has no request pending (`Engine.client`)."""
    tokens: bool = True
    """Token ids in and out, by `generate`. False: messages in and out, by `reply`, for evaluation only."""
    max_context: int | None = None
    """Longest context + completion, tokens."""
    top_p: bool = False
    """`Sampling.top_p` is honoured, in the log-probabilities too."""
    token_entropy: bool = False
    """Completions have `entropies`."""
    oracle: bool = False
    """No policy: the manager asks the environment's own oracle for each message (`Env.oracle_action`)."""


class Engine(ABC):
    """Generates completions of token ids."""

    capabilities: Capabilities = Capabilities()
    stop_ids: tuple[int, ...] = ()
    """The model's own end-of-turn ids."""

    @property
    def weights_hash(self) -> str:
        """Hash of the weights that are served now; empty before `start` and where there are none to hash."""
        return ""

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

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        *,
        session: str | None = None,
    ) -> Reply:
        """The assistant's message after `messages`, with `tools` (OpenAI schemas) on offer. Raises `EngineError`.

        Only for engines whose `capabilities.tokens` is False.
        """
        raise ConfigError(f"engine {type(self).__name__} takes token ids: call generate")

    def load(self) -> EngineLoad | None:
        """What the engine has to do now, None if it cannot tell. Cheap: it is asked many times a second."""
        return None

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
        """Serve `weights` (None: shared in place) as `version` from now on; returns the hash of what is served.

        The hash is computed by the engine from the weights that it holds, not from what it was given, and every
        completion carries it. Raises `EngineError` while requests are in flight, unless `publish_in_flight`.
        """
        raise ConfigError(f"engine {type(self).__name__} cannot replace weights, so it cannot be trained against")

    def require(self, **needs: bool) -> None:
        """Raise `ConfigError` unless every capability named in `needs` is there."""
        lacking = [name for name, needed in needs.items() if needed and not getattr(self.capabilities, name)]
        if lacking:
            raise ConfigError(f"engine {type(self).__name__} cannot do: {', '.join(lacking)}")


def check_top_p(sampling: Sampling) -> None:
    """Raise `ConfigError` for a nucleus that is none."""
    if not 0 < sampling.top_p <= 1:
        raise ConfigError(f"top_p must be above 0 and at most 1, got {sampling.top_p}")


class Unserved(Engine):
    """No engine: stands for any in the checks that are made before one is there."""

    capabilities = Capabilities(tokens=False)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """Raises `EngineError`."""
        raise EngineError("no engine is there yet")

    def load(self) -> EngineLoad:
        """Nothing."""
        return EngineLoad(0, 0)
