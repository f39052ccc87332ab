"""The backend `bubblewrap`: every session in namespaces of its own, set up by bubblewrap's program `bwrap`.

The sandbox sees the interpreter, the libraries and `/usr`, all read-only, and one sized tmpfs; no network, no
processes, no files and no environment of the host. `bwrap` itself starts with an empty environment, because what it
starts with can be read from inside. As root it runs as an ordinary user: root is beyond the limit on processes.

Invariant: a session is one process-id namespace whose first process is the child of `bwrap`. When that child is killed
the kernel kills the rest, and only then does `bwrap` end.
"""

from __future__ import annotations

import json
import marshal
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from agentrl.errors import ConfigError, SandboxError
from agentrl.sandbox import NO_FILES, Limits, Sandbox, Session

from . import seccomp
from .hidden import hidden_folders
from .local import LocalSession, Starts, kill_all, tree

USER = 65534
"""User and group id inside; as root, outside as well."""
ROOT = "/tmp/work"
"""The working folder inside."""
GUEST = "/run/guest.pyc"
PROBE_SECONDS = 20.0
PYTHON = (sys.executable, "-P", "-s", "-B")
"""No module of the working folder or of a user, nothing cached; the environment is ours."""
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": ROOT,
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # each thread would reserve 64 MiB of the address space that the memory limit allows
    "PYTHONHASHSEED": "0",  # the same code has the same output: an episode branches by running it again
}
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives")
_STAGE = 'while [ "$1" != -- ]; do mount --rbind "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"'
"""Binds what an ordinary user cannot reach (an interpreter in root's home) to where it can, then goes on."""


class BubblewrapSandbox(Sandbox):
    """Python and commands in bubblewrap's namespaces. Needs `bwrap` 0.8 and user namespaces; root or ordinary user."""

    name = "bubblewrap"
    remedy = "apt-get install -y bubblewrap"

    def __init__(self, *, readonly: Sequence[str] = ()) -> None:
        """`readonly`: files and folders of this machine that the code may read, at the same paths."""
        for path in readonly:
            if not os.path.isabs(path) or not os.path.exists(path):
                raise ConfigError(f"sandbox 'bubblewrap': readonly={path!r} must be an absolute path that exists")
        self._sessions: set[LocalSession] = set()
        self._closed = False
        self._starts = Starts()
        self._binds = [*_interpreter(), *readonly]
        self._stage = _Stage([path for path in self._binds if os.getuid() == 0 and not _open_to_all(path)])
        self._given = {"guest": _guest_program(), "filter": seccomp.program()}

    @classmethod
    def why_not(cls) -> str | None:
        if not sys.platform.startswith("linux"):
            return "it needs Linux"
        if shutil.which("bwrap") is None:
            return "bwrap is not on PATH: apt-get install bubblewrap"
        needed = ("setpriv", "unshare", "mount") if os.getuid() == 0 else ()
        if missing := [program for program in needed if shutil.which(program) is None]:
            return f"{missing[0]} is not on PATH: apt-get install util-linux mount"
        sandbox = cls()
        try:
            said = sandbox.probe()
        finally:
            sandbox.close()
        return said and f"{said}: it needs bubblewrap 0.8 and user namespaces (sysctl user.max_user_namespaces)"

    @classmethod
    def summary(cls) -> str:
        user = "an ordinary user" if os.getuid() == 0 else "the caller"
        return f"namespaces, seccomp, read-only system, sized tmpfs, no network; runs as {user} without capabilities"

    async def open(self, *, limits: Limits = Limits(), files: Mapping[str, bytes] = NO_FILES) -> Session:
        async with self._starts.gate():
            return await self._open(limits, files)

    async def _open(self, limits: Limits, files: Mapping[str, bytes]) -> Session:
        if self._closed:
            raise SandboxError("the sandbox is closed")
        ours, theirs = socket.socketpair()
        with theirs:
            options = {
                "limits": {"memory": limits.memory, "disk": limits.disk, "processes": limits.processes},
                "channel": [theirs.fileno()] * 2,
                "root": ROOT,
                "output": limits.output,
            }
            try:
                process = self._launch(limits, [*PYTHON, GUEST, json.dumps(options)], theirs.fileno())
            except OSError as error:
                ours.close()
                raise SandboxError(f"bwrap cannot be started: {error}") from error
        session = _BubblewrapSession(process, ours, limits, forget=self._sessions.discard)
        self._sessions.add(session)
        await session.start(files)
        return session

    def close(self) -> None:
        self._closed = True
        for session in list(self._sessions):
            session.end()
            self._sessions.discard(session)
        self._stage.close()

    def probe(self) -> str | None:
        """Run an empty program in a sandbox; None if that works, else what `bwrap` says."""
        try:
            process = self._launch(Limits(), [*PYTHON, "-c", ""], errors=subprocess.PIPE)
            said = process.communicate(timeout=PROBE_SECONDS)[1].decode(errors="replace").strip().splitlines()
        except subprocess.TimeoutExpired:
            kill_all(tree(process.pid))
            process.communicate()
            return f"an empty program did not end in {PROBE_SECONDS:g} seconds"
        except OSError as error:
            return str(error)
        return None if process.returncode == 0 else said[-1] if said else f"exit code {process.returncode}"

    def _launch(
        self, limits: Limits, command: list[str], *descriptors: int, errors: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """`command` in a new sandbox, with `descriptors` open in it."""
        given = {name: _readable(data) for name, data in self._given.items()}
        try:
            return subprocess.Popen(
                [*self._stage.command(), *_as_user(), *self._bwrap(limits, given), "--", *command],
                env={"PATH": os.defpath} if self._stage.used else {},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(*given.values(), *descriptors),
                start_new_session=True,
            )
        finally:
            for descriptor in given.values():
                os.close(descriptor)

    def _bwrap(self, limits: Limits, given: Mapping[str, int]) -> list[str]:
        shared = max(limits.disk // 8, 1)  # one limit on two file systems: every size is the sum's part
        made = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
        made += ["--cap-drop", "ALL", "--uid", str(USER), "--gid", str(USER), "--hostname", "sandbox", "--clearenv"]
        for name, value in ENVIRONMENT.items():
            made += ["--setenv", name, value]
        made += ["--ro-bind", "/usr", "/usr"]
        for path in _SYSTEM:
            if os.path.islink(path):
                made += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                made += ["--ro-bind", path, path]
        for path in _SETTINGS:
            made += ["--ro-bind-try", path, path]
        made += ["--proc", "/proc", "--dev", "/dev", "--size", str(shared), "--tmpfs", "/dev/shm"]
        made += ["--size", str(max(limits.disk - shared, 1)), "--tmpfs", "/tmp"]
        for path in self._binds:
            made += ["--ro-bind", self._stage.place(path), path]
        for path in hidden_folders():
            if any(path.startswith(f"{shown}/") for shown in ("/usr", *self._binds)):
                made += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
        made += ["--dir", ROOT, "--ro-bind-data", str(given["guest"]), GUEST, "--chdir", ROOT]
        made += ["--remount-ro", "/dev", "--remount-ro", "/", "--seccomp", str(given["filter"])]
        return [_program("bwrap"), *made]


class _BubblewrapSession(LocalSession):
    def kill(self) -> None:
        first, *others = self.processes() or [0]
        # `bwrap` waits for the namespace's first process, which goes last: when `bwrap` has ended, nothing is left
        kill_all(others or [first] * (first > 0))


class _Stage:
    """Where paths that only root reaches are bound, in a mount namespace that each start of `bwrap` has for itself."""

    def __init__(self, paths: list[str]) -> None:
        self._folder: str | None = None
        self._places: dict[str, str] = {}
        for number, path in enumerate(paths):
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="agentrl-bubblewrap-")
                os.chmod(self._folder, 0o755)
            self._places[path] = os.path.join(self._folder, str(number))
            if os.path.isdir(path):
                os.mkdir(self._places[path])
            else:
                Path(self._places[path]).touch()

    @property
    def used(self) -> bool:
        return bool(self._places)

    def place(self, path: str) -> str:
        """Where `path` is to be found."""
        return self._places.get(path, path)

    def command(self) -> list[str]:
        """What stands before the command that is to see the paths there."""
        if not self.used:
            return []
        pairs = [part for pair in self._places.items() for part in pair]
        apart = [_program("unshare"), "--mount", "--propagation", "private", "--"]
        return [*apart, "/bin/sh", "-c", _STAGE, "sh", *pairs, "--"]

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None


def _program(name: str) -> str:
    """Its full path: what is started has no PATH."""
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not on PATH")
    return found


def _as_user() -> list[str]:
    """What stands before the command that root is to start without being root."""
    if os.getuid() != 0:
        return []
    drop = ["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return [_program("setpriv"), f"--reuid={USER}", f"--regid={USER}", *drop, "--"]


def _interpreter() -> list[str]:
    """Folders that this interpreter needs, without those inside of others."""
    given = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    given += [os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))]
    folders = sorted({os.path.realpath(folder) for folder in given} | {os.path.abspath(folder) for folder in given})
    kept: list[str] = []
    for folder in folders:
        if not any(folder == other or folder.startswith(other + os.sep) for other in ("/usr", *kept)):
            kept.append(folder)
    return kept


def _open_to_all(path: str) -> bool:
    """Whether every user may go to `path`."""
    return all(
        os.stat(folder).st_mode & 0o001 for folder in [path, *map(str, Path(path).parents)] if os.path.isdir(folder)
    )


def _guest_program() -> bytes:
    """The guest program, compiled for this interpreter: nothing can be cached in a read-only sandbox."""
    code = compile(Path(__file__).with_name("guest.py").read_bytes(), GUEST, "exec", dont_inherit=True)
    return MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def _readable(data: bytes) -> int:
    """A descriptor from which `data` can be read."""
    descriptor = os.memfd_create("agentrl")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
