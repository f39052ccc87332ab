"""The tool `http` against a real local server: allow-list, redirects, bounds, private addresses, no growth."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentrl.errors import ConfigError
from agentrl.messages import ToolCall
from agentrl.tool import ToolResult, call_tool, resolve_tool


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: dict[str, Any] = {}  # noqa: RUF012 - written by the server's threads

    def do_GET(self) -> None:
        Handler.seen = {"headers": dict(self.headers), "method": self.command}
        if self.path.startswith("/to/"):
            self.reply(302, b"", {"Location": self.path.removeprefix("/to/")})
        elif self.path == "/loop":
            self.reply(302, b"", {"Location": "/loop"})
        elif self.path == "/large":
            self.reply(200, b"x" * 5_000_000)
        elif self.path == "/image":
            self.reply(200, b"\x89PNG", {"Content-Type": "image/png"})
        elif self.path == "/slow":
            time.sleep(2)
            self.reply(200, b"late")
        elif self.path == "/cookie":
            self.reply(200, b"set", {"Set-Cookie": "a=1"})
        elif self.path == "/missing":
            self.reply(404, b"nothing here")
        else:
            self.reply(200, "grüße".encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(200, b"got " + body)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


async def request(url: str, *, arguments: dict[str, Any] | None = None, **options: Any) -> ToolResult:
    tool = resolve_tool("http", **options)
    try:
        call = ToolCall(id="call_0", name="http", arguments=json.dumps({"url": url, **(arguments or {})}))
        return (await call_tool({"http": tool}, call))[0]
    finally:
        await tool.close()


async def test_an_allowed_host_answers(port: int) -> None:
    result = await request(f"http://127.0.0.1:{port}/page", allow=(f"127.0.0.1:{port}",))
    assert result.error is None
    assert result.text == f"200 OK http://127.0.0.1:{port}/page\n\ngrüße"
    assert Handler.seen["headers"]["Host"] == f"127.0.0.1:{port}"


async def test_a_status_that_is_not_200_is_told(port: int) -> None:
    result = await request(f"http://localhost:{port}/missing", allow=(f"localhost:{port}",))
    assert result.error is None
    assert result.text.startswith("404 Not Found")
    assert "nothing here" in result.text


@pytest.mark.parametrize(
    ("url", "allow", "said"),
    [
        ("http://127.0.0.1:{port}/", (), "is not allowed; allowed: none"),
        ("http://127.0.0.1:{port}/", ("example.org",), "is not allowed; allowed: example.org"),
        ("http://127.0.0.1:{port}/", ("127.0.0.1",), "is not allowed"),  # another port
        ("http://127.0.0.1:{port}/", ("https://127.0.0.1:{port}",), "is not allowed"),
        ("http://127.0.0.1:{port}@example.org/", ("127.0.0.1:{port}",), "user name or password"),
        ("http://example.org.evil.test/", ("example.org",), "is not allowed"),
        ("http://evilexample.org/", ("*.example.org",), "is not allowed"),
        ("file:///etc/passwd", ("*.org",), "must begin with http"),
        ("//127.0.0.1/", ("127.0.0.1",), "must begin with http"),
        ("http://[::1", ("127.0.0.1",), "not a URL"),
        ("nonsense", ("127.0.0.1",), "must begin with http"),
    ],
)
async def test_what_is_not_allowed_is_refused(port: int, url: str, allow: tuple[str, ...], said: str) -> None:
    given = tuple(entry.format(port=port) for entry in allow)
    result = await request(url.replace("{port}", str(port)), allow=given)
    assert result.error == "failed"
    assert said in result.text


async def test_a_public_name_must_not_lead_to_a_private_address(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose owner points it at this machine (rebinding), allowed by name and by wildcard."""
    import asyncio

    async def lookup(*args: Any, **kwargs: Any) -> list[Any]:
        return [(2, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    for allow in (f"*.example.org:{port}", f"in.example.org:{port}"):
        result = await request(f"http://in.example.org:{port}/", allow=(allow,))
        assert "leads to a private address" in result.text


async def test_redirects_are_followed_to_allowed_hosts_only(port: int) -> None:
    here = f"127.0.0.1:{port}"
    assert "grüße" in (await request(f"http://{here}/to//page", allow=(here,))).text
    outside = await request(f"http://{here}/to/http://localhost:{port}/page", allow=(here,))
    assert f"http://localhost:{port} is not allowed" in outside.text
    assert "more than 5 redirects" in (await request(f"http://{here}/loop", allow=(here,))).text


async def test_an_answer_is_bounded(port: int) -> None:
    here = f"127.0.0.1:{port}"
    result = await request(f"http://{here}/large", allow=(here,), max_bytes=1000, max_output=100_000)
    assert result.text.count("x") == 1000
    assert result.text.endswith("[only the first 1000 bytes were read]")
    assert len((await request(f"http://{here}/large", allow=(here,))).text) <= 8192
    slow = await request(f"http://{here}/slow", allow=(here,), seconds=0.2)
    assert (slow.error, slow.text) == ("timeout", "Error: no complete answer within 0.2 seconds")


async def test_bytes_are_described_not_shown(port: int) -> None:
    result = await request(f"http://127.0.0.1:{port}/image", allow=(f"127.0.0.1:{port}",))
    assert "[4 bytes of image/png]" in result.text
    assert result.data == b"\x89PNG"


async def test_only_the_methods_that_are_allowed(port: int) -> None:
    here = f"127.0.0.1:{port}"
    refused = await request(f"http://{here}/", allow=(here,), arguments={"method": "POST", "body": "1"})
    assert "the method POST is not allowed; allowed: GET, HEAD" in refused.text
    done = await request(
        f"http://{here}/", allow=(here,), methods=("POST",), arguments={"method": "POST", "body": '{"a": 1}'}
    )
    assert 'got {"a": 1}' in done.text
    unknown = await request(f"http://{here}/", allow=(here,), arguments={"method": "TRACE"})
    assert unknown.error == "invalid_arguments"


async def test_headers_of_ours_are_sent_and_cookies_are_not_kept(port: int) -> None:
    here = f"127.0.0.1:{port}"
    tool = resolve_tool("http", allow=(here,), headers={"Authorization": "Bearer key"})
    for path in ("cookie", "page"):
        call = ToolCall(id="c", name="http", arguments=json.dumps({"url": f"http://{here}/{path}"}))
        result, _ = await call_tool({"http": tool}, call)
        assert "key" not in result.text
    await tool.close()
    assert Handler.seen["headers"]["Authorization"] == "Bearer key"
    assert "Cookie" not in Handler.seen["headers"]


async def test_an_authorisation_is_not_sent_on_to_another_host(port: int) -> None:
    allow, headers = (f"127.0.0.1:{port}", f"localhost:{port}"), {"Authorization": "Bearer key"}
    result = await request(f"http://127.0.0.1:{port}/to/http://localhost:{port}/page", allow=allow, headers=headers)
    assert "grüße" in result.text
    assert Handler.seen["headers"]["Host"] == f"localhost:{port}"
    assert "Authorization" not in Handler.seen["headers"]


async def test_many_calls_leave_no_descriptors(port: int) -> None:
    here = f"127.0.0.1:{port}"
    await request(f"http://{here}/", allow=(here,))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        await request(f"http://{here}/", allow=(here,))
    assert len(os.listdir("/proc/self/fd")) <= before + 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"allow": ("http://a/b",)}, "is no host"),
        ({"allow": ("a b",)}, "is no host"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"max_redirects": -1}, "max_redirects=-1"),
        ({"methods": ("FETCH",)}, "methods"),
        ({"allowed": ("a",)}, "did you mean 'allow'"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_tool("http", **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
