"""Manager: requests in, finished groups out, in order of completion, over one event loop.

The rules, each with its tests in `tests/rollouts`:

 1. One task an episode, no barrier anywhere; groups come out as they are completed, through a bounded stream: while
    enough waits for the consumer, no episode begins.
 2. Several environments mix in one stream, each with its own renderer.
 3. Decoding, tools and sandboxes are limited apart; those with the most turns to come decode first.
 4. Each stage has a deadline, and the episode a hard one that includes its teardown and always wins.
 5. Every episode that began comes out exactly once; an aborted one is data with one of a closed set of reasons.
 6. A failure policy says whether a failure ends the run, is replaced, or thins its group out.
 7. Groups that can carry no signal are stopped early and replaced by the next request, if that is asked for.
 8. Staleness is bounded at the door and again at delivery; what a weight update does to episodes is a policy.
 9. Episodes branch in mid-play where a strategy says so.
10. Every second of every episode is booked, and makespan stands beside its lower bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from agentrl.account import BatchAccount
from agentrl.errors import ConfigError
from agentrl.rollout import GroupRequest, InFlight, RolloutContext
from agentrl.trajectory import Group

from .services import Services, Sleep
from .stream import Stream

if TYPE_CHECKING:
    from .branching import Brancher


class Manager:
    """Plays the episodes of a context. May run several iterators, one after the other or at once."""

    def __init__(
        self, context: RolloutContext, *, brancher: Brancher | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        """`sleep` waits out the back-off between retries.

        Raises `ConfigError` for limits and policies that cannot be kept, alone or together.
        """
        self._services = Services(context, sleep, brancher)

    async def run(self, requests: Iterable[GroupRequest], *, wanted: int | None = None) -> AsyncGenerator[Group, None]:
        """Yield the group of each request, in order of completion; see `Rollout.run`.

        Raises `EngineError` once the engine is unreachable, or `EnvError` once no environment can be made, after the
        groups that were finished by then; whatever the iterable raises; `ConfigError` for a user's mistake that shows
        only now (a task that does not exist).
        """
        stream = Stream(self._services, requests, wanted)
        try:
            stream.start()
            while (group := await stream.next_group()) is not None:
                yield group
        finally:
            await stream.stop()

    async def update(self, publish: Callable[[], Awaitable[str]], version: int) -> str:
        """Replace the engine's weights; returns what `publish` returns, the hash of what is served. See `InFlight`."""
        services = self._services
        async with services.updating:
            if services.context.policies.in_flight is InFlight.CONTINUE:
                served = await self._between_turns(publish)
            else:
                served = await self._between_episodes(publish)
            services.see_version(version)
        for stream in list(services.streams):
            stream.fill()
        return served

    async def _between_turns(self, publish: Callable[[], Awaitable[str]]) -> str:
        services = self._services
        can = services.context.engine.capabilities
        if can.publish_in_flight:
            return await publish()
        if can.lockstep and services.episodes.inside:
            raise ConfigError(
                "in_flight='continue': the engine decodes in lockstep and would wait for the episodes that wait for "
                "the weights; switch lockstep off (engine.options.deterministic=false)"
            )
        services.generations.shut = True
        try:
            await services.generations.empty()
            return await publish()
        finally:
            services.generations.open()

    async def _between_episodes(self, publish: Callable[[], Awaitable[str]]) -> str:
        services = self._services
        services.episodes.shut = True
        services.discarding = services.context.policies.in_flight is InFlight.DISCARD
        try:
            if services.discarding:
                for stream in list(services.streams):
                    stream.discard_all()
            await services.episodes.empty()
            return await publish()
        finally:
            services.discarding = False
            services.episodes.open()

    def account(self) -> BatchAccount:
        """Where the time went of the episodes that ended since the last call; starts a new account."""
        return self._services.take_account()
