"""`agentrl judge` as a user meets it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentrl.messages import assistant, user
from agentrl.store import RunStore
from agentrl.trajectory import Trajectory, Turn


class Handler(BaseHTTPRequestHandler):
    """A judge that finds fault with attempt 1 alone."""

    asked = 0

    def do_GET(self) -> None:
        self._send({"data": [{"id": "critic"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).asked += "attempt" in str(body["messages"])
        verdict = "no" if "attempt 1" in str(body["messages"]) else "yes"
        message = {"role": "assistant", "content": f"Verdict: {verdict}"}
        self._send({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]})

    def _send(self, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    Handler.asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evaluation of one task with four samples, three of them right."""
    place = tmp_path / "core-m"
    place.mkdir()
    with RunStore(place / "store.sqlite") as store:
        run = store.begin_run("core-m", "suite: core", "eval")
        for number, correct in enumerate((1.0, 1.0, 0.0, 1.0)):
            turn = Turn([1], None, [2], [-1.0], assistant(f"attempt {number}"), reward=correct)
            episode = Trajectory("test:1", "env", opening=[user("?")], turns=[turn], metrics={"correct": correct})
            store.add_episode(run, "eval/maths", 0, "00000", number, episode)
    return place


def test_judging_and_judging_again(agentrl, folder: Path, endpoint: str) -> None:
    shown = agentrl("judge", str(folder), "--judge", "critic", "--endpoint", endpoint, "--votes", "2")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].split()[:4] == ["entry", "k", "pass@k", "CoT-pass@k"]
    assert lines[1].split() == ["maths", "1", "75.0", "%", *["50.0", "%"] * 3, "75.0", "%", "66.7", "%"]
    assert "3 right answers; 6 votes now (4 yes, 2 no, 0 without a verdict), 0 from before" in shown.out
    assert "could be read" not in shown.out
    assert Handler.asked == 6
    again = agentrl("judge", str(folder), "--judge", "critic", "--endpoint", endpoint, "--votes", "2", "--json")
    assert Handler.asked == 6
    tree = json.loads(again.out)
    assert (tree["asked"], tree["known"]) == (0, 6)
    assert tree["entries"]["maths"]["sound"]["majority"]["points"][0]["value"] == 0.5


def test_a_part_gives_no_curve(agentrl, folder: Path, endpoint: str) -> None:
    shown = agentrl("judge", str(folder), "--judge", "critic", "--endpoint", endpoint, "--votes", "1", "--n-judge", "2")
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[1].split() == ["maths", "1", "75.0", "%", "-", "-", "-", "75.0", "%", "50.0", "%"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--judge", "smolm2"], ["smolm2", "smollm2-135m-instruct"]),
        (["--judge", "oracle"], ["judge='oracle' is no model"]),
        (["--judge", "tiny", "--temperature", "0"], ["temperature=0", "independent draws"]),
        (["--judge", "tiny", "--engine", "vlm"], ["vlm", "did you mean 'vllm'"]),
        (["--judge", "tiny", "--entry", "math"], ["no evaluated entry 'math'", "maths"]),
        (["--judge", "x", "--endpoint", "nowhere"], ["nowhere"]),
    ],
    ids=lambda value: " ".join(value[1:]) if value[0].startswith("--") else "",
)
def test_mistakes(agentrl, folder: Path, arguments: list[str], said: list[str]) -> None:
    agentrl("judge", str(folder), *arguments).fails_in_one_line(*said)


def test_a_folder_without_an_evaluation(agentrl, tmp_path: Path) -> None:
    agentrl("judge", str(tmp_path), "--judge", "tiny").fails_in_one_line("holds no ")
    assert list(tmp_path.iterdir()) == []
