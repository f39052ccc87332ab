"""What the tools `python` and `shell` share: one sandbox session an episode, opened at the first call.

An episode that never calls the tool costs nothing. A session that broke a limit is gone, and with it its state: the
policy reads that, and its next call begins in a fresh one. Invariant: a session is closed at the end of its episode,
when it dies and when a call in it is cancelled, so that none outlives its tool; the calls of an episode run one after
another, in the order in which they were made.

An episode branches by replay: a fresh session runs the recorded calls again, and the digests of their results are
compared. A fork of the session's processes would be faster, but both branches would then write the same files, and
only one backend could do it; a replay is a true copy on all of them, and where code is not deterministic it says so
instead of giving a branch another past.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any, ClassVar, cast

from agentrl.components import Spec
from agentrl.errors import ConfigError, EnvError, SandboxError
from agentrl.registry import nearest
from agentrl.sandbox import Execution, Language, Limits, Outcome, Sandbox, Session, get_sandbox, open_session
from agentrl.task import Episode
from agentrl.throttle import Places, in_turn, sandbox_slot
from agentrl.tool import Tool, ToolResult

OPENING_SECONDS = 30.0
"""What a call has beyond its wall limit before its tool's timeout ends it: a session may have to be opened first."""
CANCEL_SECONDS = 5.0
"""What calls that are still running when the episode is closed have to end."""
_LIMITS = tuple(limit.name for limit in fields(Limits))


@dataclass(frozen=True, slots=True)
class Cell:
    """A call that a session survived."""

    code: str
    digest: str
    """Of the result: outcome, both outputs, value and exit code."""


@dataclass(slots=True)
class _Tenancy:
    """What one episode has."""

    limits: Limits
    files: dict[str, bytes]
    seed: int
    session: Session | None = None
    cells: list[Cell] = field(default_factory=list)
    """The calls that the session has seen, from which it can be made again."""
    turn: Places = field(default_factory=lambda: Places(1))
    """Calls of one message arrive together; a session runs one at a time."""
    running: set[asyncio.Task[Any]] = field(default_factory=set)
    """The tasks of calls that have not ended."""
    closing: set[asyncio.Task[None]] = field(default_factory=set)
    """Sessions being closed; the event loop itself would keep only weak references."""


class SessionTool(Tool):
    """A tool whose calls run in a session of a sandbox. Subclasses set `language` and implement `show`."""

    language: ClassVar[Language]

    def __init__(self, *, sandbox: Spec, stateful: bool, limits: Mapping[str, float | int | None]) -> None:
        """Raises `ConfigError`, also where the sandbox does not work on this machine.

        Args:
            sandbox: a backend's name, or a mapping of `name` and the backend's options.
            stateful: whether the calls of an episode share a session; else each has one of its own.
            limits: fields of `agentrl.sandbox.Limits`; None is the default. `cpu` follows `wall`.
        """
        backend = get_sandbox(sandbox)
        if self.language not in backend.languages:
            raise ConfigError(f"tool {self.name!r}: sandbox {backend.name!r} does not run {self.language}")
        given = {key: value for key, value in limits.items() if value is not None}
        if "wall" in given:
            given.setdefault("cpu", given["wall"])
        self._spec = sandbox
        self._stateful = stateful
        self._limits = Limits(**given)  # type: ignore[arg-type]
        self._tenancy: _Tenancy | None = None
        self.timeout = self._limits.wall + OPENING_SECONDS

    @abstractmethod
    def show(self, execution: Execution) -> str:
        """What the policy reads of an execution that its session survived."""

    @abstractmethod
    async def run(self, session: Session, code: str) -> Execution:
        """One call in a session."""

    async def prepare(self, session: Session, seed: int) -> None:
        """What a new session of an episode with that seed needs before its first call."""

    # -- the session's life --------------------------------------------------------------------------------------------

    async def open(self, episode: Episode) -> None:
        """Take the episode's options, `files` (name to content) and limits; no session is opened yet.

        The tool's own timeout stays what it is, whatever `wall` an episode sets.
        """
        await self.close()
        options = dict(episode.tool_options.get(self.name, {}))
        files = {name: _content(self.name, name, data) for name, data in options.pop("files", {}).items()}
        for key in options:
            if key not in _LIMITS:
                advice = nearest(key, ["files", *_LIMITS])
                raise ConfigError(f"tool {self.name!r}: an episode's option {key!r} is unknown; {advice}")
        self._tenancy = _Tenancy(replace(self._limits, **options), files, episode.seed)

    async def close(self) -> None:
        tenancy, self._tenancy = self._tenancy, None
        if tenancy is None:
            return
        for call in tenancy.running:
            call.cancel()
        if tenancy.running:
            await asyncio.wait(tenancy.running, timeout=CANCEL_SECONDS)
        self._discard(tenancy)
        await asyncio.gather(*tenancy.closing)

    async def snapshot(self) -> tuple[Cell, ...]:
        """The calls from which `restore` makes the session again; its module says why they and not a fork."""
        tenancy = self._tenancy
        return () if tenancy is None else tuple(tenancy.cells)

    async def restore(self, state: tuple[Cell, ...]) -> None:
        """Run the calls of a snapshot again in a fresh session.

        Raises `EnvError` if one gives another result than it gave first: then the episode cannot be branched.
        """
        if not state:
            return
        tenancy = self._opened()
        async with in_turn(tenancy.turn):
            try:
                await self._replay(tenancy, state)
            except BaseException as error:
                self._discard(tenancy)
                if isinstance(error, SandboxError):
                    raise EnvError(f"tool {self.name!r}: the episode cannot be branched: {error}") from error
                raise

    async def _replay(self, tenancy: _Tenancy, state: tuple[Cell, ...]) -> None:
        session = await self._begin(tenancy)
        for number, cell in enumerate(state, 1):
            if _digest(await self.run(session, cell.code)) != cell.digest:
                raise EnvError(
                    f"tool {self.name!r}: the episode cannot be branched: cell {number} of {len(state)} gave another "
                    "output when it was run again (time, addresses or entropy of the system show in it)"
                )
            tenancy.cells.append(cell)

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def execute(self, code: str) -> ToolResult:
        """One call of the policy's."""
        tenancy = self._opened()
        task = cast(asyncio.Task[Any], asyncio.current_task())
        tenancy.running.add(task)
        try:
            return await (self._in_session(tenancy, code) if self._stateful else self._apart(tenancy, code))
        finally:
            tenancy.running.discard(task)

    async def _in_session(self, tenancy: _Tenancy, code: str) -> ToolResult:
        async with in_turn(tenancy.turn):
            lost = tenancy.session is not None and not tenancy.session.alive
            if lost:
                self._discard(tenancy)
            session = tenancy.session or await self._begin(tenancy)
            try:
                execution = await self.run(session, code)
            except BaseException:  # above all a cancelled call
                self._discard(tenancy)
                raise
            if execution.outcome.fatal:
                self._discard(tenancy)
            else:
                tenancy.cells.append(Cell(code, _digest(execution)))
        result = self._result(execution, tenancy.limits)
        return replace(result, text=f"[{_LOST.format(what='had died')}]\n{result.text}") if lost else result

    async def _apart(self, tenancy: _Tenancy, code: str) -> ToolResult:
        async with (
            sandbox_slot(),
            await self._backend().open(limits=tenancy.limits, files=tenancy.files) as session,
        ):
            await self.prepare(session, tenancy.seed)
            return self._result(await self.run(session, code), tenancy.limits)

    async def _begin(self, tenancy: _Tenancy) -> Session:
        session = await open_session(self._backend(), limits=tenancy.limits, files=tenancy.files)
        tenancy.session = session
        try:
            await self.prepare(session, tenancy.seed)
        except BaseException:
            self._discard(tenancy)
            raise
        return session

    def _discard(self, tenancy: _Tenancy) -> None:
        """Close the session in a task of its own, which a cancelled caller does not take along."""
        session, tenancy.session = tenancy.session, None
        tenancy.cells.clear()
        if session is not None:
            task = asyncio.ensure_future(session.close())
            tenancy.closing.add(task)
            task.add_done_callback(tenancy.closing.discard)

    def _backend(self) -> Sandbox:
        return get_sandbox(self._spec)  # asked each time: the tool may outlive a `close_sandboxes`

    def _opened(self) -> _Tenancy:
        if self._tenancy is None:
            raise SandboxError(f"tool {self.name!r} is not open: it serves an episode")
        return self._tenancy

    def _result(self, execution: Execution, limits: Limits) -> ToolResult:
        text = self.show(execution)
        if execution.truncated:
            text = f"{text}\n[output beyond {limits.output} bytes was dropped]".lstrip("\n")
        if not execution.outcome.fatal:
            return ToolResult(text or "(no output)", None if execution.ok else "failed", execution)
        reason = _REASONS[execution.outcome].format(limits=limits, mebibytes=limits.memory / (1 << 20))
        lost = " " + _LOST.format(what="was ended") if self._stateful else ""
        text = f"{text}\nError: {reason}{lost}".lstrip("\n")
        return ToolResult(text, "timeout" if execution.outcome is Outcome.TIMEOUT else "failed", execution)


_LOST = "The session {what}: its state and files are lost; a call now begins in a fresh one."
_REASONS = {
    Outcome.TIMEOUT: "it did not finish within {limits.wall:g} s ({limits.cpu:g} s of CPU time).",
    Outcome.MEMORY: "it needed more than {mebibytes:.0f} MiB of memory.",
    Outcome.KILLED: "its process died.",
}


def joined(*parts: str) -> str:
    """The texts that are not empty, each beginning on a line of its own."""
    return "\n".join(part.removesuffix("\n") for part in parts if part.strip("\n"))


def _digest(execution: Execution) -> str:
    shown = (execution.outcome, execution.stdout, execution.stderr, execution.value, execution.exit_code)
    return blake2b(repr(shown).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _content(tool: str, name: object, data: object) -> bytes:
    if not isinstance(name, str) or not isinstance(data, bytes | str):
        raise ConfigError(f"tool {tool!r}: files must map names to bytes or text; {name!r} has {type(data).__name__}")
    return data.encode() if isinstance(data, str) else data
