"""The tool `http`: requests to hosts of an allow-list, bounded in bytes, redirects and time.

A policy's URL is a stranger's: without an allow-list nothing can be reached. Invariants: every request, redirects
included, goes to an allowed host; a name that is allowed by a wildcard, or that is public, must not lead to a private
address, and the connection is made to the very address that was checked; at most `max_bytes` of an answer are read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import httpx
from pydantic import Field

from agentrl.errors import ConfigError
from agentrl.tool import Tool, ToolResult

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_PORTS = {"http": 80, "https": 443}
_PATTERN = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\*\.[\w.-]+|\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?"
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEXT = re.compile(r"text/|json|xml|javascript|x-www-form-urlencoded|yaml|csv")


class Refused(Exception):
    """The request is not made; the text says why, for the policy to read."""


class Pattern:
    """One entry of an allow-list: `example.org`, `*.example.org`, `https://example.org`, `127.0.0.1:8000`."""

    def __init__(self, text: str) -> None:
        found = _PATTERN.fullmatch(text.strip().lower().rstrip("/"))
        if found is None:
            raise ConfigError(f"tool 'http': allow={text!r} is no host; expected [scheme://]host[:port] or *.host")
        self.text = text
        self.scheme, self.host = found["scheme"], found["host"].strip("[]")
        self.port = int(found["port"]) if found["port"] else None

    @property
    def wildcard(self) -> bool:
        return self.host.startswith("*.")

    def matches(self, url: httpx.URL) -> bool:
        host = url.host.lower().rstrip(".")
        same = host.endswith(self.host[1:]) if self.wildcard else host == self.host
        port = url.port or _PORTS[url.scheme]
        default = _PORTS[self.scheme or url.scheme]
        return same and self.scheme in (None, url.scheme) and port == (self.port or default)


class HttpTool(Tool):
    """Requests a web page or an API and gives status and text. Only some hosts can be reached."""

    name = "http"
    concurrency = 32  # httpx is quadratic in the requests that wait inside of it

    def __init__(
        self,
        *,
        allow: tuple[str, ...] = (),
        methods: tuple[Method, ...] = ("GET", "HEAD"),
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 1 << 20,
        max_redirects: int = 5,
        seconds: float = 20.0,
    ) -> None:
        """Raises `ConfigError`.

        Args:
            allow: hosts, as `example.org`, `*.example.org` (its subdomains), `https://example.org` or
                `localhost:8000`; without a port the scheme's own. Empty: nothing can be reached.
            methods: that the policy may use.
            headers: sent with every request, such as an authorisation; the policy does not see them.
            max_bytes: of an answer's body that are read.
            max_redirects: that are followed, each only to an allowed host.
            seconds: for one call with its redirects; must be below `timeout`.
        """
        self._allow = [Pattern(text) for text in allow]
        self._methods = methods
        self._headers = dict(headers or {})
        for key, value in {"max_bytes": max_bytes, "seconds": seconds}.items():
            if not value > 0:
                raise ConfigError(f"tool 'http': {key}={value!r} must be positive")
        if max_redirects < 0:
            raise ConfigError(f"tool 'http': max_redirects={max_redirects!r} must not be negative")
        self._max_bytes, self._max_redirects, self._seconds = max_bytes, max_redirects, seconds
        self._client: httpx.AsyncClient | None = None

    async def call(
        self,
        url: Annotated[str, Field(description="with http:// or https://", max_length=4096)],
        method: Method = "GET",
        body: Annotated[str | None, Field(description="text to send, such as JSON")] = None,
        content_type: Annotated[str, Field(description="of the body")] = "application/json",
    ) -> ToolResult:
        try:
            if method not in self._methods:
                raise Refused(f"the method {method} is not allowed; allowed: {', '.join(self._methods)}")
            async with asyncio.timeout(self._seconds):
                return await self._followed(method, url, body, content_type)
        except Refused as refusal:
            return ToolResult(f"Error: {refusal}", "failed")
        except TimeoutError:
            return ToolResult(f"Error: no complete answer within {self._seconds:g} seconds", "timeout")
        except httpx.HTTPError as error:
            return ToolResult(f"Error: {type(error).__name__}: {error}", "failed")

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    # -- within --------------------------------------------------------------------------------------------------------

    async def _followed(self, method: str, url: str, body: str | None, content_type: str) -> ToolResult:
        headers, asked = self._headers, self._allowed(url)
        for _ in range(self._max_redirects + 1):
            target = self._allowed(url)
            if (target.scheme, target.netloc) != (asked.scheme, asked.netloc):
                headers = {}  # an authorisation is for the host that was asked
            sent = {**headers, **({} if body is None else {"Content-Type": _one_line(content_type)})}
            async with self._opened().stream(**await self._request(method, target, body, sent)) as response:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or not location:
                    return await self._result(response, target)
                try:
                    url = str(target.join(location))
                except httpx.InvalidURL:
                    raise Refused(f"the redirect to {location[:200]!r} is no URL") from None
                if response.status_code == 303 or (response.status_code in (301, 302) and method == "POST"):
                    method, body = "GET", None
        raise Refused(f"more than {self._max_redirects} redirects")

    def _allowed(self, text: str) -> httpx.URL:
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise Refused(f"not a URL: {error}") from None
        if url.scheme not in _PORTS or not url.host:
            raise Refused("the URL must begin with http:// or https:// and name a host")
        if url.userinfo:
            raise Refused("a URL with a user name or password is not allowed")
        if not any(pattern.matches(url) for pattern in self._allow):
            offer = ", ".join(pattern.text for pattern in self._allow) or "none"
            raise Refused(f"{url.scheme}://{url.netloc.decode()} is not allowed; allowed: {offer}")
        return url

    async def _request(self, method: str, url: httpx.URL, body: str | None, headers: dict[str, str]) -> dict[str, Any]:
        """The request to the address that the host's name has, checked; the name stays in the header and in TLS."""
        return {
            "method": method,
            "url": url.copy_with(host=await self._address(url)),
            "headers": {**headers, "Host": url.netloc.decode()},
            "content": None if body is None else body.encode("utf-8", "replace"),
            "extensions": {"sni_hostname": url.host},
        }

    async def _address(self, url: httpx.URL) -> str:
        named = any(pattern.matches(url) and not pattern.wildcard for pattern in self._allow)
        local = named and _is_local(url.host)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(url.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Refused(f"{url.host} has no address: {error}") from None
        for *_, where in found:
            address = ipaddress.ip_address(str(where[0]).partition("%")[0])
            if local or address.is_global:
                return str(address)
        raise Refused(f"{url.host} leads to a private address")

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            # cookies and proxies would carry something from call to call, or past the check of the address
            self._client = httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=self._seconds)
        self._client.cookies.clear()
        return self._client

    async def _result(self, response: httpx.Response, url: httpx.URL) -> ToolResult:
        data = bytearray()
        async for part in response.aiter_bytes(65536):
            data += part
            if len(data) >= self._max_bytes:
                break
        cut = len(data) > self._max_bytes
        del data[self._max_bytes :]
        kind = response.headers.get("content-type", "")
        head = f"{response.status_code} {response.reason_phrase} {url}\n"
        if data and not _TEXT.search(kind):
            return ToolResult(f"{head}[{len(data)} bytes of {kind or 'an unknown kind'}]", data=bytes(data))
        text = data.decode(response.charset_encoding or "utf-8", "replace")
        note = f"\n[only the first {self._max_bytes} bytes were read]" if cut else ""
        return ToolResult(f"{head}\n{text}{note}", data=bytes(data))


def _one_line(header: str) -> str:
    return " ".join(header.encode("ascii", "replace").decode()[:200].split())


def _is_local(host: str) -> bool:
    """Whether the allow-list itself names this machine or an address: then a private address is what is meant."""
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
