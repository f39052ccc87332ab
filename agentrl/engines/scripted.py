"""ScriptedEngine: a program in the policy's place, with true token ids and log-probabilities.

Public API for tests, oracles and baselines: environments, rollouts, credit and learner run end to end without a model.
A policy answers each prompt with text, ids, or a table of weighted replies. A table is a distribution over sequences;
a reply is drawn from it token by token with the request's seed, so its log-probabilities are the exact conditional
ones, at the request's temperature.

Invariant: the ids and log-probabilities that `generate` returns are determined by the prompt, the sampling and the
policy alone, whatever the timing; a latency model decides only how long they take and where new weights take over.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from agentrl.chat import ChatRenderer
from agentrl.chat.template import Tokenizer
from agentrl.engines.base import Capabilities, Completion, Engine, EngineLoad, FinishReason, Sampling
from agentrl.engines.latency import Batch, Given, Job, Latency
from agentrl.engines.weights import weights_hash
from agentrl.errors import ConfigError, EngineError
from agentrl.messages import assistant
from agentrl.registry import engines
from agentrl.trajectory import Switch


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """A reply with log-probabilities of the script's choosing."""

    reply: str | Sequence[int]
    """Text, which gets an end-of-turn token, or ids, which are taken as they stand."""
    logprobs: Sequence[float] | None = None
    """One a token of the encoded reply, nats; None: 0.0 for each."""


Reply = str | Sequence[int] | ScriptedReply | Mapping[str, float]
"""What a policy may answer: a certain reply (log-probability 0.0 a token), or texts with their weights."""
Policy = Callable[[list[int], Sampling], Reply]


@dataclass(eq=False, slots=True)
class _Request:
    """A completion that a latency model holds back, and the weights that sample it."""

    job: Job
    version: int
    served: str
    switches: list[Switch] = field(default_factory=list)

    def switch(self, sampled: int, version: int, served: str) -> None:
        """New weights after `sampled` tokens."""
        if sampled == 0:
            self.version, self.served = version, served
        elif sampled < self.job.tokens:
            self.switches = [switch for switch in self.switches if switch.index < sampled]
            self.switches.append(Switch(sampled, version, served))


@engines.register("scripted")
class ScriptedEngine(Engine):
    """Answers by a Python function."""

    def __init__(
        self,
        codec: ChatRenderer | Tokenizer,
        policy: Policy,
        *,
        latency: Latency | Batch | Callable[[Sequence[int], Sequence[int]], float] | None = None,
        max_context: int | None = None,
        publish_in_flight: bool = True,
    ) -> None:
        """`codec` encodes text replies; its end-of-turn ids are the engine's.

        `policy` is called with the prompt's ids and the sampling; an `EngineError` that it raises is the engine's
        failure. `latency` is what completions cost; a function gives the seconds of a prompt and its completion.
        Without it every answer is there at once. `publish_in_flight=False` refuses new weights while it is not.
        """
        self.codec = codec
        self.policy = policy
        self.batch = _batch(latency)
        self.stop_ids = codec.stop_ids if isinstance(codec, ChatRenderer) else _end_of_text(codec)
        self.capabilities = Capabilities(publish=True, publish_in_flight=publish_in_flight, max_context=max_context)
        self.calls: list[tuple[list[int], Sampling, str | None]] = []
        """Every request so far: prompt, sampling, session."""
        self._requests: set[_Request] = set()
        self._version = 0
        self._hash = weights_hash({})
        self._closed = False

    async def start(self) -> None:
        """Accept requests. Idempotent."""
        self._closed = False

    async def close(self) -> None:
        """Refuse requests from now on; those that are in flight fail. Idempotent."""
        self._closed = True
        if self.batch is not None:
            self.batch.fail("the engine was closed")

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """See `Engine.generate`."""
        if self._closed:
            raise EngineError("the engine was closed")
        prompt = list(prompt_ids)
        self.calls.append((prompt, sampling, session))
        ids, logprobs = self._reply(self.policy(prompt, sampling), sampling)
        ids, finish = self._cut(ids, len(prompt), sampling)
        logprobs = logprobs[: len(ids)]
        if self.batch is None:
            return Completion(ids, logprobs, finish, self._version, self._hash)
        request = await self._pass_time(self.batch, prompt, ids, sampling.seed)
        queued, prefill, decode = request.job.seconds
        version, served, switches = request.version, request.served, tuple(request.switches)
        return Completion(ids, logprobs, finish, version, served, queued, prefill, decode, switches)

    def load(self) -> EngineLoad:
        """See `Engine.load`."""
        return EngineLoad(self.batch.running, self.batch.waiting) if self.batch else EngineLoad(0, 0)

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        """Report `version` and the hash of `weights` from now on; the script goes on as it was.

        Completions in flight record where the change found them (`Completion.switches`).
        """
        if self._requests and not self.capabilities.publish_in_flight:
            raise EngineError(f"weights cannot be published while {len(self._requests)} requests are in flight")
        self._version, self._hash = version, weights_hash(weights or {})
        for request in self._requests:
            assert self.batch is not None, "only a latency model holds requests back"
            request.switch(self.batch.decoded(request.job), version, self._hash)
        return self._hash

    async def _pass_time(self, batch: Batch, prompt: list[int], ids: list[int], seed: int | None) -> _Request:
        request = _Request(batch.submit(prompt, ids, seed), self._version, self._hash)
        self._requests.add(request)
        try:
            await batch.finish(request.job)
        finally:
            self._requests.discard(request)
        return request

    def _reply(self, reply: Reply, sampling: Sampling) -> tuple[list[int], list[float]]:
        if isinstance(reply, Mapping):
            return self._draw(reply, sampling)
        if not isinstance(reply, ScriptedReply):
            reply = ScriptedReply(reply)
        ids = self._encode(reply.reply) if isinstance(reply.reply, str) else list(reply.reply)
        logprobs = [0.0] * len(ids) if reply.logprobs is None else list(reply.logprobs)
        if len(logprobs) != len(ids):
            raise ConfigError(f"scripted reply has {len(ids)} ids and {len(logprobs)} log-probabilities")
        return ids, logprobs

    def _encode(self, text: str) -> list[int]:
        if isinstance(self.codec, ChatRenderer):
            return self.codec.turn_ids(assistant(text))
        return [*self.codec.encode(text, add_special_tokens=False), self.stop_ids[0]]

    def _draw(self, table: Mapping[str, float], sampling: Sampling) -> tuple[list[int], list[float]]:
        """Draw one reply of the table token by token."""
        remaining = [(self._encode(text), weight) for text, weight in table.items() if weight > 0]
        if not remaining:
            raise ConfigError("a scripted table needs at least one reply of positive weight")
        draw = random.Random(sampling.seed)
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < max(len(entry) for entry, _ in remaining):
            masses: dict[int, float] = {}
            for entry, weight in remaining:
                masses[entry[len(ids)]] = masses.get(entry[len(ids)], 0.0) + weight
            token, logprob = _choose(masses, sampling.temperature, draw.random())
            remaining = [(entry, weight) for entry, weight in remaining if entry[len(ids)] == token]
            ids.append(token)
            logprobs.append(logprob)
        return ids, logprobs

    def _cut(self, ids: list[int], prompt_length: int, sampling: Sampling) -> tuple[list[int], FinishReason]:
        """End at the first stop id, or at the token limits."""
        limit = sampling.max_tokens
        if self.capabilities.max_context is not None:
            limit = min(limit, self.capabilities.max_context - prompt_length)
        stop_ids = sampling.stop_ids or self.stop_ids
        stop = next((place + 1 for place, token in enumerate(ids) if token in stop_ids), len(ids))
        ids = ids[: max(min(stop, limit), 0)]
        return ids, FinishReason.STOP if ids and ids[-1] in stop_ids else FinishReason.LENGTH


def _choose(masses: Mapping[int, float], temperature: float, uniform: float) -> tuple[int, float]:
    """A token by the masses at the temperature, and its log-probability; at 0 the heaviest, scored at temperature 1."""
    heaviest = max(masses.values())
    weights = {token: (mass / heaviest) ** (1 / (temperature or 1.0)) for token, mass in masses.items()}
    total = sum(weights.values())
    if temperature == 0:
        token = max(masses, key=lambda candidate: masses[candidate])
        return token, math.log(weights[token] / total)
    place = bisect_right(list(accumulate(weights.values())), uniform * total)
    token = list(weights)[min(place, len(weights) - 1)]
    return token, math.log(weights[token] / total)


def _batch(latency: Latency | Batch | Callable[[Sequence[int], Sequence[int]], float] | None) -> Batch | None:
    if latency is None or isinstance(latency, Batch):
        return latency
    return Batch(latency if isinstance(latency, Latency) else Given(latency))


def _end_of_text(tokenizer: Tokenizer) -> tuple[int, ...]:
    if tokenizer.eos_token_id is None:
        raise ConfigError("the scripted engine needs a renderer, or a tokenizer with an end-of-sequence token")
    return (int(tokenizer.eos_token_id),)
