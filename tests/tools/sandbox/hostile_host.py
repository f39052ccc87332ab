"""What the attacks are after: secrets, servers and processes planted on this machine, and counts of what is left.

Nothing real is looked for. Invariant: `Host.unharmed` fails if anything that was planted was reached or changed, and
`Host.left` counts what a session left behind, of this test's programs only: others work on the machine as well.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tools.sandbox.backends import descriptors, processes_with

_TREE = Path(__file__).resolve().parents[3]
_NOT_OURS = ("overlay", "nsfs", "/docker", "docker", "shm rw")
"""Mounts that a Docker engine makes meanwhile."""


class Host:
    """What is planted, for one module of tests."""

    def __init__(self, folder: Path) -> None:
        self.canary = secrets.token_hex(16)
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir(mode=0o777)
        self.temporary.chmod(0o777)
        self.file = folder / f"secret-{secrets.token_hex(4)}"
        self.file.write_text(self.canary)
        self.shm = Path("/dev/shm") / f"agentrl-{secrets.token_hex(4)}"
        self.shm.write_text(self.canary)
        self.shm_key = secrets.randbelow(1 << 30) + 1
        self._segment = ctypes.CDLL(None).shmget(self.shm_key, 4096, 0o1666)
        self.victim = self._victim()
        self.reached: list[str] = []
        self._servers = [self._server(socket.AF_INET, ("127.0.0.1", 0))]
        self._servers += [
            self._server(socket.AF_UNIX, name) for name in (str(folder / "socket"), "\0" + self.canary[:8])
        ]
        self._addresses = sorted({str(item[4][0]) for item in socket.getaddrinfo(socket.gethostname(), 80)})
        self._file = os.open(self.file, os.O_RDONLY)
        os.set_inheritable(self._file, True)
        self._root = os.open("/", os.O_RDONLY)
        os.set_inheritable(self._root, True)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        assert self.victim.stdin is not None
        self.victim.stdin.close()
        self.victim.wait(10)
        self.shm.unlink()
        ctypes.CDLL(None).shmctl(self._segment, 0, None)
        os.close(self._file)
        os.close(self._root)

    def facts(self, mark: str) -> dict[str, Any]:
        """What a program is told, so that it can look in the right places; the secret is given backwards."""
        home = Path.home()
        needed = [Path(path).resolve() for path in (sys.prefix, sys.base_prefix, sys.executable)] + [Path(sys.prefix)]
        entries = [] if not home.is_dir() else sorted(home.iterdir())
        names = socket.if_nameindex()
        return {
            "mark": mark,
            "number": _number(mark),
            "needle": self.canary[::-1],
            "file": str(self.file),
            "home": str(home),
            "home_entries": [e.name for e in entries if not any(e in (path, *path.parents) for path in needed)][:50],
            "tree": str(_TREE),
            "disk": os.stat("/").st_dev,
            "pid": os.getpid(),
            "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
            "victim": self.victim.pid,
            "victim_comm": f"victim{self.canary[:8]}",
            "port": self._servers[0].getsockname()[1],
            "addresses": self._addresses,
            "interfaces": [name for _, name in names if name.startswith(("e", "w", "br", "docker", "veth"))],
            "socket": str(self.folder / "socket"),
            "abstract": self.canary[:8],
            "sockets": _unix_sockets(),
            "shm": self.shm.name,
            "shm_key": self.shm_key,
            "leak_key": int(mark[3:], 16) & 0x3FFFFFFF | 1,
            "leak_port": 20_000 + int(mark[3:], 16) % 20_000,
        }

    def unharmed(self) -> None:
        """Fails if a program reached or changed something."""
        assert self.victim.poll() is None, "the host's process was killed"
        assert self.file.read_text() == self.canary, "the host's file was changed"
        assert not self.reached, f"somebody connected to {self.reached}"

    def left(self, mark: str) -> list[str]:
        """Processes, temporary files and mounts that programs with this mark left."""
        number = _number(mark)
        found = [f"process {pid}" for pid in {*processes_with(mark), *processes_with(number)}]
        found += [f"file {path}" for place in ("/tmp", "/dev/shm", "/var/tmp") for path in Path(place).glob(f"{mark}*")]
        return found

    def state(self) -> set[str]:
        """What must be the same after a session: files, mounts and this process's descriptors."""
        found = {f"file {path}" for path in self.temporary.iterdir()}
        found |= {f"descriptor {number} {target}" for number, target in descriptors()}
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            where = line.split(" ", 4)[4]
            if not any(word in where for word in _NOT_OURS):
                found.add(f"mount {where}")
        return found

    def _victim(self) -> subprocess.Popen[bytes]:
        """A process with the secret in its environment, command line and memory; it ends with its standard input."""
        program = self.folder / f"victim{self.canary[:8]}"
        program.symlink_to("/bin/sh")
        environment = {"AGENTRL_TEST_SECRET": self.canary}
        command = [str(program), "-c", "read line", self.canary]
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)

    def _server(self, family: socket.AddressFamily, address: Any) -> socket.socket:
        server = socket.socket(family)
        server.bind(address)
        server.listen()
        if family == socket.AF_UNIX and address[0] != "\0":
            os.chmod(address, 0o777)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.close()
                self.reached.append(repr(address))

        threading.Thread(target=accept, daemon=True).start()
        return server


def _number(mark: str) -> str:
    """A number of seconds to sleep that nobody else sleeps: it finds commands as the mark finds programs."""
    return f"{int(mark[3:], 16)}.25"


def _unix_sockets() -> list[str]:
    """Names of sockets of this machine that are listened to."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    names = [
        line.split(None, 7)[7] for line in lines if len(line.split(None, 7)) == 8 and line.split()[3] == "00010000"
    ]
    return ["\0" + name[1:] if name.startswith("@") else name for name in names][:20]


@contextmanager
def hostile_host(folder: Path) -> Iterator[Host]:
    """A host whose temporary files go to a folder of its own, and with the secret among its variables."""
    host, kept = Host(folder), (tempfile.tempdir, dict(os.environ))
    tempfile.tempdir = os.environ["TMPDIR"] = str(host.temporary)
    os.environ["AGENTRL_TEST_SECRET"] = host.canary
    try:
        yield host
    finally:
        tempfile.tempdir = kept[0]
        os.environ.clear()
        os.environ.update(kept[1])
        host.close()
