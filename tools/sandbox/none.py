"""The backend `none`: a plain subprocess with limits and a folder of its own, and no isolation whatever.

The code runs as the user who started the program. It reads and writes every file of theirs, talks to the network,
sees the other processes and may kill them. What there is keeps an honest program's accident small: resource limits of
each process, a watch over all of them, an environment without the caller's variables, and the end of everything that
was started, with its folder. It is for machines where no other backend works and for code that one trusts as one's own.

Invariant: nothing chooses this backend by itself; who wants it names it. Processes are found by descent and by a mark
in their environment, so that those which left their parents are ended as well.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentrl.errors import SandboxError
from agentrl.sandbox import NO_FILES, Limits, Sandbox, Session

from .local import LocalSession, Starts, kill_all, started, tree

_MARK = "AGENTRL_SANDBOX"
_PASSES = 100
_GUEST = Path(__file__).with_name("guest.py")
_START = """
import ctypes, runpy, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Makes itself the parent of orphans (PR_SET_CHILD_SUBREAPER), then is the guest."""


class NoSandbox(Sandbox):
    """Python and commands without isolation: only for code that is trusted, and only by name."""

    name = "none"

    def __init__(self) -> None:
        self._sessions: set[LocalSession] = set()
        self._closed = False
        self._starts = Starts()

    @classmethod
    def why_not(cls) -> str | None:
        return None if sys.platform.startswith("linux") else "it needs Linux"

    @classmethod
    def summary(cls) -> str:
        return "no isolation: limits and clean-up only, for code that is trusted"

    async def open(self, *, limits: Limits = Limits(), files: Mapping[str, bytes] = NO_FILES) -> Session:
        async with self._starts.gate():
            return await self._open(limits, files)

    async def _open(self, limits: Limits, files: Mapping[str, bytes]) -> Session:
        if self._closed:
            raise SandboxError("the sandbox is closed")
        folder, mark = tempfile.mkdtemp(prefix="agentrl-none-"), secrets.token_hex(16)
        ours, theirs = socket.socketpair()
        with theirs:
            options = {
                "limits": {"memory": limits.memory, "disk": limits.disk, "processes": None},  # it counts all of a user
                "channel": [theirs.fileno()] * 2,
                "root": folder,
                "output": limits.output,
            }
            try:
                process = subprocess.Popen(
                    [sys.executable, "-sP", "-c", _START, str(_GUEST), json.dumps(options)],
                    env=_environment(folder, mark),
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                _remove(folder)
                raise SandboxError(f"the interpreter cannot be started: {error}") from error
        session = _PlainSession(process, ours, limits, folder, mark, self._sessions.discard)
        self._sessions.add(session)
        await session.start(files)
        return session

    def close(self) -> None:
        self._closed = True
        for session in list(self._sessions):
            session.end()
            self._sessions.discard(session)


class _PlainSession(LocalSession):
    """A session whose processes may leave their parents, and whose files lie in a folder of this machine."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        connection: socket.socket,
        limits: Limits,
        folder: str,
        mark: str,
        forget: Callable[[LocalSession], None],
    ) -> None:
        super().__init__(process, connection, limits, forget=forget, count_tasks=True)
        self._folder = folder
        self._entry = f"{_MARK}={mark}".encode()
        self._ended = self._lost = False
        self._dying: dict[int, int] = {}
        """Processes that were killed, and when they began: a kill takes effect a moment later."""

    def processes(self) -> list[int]:
        found = super().processes()
        found += [pid for pid, began in self._dying.items() if pid not in found and started(pid) == began]
        if self._lost:  # a look at every process of the machine
            marked = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]
            found += [pid for pid in marked if pid not in found]
        return found

    def kill(self) -> None:
        if not self._ended:
            self._ended = True
            self._lost = not self._kill_all_below()
        kill_all(self.processes())

    def _kill_all_below(self) -> bool:
        """Kill all but the first process, which orphans come to; False if some may have gone elsewhere."""
        first = self._process.pid
        if self._process.returncode is not None or started(first) is None:
            return False
        kill_all([first], signal.SIGSTOP)  # it starts no more
        for _ in range(_PASSES):
            others = [pid for pid in tree(first) if pid != first and pid not in self._dying]
            if not others:
                return started(first) is not None
            self._dying.update({pid: started(pid) or 0 for pid in others})
            kill_all(others)
        return False

    def free(self) -> None:
        if os.path.exists(self._folder):
            _remove(self._folder)

    def _is_ours(self, pid: int) -> bool:
        """Whether a process has the mark or works in the folder. One that is dead or another user's has neither."""
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return self._entry in file.read() or os.readlink(f"/proc/{pid}/cwd").startswith(self._folder)
        except OSError:
            return False


def _environment(folder: str, mark: str) -> dict[str, str]:
    """Nothing of the caller's: variables hold keys."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": folder,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "PYTHONHASHSEED": "0",  # the same code has the same output: an episode branches by running it again
        _MARK: mark,
    }


def _remove(folder: str) -> None:
    """Remove a folder whatever the permissions in it are. Links are removed, not followed."""

    def opened(remove: Callable[[str], Any], path: str, _: Any) -> None:
        for each in (os.path.dirname(path), path):
            if not os.path.islink(each):
                os.chmod(each, stat.S_IRWXU)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            remove(path)

    shutil.rmtree(folder, onerror=opened)
