"""A byte stream over the connection that an engine gives to whoever attaches to a container.

What the container writes arrives in pieces with a header of eight bytes each: the stream (1 output, 2 error), three
zeros, the length of the piece in big-endian order. What is sent goes to its standard input as it is.
"""

from __future__ import annotations

import socket
import struct

from .channel import SocketTransport

_HEADER = struct.Struct(">BxxxL")
_OUTPUT = 1
_PIECE = 1 << 16
_KEPT = 2048


class AttachedTransport:
    """The standard input and output of a container as a transport."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = SocketTransport(connection)
        self._buffer = bytearray()
        self._left = 0
        """Bytes of the piece that has begun which have not been handed out."""
        self._stream = _OUTPUT
        self._complaint = bytearray()

    @property
    def complaint(self) -> str:
        """The last line of what the container wrote to its standard error: why it did not start."""
        lines = self._complaint.decode("utf-8", "replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    async def send(self, data: bytes) -> None:
        await self._connection.send(data)

    async def receive(self, count: int) -> bytes:
        while True:
            if self._left and self._buffer:
                part = bytes(self._buffer[: min(count, self._left)])
                del self._buffer[: len(part)]
                self._left -= len(part)
                if self._stream == _OUTPUT:
                    return part
                self._complaint = (self._complaint + part)[-_KEPT:]
            elif not self._left and len(self._buffer) >= _HEADER.size:
                self._stream, self._left = _HEADER.unpack_from(self._buffer)
                del self._buffer[: _HEADER.size]
            else:
                data = await self._connection.receive(_PIECE)
                if not data:
                    return b""
                self._buffer += data

    def close(self) -> None:
        self._connection.close()
