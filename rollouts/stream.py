"""Stream: one iterator of a manager; requests in, finished groups out, one task an episode.

Whoever makes room starts the next episodes (`fill`): the start, an episode that ended, a consumer that read, a weight
update that is over, an episode that branches. An episode that ended leaves the engine's `client()` only when those that
it started have entered, so that an engine in lockstep never goes on without them; with no room to go on it leaves, and
the engine does not wait for it.

Invariants: every episode that began comes out exactly once, in exactly one group, finished or aborted; a group is
yielded or counted as dropped; members stand in their order whatever finished first; after the iterator ended or was
closed no task, session or environment of it is left, except for calls that ignore their cancellation (see `boundary`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count

from agentrl.errors import ConfigError, EngineError, EnvError
from agentrl.rollout import GroupRequest
from agentrl.trajectory import Group, StopReason, Trajectory

from .boundary import TEARDOWN_SECONDS, Aborted, Deadline, Health, Stage
from .episode import Episode
from .groups import FAILURES, OpenGroup
from .job import Job, Jobs
from .services import Services
from .signal import LEAST, no_signal
from .slot import EnvSlot
from .watchdog import LagWatchdog

_log = logging.getLogger(__name__)
_runs = count()
"""Numbers the iterators of a process, so that sessions of two of them on one engine differ."""

READ_AHEAD = 2
"""Finished episodes that may wait for the consumer, in multiples of the concurrency; always two groups."""
PATIENCE = 4
"""Least number of episodes in a row that must fail before the engine, or the making of environments, is given up."""


class _Wave:
    """Episodes that were started together; none of them generates before all have entered the engine's `client()`."""

    def __init__(self) -> None:
        self._absent = 0
        self._all_there = asyncio.Event()
        self._all_there.set()

    def expect(self) -> None:
        self._absent += 1
        self._all_there.clear()

    def arrive(self) -> None:
        self._absent -= 1
        if self._absent == 0:
            self._all_there.set()

    async def complete(self) -> None:
        await self._all_there.wait()


class Stream:
    """The state of one iterator."""

    def __init__(self, services: Services, requests: Iterable[GroupRequest], wanted: int | None) -> None:
        """Raises `ConfigError`."""
        if wanted is not None and wanted < 0:
            raise ConfigError(f"wanted={wanted!r} groups must be 0 or more")
        self._services = services
        self._context = services.context
        self._policies = services.context.policies
        self._supply: Iterator[tuple[int, GroupRequest]] = enumerate(requests)
        self._dry = False
        """No request is left, or none is to be begun any more."""
        self._wanted = wanted
        self._good = 0
        """Groups that were yielded, or wait to be."""
        self._dropped = 0
        self._prefix = str(next(_runs))
        patience = max(PATIENCE, services.limits.concurrency)
        # One death of an engine fails every generation under way at once: it takes two to give it up.
        self._engine = Health(Stage.GENERATE, EngineError, 2 * patience)
        self._envs = Health(Stage.MAKE, EnvError, patience)
        self._queue: deque[Job] = deque()
        """Jobs of open groups that nobody plays yet."""
        self._open: dict[int, OpenGroup] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seated: set[asyncio.Task[None]] = set()
        """Tasks whose episode has not ended."""
        self._playing: dict[asyncio.Task[None], Episode] = {}
        self._idle: dict[str, list[EnvSlot]] = {}
        self._unread: deque[Group] = deque()
        self._unread_episodes = 0
        self._readable = asyncio.Event()
        self._failure: BaseException | None = None
        self._ending = False
        """Nothing begins any more, also not in the place of an episode that was just being stopped."""
        self.watchdog = LagWatchdog()

    # -- the consumer's side -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the first episodes."""
        self.watchdog.start()
        self._services.streams.add(self)
        self.fill()

    async def next_group(self) -> Group | None:
        """The next finished group, None at the end; raises what ended the run, after the groups finished by then."""
        while not self._unread:
            if not self._tasks:
                self.fill()
                self._check_health(at_end=not self._tasks)
            if self._failure is not None:
                raise self._failure
            if self._is_over():
                return None
            self._readable.clear()
            await self._readable.wait()
        group = self._unread.popleft()
        self._unread_episodes -= len(group.trajectories)
        self.fill()
        return group

    def _is_over(self) -> bool:
        """Whether no group can come any more; an iterator that only waits for a weight update is not over."""
        return not (self._tasks or self._queue or self._open) and (self._dry or not self._is_wanting())

    async def stop(self) -> None:
        """Cancel what plays, wait for the teardowns (bounded), close the environments; a second cancellation does not
        cut that short."""
        self._services.streams.discard(self)
        self._ending = True
        for task in self._tasks:
            task.cancel()
        cancelled = await _finished(self._tasks)
        if self._services.admission is not None:
            for _ in self._open:
                self._services.admission.reject()
        closing = {asyncio.ensure_future(self._close_environments())}
        cancelled = await _finished(closing) or cancelled
        self.watchdog.stop()
        self._services.see_lag(self.watchdog)
        if cancelled:
            raise asyncio.CancelledError

    async def _close_environments(self) -> None:
        """Close all at once, each within the time of a teardown. No episode is theirs any more: failures are logged."""

        async def close(slot: EnvSlot) -> None:
            try:
                await slot.close(Deadline(min(self._services.limits.step_seconds, TEARDOWN_SECONDS)))
            except Aborted as aborted:
                _log.warning("an environment could not be closed after its episodes: %s", aborted)

        slots = [slot for idle in self._idle.values() for slot in idle]
        self._idle.clear()
        await asyncio.gather(*(close(slot) for slot in slots))

    # -- what is played next -------------------------------------------------------------------------------------------

    def fill(self) -> _Wave:
        """Start as many episodes as there are places for."""
        wave = _Wave()
        while len(self._seated) < self._services.limits.concurrency and self._may_begin():
            try:
                job = self._next_job()
            except Exception as error:  # of the caller's iterable: raised to the caller, not in a task
                self._failure = error
                job = None
            if job is None:
                break
            wave.expect()
            task = asyncio.ensure_future(self._perform(job, wave))
            self._tasks.add(task)
            self._seated.add(task)
            self._services.episodes.inside += 1
            task.add_done_callback(self._on_done)
        self._readable.set()
        return wave

    def _may_begin(self) -> bool:
        """False once the run failed, during a weight update, and while too much waits for the consumer."""
        if self._ending or self._failure is not None or self._services.episodes.shut:
            return False
        return len(self._unread) < 2 or self._unread_episodes < READ_AHEAD * self._services.limits.concurrency

    def _next_job(self) -> Job | None:
        if not self._queue and not self._open_next():
            return None
        return self._queue.popleft()

    def _is_wanting(self) -> bool:
        return self._wanted is None or self._good + len(self._open) < self._wanted

    def _open_next(self) -> bool:
        """Take the next request, if one may begin; its first jobs are queued."""
        admission = self._services.admission
        if self._dry or not self._is_wanting():
            return False
        if admission is not None and admission.capacity <= 0:
            return False
        ordinal, request = next(self._supply, (-1, None))
        if request is None:
            self._dry = True
            return False
        if request.size < 1:
            raise ConfigError(f"group {request.group_id!r}: size={request.size} must be at least 1")
        if self._policies.drop_without_signal and request.size < LEAST:
            raise ConfigError(
                f"group {request.group_id!r}: size={request.size} has nothing to compare; drop_without_signal needs "
                f"at least {LEAST}"
            )
        self._context.source(request.env)
        if admission is not None:
            admission.begin()
        brancher = self._services.brancher
        roots = request.size if brancher is None else brancher.roots(request)
        group = self._open[ordinal] = OpenGroup(Jobs(ordinal, request, self._prefix), request.size - roots)
        self._add_roots(group, roots)
        return True

    def _add_roots(self, group: OpenGroup, number: int) -> None:
        group.playing += number
        self._queue.extend(group.jobs.root() for _ in range(number))

    # -- an episode ----------------------------------------------------------------------------------------------------

    async def _perform(self, job: Job, wave: _Wave) -> None:
        """The task of one episode."""
        arrived, task = False, _this_task()
        try:
            async with self._context.engine.client():
                arrived = True
                wave.arrive()
                await wave.complete()
                episode = await self._play(job, task)
                self._leave(task)
                if episode is not None:
                    self._deliver(episode)
                await self.fill().complete()
        finally:
            if not arrived:
                wave.arrive()

    def _leave(self, task: asyncio.Task[None]) -> None:
        """The episode of the task has ended, if it ever began. Idempotent."""
        if task in self._seated:
            self._seated.discard(task)
            self._services.episodes.leave()

    async def _play(self, job: Job, task: asyncio.Task[None]) -> Episode | None:
        """Play the job; None where it was not begun after all, because its group was given up or weights arrive."""
        group = self._open[job.ordinal]
        if group.given_up or self._services.discarding:
            if not group.given_up:
                self._queue.appendleft(job)
            else:
                group.playing -= 1
                self._close_if_complete(job.ordinal)
            return None
        source, env = self._context.source(job.request.env), job.request.env
        idle = self._idle.setdefault(env, [])
        slot = idle.pop() if idle else EnvSlot(source.make_env, self._services.stages, self._envs)
        branching = None if self._services.brancher is None else self._branch
        episode = Episode(self._services, source, job, slot, self._engine, branching)
        self._playing[task] = episode
        try:
            await episode.play()
        except asyncio.CancelledError:
            self._report(episode)
            raise
        finally:
            del self._playing[task]
            idle.append(slot)
        return episode

    async def _branch(self, episode: Episode) -> None:
        """Let the strategy branch off after the episode's last turn."""
        group, brancher = self._open[episode.job.ordinal], self._services.brancher
        if brancher is None or group.given_up or not group.seats:
            return
        wanted = brancher.children(episode.job.request, episode.trajectory, group.seats)
        number = min(wanted, group.seats)
        if number < 1:
            return
        group.seats -= number  # taken now: others may branch while the environment is copied
        group.playing += number
        try:
            point = await episode.branch_point()
        except EnvError as error:
            group.seats += number
            group.playing -= number
            self._services.book.failed_branches += number
            _log.warning("task %s cannot be branched here: %s", episode.job.request.task_id, error)
            return
        except BaseException:
            group.seats += number
            group.playing -= number
            raise
        self._queue.extend(group.jobs.branch(episode.job, point, place) for place in range(number))
        await self.fill().complete()

    def discard_all(self) -> None:
        """Stop every episode under way; their members are played anew."""
        for task, episode in list(self._playing.items()):
            episode.stop(StopReason.STALE, task)

    # -- an episode has ended ------------------------------------------------------------------------------------------

    def _report(self, episode: Episode) -> None:
        if self._context.on_episode is not None:
            self._context.on_episode(episode.job.request, episode.trajectory)

    def _deliver(self, episode: Episode) -> None:
        """Seat a finished episode in its group; never blocks."""
        self._report(episode)
        job, trajectory = episode.job, episode.trajectory
        self._services.book.add(trajectory)
        if not trajectory.aborted:
            self._services.forecast.observe(job.request.env, job.request.task_id, len(trajectory.turns))
        group = self._open[job.ordinal]
        group.playing -= 1
        group.finished.append(trajectory)
        if not group.given_up:
            self._replace(group, trajectory)
            self._give_up_without_signal(group)
        self._close_if_complete(job.ordinal)
        self._check_health()

    def _replace(self, group: OpenGroup, trajectory: Trajectory) -> None:
        """Let another member play in the place of one that was discarded, or failed and is to be replaced."""
        again = trajectory.stop_reason is StopReason.STALE
        if trajectory.stop_reason in FAILURES:
            group.failures += 1
            again = self._services.failures.replaces(group.failures, group.jobs.request.size)
            if self._services.failures.ends_run and self._failure is None:
                self._failure = _error_of(group.jobs.request, trajectory)
        if again:
            self._services.book.replayed += 1
            self._add_roots(group, 1)
        if group.playing == 0 and group.seats:  # nobody is left who could branch
            seats, group.seats = group.seats, 0
            self._add_roots(group, seats)

    def _give_up_without_signal(self, group: OpenGroup) -> None:
        policies = self._policies
        if not policies.drop_without_signal:
            return
        if not no_signal(group.outcomes, group.outstanding, policies.stop_after):
            return
        group.given_up, group.seats = True, 0
        ordinal = group.jobs.ordinal
        waiting = len(self._queue)
        self._queue = deque(job for job in self._queue if job.ordinal != ordinal)
        group.playing -= waiting - len(self._queue)
        for task, episode in list(self._playing.items()):
            if episode.job.ordinal == ordinal:
                episode.stop(StopReason.NO_SIGNAL, task)

    def _close_if_complete(self, ordinal: int) -> None:
        """Yield the group, or drop it."""
        if not self._open[ordinal].complete:
            return
        opened = self._open.pop(ordinal)
        group, services = opened.close(), self._services
        good = not opened.given_up and services.failures.viable(group)
        if services.admission is not None:
            if good:
                versions = [v for member in group.members if (v := member.oldest_version) is not None]
                good = services.admission.accept(min(versions, default=services.version))
            else:
                services.admission.reject()
        if good:
            self._good += 1
            self._unread.append(group)
            self._unread_episodes += len(group.trajectories)
        else:
            self._dropped += 1
            services.book.dropped_groups += 1
            if self._wanted is not None and self._dropped > self._policies.refill * self._wanted:
                if not self._dry:
                    _log.warning(
                        "%d groups were dropped (refill=%g): no more begin", self._dropped, self._policies.refill
                    )
                self._dry = True
        self._readable.set()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._leave(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if self._failure is None:
                self._failure = error
            else:
                _log.error("a further episode failed: %r", error)
        self._readable.set()

    def _check_health(self, at_end: bool = False) -> None:
        """End the run where the engine, or the making of environments, only fails."""
        if self._failure is None:
            self._failure = self._engine.verdict(at_end) or self._envs.verdict(at_end)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def _finished(tasks: set[asyncio.Task[None]]) -> bool:
    """Wait until all of them have ended and their callbacks have run; returns whether the caller was cancelled."""
    cancelled = False
    while pending := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError:
            cancelled = True
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        cancelled = True
    return cancelled


def _error_of(request: GroupRequest, trajectory: Trajectory) -> EngineError | EnvError:
    kind = EngineError if trajectory.stop_reason is StopReason.ENGINE_ERROR else EnvError
    where = f"episode {trajectory.member} of task {request.task_id} (group {request.group_id})"
    return kind(f"on_failure=fail_fast: {where}: {trajectory.error}")
