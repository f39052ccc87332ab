"""A Docker engine of the tests' own: a `dockerd` over a temporary folder, with its socket in it, and its end.

It needs root and Debian's package docker.io, and touches nothing of an engine that runs on the machine. Invariant:
nothing is left of it: no process, no mount, no folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60.0
STOP_SECONDS = 30.0
ROOM = 4 << 30
"""Bytes of memory disk that the engine's data may need, with much to spare."""


@dataclass(frozen=True)
class OwnEngine:
    """A running engine."""

    url: str
    pid: int

    def containers(self) -> list[dict[str, Any]]:
        """The engine's record of every container, running or not."""
        from docker import APIClient

        client = APIClient(base_url=self.url, version="auto", timeout=30)
        try:
            found: list[dict[str, Any]] = client.containers(all=True)
            return found
        finally:
            client.close()

    def pause(self) -> None:
        """Let it hang: it answers nobody until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def cannot_start() -> str | None:
    """Why there can be no engine of our own here."""
    if os.geteuid() != 0:
        return "dockerd needs root"
    return None if shutil.which("dockerd") else "dockerd is not installed: apt-get install docker.io"


@contextmanager
def own_engine() -> Iterator[OwnEngine]:
    """An engine for as long as the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="agentrl-dockerd-", dir=_place()))
    url = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=overlay2"]
    command += [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", "-H", url]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(url, process, folder / "log")
        yield OwnEngine(url, process.pid)
    finally:
        _stop(process)
        left = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
        for line in left:
            subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"mounts of the engine were left: {left}"


def _place() -> str | None:
    """Memory where there is room: on a busy disk an image of ten thousand files takes a minute to come and go."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > ROOM else None


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    from docker import APIClient
    from docker.errors import DockerException

    until = time.monotonic() + START_SECONDS
    while True:
        try:
            APIClient(base_url=url, version="auto", timeout=5).close()
            return
        except DockerException:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"dockerd did not start: {log.read_text()[-1000:]}") from None
            time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it politely: it ends its containerd and unmounts what it mounted."""
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
