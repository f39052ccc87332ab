"""The warm pool of the backend `docker`: who waits for a container, and the few that start ahead of their asking.

An engine that is asked for a hundred containers at once serves them all badly, so that at most `max_starts` start at
the same time; a container that is ready goes to whoever has waited longest, whichever request made it. Each serves one
session and is removed, never used again.

Invariant: no lock is held while the engine works; a container that the engine gave is with its session, warm, or being
removed, and `close` ends with none left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

from agentrl.errors import SandboxError
from agentrl.sandbox import Limits

from .docker_engine import Container, Engine, made_for

T = TypeVar("T")
_log = logging.getLogger(__name__)
REMOVERS = 4
"""Containers that are removed at the same time."""
CLOSE_SECONDS = 60.0
"""What `close` waits for an engine that hangs; its containers are then left to the sweep of a later process."""


class Threads:
    """A few daemon threads that run functions: an interpreter that ends does not wait for an engine that hangs."""

    def __init__(self, name: str, count: int) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, function, args))
        return future

    def end(self) -> None:
        """Let the threads end after what was submitted so far."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function, args = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function(*args)
            except BaseException as error:  # whoever waits for the future gets it
                future.set_exception(error)
            else:
                future.set_result(result)


class Pool:
    """Containers of one image on one engine."""

    def __init__(self, engine: Engine, image: Callable[[], str], *, size: int, max_starts: int) -> None:
        """`image` gives the image's name; it may take its time and is asked in the threads that start containers."""
        self._engine = engine
        self._image = image
        self._size = size
        self._lock = threading.Condition()
        self._live: dict[str, Container] = {}
        """Every container that there is: warm, or with a session."""
        self._removals: dict[str, Future[None]] = {}
        """Of those that are being removed."""
        self._warm: deque[Container] = deque()
        self._waiting: deque[tuple[Limits, Future[Container]]] = deque()
        self._starting = 0
        self._ahead = 0
        """Of the starts under way, those for which nobody waited when they were asked for."""
        self._failing = False
        """Whether the last start failed: then none is tried ahead of its asking."""
        self._swept = False
        self._closed = False
        self._starters = Threads("agentrl-docker-start", max_starts)
        self._keepers = Threads("agentrl-docker-keep", REMOVERS)
        self._exhausted: set[str] = set()
        """Ids of containers that were ended because the kernel killed in them for memory."""
        self._watcher = Threads("agentrl-docker-watch", 1)
        self._watcher.submit(engine.watch, self._exhaust)

    def take(self, limits: Limits) -> Future[Container]:
        """A container that nobody has used, at once or when one has started. Raises `SandboxError` in the future."""
        limits, future = made_for(limits), Future[Container]()
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox 'docker' is closed")
            if not self._swept:
                self._swept = True
                self._keepers.submit(self._engine.sweep)
            found, stale = self._pick(limits)
            if found is None:
                self._waiting.append((limits, future))
                self._begin(limits, ahead=False)
            for _ in range(self._size - len(self._warm) - self._ahead):
                self._begin(limits, ahead=True)
        for container in stale:
            self._unwanted(container)
        if found is not None:
            future.set_result(found)
        return future

    def give_back(self, container: Container) -> None:
        """A container that was taken and not used: whoever asked for it has gone away."""
        self._arrived(container)

    def remove(self, container: Container) -> Future[None]:
        """Kill and remove it in the background; its connection is its session's to close."""
        with self._lock:
            if container.id not in self._live:
                return _done(None)
            if container.id not in self._removals:
                self._removals[container.id] = self._keepers.submit(self._remove, container)
            return self._removals[container.id]

    def state(self, container: Container) -> Future[Mapping[str, Any]]:
        """What the engine says of it; empty where it is gone."""
        with self._lock:
            lives = container.id in self._live
        return self._keepers.submit(self._engine.state, container.id) if lives else _done({})

    def exhausted(self, container: Container) -> bool:
        """Whether it was ended because its processes needed more memory than there was."""
        return container.id in self._exhausted

    def close(self) -> None:
        """Remove every container, also those that are being started. Idempotent; waits."""
        until = time.monotonic() + CLOSE_SECONDS
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(SandboxError("the sandbox 'docker' was closed"))
        with self._lock:
            self._lock.wait_for(lambda: not self._starting, timeout=until - time.monotonic())
            left, warm = list(self._live.values()), list(self._warm)
            self._warm.clear()
        for container in warm:
            container.connection.close()
        wait([self.remove(container) for container in left], timeout=max(0.0, until - time.monotonic()))
        self._engine.end_watch()
        for threads in (self._starters, self._keepers, self._watcher):
            threads.end()

    # -- within, with the lock held ------------------------------------------------------------------------------------

    def _pick(self, limits: Limits) -> tuple[Container | None, list[Container]]:
        """A warm container for these limits, if there is one, and those that are too old or in the way of others."""
        old = time.time() + self._engine.lease / 2  # a session is to have at least half of a lease
        stale = [container for container in self._warm if container.deadline < old]
        fresh = [container for container in self._warm if container.deadline >= old]
        found = next((container for container in fresh if container.limits == limits), None)
        if found is None and len(fresh) >= self._size:
            stale += fresh[:1]
        self._warm = deque(container for container in fresh if container is not found and container not in stale)
        return found, stale

    def _begin(self, limits: Limits, *, ahead: bool) -> None:
        self._starting += 1
        self._ahead += ahead
        self._starters.submit(self._start, limits, ahead)

    # -- within, in the threads that start containers ------------------------------------------------------------------

    def _start(self, limits: Limits, ahead: bool) -> None:
        try:
            with self._lock:
                if self._closed or (ahead and self._failing):
                    return
            container = self._engine.start(self._image(), limits)
            with self._lock:
                self._live[container.id] = container
                self._failing = False
        except Exception as error:  # told to whoever waits; a start ahead of its asking has nobody
            self._failed(limits, error)
        else:
            self._arrived(container)
        finally:
            with self._lock:
                self._starting -= 1
                self._ahead -= ahead
                self._lock.notify_all()

    def _arrived(self, container: Container) -> None:
        """Give a ready container to the first who waits for one like it, else keep it warm, else remove it."""
        while True:
            with self._lock:
                future = self._first(container.limits)
                if future is None:
                    kept = not self._closed and len(self._warm) < self._size
                    if kept:
                        self._warm.append(container)
            if future is None:
                if not kept:
                    self._unwanted(container)
                return
            if future.set_running_or_notify_cancel():
                future.set_result(container)
                return

    def _failed(self, limits: Limits, error: Exception) -> None:
        while True:
            with self._lock:
                self._failing = True
                future = self._first(limits)
            if future is None:
                _log.warning("a container could not be started ahead of its use: %s", error)
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
                return

    def _first(self, limits: Limits) -> Future[Container] | None:
        for item in self._waiting:
            if item[0] == limits:
                self._waiting.remove(item)
                return item[1]
        return None

    def _exhaust(self, identity: str) -> None:
        """All of a session dies where one process of it was killed for memory."""
        with self._lock:
            container = self._live.get(identity)
            self._exhausted.add(identity)
        if container is not None:
            self.remove(container)

    def _unwanted(self, container: Container) -> None:
        """Remove a container that has no session, which would close the connection."""
        container.connection.close()
        self.remove(container)

    def _remove(self, container: Container) -> None:
        self._engine.remove(container.id)
        with self._lock:
            self._live.pop(container.id, None)
            self._removals.pop(container.id, None)


def _done(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future
