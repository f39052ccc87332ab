"""RolloutPlayer: a player whose episodes the rollout manager plays, whatever gives the messages.

One engine serves all entries of a suite; each entry has an environment and, where tokens are exchanged, a renderer of
its own, since the tools differ. The manager brings limits, deadlines, records and the account of the time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from agentrl import registry
from agentrl.account import BatchAccount
from agentrl.components import construct
from agentrl.engines.base import Engine
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.evaluation.players.base import (
    EntrySource,
    Played,
    Player,
    PlayerSettings,
    PlayLimits,
    PlayRequest,
    source_of,
)
from agentrl.rollout import EnvSource, GroupRequest, Rollout, RolloutContext, RolloutLimits

if TYPE_CHECKING:
    from agentrl.chat import ChatRenderer


class RolloutPlayer(Player):
    """Subclasses make the engine in `start` and say how an environment's conversations become tokens."""

    def __init__(self, model: str, settings: PlayerSettings) -> None:
        super().__init__(model, settings)
        self._engine: Engine | None = None
        self._tokenizer: Any = None
        self._account = BatchAccount(slots=float(settings.concurrency))

    @property
    def engine(self) -> Engine:
        """Who answers; raises `ConfigError` before `start`."""
        if self._engine is None:
            raise ConfigError(f"player {self.model!r} has not been started")
        return self._engine

    @property
    def weights_hash(self) -> str | None:
        return self._engine.weights_hash or None if self._engine is not None else None

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    def account(self) -> list[str]:
        return self._account.lines() if self._account.episodes else []

    @abstractmethod
    def renderer(self, env: Env) -> ChatRenderer | None:
        """How the environment's conversations become tokens; None for an engine that takes messages."""

    def _rendering(self, tools: list[dict[str, Any]]) -> ChatRenderer:
        """The renderer that the settings ask for, with the tokenizer that the subclass has."""
        from agentrl.chat import ChatRenderer

        return ChatRenderer(
            self._tokenizer,
            tools,
            tool_format=self.settings.tool_format or "auto",
            tool_prompt=self.settings.tool_prompt or "schema",
            history=self.settings.history or "template",
        )

    def check_limits(self, limits: PlayLimits) -> None:
        """See that the engine can sample so. Raises `ConfigError`."""
        if limits.top_p < 1 and not self.engine.capabilities.top_p:
            raise ConfigError(f"top_p={limits.top_p:g}: {type(self.engine).__name__} cannot sample a nucleus")

    async def check(self, source: EntrySource, env: Env) -> None:
        """See that the player can play the source, whose environment is `env`. Raises `ConfigError`."""

    async def play(
        self, sources: Sequence[EntrySource], requests: Iterable[PlayRequest]
    ) -> AsyncGenerator[Played, None]:
        """See `Player.play`."""
        by_name = {source.name: source for source in sources}
        if len(by_name) < len(sources):
            raise ConfigError("two entries have the same name")
        for source in sources:
            self.check_limits(source.limits or self.settings.limits)
        supply = _Supply(requests, by_name, self.settings.limits)
        environments = {source.name: await self._prepared(source) for source in sources}
        while (limits := supply.next_limits()) is not None:
            rollout = self._rollout(environments, limits)
            try:
                async with aclosing(rollout.run(supply.batch(limits))) as groups:  # type: ignore[type-var]
                    async for group in groups:
                        request = supply.asked.pop(group.group_id)
                        for trajectory in group.trajectories:
                            trajectory.member = request.sample
                            self._account.add(trajectory)
                            yield Played(request, trajectory)
            finally:
                self._account.makespan += rollout.account().makespan

    async def _prepared(self, source: EntrySource) -> EnvSource:
        """The source with its renderer, checked with an environment that is made for this."""
        env = source.make_env()
        try:
            await self.check(source, env)
            return EnvSource(source.make_env, self.renderer(env))
        finally:
            await env.aclose()

    def _rollout(self, environments: Mapping[str, EnvSource], limits: PlayLimits) -> Rollout:
        first = next(iter(environments.values()))
        context = RolloutContext(
            self.engine,
            first.renderer,
            first.make_env,
            RolloutLimits(
                max_turns=limits.max_turns,
                max_turn_tokens=limits.max_turn_tokens,
                max_tokens=limits.max_tokens,
                max_context=limits.max_context,
                tool_calls=limits.tool_calls,
                temperature=limits.temperature,
                top_p=limits.top_p,
                concurrency=self.settings.concurrency,
                episode_seconds=limits.episode_seconds,
                step_seconds=limits.step_seconds,
            ),
            envs=environments,
        )
        rollout: Rollout = construct(registry.rollouts, "independent", context)
        return rollout


class _Supply:
    """Hands requests on as they are asked for, in runs of equal limits."""

    def __init__(
        self, requests: Iterable[PlayRequest], sources: Mapping[str, EntrySource], default: PlayLimits
    ) -> None:
        self._requests = iter(requests)
        self._sources = sources
        self._default = default
        self._ahead: PlayRequest | None = None
        self.asked: dict[str, PlayRequest] = {}
        """Requests under way by the id of their group."""

    def next_limits(self) -> PlayLimits | None:
        """The limits of the next request; None at the end."""
        self._ahead = self._ahead or next(self._requests, None)
        return None if self._ahead is None else self._limits(self._ahead)

    def batch(self, limits: PlayLimits) -> Iterator[GroupRequest]:
        """Requests up to the first with other limits."""
        while self.next_limits() == limits:
            request, self._ahead = self._ahead, None
            assert request is not None
            key = f"{request.entry}/{request.group}/{request.sample}"
            if key in self.asked:
                raise ConfigError(f"episode {key} was asked for twice")
            self.asked[key] = request
            yield GroupRequest(key, request.task_id, 1, request.seed, request.entry)

    def _limits(self, request: PlayRequest) -> PlayLimits:
        return source_of(self._sources, request).limits or self._default
