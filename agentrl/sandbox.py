"""Sandboxes: where code that a policy wrote is run, with limits, apart from everything else.

A backend (`fork`, `bubblewrap`, `docker`, `none`) is a `Sandbox`; it opens sessions, and a session runs Python with the
state of its earlier calls, or shell commands, in a working folder of its own. `Sandbox.run` is one call in a session
that nobody else sees, before or after.

Tools and environments ask by `open_session` and `run_apart`, which keep to the limit that a rollout has set on
episodes with sandboxes (`agentrl.throttle`).

Invariant: a backend that does not work here is refused at start (`get_sandbox`), never replaced by a weaker one. What
the code does within its limits is an `Execution`; a session that broke one is dead and leaves nothing behind.
"""

from __future__ import annotations

import atexit
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Literal, Self

from pydantic_core import to_json

from agentrl import registry
from agentrl.components import Spec, construct, split_spec
from agentrl.errors import ConfigError
from agentrl.throttle import sandbox_slot, sandbox_ticket

Language = Literal["python", "shell"]
NO_FILES: Mapping[str, bytes] = MappingProxyType({})
READ_LIMIT = 1 << 20
"""Bytes of a file that `Session.read` hands out by default."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may use. Raises `ConfigError` for a value that is not positive."""

    wall: float = 10.0
    """Seconds that one call may take, enforced from outside."""
    cpu: float = 10.0
    """CPU seconds of one call."""
    memory: int = 512 << 20
    """Bytes of memory of all processes together."""
    processes: int = 32
    """Processes and threads at one time."""
    output: int = 64 << 10
    """Bytes of standard output and of standard error that are kept of one call, each."""
    disk: int = 64 << 20
    """Bytes of files."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"sandbox limit {field.name}={value!r} must be a positive number")


class Outcome(StrEnum):
    """How an execution ended."""

    OK = "ok"
    """The code ran to its end."""
    ERROR = "error"
    """The code raised, or the command's exit code was not 0; the session goes on."""
    TIMEOUT = "timeout"
    """The limit of wall or CPU seconds was reached; the session is dead."""
    MEMORY = "memory"
    """The memory limit was reached and processes were killed; the session is dead."""
    KILLED = "killed"
    """The session died in another way: it ended itself, or was killed from outside."""

    @property
    def fatal(self) -> bool:
        """Whether the session died with it."""
        return self not in (Outcome.OK, Outcome.ERROR)


@dataclass(frozen=True, slots=True)
class Execution:
    """What one call in a session gave."""

    outcome: Outcome
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    """`repr` of the last statement if that was an expression other than None; Python only."""
    exit_code: int | None = None
    """Of a command; of Python code that called `sys.exit`."""
    seconds: float = 0.0
    truncated: bool = False
    """Whether output was cut at the limit."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


class Session(ABC):
    """One tenant's processes and files. Belongs to the event loop that opened it; one call at a time."""

    alive: bool = True

    @abstractmethod
    async def python(self, code: str, *, wall: float | None = None) -> Execution:
        """Run `code` in the session's interpreter, which keeps its state; `wall` lowers the limit of this call.

        Raises `SandboxError` if the session is dead or the backend knows no Python. A cancelled call kills the session.
        """

    @abstractmethod
    async def shell(self, command: str, *, wall: float | None = None) -> Execution:
        """Run `command` by `/bin/sh` in the working folder; as `python`."""

    @abstractmethod
    async def write(self, path: str, data: bytes) -> None:
        """Write a file of the working folder, with its folders; raises `SandboxError`."""

    @abstractmethod
    async def read(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """A regular file of the working folder; raises `SandboxError` if there is none or it has more bytes."""

    @abstractmethod
    async def close(self) -> None:
        """Kill what is left of it and free its files. Idempotent."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Sandbox(ABC):
    """A backend. Options are its constructor's keywords; the object belongs to no event loop."""

    name: ClassVar[str]
    languages: ClassVar[frozenset[Language]] = frozenset({"python", "shell"})
    """What its sessions run."""
    remedy: ClassVar[str] = ""
    """Shell commands that make it work on Debian or Ubuntu (`agentrl doctor --fix-hints`); empty if there are none."""

    @classmethod
    @abstractmethod
    def why_not(cls) -> str | None:
        """None where the backend works on this machine, else one line: the reason and what to do about it."""

    @classmethod
    def summary(cls) -> str:
        """One line on what protects a tenant here, for `agentrl doctor`."""
        return "works"

    @classmethod
    def why_not_with(cls, options: Mapping[str, Any]) -> str | None:
        """`why_not` where these options of the constructor decide it (the address of an engine)."""
        return cls.why_not()

    @abstractmethod
    async def open(self, *, limits: Limits = Limits(), files: Mapping[str, bytes] = NO_FILES) -> Session:
        """A new session whose working folder holds `files`; raises `SandboxError` if none can be had."""

    async def run(
        self,
        code: str,
        *,
        language: Language = "python",
        limits: Limits = Limits(),
        files: Mapping[str, bytes] = NO_FILES,
    ) -> Execution:
        """`code` in a session of its own: nothing comes from earlier calls and nothing stays."""
        async with await self.open(limits=limits, files=files) as session:
            return await (session.python(code) if language == "python" else session.shell(code))

    @abstractmethod
    def close(self) -> None:
        """Kill every session and helper process that is left. Idempotent; may be called from any thread."""


async def open_session(
    sandbox: Sandbox, *, limits: Limits = Limits(), files: Mapping[str, bytes] = NO_FILES
) -> Session:
    """A session that an episode keeps from call to call: waits until the rollout has room for it.

    The episode has its place until it ends, so further sessions of it do not wait. Raises `SandboxError`.
    """
    await sandbox_ticket()
    return await sandbox.open(limits=limits, files=files)


async def run_apart(
    sandbox: Sandbox,
    code: str,
    *,
    language: Language = "python",
    limits: Limits = Limits(),
    files: Mapping[str, bytes] = NO_FILES,
) -> Execution:
    """`Sandbox.run` for an episode: waits until the rollout has room, and takes a place only for as long as it runs."""
    async with sandbox_slot():
        return await sandbox.run(code, language=language, limits=limits, files=files)


_shared: dict[str, Sandbox] = {}
_owner = os.getpid()
_lock = threading.Lock()


def get_sandbox(spec: Spec) -> Sandbox:
    """This process's sandbox of that name and options (`"fork"`, `{"name": "docker", "image": ...}`).

    The same spec gives the same object, closed when the process ends. Raises `UnknownNameError` for the name, and
    `ConfigError` for an option or where the backend does not work on this machine.
    """
    name, options = split_spec(spec)
    key = to_json({"name": name, **options}, fallback=str).decode()
    with _lock:
        if os.getpid() != _owner:
            raise ConfigError("sandboxes cannot be used in a forked child of the process that imported them")
        if key not in _shared:
            backend = registry.sandboxes.get(name)
            if reason := backend.why_not_with(options):
                raise ConfigError(f"sandbox {name!r} does not work here: {reason}")
            _shared[key] = construct(registry.sandboxes, spec)
        return _shared[key]


def close_sandboxes() -> None:
    """Close every sandbox that `get_sandbox` made; the next call makes new ones."""
    with _lock:
        while _shared:
            _shared.popitem()[1].close()


def _at_exit() -> None:
    if os.getpid() == _owner:  # a forked child must not end its parent's sandboxes
        close_sandboxes()


atexit.register(_at_exit)
