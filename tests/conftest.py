"""What every test shares. Markers are declared in pyproject.toml.

Invariant: a test without the marker `network` or `slow` opens no connection to another machine; it is refused.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("agentrl", deadline=None)  # a busy machine must not decide whether a property holds
settings.load_profile("agentrl")


def is_local(address: Any) -> bool:
    """Whether a socket address stays on this machine: a Unix socket, `localhost` or a loopback address."""
    if not isinstance(address, tuple):
        return True
    host = address[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses connections to other machines, and tells the model hub's client not to try any."""
    if request.node.get_closest_marker("network") or request.node.get_closest_marker("slow"):
        return
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded(self: socket.socket, address: Any) -> None:
        if not is_local(address):
            raise OSError(f"a test without the marker network tried to connect to {address!r}")
        connect(self, address)

    def guarded_ex(self: socket.socket, address: Any) -> int:
        if not is_local(address):
            raise OSError(f"a test without the marker network tried to connect to {address!r}")
        return connect_ex(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_ex)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
