"""Endpoint: JSON over HTTP to one server, many requests at once, some of which fail.

httpx takes time quadratic in the requests that wait inside it, so a semaphore stands before it and nothing ever waits
inside. What may pass (a full server, a broken connection, a deadline) is tried again after a pause with full jitter:
uniform over [0, base * 2^attempt], on top of what the server asked for by `Retry-After`.

Invariants: an attempt has a deadline and an answer a size, whatever the server does; a request ends by an answer, an
`EngineError` or the cancellation of its task, which closes its connection; no error or log line holds a secret.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic_core import PydanticSerializationError, to_json

from agentrl.errors import ConfigError, EngineError, EngineRefusal

MAX_ANSWER = 64 * 2**20
"""Bytes of an answer: a million tokens with their log-probabilities."""
MAX_ASKED_PAUSE = 60.0
"""Seconds by `Retry-After` that are waited; a server that wants more is out of service."""
_LONGEST_PAUSE = 30.0
"""Seconds that the jitter is drawn from at most."""
_KEEP_ALIVE = 2.0
"""Seconds that a connection may idle: less than the five after which uvicorn closes it under a request's feet."""
_ERROR_BYTES = 65536
_SHOWN = 300
"""Characters of a server's message in an error."""
_SECRET = 8
"""Characters from which a header's value may be a secret; shorter ones are words, such as `true`."""
_RETRIED = frozenset({408, 409, 425, 429})
_REFUSED = frozenset({400, 413, 414, 422})
_HEADER = re.compile(r"[\x21-\x7e][\x20-\x7e]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class StatusError(EngineError):
    """The server answered with a status that another attempt would not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RequestRefused(StatusError, EngineRefusal):
    """The server refuses this very request."""


class _Temporary(Exception):
    """Worth another attempt, not before `pause` seconds."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded answer, and where its time went."""

    body: Any
    queue_seconds: float
    """Waiting for a place among the requests in flight."""
    seconds: float
    """The attempt that gave the answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one endpoint's requests."""

    concurrency: int = 64
    """Requests in flight; more wait here."""
    retries: int = 4
    """Attempts after the first."""
    timeout_seconds: float = 600.0
    """One attempt, from connecting to the last byte."""
    connect_seconds: float = 10.0
    """Connecting alone."""
    backoff_seconds: float = 0.5
    """What the first pause is drawn from; doubled for each further one."""

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigError(f"concurrency={self.concurrency!r} must be at least 1")
        if self.retries < 0:
            raise ConfigError(f"retries={self.retries!r} must be at least 0")
        for key in ("timeout_seconds", "connect_seconds", "backoff_seconds"):
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigError(f"{key}={getattr(self, key)!r} must be a positive number of seconds")


class Endpoint:
    """The client of one server on one event loop."""

    def __init__(self, base_url: str, *, key: str | None, headers: Mapping[str, str], limits: Limits) -> None:
        """`key` is sent as bearer token. Raises `ConfigError`, in which no value of a header is shown."""
        self.base_url = _checked_url(base_url)
        self.limits = limits
        self._headers = {name: _checked_header(name, value) for name, value in headers.items()}
        if key and "authorization" not in {name.lower() for name in headers}:
            self._headers["authorization"] = f"Bearer {_checked_header('authorization', key)}"
        # The longest first, so that a secret within another does not leave the rest of it to be seen.
        secrets = sorted({key or "", *headers.values()}, key=len, reverse=True)
        self._secrets = [secret for secret in secrets if len(secret) >= _SECRET]
        self._random = random.Random()
        self._http: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._pending: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self.running = 0
        """Requests in flight."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a place or for their next attempt."""
        return len(self._pending) - self.running

    async def open(self) -> None:
        """Accept requests. Idempotent; on another event loop than before it begins anew."""
        loop = asyncio.get_running_loop()
        if self._http is not None and self._loop is loop:
            return
        places = self.limits.concurrency
        self._loop, self.running, self._pending = loop, 0, set()
        self._slots, self._idle = asyncio.Semaphore(places), asyncio.Event()
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"accept-encoding": "identity", **self._headers},
            limits=httpx.Limits(max_connections=places, max_keepalive_connections=places, keepalive_expiry=_KEEP_ALIVE),
            timeout=httpx.Timeout(None, connect=self.limits.connect_seconds),  # the rest is under one deadline
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Fail what is pending with `EngineError` and close all connections. Idempotent."""
        http, self._http = self._http, None
        if http is None:
            return
        for scope in self._pending:
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())
        if self._pending:
            await self._idle.wait()
        await http.aclose()

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """The decoded answer to `body`, sent as JSON. Raises `EngineError`."""
        if self._http is None:
            raise EngineError(f"{self}: closed, or not started")
        scope = asyncio.timeout(None)  # close() lets it expire
        self._pending.add(scope)
        try:
            async with scope:
                return await self._persist(self._http, method, path, None if body is None else _encoded(body))
        except TimeoutError:
            raise EngineError(f"{self}: the engine was closed") from None
        finally:
            self._pending.discard(scope)
            if not self._pending:
                self._idle.set()

    def __str__(self) -> str:
        return f"engine 'openai' at {self.base_url}"

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def _persist(self, http: httpx.AsyncClient, method: str, path: str, content: bytes | None) -> Answer:
        """Attempt after attempt."""
        loop, queued = asyncio.get_running_loop(), 0.0
        for attempt in range(self.limits.retries + 1):
            arrived = loop.time()
            async with self._slots:
                began = loop.time()
                queued += began - arrived
                self.running += 1
                try:
                    raw = await self._attempt(http, method, path, content)
                    return Answer(self._decoded(raw), queued, loop.time() - began)
                except _Temporary as error:
                    failure = error
                finally:
                    self.running -= 1
            if attempt == self.limits.retries:
                break
            longest = min(_LONGEST_PAUSE, self.limits.backoff_seconds * 2**attempt)
            await asyncio.sleep(failure.pause + self._random.uniform(0.0, longest))
        raise EngineError(f"{self}: no answer in {self.limits.retries + 1} attempts, the last time: {failure}")

    async def _attempt(self, http: httpx.AsyncClient, method: str, path: str, content: bytes | None) -> bytes:
        headers = {} if content is None else {"content-type": "application/json"}
        try:
            async with (
                asyncio.timeout(self.limits.timeout_seconds),
                http.stream(method, path, content=content, headers=headers) as response,
            ):
                if not response.is_success:
                    raise self._failure(response, await _read(response, _ERROR_BYTES))
                raw = await _read(response, MAX_ANSWER)
        except TimeoutError:
            raise _Temporary(f"no whole answer within {self.limits.timeout_seconds:g} s") from None
        except httpx.RequestError as error:
            raise _Temporary(self._clean(f"{type(error).__name__}: {error}".rstrip(": "))) from None
        if len(raw) > MAX_ANSWER:
            raise EngineError(f"{self}: the answer is longer than {MAX_ANSWER} bytes")
        return raw

    def _failure(self, response: httpx.Response, raw: bytes) -> Exception:
        """What a status other than success means."""
        status = response.status_code
        if response.has_redirect_location:
            target = self._clean(response.headers["location"])
            return StatusError(f"{self}: redirects to {target} ({status}); set base_url to where it leads", status)
        said = f"status {status}: {self._clean(_message(raw))}".rstrip(": ")
        if status in _RETRIED or status >= 500:
            pause = _asked_pause(response.headers.get("retry-after"))
            if pause <= MAX_ASKED_PAUSE:
                return _Temporary(said, pause)
            return StatusError(f"{self}: {said}; it asks for a pause of {pause:.0f} s", status)
        return (RequestRefused if status in _REFUSED else StatusError)(f"{self}: {said}", status)

    def _decoded(self, raw: bytes) -> Any:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            shown = self._clean(raw[:80].decode(errors="replace"))
            raise EngineError(f"{self}: the answer is not JSON: {shown!r}") from None

    def _clean(self, text: str) -> str:
        """One short line without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        line = " ".join(text.split())
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."


def _encoded(body: Mapping[str, Any]) -> bytes:
    """`body` as JSON, on the event loop: with 128k ids pydantic's writer takes a quarter of the standard one's time."""
    try:
        return to_json(body)
    except PydanticSerializationError:  # text with lone surrogates, which only escapes can say
        return json.dumps(body).encode()


async def _read(response: httpx.Response, limit: int) -> bytes:
    """The body; a little more than `limit` bytes of a longer one."""
    raw = bytearray()
    async for part in response.aiter_bytes():
        raw += part
        if len(raw) > limit:
            break
    return bytes(raw)


def _message(raw: bytes) -> str:
    """What a server says of its error, in one of the forms that are in use, or the body as it stands."""
    text = raw.decode(errors="replace")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return said if isinstance(said, str) else text


def _asked_pause(header: str | None) -> float:
    """Seconds by a `Retry-After` header: a number or a date (RFC 9110, 10.2.3); 0.0 without or beyond reading."""
    if header is None:
        return 0.0
    try:
        pause = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        pause = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, pause) if not math.isnan(pause) else 0.0


def _checked_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError(f"base_url={text!r} is no address: {error}") from None
    if url.userinfo:
        raise ConfigError("base_url holds a password: name the variable that has the key by api_key_env instead")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigError(f"base_url={text!r} must be like http://127.0.0.1:8000/v1")
    return str(url).rstrip("/")


def _checked_header(name: str, value: str) -> str:
    """The value; what h11 would refuse is refused here, since its message shows it."""
    if not _HEADER_NAME.fullmatch(name) or not _HEADER.fullmatch(value):
        raise ConfigError(f"headers: {name!r} is no header of HTTP (its value is not shown)")
    return value
