"""The engine's side of the backend `docker`: hardened containers, who owns them, and the end of those left behind.

docker-py blocks, so that everything here runs in threads (`docker_pool`), each with a client of its own. A container
carries its owner (machine, process, start of the process) and a deadline as labels; `sweep` removes those whose owner
is gone or whose deadline has passed, whoever made them.

Invariant: a container that was created is either returned to the caller or removed, whatever raises in between.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.errors import SandboxError
from agentrl.sandbox import Limits

if TYPE_CHECKING:
    from docker import APIClient

_log = logging.getLogger(__name__)
REQUEST_SECONDS = 60
"""What the engine has to answer one request."""
WATCH_SECONDS = 1.0
"""Before the engine's events are asked for again when they were lost."""
LABEL = "agentrl.sandbox"
OWNER = f"{LABEL}.owner"
DEADLINE = f"{LABEL}.deadline"
ROOT = "/tmp/work"
"""The working folder inside; its file system holds `/tmp` as well, so that the disk limit is one number."""
USER = 65534
"""User and group inside."""
CPUS = 1.0
"""Processors of a container: what its CPU time can be is thus bounded by the wall limit."""
_SHARED_MEMORY = 1 << 20
"""Bytes of /dev/shm, enough for semaphores; it is no place for files."""
_OWN_PROCESSES = 3
"""Of ours in a container: the init and the guest's two threads."""
_STARTER = """\
import os, platform, sys
guest, filters = sys.argv[1:3]
del sys.argv[1:3]
sys.path[:] = [path for path in sys.path if path]
os.makedirs({root!r}, exist_ok=True)
seccomp = {{"__name__": "seccomp"}}
exec(compile(filters, "seccomp.py", "exec"), seccomp)
if platform.machine() in seccomp["_MACHINES"]:
    seccomp["install"](seccomp["program"]())
exec(compile(guest, "guest.py", "exec"), {{"__name__": "__main__", "__file__": "guest.py"}})
"""
"""The guest and the filter of system calls come as arguments: any image with a Python has what they need.

The filter is put on top of the engine's own, which lets processes trace the init and open sockets to a hypervisor.
"""
ENVIRONMENT = {
    "HOME": ROOT,
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",  # the same code has the same output: an episode branches by running it again
}


_ANY = Limits()


@dataclass(frozen=True, slots=True)
class Container:
    """A started container and the connection to the guest in it."""

    id: str
    limits: Limits
    """Those that it was made for; see `made_for`."""
    connection: socket.socket
    deadline: float
    """Seconds since the epoch when its lease ends."""


def made_for(limits: Limits) -> Limits:
    """The limits that a container is made with: the seconds of a call hold from outside and are not among them."""
    return replace(limits, wall=_ANY.wall, cpu=_ANY.cpu)


class Engine:
    """A Docker engine at a URL."""

    def __init__(self, url: str, *, runtime: str | None, python: str, lease: float) -> None:
        self.url = url
        self.lease = lease
        self._runtime = runtime
        self._python = python
        self._clients = threading.local()
        self._owner = owner()
        self._events: Any = None
        self._ended = threading.Event()

    @contextmanager
    def client(self) -> Iterator[APIClient]:
        """This thread's client; docker-py's are not for several threads."""
        if not hasattr(self._clients, "client"):
            from docker import APIClient

            self._clients.client = APIClient(base_url=self.url, version="auto", timeout=REQUEST_SECONDS)
        try:
            yield self._clients.client
        finally:
            self._clients.client.close()  # its connections: it keeps one for each path, and paths name containers

    def start(self, image: str, limits: Limits) -> Container:
        """A container of `image` with the guest running in it; raises `SandboxError`."""
        from docker.errors import DockerException

        deadline = time.time() + self.lease
        made: str | None = None
        try:
            with self.client() as client:
                made = client.create_container(**self._description(client, image, limits, deadline))["Id"]
                attached = client.attach_socket(made, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
                client.start(made)
                return Container(made, limits, _own(attached), deadline)
        except BaseException as error:
            if made is not None:
                self.remove(made)
            if isinstance(error, DockerException | OSError):
                raise SandboxError(f"a container of {image} cannot be started: {_explained(error)}") from error
            raise

    def _description(self, client: APIClient, image: str, limits: Limits, deadline: float) -> dict[str, Any]:
        host = client.create_host_config(
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=limits.processes + _OWN_PROCESSES,
            mem_limit=limits.memory + limits.disk,  # what lies in a tmpfs counts as memory
            memswap_limit=limits.memory + limits.disk,
            nano_cpus=int(CPUS * 1e9),
            tmpfs={"/tmp": f"rw,exec,nosuid,nodev,size={limits.disk},mode=1777,uid={USER},gid={USER}"},
            shm_size=_SHARED_MEMORY,
            init=True,
            log_config={"type": "none"},  # the engine would keep every frame on its disk
            runtime=self._runtime,
        )
        return {
            "image": image,
            "command": [self._python, "-s", "-c", *_program(limits)],
            "entrypoint": [],
            "host_config": host,
            "user": f"{USER}:{USER}",
            "hostname": "sandbox",
            "environment": ENVIRONMENT,
            "working_dir": "/",
            "stdin_open": True,
            "labels": {LABEL: "1", OWNER: self._owner, DEADLINE: str(int(deadline))},
        }

    def remove(self, container: str) -> None:
        """Kill the container and remove it; it may be gone. What the engine refuses is left to a later `sweep`."""
        from docker.errors import APIError, DockerException

        try:
            with self.client() as client:
                client.remove_container(container, force=True, v=True)
        except APIError as error:
            if error.status_code not in (404, 409):  # gone; being removed by somebody else
                _log.warning("the container %s could not be removed: %s", container[:12], _explained(error))
        except (DockerException, OSError) as error:
            _log.warning("the container %s could not be removed: %s", container[:12], _explained(error))

    def state(self, container: str) -> Mapping[str, Any]:
        """The engine's `State` of a container; empty where it says nothing."""
        from docker.errors import DockerException

        try:
            with self.client() as client:
                state: Mapping[str, Any] = client.inspect_container(container)["State"]
            return state
        except (DockerException, OSError) as error:
            _log.debug("the container %s cannot be looked at: %s", container[:12], _explained(error))
            return {}

    def watch(self, exhausted: Callable[[str], None]) -> None:
        """Call `exhausted` with the id of each container in which the kernel kills for memory, until `end_watch`.

        Of a child that was killed the guest itself would say nothing.
        """
        from docker import APIClient
        from docker.errors import DockerException

        wanted = {"event": "oom", "label": f"{OWNER}={self._owner}"}
        while not self._ended.is_set():
            try:
                with closing(APIClient(base_url=self.url, version="auto", timeout=None)) as client:
                    self._events = client.events(filters=wanted, decode=True)
                    for event in self._events:
                        exhausted(str(event["id"]))
            except (DockerException, OSError, ValueError, AttributeError) as error:  # as a stream that is closed ends
                if not self._ended.wait(WATCH_SECONDS):
                    _log.warning("the engine's events were lost and are asked for again: %s", _explained(error))

    def end_watch(self) -> None:
        """Let `watch`, which another thread is in, return. For good."""
        self._ended.set()
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def sweep(self) -> int:
        """Remove the containers of owners that are gone, and those past their deadline; gives their number."""
        from docker.errors import DockerException

        try:
            stale = [item["Id"] for item in self.containers() if _is_stale(item["Labels"])]
        except (DockerException, OSError) as error:
            _log.warning("containers left behind could not be looked for: %s", _explained(error))
            return 0
        for container in stale:
            self.remove(container)
        return len(stale)

    def containers(self) -> list[dict[str, Any]]:
        """The engine's record of every container that an agentrl process made."""
        with self.client() as client:
            found: list[dict[str, Any]] = client.containers(all=True, filters={"label": LABEL})
        return found


def why_not(url: str) -> str | None:
    """None if an engine answers at `url`, else why it does not and what to do."""
    try:
        from docker import APIClient
        from docker.errors import DockerException
    except ImportError:
        return "the package docker is not installed: pip install 'agentrl[docker]'"
    try:
        client = APIClient(base_url=url, version="auto", timeout=5)
        try:
            if client.info().get("OSType", "linux") != "linux":
                return f"the Docker engine at {url} does not run Linux containers"
        finally:
            client.close()
    except (DockerException, OSError) as error:
        remedy = "start one (dockerd), or name where it listens in the variable DOCKER_HOST"
        return f"no Docker engine answers at {url}: {_explained(error)}; {remedy}"
    return None


def owner() -> str:
    """This process as a label: machine, process id, when the process began."""
    return json.dumps([_machine(), os.getpid(), _began(os.getpid())])


def _is_stale(labels: Mapping[str, str]) -> bool:
    try:
        deadline = float(labels[DEADLINE])
        machine, pid, began = json.loads(labels[OWNER])
    except (KeyError, ValueError, TypeError):
        return True  # nobody who keeps to these labels owns it
    if time.time() > deadline:
        return True
    return machine == _machine() and _began(int(pid)) != began  # elsewhere the deadline alone can say


def _machine() -> str:
    """This boot of this machine and, in a container, whose process ids are other ones, the container."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _began(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        return None if os.path.exists("/proc/self") else _answers(pid)


def _answers(pid: int) -> str | None:
    """The same where there is no `/proc`: whether there is a process of that id is all that can be known."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "runs"
    return "runs"


def _program(limits: Limits) -> list[str]:
    """The starter and its arguments."""
    sources = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("guest.py", "seccomp.py")]
    # the engine counts processes: the kernel's count of a user's would be of all containers together
    each = {"memory": limits.memory, "disk": limits.disk, "processes": None}
    options = {"limits": each, "channel": [0, 1], "root": ROOT, "output": limits.output}
    return [_STARTER.format(root=ROOT), *sources, json.dumps(options)]


def _own(attached: Any) -> socket.socket:
    """The connection behind docker-py's response as a socket of our own, which no response closes."""
    raw = getattr(attached, "_sock", attached)
    connection = socket.socket(fileno=os.dup(raw.fileno()))
    getattr(attached, "_response", attached).close()
    return connection


def _explained(error: BaseException) -> str:
    """One line: the engine's own words where there are some."""
    said = str(getattr(error, "explanation", None) or error) or type(error).__name__
    return said.strip().split("\n")[0][:300]
