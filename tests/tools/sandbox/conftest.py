"""The Docker engine that the tests of this folder share: started once, its containers counted at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from agentrl.sandbox import close_sandboxes, get_sandbox
from tests.tools.sandbox.engine import OwnEngine, cannot_start, own_engine


@pytest.fixture(scope="session")
def own_docker() -> Iterator[OwnEngine]:
    """An engine of the tests' own, which DOCKER_HOST names meanwhile.

    Fails at the end if containers are left when every sandbox is closed.
    """
    if reason := cannot_start():
        pytest.skip(reason)
    with own_engine() as engine, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.url)
        asyncio.run(get_sandbox({"name": "docker", "pool": 0}).run("1"))  # makes the image, which may take a minute
        yield engine
        close_sandboxes()
        left = [container["Names"] for container in engine.containers()]
        assert not left, f"containers were left: {left}"


@pytest.fixture(scope="session")
def docker_engine(own_docker: OwnEngine) -> str:
    """The `base_url` of an engine: `get_sandbox({"name": "docker", "base_url": docker_engine})`."""
    return own_docker.url


@pytest.fixture(scope="session", autouse=True)
def _engine_for_the_docker_lane(request: pytest.FixtureRequest) -> None:
    """Start it before the first test where any of those that were chosen needs one."""
    if cannot_start() is None and any(item.get_closest_marker("docker") for item in request.session.items):
        request.getfixturevalue("own_docker")
