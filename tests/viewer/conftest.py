"""Stores made once, and the viewer over them without a network."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from agentrl.viewer import Catalog, create_app
from tests.cli.conftest import agentrl
from tests.viewer.synthetic import make_everything

__all__ = ["Site", "agentrl", "site", "stores"]


class Site:
    """The viewer's answers, as a client on the same machine gets them."""

    def __init__(self, target: Path | str, host: str = "127.0.0.1") -> None:
        self.catalog = Catalog(str(target))
        self._app = create_app(self.catalog, host)

    def ask(self, method: str, path: str, host: str = "127.0.0.1:8321") -> httpx.Response:
        """One request, its path as it stands: nothing is normalised."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8321") as client:
                return await client.request(method, path, headers={"host": host})

        return asyncio.run(send())

    def get(self, path: str, status: int = 200) -> str:
        """The text of a page."""
        answer = self.ask("GET", path)
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text[:400]}"
        return answer.text

    def json(self, path: str) -> dict:  # type: ignore[type-arg]
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text[:400]
        return answer.json()  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: `first`, `second`, `eval/core-smollm2-0a1b2c3d`, `hostile`."""
    return make_everything(tmp_path_factory.mktemp("viewer") / "runs")


@pytest.fixture(scope="session")
def site(stores: Path) -> Site:
    """The viewer over all of them."""
    return Site(stores)
