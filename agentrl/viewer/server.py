"""The server: one process, one address, until Ctrl-C.

Invariant: what could go wrong at start (the port is taken, the host is not this machine's) is found before the server
says that it is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable

from agentrl.errors import ConfigError
from agentrl.viewer.app import create_app
from agentrl.viewer.catalog import Catalog

BACKLOG = 128
SHUTDOWN_SECONDS = 2  # for answers under way when Ctrl-C comes


def serve(
    catalog: Catalog,
    *,
    host: str = "127.0.0.1",
    port: int = 8321,
    browser: bool = True,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve until interrupted. Port 0 takes a free one. Raises `ConfigError` if the address cannot be had."""
    import uvicorn

    listener = _listen(host, port)
    address = _address(host, listener.getsockname()[1])
    announce(address)
    config = uvicorn.Config(
        create_app(catalog, host),
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    if browser and _has_screen():
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with listener, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _has_screen() -> bool:
    """Whether a browser would open a window: without one, some would take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no domain can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--host {host!r} is no address of this machine: {reason}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = f"; try --port {port + 1}, or 0 for any" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"{host}:{port} cannot be served on: {error.strerror}{hint}") from error
    return listener


def _address(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
