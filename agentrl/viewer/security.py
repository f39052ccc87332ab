"""What guards the pages: the Host header (against DNS rebinding) and the headers of every answer.

A page of somebody else's that the user has open may send requests to a local server; it can read the answers only if
its own name comes to mean this machine. Such requests carry that name in the Host header, so any name but ours is
refused. The content policy allows scripts, styles and requests of this server alone and nothing inline, so that text
that escaped escaping still could not run.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


class Guard:
    """ASGI middleware: refuses foreign Host headers and adds `HEADERS`. (Every route answers GET and HEAD alone.)

    `host` is what the server is bound to. On a loopback address only loopback names are answered; otherwise any literal
    address (no name server can make another page's name equal to one) and `host` itself.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1") -> None:
        self._app = app
        self._host = host.lower()
        self._local = is_loopback(self._host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        name = host_name(Headers(scope=scope).get("host", ""))
        if not self.answers(name):
            return PlainTextResponse(f"this server does not answer to the host {name!r}\n", status_code=421)
        return None

    def answers(self, name: str) -> bool:
        """Whether a request for this host name is meant for this server."""
        if self._local:
            return is_loopback(name)
        return name in (self._host, "localhost") or _address(name) is not None


def host_name(header: str) -> str:
    """The name in a Host header: without port and brackets, in lower case."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
