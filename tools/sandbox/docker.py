"""The backend `docker`: every session in a hardened container of its own on a real engine.

A container has no network, a read-only root, one sized tmpfs, no capabilities, an ordinary user, and limits on memory,
processes and CPU. The guest program runs in it with its frames on the container's standard streams, to which the host
is attached, so that a call costs no request to the engine. A few containers are kept warm; each serves one session.

Invariant: the wall limit is the host's own clock and waits for no answer of the engine; a session's container is
removed when it is closed, dies or outlives its lease, and by another process if this one is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from agentrl.errors import ConfigError, SandboxError
from agentrl.sandbox import NO_FILES, Limits, Outcome, Sandbox, Session

from .channel import GuestSession
from .docker_engine import Container, Engine, why_not
from .docker_image import Image, missing
from .docker_pool import Pool
from .docker_stream import AttachedTransport

_log = logging.getLogger(__name__)
DEFAULT_URL = "unix:///var/run/docker.sock"
PACKAGES = ("numpy", "sympy")
RELEASE_SECONDS = 10.0
"""What `close` waits for the engine to remove a container, which goes on behind it."""
_CPU_EXIT = 128 + 24
"""Exit code of a guest that was ended by its limit of CPU seconds (SIGXCPU)."""
_STATE_SECONDS = 5.0


class DockerSandbox(Sandbox):
    """Python and commands in containers of a Docker engine. Needs the extra `docker` and an engine for Linux."""

    name = "docker"
    remedy = "apt-get install -y docker.io tini && systemctl start docker"

    def __init__(
        self,
        *,
        image: str | None = None,
        python: str = "python3",
        packages: Sequence[str] = PACKAGES,
        runtime: str | None = None,
        pool: int = 2,
        max_starts: int = 4,
        base_url: str | None = None,
        lease: float = 7200.0,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            image: an image with a Python 3.9 or later; pulled if the engine has not got it. By default one is made of
                this machine's Python, without a registry.
            python: the interpreter in the image.
            packages: what an image made of this machine's Python holds beside the standard library.
            runtime: an OCI runtime that the engine knows (`runsc`); by default the engine's own default.
            pool: containers that are kept started ahead of their use; 0 for none.
            max_starts: containers that start at the same time, however many are asked for.
            base_url: where the engine listens, `unix://` or `tcp://`; by default DOCKER_HOST, else the usual socket.
            lease: seconds that a container may live. It is removed then, whatever runs in it.
        """
        for key, value, least in (("pool", pool, 0), ("max_starts", max_starts, 1), ("lease", lease, 1)):
            if value < least:
                raise ConfigError(f"sandbox 'docker': {key}={value!r} must be at least {least}")
        url = base_url or _default_url()
        if not url.startswith(("unix://", "tcp://", "http://")):
            raise ConfigError(f"sandbox 'docker': base_url={url!r} must begin with unix:// or tcp://")
        self._engine = Engine(url, runtime=runtime, python=python, lease=lease)
        self._image = Image(self._engine, image, packages)
        self._size, self._max_starts = pool, max_starts
        self._pool: Pool | None = None
        self._closed = False

    @classmethod
    def why_not(cls) -> str | None:
        return cls.why_not_with({})

    @classmethod
    def summary(cls) -> str:
        return f"hardened containers without network, on the engine at {_default_url()}"

    @classmethod
    def why_not_with(cls, options: Mapping[str, Any]) -> str | None:
        if reason := why_not(options.get("base_url") or _default_url()):
            return reason
        return None if options.get("image") else missing(options.get("packages", PACKAGES))

    async def open(self, *, limits: Limits = Limits(), files: Mapping[str, bytes] = NO_FILES) -> Session:
        pool = self._started()
        asked = pool.take(limits)
        try:
            container = await asyncio.wrap_future(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda done: _return(pool, done))
            raise
        transport = AttachedTransport(container.connection)
        session = DockerSession(container, transport, pool, limits)
        try:
            await session.start(files)
        except SandboxError as error:
            raise SandboxError(f"{error}; {transport.complaint}" if transport.complaint else str(error)) from error
        return session

    def close(self) -> None:
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _started(self) -> Pool:
        if self._closed:
            raise SandboxError("the sandbox is closed")
        if self._pool is None:
            self._pool = Pool(self._engine, self._image.name, size=self._size, max_starts=self._max_starts)
        return self._pool


class DockerSession(GuestSession):
    """A session in a container."""

    def __init__(self, container: Container, transport: AttachedTransport, pool: Pool, limits: Limits) -> None:
        super().__init__(transport, limits)
        self.container = container.id
        """The engine's id of the container."""
        self._container = container
        self._pool = pool
        self._removal: Future[None] | None = None
        left = max(0.0, container.deadline - time.time())
        self._expiry = asyncio.get_running_loop().call_later(left, self._expire)

    def kill(self) -> None:
        if self._removal is None:
            self._expiry.cancel()
            self._removal = self._pool.remove(self._container)

    async def released(self) -> None:
        self.kill()
        if self._removal is not None:
            removal = asyncio.wrap_future(self._removal)
            done, _ = await asyncio.wait({removal}, timeout=RELEASE_SECONDS)
            if not done:
                _log.warning("the engine did not remove the container %s in time", self.container[:12])

    async def death(self) -> Outcome:
        state: Mapping[str, Any] = {} if self._pool.exhausted(self._container) else await self._final_state()
        if state.get("OOMKilled") or self._pool.exhausted(self._container):
            return Outcome.MEMORY
        return Outcome.TIMEOUT if state.get("ExitCode") == _CPU_EXIT else Outcome.KILLED

    async def _final_state(self) -> Mapping[str, Any]:
        """The engine's word on a container that has ended; it comes a little after the end of the stream."""
        state: Mapping[str, Any] = {}
        try:
            async with asyncio.timeout(_STATE_SECONDS):
                while state.get("Running", True):
                    state = await asyncio.wrap_future(self._pool.state(self._container))
                    if not state:
                        break
                    await asyncio.sleep(0.02)
        except TimeoutError:  # the guest closed its stream and lives: it will be removed
            return state
        return state

    def _expire(self) -> None:
        _log.warning("the container %s has outlived its lease and is removed", self.container[:12])
        self.alive = False
        self.kill()


def _default_url() -> str:
    return os.environ.get("DOCKER_HOST") or DEFAULT_URL


def _return(pool: Pool, asked: Future[Container]) -> None:
    """What was asked for by somebody who has gone away, if it came nonetheless."""
    if not asked.cancelled() and asked.exception() is None:
        pool.give_back(asked.result())
