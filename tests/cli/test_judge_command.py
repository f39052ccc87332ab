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
    assert lines[0].split()[:4] == ["entry", "k", "tasks", "pass@k"]
    assert lines[1].split() == ["maths", "1", "1", "75.0", "%", *["50.0", "%"] * 3, "75.0", "%", "66.7", "%"]
    assert "3 right answers; 6 votes now (4 yes, 2 no, 0 without a verdict), 0 from before" in shown.out
    assert "could be read" not in shown.out
    assert lines[-1] == f"report  {folder / 'report.html'}"
    written = json.loads((folder / "report.json").read_text())
    assert [reasoning["votes"] for reasoning in written["total"]["reasoning"]] == [6]
    assert Handler.asked == 6
    again = agentrl("judge", str(folder), "--judge", "critic", "--endpoint", endpoint, "--votes", "2", "--json")
    assert Handler.asked == 6
    tree = json.loads(again.out)
    assert (tree["asked"], tree["known"]) == (0, 6)
    assert tree["entries"]["maths"]["sound"]["majority"]["points"][0]["value"] == 0.5


def test_a_part_gives_no_curve(agentrl, folder: Path, endpoint: str) -> None:
    shown = agentrl("judge", str(folder), "--judge", "critic", "--endpoint", endpoint, "--votes", "1", "--n-judge", "2")
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[1].split() == [
        "maths",
        "1",
        "1",
        "75.0",
        "%",
        "-",
        "-",
        "-",
        "75.0",
        "%",
        "50.0",
        "%",
    ]


def test_steps_of_a_training_run(agentrl, tmp_path: Path, endpoint: str) -> None:
    """P(CA) and P(CC|CA) over training: a row a step; two groups of one task are its samples."""
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("grpo", "", "train")
        for step, group, member, text, correct in (
            (1, "00000", 0, "attempt 1", 1.0), (1, "00000", 1, "attempt 2", 0.0), (1, "00001", 0, "attempt 2", 1.0),
            (1, "00001", 1, "attempt 2", 0.0), (2, "00000", 0, "attempt 2", 1.0),
        ):  # fmt: skip
            turn = Turn([1], None, [2], [-1.0], assistant(text), reward=correct)
            made = Trajectory("train:1", "env", opening=[user("?")], turns=[turn], metrics={"correct": correct})
            store.add_episode(run, "train", step, group, member, made)
    asked = ("judge", str(tmp_path), "--judge", "critic", "--endpoint", endpoint, "--votes", "1")
    shown = agentrl(*asked, "--phase", "train")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[1].split()[:6] == ["train", "step", "1", "1", "1", "50.0"] and lines[1].rstrip().endswith(
        " 50.0 %   50.0 %"
    )
    assert any(line.startswith("train step 2") and line.rstrip().endswith("100.0 %  100.0 %") for line in lines)
    assert "3 right answers; 3 votes now (2 yes, 1 no, 0 without a verdict), 0 from before" in shown.out
    again = agentrl(*asked, "--phase", "train", "--step", "2", "--json")
    tree = json.loads(again.out)
    assert (list(tree["entries"]), tree["asked"], tree["known"]) == (["train step 2"], 0, 1)
    agentrl(*asked, "--phase", "trian").fails_in_one_line("no episodes of phase 'trian'", "train")
    agentrl(*asked, "--phase", "train", "--step", "9").fails_in_one_line("phase 'train' has no episodes of step 9")
    agentrl(*asked, "--phase", "train", "--entry", "x").fails_in_one_line("--entry 'x' is of an evaluation")
    agentrl(*asked, "--step", "2").fails_in_one_line("--step 2 needs --phase")


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
