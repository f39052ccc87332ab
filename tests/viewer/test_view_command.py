"""`agentrl view` as a user meets it: a real process and a real port, and one clear line for every mistake."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from agentrl.errors import StoreError
from agentrl.store import RunStore


def view(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentrl.cli", "view", *arguments, "--no-browser"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    with RunStore(folder / "store.sqlite") as made:
        made.begin_run("run", "")
    return folder


def test_it_serves_until_it_is_interrupted(store: Path) -> None:
    command = [sys.executable, "-m", "agentrl.cli", "view", str(store), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        assert "run" in httpx.get(found.group()).text
        assert httpx.get(found.group(), headers={"host": "evil.example"}).status_code == 421
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""


def fails(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for words in said:
        assert words in line


def test_a_taken_port_is_one_line(store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fails(view(str(store), "--port", str(port)), f"127.0.0.1:{port}", "--port")


def test_no_store_is_one_line(agentrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    agentrl("view", "nowhere").fails_in_one_line("'nowhere'", "no such file or folder")
    agentrl("view").fails_in_one_line("'.'", "holds no store", "agentrl train")
    (tmp_path / "runs").mkdir()
    agentrl("view").fails_in_one_line("'runs'")
    (tmp_path / "runs" / "store.sqlite").write_text("nonsense" * 200)
    agentrl("view").fails_in_one_line("cannot be opened", "not a database")
    agentrl("view", "ftp://host/x").fails_in_one_line("'ftp' is not supported")


def test_a_missing_package_is_named(agentrl, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    for name in [name for name in sys.modules if name.startswith("agentrl.viewer")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    for name in [name for name in sys.modules if name.startswith("starlette.")]:
        monkeypatch.setitem(sys.modules, name, None)
    agentrl("view", ".").fails_in_one_line("needs the package starlette", "pip install")


def test_an_address_of_another_machine_is_one_line(agentrl, store: Path) -> None:  # type: ignore[no-untyped-def]
    shown = agentrl("view", str(store), "--host", "203.0.113.7", "--no-browser")
    assert shown.code == 2
    assert "shows every episode to whoever can reach this machine" in shown.err
    assert "203.0.113.7:8321 cannot be served on" in shown.err


@pytest.mark.parametrize("host", ["x" * 70, "a..b", ""])
def test_what_can_be_no_address_is_one_line(agentrl, store: Path, host: str) -> None:  # type: ignore[no-untyped-def]
    shown = agentrl("view", str(store), "--host", host, "--no-browser")
    assert shown.code == 2
    assert shown.err.splitlines()[-1].startswith(f"error: --host {host!r} is no address of this machine: ")


def test_a_folder_that_may_not_be_looked_into_is_passed_over(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look everywhere, so the system's answer is a made-up one."""
    from agentrl.viewer.catalog import find_places

    (store.parent / "locked").mkdir()
    stat = os.stat

    def refusing(path: object, **settings: bool) -> os.stat_result:
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refusing)
    assert [place.title for place in find_places(str(store.parent))] == ["run"]
    with pytest.raises(StoreError, match="no such file or folder that you may read"):
        find_places(str(store.parent / "locked"))


def test_one_store_that_cannot_be_brought_up_to_date_leaves_the_others_in_view(agentrl, store: Path) -> None:  # type: ignore[no-untyped-def]
    (store.parent / "bad").mkdir()
    (store.parent / "bad" / "store.sqlite").write_bytes(b"nonsense" * 500)
    with socket.socket() as taken:  # so that the command ends
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = agentrl("view", str(store.parent), "--migrate", "--no-browser", "--port", str(port))
    assert "warning: --migrate left one store as it is" in shown.err and "bad/store.sqlite" in shown.err
    assert f"127.0.0.1:{port} cannot be served on" in shown.err
    agentrl("view", str(store.parent / "bad"), "--migrate").fails_in_one_line("not a database")


def test_a_folder_that_cannot_be_written_is_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the system's answer is a made-up one; what SQLite then leaves behind is real."""
    from agentrl.viewer.opening import open_for_reading

    monkeypatch.setattr(os, "access", lambda *_: False)
    with open_for_reading(str(store / "store.sqlite")) as opened:
        assert opened.runs()[0].name == "run"
        assert [part.name for part in store.iterdir()] == ["store.sqlite"]
