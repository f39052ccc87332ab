"""Small doubles for the manager's logic: a renderer of characters, an engine and an environment with injectable faults.

Each keeps the books that the tests check: which ids went in and out, which sessions, clients and environments are open.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any

import numpy as np

from agentrl.engines.base import Capabilities, Completion, Engine, FinishReason, Sampling
from agentrl.env import AsyncEnv, Step, Verdict
from agentrl.errors import ConfigError, EngineError
from agentrl.messages import Message, assistant, user
from agentrl.rollout import EnvSource, GroupRequest, RolloutContext, RolloutLimits, RolloutPolicies
from agentrl.trajectory import StopReason, ToolCallRecord, Trajectory

END = 0


class CharRenderer:
    """One token a character. With `rewrites`, each new context drops what the policy said before: every row forks."""

    stop_ids = (END,)

    def __init__(self, rewrites: bool = False) -> None:
        self.rewrites = rewrites

    def opening(self, messages: Sequence[Message]) -> list[int]:
        return [ord(character) for message in messages for character in f"{message.role}:{message.text}\n"]

    def next_context(
        self, context: Sequence[int], sampled: Sequence[int], history: Sequence[Message], observation: Sequence[Message]
    ) -> list[int]:
        assert history[-1].role == "assistant"
        if self.rewrites:
            return self.opening([message for message in history if message.role != "assistant"] + list(observation))
        return [*context, *sampled, *self.opening(observation)]

    def parse(self, sampled: Sequence[int]) -> Message:
        return assistant("".join(chr(token) for token in sampled if token != END))


class FakeEngine(Engine):
    """Seeded random letters after a prompt; `before` may sleep or raise ahead of each answer."""

    def __init__(self, before: Callable[[str], Awaitable[None]] | None = None, max_context: int | None = None) -> None:
        self.capabilities = Capabilities(max_context=max_context)
        self.before = before
        self.calls: list[tuple[str, list[int], Completion]] = []
        self.sampling: list[Sampling] = []
        self.sessions: set[str] = set()
        self.clients = 0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        self.clients += 1
        try:
            yield
        finally:
            self.clients -= 1

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        assert session is not None and self.clients > 0
        self.sessions.add(session)
        self.sampling.append(sampling)
        if self.before is not None:
            await self.before(session)
        completion = self.complete(prompt_ids, sampling)
        self.calls.append((session, list(prompt_ids), completion))
        return completion

    def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        prompt = int.from_bytes(blake2b(str(list(prompt_ids)).encode(), digest_size=8).digest(), "big")
        rng = np.random.default_rng([sampling.seed or 0, prompt])
        ids = [*rng.integers(97, 123, rng.integers(1, 7)).tolist(), END][: sampling.max_tokens]
        reason = FinishReason.STOP if ids[-1] == END else FinishReason.LENGTH
        return Completion(ids, rng.normal(size=len(ids)).tolist(), reason, 3, "hash", 0.0, 0.0)

    async def end_session(self, session: str) -> None:
        self.sessions.discard(session)


class LockstepEngine(FakeEngine):
    """Answers only when every announced client has a request pending, as an engine with deterministic batches does."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[frozenset[str]] = []
        self._pending: dict[str, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        async with super().client():
            yield
        self._fire()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        assert session is not None
        self._pending[session] = asyncio.get_running_loop().create_future()
        self._fire()
        try:
            await self._pending[session]
        finally:
            del self._pending[session]
        return await super().generate(prompt_ids, sampling, session=session)

    def _fire(self) -> None:
        waiting = {name: future for name, future in self._pending.items() if not future.done()}
        if waiting and len(waiting) == self.clients:
            self.batches.append(frozenset(name.partition("/")[2] for name in waiting))
            for future in waiting.values():
                future.set_result(None)


class World:
    """What the environments of one test share: faults, latencies, books."""

    def __init__(self, latency: float = 0.0, rate: float = 0.0, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.latency = latency
        self.rate = rate
        self.made = 0
        self.open = 0
        self.resets: list[tuple[str, int]] = []
        self.faults: dict[str, int] = {}

    def make_env(self) -> WordEnv:
        return WordEnv(self)

    async def event(self, stage: str) -> None:
        """A random pause, and sometimes a fault."""
        if self.latency:
            await asyncio.sleep(self.random.random() * self.latency)
        if self.random.random() < self.rate:
            self.faults[stage] = self.faults.get(stage, 0) + 1
            raise EngineError("random fault") if stage == "generate" else OSError(f"random fault at {stage}")


class WordEnv(AsyncEnv):
    """Answers each word by its length; ends after one to four turns, depending on the seed. Subclasses misbehave."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.made += 1
        world.open += 1
        self.number = world.made
        self.closed = False

    def tasks(self, split: str) -> Any:
        raise NotImplementedError

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        task_id = (options or {})["task"]
        if task_id == "train:missing":
            raise ConfigError(f"task {task_id!r} is unknown")
        self.world.resets.append((task_id, seed or 0))
        await self.world.event("reset")
        self.left = self.turns_of(seed or 0)
        self.turn = 0
        return (user(f"task {task_id}"),), {"task": {"id": task_id}, "state_key": "s0"}

    def turns_of(self, seed: int) -> int:
        return 1 + seed % 4

    async def astep(self, action: Any) -> Step:
        await self.world.event("step")
        self.left -= 1
        self.turn += 1
        record = ToolCallRecord("length", action.text, str(len(action.text)), None, self.world.random.random())
        info = {"tool_calls": [record], "parse_error": False, "metrics": {}, "state_key": f"s{self.turn}"}
        if self.left <= 0:
            return Step((), 1.0, True, False, {**info, "metrics": {"correct": 1.0}, "stop_reason": "terminated"})
        return Step((user(str(len(action.text))),), 0.25, False, False, {**info, "stop_reason": None})

    async def afinish(self, reason: StopReason) -> Verdict:
        return Verdict(-0.5, {"cut": 1.0})

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            self.world.open -= 1
        await self.world.event("close")


def requests(number: int, size: int = 2, pulled: list[str] | None = None) -> Iterator[GroupRequest]:
    """`number` requests; the id of each is appended to `pulled` when it is asked for."""
    for index in range(number):
        if pulled is not None:
            pulled.append(f"g{index}")
        yield GroupRequest(f"g{index}", f"train:{index}", size, seed=1000 + index)


def context_of(
    world: World,
    engine: Engine,
    make_env: Callable[[], Any] | None = None,
    renderer: Any = None,
    on_episode: Callable[[GroupRequest, Trajectory], None] | None = None,
    policies: Mapping[str, Any] | None = None,
    envs: Mapping[str, EnvSource] | None = None,
    **limits: Any,
) -> RolloutContext:
    """A context with small limits."""
    settings = {"concurrency": 4, "episode_seconds": 60.0, "step_seconds": 30.0, **limits}
    return RolloutContext(
        engine,
        renderer or CharRenderer(),
        make_env or world.make_env,
        RolloutLimits(**settings),
        on_episode,
        policies=RolloutPolicies(**policies or {}),
        envs=envs or {},
    )


def content(trajectory: Trajectory) -> str:
    """The record without what clocks measured."""
    copy = Trajectory.from_json(trajectory.to_json())
    copy.seconds, copy.timings = 0.0, {}
    for turn in copy.turns:
        turn.timings = {}
        for call in turn.tool_calls:
            call.seconds = call.queued_seconds = 0.0
    return copy.to_json()
