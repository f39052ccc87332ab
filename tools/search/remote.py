"""Client of a remote retrieval server, in the form that Search-R1 made common.

Request: `POST <url>` with `{"queries": [text], "topk": k, "return_scores": true}`. Reply: `{"result": [[hit, ...]]}`,
one list a query; a hit is `{"document": {...}, "score": number}` or the document itself, and a document has `contents`
(title in the first line) or `title` and `text`.

httpx takes time quadratic in the requests that wait inside it, so a semaphore stands before it and nothing ever waits
inside. Invariant: all users of a server on one event loop share one client, and it is closed when the last of them
lets go; an attempt has a deadline and a reply a size, whatever the server does.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx

from agentrl.errors import ConfigError

from .corpus import Document, document

MAX_REPLY = 4_000_000
"""Bytes of a reply."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the second attempt, doubled for each further one; drawn between half of it and all."""
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class RemoteError(Exception):
    """The server gave no usable reply; the text says why, for the policy to read."""


class _Temporary(Exception):
    """Worth another attempt."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a retrieval server is and how it is asked."""

    url: str
    """Of the endpoint itself, as a rule ending in `/retrieve`."""
    connections: int = 32
    """Requests in flight at a time, all episodes of an event loop together."""
    attempts: int = 3
    attempt_timeout: float = 10.0
    """Seconds that one attempt may take in all."""

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigError(f"tool 'search': url={self.url!r} is no address: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"tool 'search': url={self.url!r} must be like http://127.0.0.1:8000/retrieve")
        for key in ("connections", "attempts", "attempt_timeout"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"tool 'search': {key}={getattr(self, key)!r} must be positive")


class RemoteClient:
    """The client of one server on one event loop; get it by `acquire`, give it back by `release`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.users = 0
        limits = httpx.Limits(max_connections=server.connections, max_keepalive_connections=server.connections)
        self._http = httpx.AsyncClient(limits=limits, timeout=server.attempt_timeout, verify=_certificates())
        self._slots = asyncio.Semaphore(server.connections)

    async def retrieve(self, query: str, k: int) -> list[Document]:
        """At most `k` documents, best first. Raises `RemoteError`."""
        body = json.dumps({"queries": [query], "topk": k, "return_scores": True}).encode()
        for attempt in range(1, self.server.attempts + 1):
            try:
                async with self._slots, asyncio.timeout(self.server.attempt_timeout):
                    reply = await self._post(body)
                return _documents(reply)[:k]
            except (httpx.RequestError, TimeoutError, _Temporary) as error:
                if attempt == self.server.attempts:
                    said = str(error) or type(error).__name__
                    raise RemoteError(f"the retrieval server gave no answer in {attempt} attempts: {said}") from error
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1))
            await asyncio.sleep(random.uniform(pause / 2, pause))  # so that those who failed together part
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(self, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        async with self._http.stream("POST", self.server.url, content=body, headers=headers) as response:
            if response.status_code in _RETRIED:
                raise _Temporary(f"status {response.status_code}")
            if response.status_code != 200:
                raise RemoteError(f"the retrieval server refused the request: status {response.status_code}")
            reply = bytearray()
            async for part in response.aiter_bytes():
                reply += part
                if len(reply) > MAX_REPLY:
                    raise RemoteError(f"the retrieval server's reply is longer than {MAX_REPLY} bytes")
            return bytes(reply)


_Clients = dict[Server, RemoteClient]
_clients: dict[asyncio.AbstractEventLoop, _Clients] = {}


def acquire(server: Server) -> RemoteClient:
    """The running event loop's client of `server`; every call is to be matched by a `release`."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:  # a client dies with its loop: what a closed one has left cannot be used any more
        for closed in [other for other in _clients if other.is_closed()]:
            del _clients[closed]
    clients = _clients.setdefault(loop, {})
    if server not in clients:
        clients[server] = RemoteClient(server)
    clients[server].users += 1
    return clients[server]


async def release(client: RemoteClient) -> None:
    """Let go of a client; the last one closes it."""
    client.users -= 1
    if client.users == 0:
        _clients.get(asyncio.get_running_loop(), {}).pop(client.server, None)
        await client.close()


@cache
def _certificates() -> Any:
    """Reading the trusted certificates takes tens of milliseconds: once a process."""
    return httpx.create_ssl_context()


def _documents(reply: bytes) -> list[Document]:
    try:
        hits = json.loads(reply)["result"][0]
        rows = [hit.get("document", hit) for hit in hits]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise RemoteError('the retrieval server\'s reply is not of the form {"result": [[...]]}') from None
    return [found for row in rows if (found := document(row)) is not None]
