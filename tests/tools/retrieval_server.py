"""A retrieval server on this machine whose replies a test sets: shared by the tests of the tool and the environment."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class Retrieval(ThreadingHTTPServer):
    """A server whose replies a test sets; it counts what comes in."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Answer = articles
        self.delay = 0.0
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.now = self.most = 0
        self.connections: set[Any] = set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up breaks the pipe: expected here."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/retrieve"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Retrieval

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            server.requests.append({"path": self.path, **request})
            server.connections.add(self.client_address)
            server.now += 1
            server.most = max(server.most, server.now)
        time.sleep(server.delay)
        with server.lock:
            server.now -= 1
        status, body = server.answer(request)
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


def articles(request: dict[str, Any]) -> tuple[int, bytes]:
    """Search-R1's form: one list of hits a query, title in the first line of `contents`."""
    hits = [
        {"document": {"id": str(rank), "contents": f'"Title {rank}"\nText {rank} on {query}.'}, "score": 1 / (rank + 1)}
        for query in request["queries"]
        for rank in range(request["topk"])
    ]
    return 200, json.dumps({"result": [hits]}).encode()


@contextmanager
def serving(answer: Answer = articles) -> Iterator[Retrieval]:
    """A server that runs as long as the block."""
    server = Retrieval()
    server.answer = answer
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
