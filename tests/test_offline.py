"""The guard in conftest.py: a test without the marker `network` opens no connection to another machine."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

ELSEWHERE = ("192.0.2.1", 9)  # an address reserved for documentation; connecting a datagram socket sends nothing


@pytest.mark.parametrize("name", ["connect", "connect_ex"])
def test_a_connection_to_another_machine_is_refused(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection, pytest.raises(OSError, match="marker network"):
        getattr(connection, name)(ELSEWHERE)


async def test_asyncio_is_refused_as_well() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.setblocking(False)
        with pytest.raises(OSError, match="marker network"):
            await asyncio.get_running_loop().sock_connect(connection, ELSEWHERE)


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]) as client:
        assert client.getpeername()[1] == server.getsockname()[1]


def test_the_hub_client_is_told_to_stay_offline() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
