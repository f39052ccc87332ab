"""TransformersEngine: generation in process, with the very weights that the learner updates.

All model work runs in one worker thread; the event loop only hands out jobs and collects what finished. In lockstep
(`deterministic`) the batch goes on only while every announced client has a request in it or waiting for it, and new
requests join in the order of their sessions: what is computed together then does not depend on how long tools take,
and neither does a single bit of the results.

Weights can be replaced in mid-flight where the engine serves a copy of its own: a shared module changes under the
requests before anybody publishes. The replacement happens between two tokens; every prefix is then computed anew by the
new weights, since keys of the old ones would make neither policy's distribution.

Invariants: what a completion reports was sampled and scored by the weights whose hash it carries, and by those of its
switches from their index on; a request leaves its slot when it finishes, fails or is cancelled.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from agentrl.components import checked_options
from agentrl.engines.base import Capabilities, Completion, Engine, EngineLoad, FinishReason, Sampling, check_top_p
from agentrl.engines.decoder import BatchDecoder, Job
from agentrl.engines.weights import check_weights, module_hash
from agentrl.errors import ConfigError, EngineError, EngineRefusal
from agentrl.registry import engines

Precision = Literal["float32", "bfloat16", "float16"]

_ATTENTIONS = ("sdpa", "agentrl")
"""Attention implementations that take a boolean mask of four dimensions; eager attention would add it as a number."""


@dataclass(eq=False)
class _Client:
    """An announced caller; busy while it has no request outstanding."""

    outstanding: int = 0


@dataclass(eq=False)
class _Request(Job):
    """A job with somebody waiting for it."""

    future: asyncio.Future[None] | None = None
    clients: tuple[_Client, ...] = ()
    settled: bool = False
    stalled: float = 0.0
    """Seconds for which it had begun and waited, in lockstep, for busy clients."""

    @property
    def order(self) -> tuple[str, int, list[int]]:
        """Sorts requests without regard to when they arrived."""
        return (self.session or "", -1 if self.seed is None else self.seed, self.prompt.tolist())

    @property
    def abandoned(self) -> bool:
        """True if the caller is gone: cancelled, or lost with its event loop."""
        return self.future is not None and (self.future.done() or self.future.get_loop().is_closed())

    def settle(self, error: EngineError | None = None) -> None:
        """Wake the caller; its clients are busy from now on."""
        if self.settled:
            return
        self.settled = True
        for client in self.clients:
            client.outstanding -= 1
        if self.future is None or self.abandoned:
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


_CLIENTS: ContextVar[tuple[_Client, ...]] = ContextVar("clients", default=())
"""The clients that the current task acts for, of any engine."""


@engines.register("transformers")
class TransformersEngine(Engine):
    """Continuous batching over a `transformers` causal language model whose module is shared with the learner."""

    def __init__(
        self,
        model: Any,
        *,
        stop_ids: Sequence[int],
        max_slots: int = 64,
        max_context: int | None = None,
        deterministic: bool = True,
        dtype: Precision | None = None,
        seed: int = 0,
        token_entropy: bool = False,
    ) -> None:
        """`stop_ids` end a turn (the renderer's).

        `max_slots` sequences decode at once or are kept for their sessions; more wait. `max_context` bounds context +
        completion, tokens (default: the model's own limit). `deterministic` decodes in lockstep while clients are
        announced. `dtype` other than the module's own serves a copy of the weights in that type, refreshed by
        `publish`: bfloat16 decodes about twice as fast on CPUs that have it, and its log-probabilities are those of
        the copy. With such a copy and without `deterministic` (the moment of a replacement depends on the clock),
        weights can be published while requests are in flight. `seed` seeds requests that bring no seed.
        `token_entropy` records the entropy of the distribution at temperature 1 that each token was sampled at. Raises
        `ConfigError` for a model that the engine cannot run exactly.
        """
        if max_slots < 1:
            raise ConfigError(f"max_slots must be at least 1, got {max_slots}")
        config = model.config.get_text_config()
        limit = int(config.max_position_embeddings)
        if max_context is not None and not 1 < max_context <= limit:
            raise ConfigError(f"max_context must be between 2 and the model's {limit}, got {max_context}")
        self.max_context = max_context or limit
        _check_model(model, config, self.max_context)
        self.model = model
        self.stop_ids = tuple(stop_ids)
        self.deterministic = deterministic
        self._served = model if dtype is None or getattr(torch, dtype) == model.dtype else _copy(model, dtype)
        self.capabilities = Capabilities(
            publish=True,
            publish_in_flight=self._served is not model and not deterministic,
            lockstep=deterministic,
            max_context=self.max_context,
            top_p=True,
            token_entropy=token_entropy,
        )
        self.decoder = BatchDecoder(
            self._served, max_slots=max_slots, num_layers=config.num_hidden_layers, token_entropy=token_entropy
        )
        self._vocabulary = int(model.get_input_embeddings().num_embeddings)
        self._seed = seed
        self._unseeded = 0
        self._version = 0
        self._hash = ""
        self._executor: ThreadPoolExecutor | None = None
        self._requests: list[_Request] = []
        """Pending and running, in order of arrival."""
        self._clients: set[_Client] = set()
        self._ended: set[str] = set()
        self._driver: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._interrupt = False

    @classmethod
    def for_policy(cls, model: Any, *, stop_ids: Sequence[int], **options: Any) -> TransformersEngine:
        """The engine with options from a configuration; raises `ConfigError` for one that it does not have."""

        def configurable(
            max_slots: int = 64,
            max_context: int | None = None,
            deterministic: bool = True,
            dtype: Precision | None = None,
            seed: int = 0,
            token_entropy: bool = False,
        ) -> None: ...

        return cls(model, stop_ids=stop_ids, **checked_options("engine 'transformers'", configurable, options))

    # -- the contract --------------------------------------------------------------------------------------------------

    @property
    def weights_hash(self) -> str:
        """See `Engine.weights_hash`."""
        return self._hash

    async def start(self) -> None:
        """Start the worker thread and hash the weights. Idempotent."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="agentrl-engine")
        if not self._hash:
            self._hash = await self._in_worker(module_hash, self._served)

    async def close(self) -> None:
        """Fail what is in flight, free the cache, end the worker thread. Idempotent."""
        if self._executor is None:
            return
        self._fail(EngineError("the engine was closed"))
        await self._drained()
        executor, self._executor, self._hash = self._executor, None, ""
        await asyncio.get_running_loop().run_in_executor(executor, self.decoder.reset)
        executor.shutdown()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """See `Engine.generate`. A prompt that fills the context gives an empty completion that ends by `length`."""
        await self.start()
        request = self._request(prompt_ids, sampling, session)
        if request.limit < 1:
            return self._completion(request)
        loop = asyncio.get_running_loop()
        request.future = loop.create_future()
        request.clients = tuple(client for client in _CLIENTS.get() if client in self._clients)
        for client in request.clients:
            client.outstanding += 1
        self._requests.append(request)
        if not self._in_lockstep:
            self._interrupt = True
        self._wake()
        if self._driver is None or self._driver.done() or self._driver.get_loop() is not loop:
            self._changed = asyncio.Event()
            self._driver = loop.create_task(self._drive(), name="agentrl-engine")
        try:
            await request.future
        except asyncio.CancelledError:
            request.cancelled = self._interrupt = True
            request.settle()
            self._wake()
            raise
        return self._completion(request)

    async def end_session(self, session: str) -> None:
        """See `Engine.end_session`. The slot is freed before the next request joins the batch."""
        self._ended.add(session)
        if not self._requests and not self._clients:
            await self._release_ended()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """See `Engine.client`. A request counts for the clients that its task, or the task that made that, entered."""
        client = _Client()
        outer = _CLIENTS.get()
        self._clients.add(client)
        _CLIENTS.set((*outer, client))
        try:
            yield
        finally:
            self._clients.discard(client)
            _CLIENTS.set(tuple(other for other in _CLIENTS.get() if other is not client))
            self._wake()
            if not self._clients and not self._requests:
                await self._release_ended()

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        """See `Engine.publish`. A mapping is copied into the shared module; kept caches are dropped.

        Raises `ConfigError` for names or shapes that the model lacks, and changes nothing then; `EngineError` while
        requests are in flight, unless `publish_in_flight`: running requests then stop at their next token, and those
        that wait begin under the new weights.
        """
        await self.start()
        if self.capabilities.publish_in_flight:
            self._interrupt = True  # the worker does one thing after the other: this is next
        else:
            waiting = sum(not request.settled and not request.abandoned for request in self._requests)
            if waiting:
                raise EngineError(f"weights cannot be published while {waiting} requests are in flight")
            await self._drained()
        served: str = await self._in_worker(self._replace, weights, version)
        return served

    def load(self) -> EngineLoad:
        """See `Engine.load`. Of the cache nothing: it grows, and rows of idle sessions give way."""
        outstanding = [request for request in self._requests if not request.settled]
        running = sum(request.admitted > 0 for request in outstanding)
        return EngineLoad(running=running, waiting=len(outstanding) - running)

    # -- on the event loop ---------------------------------------------------------------------------------------------

    @property
    def _in_lockstep(self) -> bool:
        return self.deterministic and bool(self._clients)

    def _request(self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None) -> _Request:
        """The request, checked; what cannot be run fails alone and not with its batch."""
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        if prompt.ndim != 1 or len(prompt) == 0:
            raise EngineRefusal("the prompt is empty")
        if prompt.min() < 0 or prompt.max() >= self._vocabulary:
            raise EngineRefusal(f"the prompt has ids outside the model's vocabulary of {self._vocabulary}")
        if not sampling.temperature >= 0:
            raise ConfigError(f"temperature must be 0 or more, got {sampling.temperature}")
        check_top_p(sampling)
        return _Request(
            prompt=prompt,
            limit=min(sampling.max_tokens, self.max_context - len(prompt)),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop_ids=frozenset(sampling.stop_ids or self.stop_ids),
            session=session,
            seed=sampling.seed,
            policy_version=self._version,
            weights_hash=self._hash,
        )

    def _completion(self, request: _Request) -> Completion:
        return Completion(
            ids=request.ids,
            logprobs=request.logprobs,
            finish_reason=request.finish or FinishReason.LENGTH,
            policy_version=request.policy_version,
            weights_hash=request.weights_hash,
            switches=tuple(request.switches),
            entropies=list(request.entropies) if self.capabilities.token_entropy else None,
            queue_seconds=max(request.admitted - request.enqueued, 0.0) + request.stalled,
            prefill_seconds=max(request.begun - request.admitted, 0.0),
            decode_seconds=max(request.finished - request.begun - request.stalled, 0.0),
        )

    def _wake(self) -> None:
        self._changed.set()

    async def _drive(self) -> None:
        """Step after step while there are requests; ends when there are none, and no row of a cancelled one."""
        await asyncio.sleep(0)  # whoever starts at the same time announces itself first
        while self._collect() or self.decoder.active:
            if self._requests and self._in_lockstep and any(client.outstanding == 0 for client in self._clients):
                await self._stall()
                continue
            self._interrupt = False
            try:
                await self._in_worker(self._step, self._joining(), self._take_ended())
            except Exception as error:  # whatever the model raised, every caller must hear of it
                failure = EngineError(f"generation failed: {type(error).__name__}: {error}")
                failure.__cause__ = error
                self._fail(failure)
                await self._in_worker(self.decoder.reset)

    async def _stall(self) -> None:
        """Wait for news from busy clients; for requests that have begun this is no decoding."""
        began = time.perf_counter()
        self._changed.clear()
        await self._changed.wait()
        waited = time.perf_counter() - began
        for request in self._requests:
            if request.begun:
                request.stalled += waited

    def _collect(self) -> bool:
        """Settle what finished or was cancelled; True if requests remain."""
        for request in self._requests:
            if request.finish is not None:
                request.settle()
            elif request.abandoned:
                request.cancelled = True
                request.settle()
        self._requests = [request for request in self._requests if not request.settled]
        return bool(self._requests)

    def _joining(self) -> list[_Request]:
        """The pending requests that get a slot now."""
        pending = [request for request in self._requests if not request.admitted]
        room = self.decoder.max_slots - (len(self._requests) - len(pending))
        if self.deterministic:
            pending.sort(key=lambda request: request.order)
        joining = pending[:room]
        for request in joining:
            request.random.seed(self._next_seed() if request.seed is None else request.seed)
        return joining

    def _next_seed(self) -> int:
        self._unseeded += 1
        return int.from_bytes(hashlib.sha256(f"{self._seed}:{self._unseeded}".encode()).digest()[:8], "big")

    def _take_ended(self) -> list[str]:
        ended, self._ended = sorted(self._ended), set()
        return ended

    async def _release_ended(self) -> None:
        ended = self._take_ended()
        if ended and self._executor is not None:
            await self._in_worker(self.decoder.release, ended)

    def _fail(self, error: EngineError) -> None:
        for request in self._requests:
            request.cancelled = True
            request.settle(error)
        self._interrupt = True
        self._wake()

    async def _drained(self) -> None:
        """Wait for the driver to end after every request was settled."""
        driver = self._driver
        if driver is not None and driver.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([driver])
        self._requests = [request for request in self._requests if not request.settled]

    async def _in_worker(self, function: Any, *arguments: Any) -> Any:
        if self._executor is None:
            raise EngineError("the engine was closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    # -- in the worker thread ------------------------------------------------------------------------------------------

    def _step(self, joining: list[_Request], ended: list[str]) -> None:
        """Let requests in, then decode until one finishes or the loop has news."""
        self.decoder.sweep()
        self.decoder.release(ended)
        for request in joining:
            request.serve(self._version, self._hash)
        if not self.decoder.admit(joining):
            self.decoder.decode(lambda: self._interrupt)

    def _replace(self, weights: Mapping[str, Any] | None, version: int) -> str:
        """Serve other weights; the running requests go on under them with the next step."""
        if weights is not None:
            check_weights(self.model, weights)
        suspended = self.decoder.suspend()
        if weights is not None:
            self.model.load_state_dict(dict(weights), strict=False)
        if self._served is not self.model:
            with torch.no_grad():
                for served, own in zip(self._served.parameters(), self.model.parameters(), strict=True):
                    served.copy_(own)
        self._version, self._hash = version, module_hash(self._served)
        for job in suspended:
            job.serve(self._version, self._hash)
        return self._hash


def _copy(model: Any, dtype: Precision) -> Any:
    """A copy of the module with parameters of another type; buffers, such as rotary frequencies, keep theirs."""
    served = copy.deepcopy(model)
    for parameter in served.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return served


def _check_model(model: Any, config: Any, max_context: int) -> None:
    """Refuse what full attention over slots would compute wrongly."""
    name = type(model).__name__
    attention = getattr(config, "_attn_implementation", None)
    if attention not in _ATTENTIONS:
        raise ConfigError(
            f"{name} uses attention {attention!r}; the transformers engine needs one of: {', '.join(_ATTENTIONS)}"
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise ConfigError(f"{name} is an encoder-decoder; the transformers engine runs decoders only")
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if layers == ["full_attention"] and window:
        layers = ["sliding_attention"]
    other = sorted(set(layers) - {"full_attention", "sliding_attention"})
    if other:
        raise ConfigError(f"{name} has layers of type {other[0]!r}; the transformers engine runs full attention only")
    if "sliding_attention" in layers and window and max_context > window:
        raise ConfigError(
            f"{name} slides its attention over {window} tokens: set max_context to {window} or less for exact results"
        )
