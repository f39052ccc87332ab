"""The host's side of a guest: frames over a transport, and the session that every backend's guest gives.

Invariant: whatever the guest sends, the host reads bounded frames, keeps at most the output limit, and has an answer or
a dead session within the wall limit. A guest that breaks the protocol is killed: it is the tenant's code, not ours.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentrl.errors import SandboxError
from agentrl.sandbox import READ_LIMIT, Execution, Limits, Outcome, Session

HEADER = struct.Struct("!IB")
START_SECONDS = 30.0
"""A guest that has not said hello by then is given up."""
_FRAME_ROOM = 1 << 20
"""Bytes of a frame beyond what was asked for: values, reasons, JSON's escapes of them."""


class Transport(Protocol):
    """A byte stream to a guest."""

    async def send(self, data: bytes) -> None:
        """Write all of it; raises `OSError` when the guest is gone."""

    async def receive(self, count: int) -> bytes:
        """Up to `count` bytes; empty when the guest is gone."""

    def close(self) -> None: ...


class SocketTransport:
    """A transport over a connected socket, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self, count: int) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, count)

    def close(self) -> None:
        # whoever reads meanwhile must see the end: a descriptor that is closed first never tells the event loop
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            asyncio.get_running_loop().call_soon(self._socket.close)
        except RuntimeError:  # no loop runs here, so none reads
            self._socket.close()


class GuestGone(Exception):
    """The guest ended or broke the protocol."""


@dataclass(slots=True)
class _Reply:
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    truncated: bool = False
    result: dict[str, Any] = field(default_factory=dict)


class GuestSession(Session):
    """A session whose guest program is reached over a transport. Backends say how it is killed and how it died."""

    def __init__(self, transport: Transport, limits: Limits) -> None:
        self.alive = True
        self.limits = limits
        self._transport = transport
        self._buffer = bytearray()
        self._last = 0
        self._busy = False
        self._released = False

    # -- what a backend says -----------------------------------------------------------------------------------------

    @abstractmethod
    def kill(self) -> None:
        """Kill every process of the session at once, from outside; idempotent, does not wait."""

    @abstractmethod
    async def released(self) -> None:
        """After `kill`: wait until the processes are gone and free what they held (files, mounts, descriptors)."""

    @abstractmethod
    async def death(self) -> Outcome:
        """Why the guest ended by itself: MEMORY, TIMEOUT (CPU) or KILLED. Called before `kill`."""

    # -- the session -------------------------------------------------------------------------------------

    async def start(self, files: Mapping[str, bytes]) -> None:
        """Wait for the guest's hello and give it its files; raises `SandboxError`, with all freed, if that fails."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._reply(0, _Reply(), _FRAME_ROOM)
        except (GuestGone, OSError, TimeoutError) as error:
            await self.close()
            raise SandboxError(f"the sandbox could not be started: {str(error) or 'no answer'}") from error
        except BaseException:
            await self.close()
            raise
        try:
            for path, data in files.items():
                await self.write(path, data)
        except BaseException:
            await self.close()
            raise

    async def python(self, code: str, *, wall: float | None = None) -> Execution:
        return await self._execute("python", code, wall)

    async def shell(self, command: str, *, wall: float | None = None) -> Execution:
        return await self._execute("shell", command, wall)

    async def write(self, path: str, data: bytes) -> None:
        if len(data) > self.limits.disk:
            raise SandboxError(f"{path!r} cannot be written: {len(data)} bytes, the limit of the disk is lower")
        await self._file({"op": "write", "path": path, "data": base64.b64encode(data).decode()}, path, 0)

    async def read(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        result = await self._file({"op": "read", "path": path, "limit": limit}, path, 2 * limit)
        data = base64.b64decode(str(result.get("data", "")))
        if len(data) > limit:
            raise SandboxError(f"{path!r} cannot be read: more than {limit} bytes")
        return data

    async def close(self) -> None:
        self.alive = False
        if self._released:
            return
        self._released = True
        self.kill()
        self._transport.close()
        await asyncio.shield(self.released())  # a cancelled close has nonetheless freed everything

    # -- within ------------------------------------------------------------------------------------------

    async def _execute(self, op: str, code: str, wall: float | None) -> Execution:
        code = code.encode("utf-8", "replace").decode()  # lone surrogates cannot travel
        began, reply, outcome = time.perf_counter(), _Reply(), None
        limit = self.limits.wall if wall is None else min(wall, self.limits.wall)
        try:
            async with asyncio.timeout(limit):
                await self._request({"op": op, "code": code, "cpu": self.limits.cpu}, reply, _FRAME_ROOM)
        except TimeoutError:
            outcome = Outcome.TIMEOUT
        except (GuestGone, OSError):
            outcome = await self.death()
        return await self._execution(reply, outcome, time.perf_counter() - began)

    async def _execution(self, reply: _Reply, outcome: Outcome | None, seconds: float) -> Execution:
        result = reply.result
        if outcome is None:
            known = [item.value for item in Outcome]
            said = result.get("outcome")
            outcome = Outcome(said) if said in known else Outcome.KILLED
        if outcome.fatal:
            await self.close()
        code, value = result.get("exit_code"), result.get("value")
        return Execution(
            outcome,
            reply.stdout.decode("utf-8", "replace"),
            reply.stderr.decode("utf-8", "replace"),
            value[: self.limits.output] if isinstance(value, str) else None,
            code if isinstance(code, int) else None,
            seconds,
            reply.truncated or result.get("truncated") is True,
        )

    async def _file(self, request: dict[str, Any], path: str, room: int) -> dict[str, Any]:
        reply = _Reply()
        try:
            async with asyncio.timeout(self.limits.wall):
                await self._request(request, reply, _FRAME_ROOM + room)
        except (TimeoutError, GuestGone, OSError) as error:
            await self.close()
            raise SandboxError(f"the sandbox died over the file {path!r}") from error
        if reply.result.get("outcome") != "ok":
            reason = str(reply.result.get("reason", "refused"))[:300]
            raise SandboxError(f"{path!r} cannot be {'read' if request['op'] == 'read' else 'written'}: {reason}")
        return reply.result

    async def _request(self, request: dict[str, Any], reply: _Reply, room: int) -> None:
        """Send a request and wait for its result. Cancelled, it kills the session: its code would run on."""
        if not self.alive:
            raise SandboxError("the sandbox's session is dead")
        if self._busy:
            raise SandboxError("the sandbox's session is busy: one call at a time")
        self._last += 1
        self._busy = True
        payload = json.dumps({"id": self._last, **request}).encode()
        try:
            await self._transport.send(HEADER.pack(len(payload), ord("q")) + payload)
            await self._reply(self._last, reply, room)
        except asyncio.CancelledError:
            self.alive = False
            self.kill()
            raise
        finally:
            self._busy = False

    async def _reply(self, number: int, reply: _Reply, room: int) -> None:
        while True:
            kind, payload = await self._frame(max(room, 1 << 16))
            if kind in ("o", "e"):
                stream = reply.stdout if kind == "o" else reply.stderr
                kept = payload[: max(0, self.limits.output - len(stream))]
                reply.truncated = reply.truncated or len(kept) < len(payload)
                stream += kept
                continue
            try:
                result = json.loads(payload)
            except (ValueError, RecursionError):
                raise GuestGone("a frame that is not JSON") from None
            if isinstance(result, dict) and result.get("id") == number:  # others are late or forged
                reply.result = result
                return

    async def _frame(self, room: int) -> tuple[str, bytes]:
        size, kind = HEADER.unpack(await self._exactly(HEADER.size))
        if size > room + self.limits.output:
            raise GuestGone(f"a frame of {size} bytes")
        return chr(kind), await self._exactly(size)

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            part = await self._transport.receive(1 << 16)
            if not part:
                raise GuestGone("the guest is gone")
            self._buffer += part
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data
