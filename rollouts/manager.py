"""Manager: requests in, finished groups out, over a fixed number of episode workers on one event loop.

Each worker has an environment of its own and plays episode after episode inside `engine.client()`. Requests are pulled
when a worker needs an episode; while finished groups wait for a slow consumer no episode starts, and the workers stay
outside of `client()`, so that an engine that decodes in lockstep does not wait for them.

Invariants: every requested episode comes out exactly once, in exactly one group, finished or aborted; members stand in
their order whatever finished first; after the iterator ended or was closed no task, session or environment of it is
left, except for calls that ignore their cancellation (see `boundary`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from agentrl.errors import ConfigError, EngineError, EnvError
from agentrl.rollout import GroupRequest, RolloutContext
from agentrl.trajectory import Group, Trajectory

from .boundary import TEARDOWN_SECONDS, Aborted, Deadline, Health, Stage
from .episode import Episode, Job, Sleep
from .slot import EnvSlot

_log = logging.getLogger(__name__)
_runs = count()
"""Numbers the runs of a process, so that sessions of two runs on one engine differ."""

READ_AHEAD = 2
"""Finished episodes that may wait for the consumer, in multiples of the concurrency; always two groups."""
PATIENCE = 4
"""Least number of episodes in a row that must fail before the engine, or the making of environments, is given up."""


class Manager:
    """Runs independent episodes of a context. May run several iterators, one after the other or at once."""

    def __init__(self, context: RolloutContext, *, sleep: Sleep = asyncio.sleep) -> None:
        """`sleep` waits out the back-off between retries. Raises `ConfigError` for limits that cannot be kept."""
        limits = context.limits
        for key in ("max_turns", "max_turn_tokens", "max_context", "concurrency"):
            if getattr(limits, key) < 1:
                raise ConfigError(f"rollout.{key}={getattr(limits, key)!r} must be at least 1")
        for key in ("episode_seconds", "step_seconds"):
            if not getattr(limits, key) > 0:
                raise ConfigError(f"rollout.{key}={getattr(limits, key)!r} must be above 0")
        self._context = context
        self._sleep = sleep

    async def run(self, requests: Iterable[GroupRequest]) -> AsyncGenerator[Group, None]:
        """Yield the group of each request, in order of completion.

        Raises `EngineError` once the engine is unreachable, or `EnvError` once no environment can be made, after the
        groups that were finished by then; whatever the iterable raises; `ConfigError` for a user's mistake that shows
        only now (a task that does not exist).
        """
        run = _Run(self._context, requests, self._sleep)
        try:
            run.start()
            while (group := await run.next_group()) is not None:
                yield group
        finally:
            await run.stop()


@dataclass(slots=True)
class _OpenGroup:
    """A group under way."""

    group_id: str
    members: list[Trajectory | None]

    @property
    def complete(self) -> bool:
        return all(member is not None for member in self.members)

    def close(self) -> Group:
        return Group(self.group_id, [member for member in self.members if member is not None])


class _Run:
    """The state of one iterator: workers, groups under way, groups that wait for the consumer."""

    def __init__(self, context: RolloutContext, requests: Iterable[GroupRequest], sleep: Sleep) -> None:
        self._context = context
        self._sleep = sleep
        self._jobs = self._expand(requests)
        patience = max(PATIENCE, context.limits.concurrency)
        self._engine = Health(Stage.GENERATE, EngineError, patience)
        self._envs = Health(Stage.MAKE, EnvError, patience)
        self._workers: set[asyncio.Task[None]] = set()
        self._absent = 0
        """Workers that have not entered `client()` yet."""
        self._all_present = asyncio.Event()
        self._open: dict[int, _OpenGroup] = {}
        self._unread: deque[Group] = deque()
        self._unread_episodes = 0
        self._readable = asyncio.Event()
        self._room = asyncio.Event()
        self._exhausted = False
        self._failure: BaseException | None = None

    # -- the consumer's side -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a worker for each of the first episodes, and no more: `client()` announces only who will generate."""
        first: list[Job] = []
        while len(first) < self._context.limits.concurrency and (job := self._take()) is not None:
            first.append(job)
        self._absent = len(first)
        for job in first:
            worker = asyncio.ensure_future(self._work(job))
            self._workers.add(worker)
            worker.add_done_callback(self._on_worker_done)

    async def next_group(self) -> Group | None:
        """The next finished group, None at the end; raises what ended the run, after the groups finished by then."""
        while not self._unread:
            if not self._workers:
                self._check_health(at_end=True)
            if self._failure is not None:
                raise self._failure
            if not self._workers:
                return None
            self._readable.clear()
            await self._readable.wait()
        group = self._unread.popleft()
        self._unread_episodes -= len(group.trajectories)
        if self._has_room():
            self._room.set()
        return group

    async def stop(self) -> None:
        """Cancel every worker and wait for the teardowns (bounded); a second cancellation does not cut them short."""
        for worker in self._workers:
            worker.cancel()
        cancelled = False
        while pending := set(self._workers):
            try:
                await asyncio.wait(pending)
                await asyncio.sleep(0)  # lets the workers' callbacks run
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    def _on_worker_done(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        error = None if worker.cancelled() else worker.exception()
        if error is not None:
            if self._failure is None:
                self._failure = error
            else:
                _log.error("a further worker failed: %r", error)
        self._readable.set()

    def _check_health(self, at_end: bool = False) -> None:
        """End the run where the engine, or the making of environments, only fails."""
        if self._failure is None:
            self._failure = self._engine.verdict(at_end) or self._envs.verdict(at_end)

    # -- episodes in and out -------------------------------------------------------------------------------------------

    def _expand(self, requests: Iterable[GroupRequest]) -> Iterator[Job]:
        run = next(_runs)
        for ordinal, request in enumerate(requests):
            if request.size < 1:
                raise ConfigError(f"group {request.group_id!r}: size={request.size} must be at least 1")
            self._open[ordinal] = _OpenGroup(request.group_id, [None] * request.size)
            for member in range(request.size):
                yield Job(ordinal, request, member, f"{run}/{ordinal}/{request.group_id}/{member}")

    def _has_room(self) -> bool:
        """False while so much waits for the consumer that no further episode may start."""
        return len(self._unread) < 2 or self._unread_episodes < READ_AHEAD * self._context.limits.concurrency

    def _take(self) -> Job | None:
        """The next episode; None if there is none, or no room for it, or the run has failed."""
        if self._failure is not None or not self._has_room():
            return None
        try:
            job = next(self._jobs, None)
        except Exception as error:  # of the caller's iterable: raised to the caller, not in a worker
            self._failure = error
            return None
        self._exhausted = job is None
        return job

    async def _take_when_room(self) -> Job | None:
        while self._failure is None and not self._has_room():
            self._room.clear()
            await self._room.wait()
        return self._take()

    def _report(self, episode: Episode) -> None:
        if self._context.on_episode is not None:
            self._context.on_episode(episode.job.request, episode.trajectory)

    def _deliver(self, episode: Episode) -> None:
        """Seat a finished episode in its group; never blocks."""
        self._report(episode)
        group = self._open[episode.job.ordinal]
        group.members[episode.job.member] = episode.trajectory
        if group.complete:
            del self._open[episode.job.ordinal]
            self._unread.append(group.close())
            self._unread_episodes += len(group.members)
        self._check_health()
        self._readable.set()

    # -- the workers' side ---------------------------------------------------------------------------------------------

    async def _work(self, first: Job) -> None:
        job: Job | None = first
        slot = EnvSlot(self._context.make_env, self._context.limits.step_seconds, self._envs)
        try:
            while job is not None:
                await self._shift(job, slot)
                job = await self._take_when_room()
        finally:
            try:
                await slot.close(Deadline(min(self._context.limits.step_seconds, TEARDOWN_SECONDS)))
            except Aborted as aborted:
                _log.warning("an environment could not be closed after its episodes: %s", aborted)

    async def _shift(self, job: Job, slot: EnvSlot) -> None:
        """Play inside one client context as long as there is an episode to play."""
        async with self._context.engine.client():
            await self._enter()
            episode = await self._play(job, slot)
            while (following := self._take()) is not None:
                self._deliver(episode)
                episode = await self._play(following, slot)
        try:
            if self._exhausted:
                await episode.close_env()
        finally:
            self._deliver(episode)

    async def _enter(self) -> None:
        """Wait until every first worker has entered, or an engine in lockstep would begin with a part of them."""
        self._absent -= 1
        if self._absent == 0:
            self._all_present.set()
        await self._all_present.wait()

    async def _play(self, job: Job, slot: EnvSlot) -> Episode:
        episode = Episode(self._context, job, slot, self._engine, self._sleep)
        try:
            await episode.play()
        except asyncio.CancelledError:
            self._report(episode)
            raise
        return episode
