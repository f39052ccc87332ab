"""ReplicatedEngine: several engines that serve the same weights behind one face.

A session stays with one replica, where its prefix is cached: the least loaded one at its first request. A replica that
fails (`EngineError`, or no answer in time) is down: its sessions move on and the request is tried on the others, at
most once on each. When a pause that doubles with every failure has passed it gets one request for trial, and comes back
by answering it. A request that an engine refuses (`EngineRefusal`) is no fault of the replica's and is not tried again.

Invariants: a request is answered once, by a replica that serves what was published last, or ends in an `EngineError`;
replicas whose hashes differ never serve side by side. A replica that missed a publication, or answers with a hash that
nobody published, serves no more until the next publication reaches it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from agentrl.engines.base import Capabilities, Completion, Engine, EngineLoad, Reply, Sampling
from agentrl.errors import ConfigError, EngineError, EngineRefusal
from agentrl.messages import Message

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a replica that failed is tried again; doubled by every further failure."""
_SHOWN = 12
"""Digits of a hash in an error."""
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Replica:
    """An engine and what is known of it."""

    engine: Engine
    name: str
    place: int
    up: bool = True
    current: bool = True
    """It serves what was published last."""
    failures: int = 0
    """In a row."""
    retry_at: float = 0.0
    epoch: int = 0
    """Counts its changes between up and down: what began in an earlier epoch says nothing of this one."""
    running: int = 0
    sessions: int = 0
    on_trial: bool = False
    error: str = ""
    """Why it does not serve."""


class ReplicatedEngine(Engine):
    """Replicas of one engine."""

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        names: Sequence[str] | None = None,
        timeout_seconds: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`names` stand in errors and logs. A request without an answer from a replica in `timeout_seconds` (None: no
        bound but the engine's own) has failed there. `clock` is the event loop's unless given. Raises `ConfigError`.
        """
        if not engines or len(set(map(id, engines))) < len(engines):
            raise ConfigError("replicas: give at least one engine, and each of them once")
        if len({engine.capabilities.tokens for engine in engines}) > 1:
            raise ConfigError("replicas: some take token ids and some take messages")
        if len({tuple(engine.stop_ids) for engine in engines}) > 1:
            raise ConfigError("replicas: their stop_ids differ")
        if len(engines) > 1 and any(getattr(engine, "deterministic", False) for engine in engines):
            raise ConfigError(
                "replicas: an engine in lockstep would wait for clients of the others; give deterministic=False"
            )
        named = names or [f"replica {place}" for place in range(len(engines))]
        pairs = zip(engines, named, strict=True)
        self._replicas = [_Replica(engine, name, place) for place, (engine, name) in enumerate(pairs)]
        self.stop_ids = tuple(engines[0].stop_ids)
        self.timeout_seconds = timeout_seconds
        self.clock = clock or (lambda: asyncio.get_running_loop().time())
        self.capabilities = self._common()
        self._owners: dict[str, list[_Replica]] = {}
        """The replicas that served each session; the last one owns it."""
        self._hashes: list[str] = []
        """Hashes in order of publication; before the first one, the hash of the first answer."""
        self._publishing: asyncio.Event | None = None
        self._closed = False

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all replicas; those that cannot be are down. Idempotent. Raises `EngineError` if none can."""
        self._closed = False
        results = await asyncio.gather(
            *(replica.engine.start() for replica in self._replicas), return_exceptions=True
        )  # fmt: skip
        for replica, error in zip(self._replicas, results, strict=True):
            if isinstance(error, EngineError):
                self._fail(replica, replica.epoch, str(error))
            elif error is not None:
                raise error
            else:
                self._revive(replica, replica.epoch)
        if not any(replica.up for replica in self._replicas):
            raise self._nobody()
        self.capabilities = self._common()

    async def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True
        results = await asyncio.gather(
            *(replica.engine.close() for replica in self._replicas), return_exceptions=True
        )  # fmt: skip
        for error in results:
            if error is not None:
                raise error

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """See `Engine.client`: a client of all replicas."""
        async with AsyncExitStack() as stack:
            for replica in self._replicas:
                await stack.enter_async_context(replica.engine.client())
            yield

    @property
    def weights_hash(self) -> str:
        """See `Engine.weights_hash`: what was published last, or what answered first."""
        return self._hashes[-1] if self._hashes else self._replicas[0].engine.weights_hash

    # -- requests ------------------------------------------------------------------------------------------------------

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """See `Engine.generate`."""
        return await self._serve(session, lambda engine: engine.generate(prompt_ids, sampling, session=session))

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        *,
        session: str | None = None,
    ) -> Reply:
        """See `Engine.reply`."""
        return await self._serve(session, lambda engine: engine.reply(messages, tools, sampling, session=session))

    async def end_session(self, session: str) -> None:
        """See `Engine.end_session`: for every replica that served it. What a dead one kept has died with it."""
        served = self._owners.pop(session, [])
        if served:
            served[-1].sessions -= 1
        for replica in dict.fromkeys(served):
            try:
                await replica.engine.end_session(session)
            except EngineError as error:
                self._fail(replica, replica.epoch, str(error))

    def load(self) -> EngineLoad | None:
        """See `Engine.load`: of all replicas that serve, the fullest cache; None if none of them can tell."""
        serving = [replica for replica in self._replicas if replica.up and replica.current]
        loads = [(replica, replica.engine.load()) for replica in serving]
        known = [load for _, load in loads if load is not None]
        if not known:
            return None
        unknown = sum(replica.running for replica, load in loads if load is None)
        caches = [load.cache_used for load in known if load.cache_used is not None]
        return EngineLoad(
            sum(load.running for load in known) + unknown,
            sum(load.waiting for load in known),
            max(caches, default=None),
        )

    async def _serve(self, session: str | None, call: Callable[[Engine], Awaitable[T]]) -> T:
        """The answer of the first replica that gives one."""
        tried: set[_Replica] = set()
        while (replica := self._choose(session, tried)) is not None:
            tried.add(replica)
            self._assign(session, replica)
            try:
                return await self._attempt(replica, call)
            except _ReplicaFailed:
                continue
        raise EngineError("the engine was closed") if self._closed else self._nobody()

    def _choose(self, session: str | None, tried: set[_Replica]) -> _Replica | None:
        """The session's owner, else a replica that is due for trial, else the least loaded one."""
        usable = [replica for replica in self._replicas if replica.current and replica not in tried]
        if self._closed or not usable:
            return None
        owner = self._owners[session][-1] if session in self._owners else None
        if owner in usable and owner is not None and owner.up:
            return owner
        up = [replica for replica in usable if replica.up]
        due = [replica for replica in usable if not replica.up and self.clock() >= replica.retry_at]
        pool = [replica for replica in due if not replica.on_trial] or up or due
        return min(pool, key=lambda each: (each.sessions, each.running, each.place), default=None)

    def _assign(self, session: str | None, replica: _Replica) -> None:
        if session is None:
            return
        served = self._owners.setdefault(session, [])
        if served and served[-1] is replica:
            return
        if served:
            served[-1].sessions -= 1
        served.append(replica)
        replica.sessions += 1

    async def _attempt(self, replica: _Replica, call: Callable[[Engine], Awaitable[T]]) -> T:
        """One request on one replica; `_ReplicaFailed` if that is to blame."""
        epoch, published, trial = replica.epoch, len(self._hashes), not replica.up
        replica.running += 1
        replica.on_trial |= trial
        try:
            async with asyncio.timeout(self.timeout_seconds):
                if trial:
                    await self._restart(replica)
                answer = await call(replica.engine)
            if isinstance(answer, Completion):
                await self._attest(replica, answer, published)
        except EngineRefusal:
            self._revive(replica, epoch)
            raise
        except EngineError as error:
            self._fail(replica, epoch, str(error))
            raise _ReplicaFailed from error
        except TimeoutError as error:
            bound = "in time" if self.timeout_seconds is None else f"within {self.timeout_seconds:g} s"
            self._fail(replica, epoch, f"no answer {bound}")
            raise _ReplicaFailed from error
        finally:
            replica.running -= 1
            replica.on_trial &= not trial
        self._revive(replica, epoch)
        return answer

    async def _restart(self, replica: _Replica) -> None:
        try:
            await replica.engine.start()
        except ConfigError as error:  # it came back as another: its fault, and not the request's
            raise EngineError(str(error)) from error
        if self._closed:  # meanwhile: what was started is nobody's
            await replica.engine.close()
            raise EngineError("the engine was closed")
        self.capabilities = self._common()

    # -- weights -------------------------------------------------------------------------------------------------------

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        """See `Engine.publish`: to all replicas, those that are down included.

        Raises `EngineError` if none takes the weights, or if hashes differ: then nobody serves until the next call.
        """
        if self._publishing is not None:
            raise EngineError("weights are being published already")
        running = sum(replica.running for replica in self._replicas)
        if running and not self.capabilities.publish_in_flight:
            raise EngineError(f"weights cannot be published while {running} requests are in flight")
        self._publishing = asyncio.Event()
        try:
            return await self._publish(weights, version)
        except BaseException:  # nobody knows any more what is served
            for replica in self._replicas:
                replica.current = False
                replica.error = replica.error or "a publication failed"
            raise
        finally:
            self._publishing.set()
            self._publishing = None

    async def _publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        results = await asyncio.gather(
            *(self._publish_to(replica, weights, version) for replica in self._replicas), return_exceptions=True
        )
        served: dict[str, str] = {}
        for replica, result in zip(self._replicas, results, strict=True):
            if isinstance(result, EngineError):
                replica.current = False
                self._fail(replica, replica.epoch, f"version {version} was not published: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                served[replica.name] = result
        if not served:
            raise self._nobody()
        if len(set(served.values())) > 1:
            told = ", ".join(f"{name} {digest[:_SHOWN] or 'none'}" for name, digest in served.items())
            raise EngineError(f"replicas serve different weights as version {version}: {told}")
        for replica in self._replicas:
            if replica.name in served:
                replica.current = True
                self._revive(replica, replica.epoch)
        self._hashes.append(next(iter(served.values())))
        return self._hashes[-1]

    async def _publish_to(self, replica: _Replica, weights: Mapping[str, Any] | None, version: int) -> str:
        if not replica.up:
            await self._restart(replica)
        return await replica.engine.publish(weights, version)

    async def _attest(self, replica: _Replica, completion: Completion, published: int) -> None:
        """Raise `EngineError` unless the answer comes from weights that were published last, or since it was asked."""
        if self._publishing is not None:
            await self._publishing.wait()  # the hash it may carry is not known yet
        if not self._hashes:
            self._hashes.append(completion.weights_hash)
        hashes = {completion.weights_hash, *(switch.weights_hash for switch in completion.switches)}
        if strange := hashes - set(self._hashes[max(0, published - 1) :]):
            replica.current = False
            raise EngineError(f"it answers with weights that were not published: {', '.join(sorted(strange))[:80]}")

    # -- health --------------------------------------------------------------------------------------------------------

    def _fail(self, replica: _Replica, epoch: int, error: str) -> None:
        """It failed, once for all requests of its epoch."""
        if epoch != replica.epoch:
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**replica.failures)
        replica.epoch += 1
        replica.failures += 1
        replica.up, replica.error, replica.retry_at = False, error, self.clock() + pause
        _log.warning("%s is down, to be tried again in %g s: %s", replica.name, pause, error)

    def _revive(self, replica: _Replica, epoch: int) -> None:
        """It answered."""
        if epoch != replica.epoch or (replica.up and not replica.failures):
            return
        replica.epoch += 1
        replica.up, replica.failures, replica.error = True, 0, ""
        _log.warning("%s is up again", replica.name)

    def _nobody(self) -> EngineError:
        told = "; ".join(f"{replica.name}: {replica.error or 'failed'}" for replica in self._replicas)
        return EngineError(f"no replica is left: {told}")

    def _common(self) -> Capabilities:
        """What all of them can do."""
        each = [replica.engine.capabilities for replica in self._replicas]
        contexts = [one.max_context for one in each if one.max_context is not None]
        return Capabilities(
            logprobs=all(one.logprobs for one in each),
            seeded=all(one.seeded for one in each),
            publish=all(one.publish for one in each),
            publish_in_flight=all(one.publish_in_flight for one in each),
            tokens=each[0].tokens,
            max_context=min(contexts, default=None),
            top_p=all(one.top_p for one in each),
            token_entropy=all(one.token_entropy for one in each),
        )


class _ReplicaFailed(Exception):
    """The request may be tried on another replica."""
