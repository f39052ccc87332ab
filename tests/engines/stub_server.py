"""A server on loopback that speaks OpenAI's protocol with vLLM's extensions, and misbehaves on demand.

Written on asyncio's streams, so that it can break HTTP itself: answers that stop in the middle, bytes that drip,
connections that close without a word. Each request but those for the list of models takes the next of `faults`, if one
is left; a fault is a coroutine that writes what it likes.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

MODEL = "stub-1"
EOS = 99


@dataclass(slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(slots=True)
class Exchange:
    """What a fault may write to."""

    asked: Asked
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: StubServer

    def send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        """One answer; `length` is what it claims to be long."""
        lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body) if length is None else length}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)


Fault = Callable[[Exchange], Awaitable[None]]


class Break(Exception):
    """Close the connection."""


@dataclass(slots=True)
class StubServer:
    """The server; `faults` and `delay` may be set at any time."""

    url: str = ""
    faults: deque[Fault] = field(default_factory=deque)
    delay: float = 0.0
    """Seconds before each well-formed answer."""
    max_model_len: int | None = 4096
    models: tuple[str, ...] = (MODEL,)
    root: str | None = None
    """Where it says that it has its models from."""
    listing: Fault | None = None
    """Answers requests for the list of models."""
    processed: bool = True
    """Whether log-probabilities are those of the temperature."""
    asked: list[Asked] = field(default_factory=list)
    """All requests but those for the list of models."""
    in_flight: int = 0
    most_in_flight: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    abandoned: int = 0
    """Requests whose client left before the answer."""
    chat: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": "Hello."})

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self.writers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.writers.add(writer)
        try:
            while (asked := await _read(reader)) is not None:
                await self._answer(Exchange(asked, reader, writer, self))
                await writer.drain()
        except (Break, ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _answer(self, exchange: Exchange) -> None:
        asked = exchange.asked
        if asked.path == "/v1/models":
            if self.listing is not None:
                return await self.listing(exchange)
            served = [{"id": name, "max_model_len": self.max_model_len, "root": self.root} for name in self.models]
            exchange.send(200, json.dumps({"object": "list", "data": served}).encode())
            return
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            fault = self.faults.popleft() if self.faults else good
            await fault(exchange)
        finally:
            self.in_flight -= 1

    def answer(self, asked: Asked) -> dict[str, Any]:
        """What a well-behaved server says: ids and log-probabilities that the prompt and the seed determine."""
        body = asked.body
        if asked.path == "/v1/chat/completions":
            choice = {"index": 0, "finish_reason": "stop", "message": self.chat}
            return {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 3}}
        ids = sampled(body["prompt"], body.get("seed"), body["max_tokens"])
        scale = max(body["temperature"], 1e-9) if self.processed and body["temperature"] else 1.0
        logprobs = {
            "tokens": [f"token_id:{token}" for token in ids],
            "token_logprobs": [logprob(token, scale) for token in ids],
            "top_logprobs": [{f"token_id:{token}": logprob(token, scale)} for token in ids],
        }
        choice = {
            "index": 0,
            "text": "never looked at",
            "finish_reason": "stop" if ids[-1] == EOS else "length",
            "logprobs": logprobs,
            "token_ids": ids,
            "prompt_token_ids": body["prompt"],
        }
        return {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}}


def sampled(prompt: list[int], seed: int | None, limit: int) -> list[int]:
    """The ids that the stub answers."""
    return [*((token + (seed or 0)) % 90 for token in prompt[-4:]), EOS][:limit]


def logprob(token: int, scale: float = 1.0) -> float:
    """Log-probability (nats) of an id at a temperature."""
    return -math.log(2 + token) / scale


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(raw) if raw else {})


@asynccontextmanager
async def stub_server() -> AsyncIterator[StubServer]:
    """A running server."""
    stub = StubServer()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0, limit=2**24)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield stub
    finally:
        server.close()
        for writer in stub.writers:
            writer.transport.abort()
        while stub.writers:
            await asyncio.sleep(0.001)
        await server.wait_closed()


# -- what a server may do ----------------------------------------------------------------------------------------------


async def good(exchange: Exchange) -> None:
    """A well-formed answer, after the delay."""
    if exchange.server.delay:
        await stay(exchange, exchange.server.delay)
    exchange.send(200, json.dumps(exchange.server.answer(exchange.asked)).encode())


async def stay(exchange: Exchange, seconds: float) -> None:
    """Let time pass; a client that leaves meanwhile is noted."""
    try:
        async with asyncio.timeout(seconds):
            if not await exchange.reader.read(1):
                exchange.server.abandoned += 1
                raise Break
    except TimeoutError:
        return


def status(code: int, body: Any = None, **headers: str) -> Fault:
    """An answer with that status; `retry_after="1"` is a header."""

    async def fault(exchange: Exchange) -> None:
        raw = body if isinstance(body, bytes) else json.dumps({"error": {"message": body or "no"}}).encode()
        exchange.send(code, raw, {name.replace("_", "-"): value for name, value in headers.items()})

    return fault


def changed(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """A well-formed answer after `change`, which alters it or returns another."""

    async def fault(exchange: Exchange) -> None:
        answer = exchange.server.answer(exchange.asked)
        replaced = change(answer)
        exchange.send(200, json.dumps(answer if replaced is None else replaced).encode())

    return fault


def raw(body: bytes) -> Fault:
    """A status of success with any body."""

    async def fault(exchange: Exchange) -> None:
        exchange.send(200, body)

    return fault


async def hang(exchange: Exchange) -> None:
    """No answer until the client leaves."""
    await stay(exchange, 60)


def held(gate: asyncio.Event) -> Fault:
    """A well-formed answer, once the gate is open."""

    async def fault(exchange: Exchange) -> None:
        await gate.wait()
        await good(exchange)

    return fault


async def drop(exchange: Exchange) -> None:
    """The connection closes without a word."""
    raise Break


async def cut(exchange: Exchange) -> None:
    """The connection closes in the middle of the body."""
    exchange.send(200, b'{"choices": [', length=1000)
    await exchange.writer.drain()
    raise Break


async def drip(exchange: Exchange) -> None:
    """A body that comes a byte at a time and never ends."""
    exchange.send(200, b"", length=100_000)
    while True:
        exchange.writer.write(b" ")
        await exchange.writer.drain()
        await stay(exchange, 0.02)


def huge(size: int) -> Fault:
    """A body of that many bytes."""

    async def fault(exchange: Exchange) -> None:
        exchange.send(200, b"", length=size)
        for _ in range(size // 65536 + 1):
            exchange.writer.write(b" " * 65536)
            await exchange.writer.drain()
        raise Break

    return fault
