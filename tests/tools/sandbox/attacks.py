"""Hostile programs, and what each of them tries: the collection that `test_attacks` runs over every backend.

An attack is a function whose source is sent into a sandbox; it gets `host`, a dict of what the test planted outside
(see `Host.facts`), and calls `breach` when it got what it must not get. Programs on secrets and the parent stand here,
on network, mounts and modules in `attacks_system`, on limits in `attacks_limits`, on the protocol, on what judges
programs and on other episodes in `attacks_protocol`.

Invariant: a program harms nothing should the backend fail. Bombs are bounded, and what would strike the host (signals
to every process) is fired only after the program has seen that it is in another process-id namespace than the host.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentrl.sandbox import Limits, Outcome

ISOLATED = frozenset({"fork", "bubblewrap", "docker"})
"""Backends that keep code from what it has no business with."""
EVERY = ISOLATED | {"none"}
"""`none` isolates nothing: only what is about limits and clean-up is asked of it."""
ENDED = frozenset({Outcome.OK, Outcome.ERROR})
SMALL = Limits(wall=10.0, cpu=8.0, memory=256 << 20, processes=24, output=16 << 10, disk=8 << 20)

PRELUDE = """
import ctypes, os, sys
def opened(path):
    with open(path, "rb") as file: return file.read(1)
def breach(what): os.write(1, ("BREACH: %s\\n" % (what,)).encode())
def attempt(what, action, *args):
    try: result = action(*args)
    except BaseException: return
    breach("%s: %r" % (what, result))
def isolated():
    try: return os.stat("/proc/self/ns/pid").st_ino != host["pid_namespace"]
    except OSError: return True
try: ctypes.CDLL(None).prctl(15, host["mark"].encode(), 0, 0, 0)
except BaseException: pass
"""
TRIED = "the attack was tried to its end"


@dataclass(frozen=True, slots=True)
class Attack:
    """One program, where it must fail, and how its execution may end."""

    function: Callable[[dict[str, Any]], None]
    kind: str
    blocked: frozenset[str]
    outcomes: frozenset[Outcome]
    limits: Limits
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.function.__name__

    def source(self, facts: Mapping[str, Any]) -> str:
        """The program with the facts about the host."""
        return program(self.function, facts) + f"\nprint({TRIED!r})\n"


ATTACKS: list[Attack] = []


def attack(
    kind: str,
    *,
    blocked: frozenset[str] = ISOLATED,
    outcomes: frozenset[Outcome] = ENDED,
    limits: Limits = SMALL,
    files: Mapping[str, bytes] | None = None,
) -> Callable[[Callable[[dict[str, Any]], None]], Callable[[dict[str, Any]], None]]:
    """Add the decorated program to the collection."""

    def add(function: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        ATTACKS.append(Attack(function, kind, blocked, outcomes, limits, files or {}))
        return function

    return add


def program(function: Callable[[dict[str, Any]], None], facts: Mapping[str, Any]) -> str:
    """Python source that calls `function(facts)`; the source of the function is sent, not the function."""
    source = textwrap.dedent(inspect.getsource(function))
    source = source[source.index(f"def {function.__name__}(") :]
    return (
        f"host = __import__('json').loads({json.dumps(dict(facts))!r})\n{PRELUDE}\n{source}\n{function.__name__}(host)"
    )


def breach(what: object) -> None:
    """Stands for the function of the prelude, so that programs can be checked; never called here."""
    raise NotImplementedError(what)


def attempt(what: str, action: Callable[..., Any], *args: Any) -> None:
    """As `breach`: success of `action` is a breach."""
    raise NotImplementedError(what, action, args)


def opened(path: str) -> bytes:
    """As `breach`: the first byte of a file."""
    raise NotImplementedError(path)


def isolated() -> bool:
    """As `breach`: whether the program's process ids are its own."""
    raise NotImplementedError


# -- secrets -----------------------------------------------------------------------------------------------------------


@attack("secrets")
def own_environment(host: dict[str, Any]) -> None:
    import os

    for name, value in os.environ.items():
        if host["needle"][::-1] in value:
            breach(f"the host's variable {name}")


@attack("secrets")
def environment_of_every_process(host: dict[str, Any]) -> None:
    import glob

    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/task/*/environ"):
        try:
            with open(path, "rb") as file:
                if host["needle"][::-1].encode() in file.read():
                    breach(path)
        except OSError:
            pass


@attack("secrets")
def command_lines_of_the_host(host: dict[str, Any]) -> None:
    import glob

    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                if host["needle"][::-1].encode() in file.read():
                    breach(path)
        except OSError:
            pass


@attack("secrets")
def file_of_the_host(host: dict[str, Any]) -> None:
    attempt("a world-readable file of the host", opened, host["file"])


@attack("secrets")
def file_through_roots_of_processes(host: dict[str, Any]) -> None:
    import glob

    doors = ["/proc/self/root", "/proc/self/cwd/../../../../..", f"/proc/{host['pid']}/root", "/.old", "/oldroot"]
    for door in doors + glob.glob("/proc/[0-9]*/root") + glob.glob("/proc/[0-9]*/cwd") + glob.glob("/proc/*/fd/*"):
        attempt(door, opened, door + host["file"])


@attack("secrets")
def home_folder(host: dict[str, Any]) -> None:
    import os

    for name in host["home_entries"]:
        if os.path.exists(os.path.join(host["home"], name)):
            breach(f"{name} of the host's home")
    attempt("the host's ssh keys", os.listdir, os.path.join(host["home"], ".ssh"))


@attack("secrets")
def working_tree(host: dict[str, Any]) -> None:
    import os

    for name in ("pyproject.toml", "tests/conftest.py", ".git/config"):
        attempt("the host's working tree", opened, os.path.join(host["tree"], name))


@attack("secrets")
def system_secrets(host: dict[str, Any]) -> None:
    for path in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/proc/kcore", "/dev/mem", "/dev/kmsg"):
        attempt(path, opened, path)


@attack("secrets")
def search_of_every_folder(host: dict[str, Any]) -> None:
    import os
    import time

    end = time.monotonic() + 1.5
    for start in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/home", "/root", "/mnt", "/srv", "/opt"):
        for folder, folders, names in os.walk(start):
            if time.monotonic() > end:
                return
            folders[:] = [name for name in folders if name not in ("lib", "site-packages", "share")]
            if os.path.basename(host["file"]) in names:
                breach(f"the host's file in {folder}")


@attack("secrets")
def disk_of_the_host(host: dict[str, Any]) -> None:
    import os
    import stat

    def node(number: int) -> bytes:
        os.mknod("disk", 0o600 | stat.S_IFBLK, number)
        with open("disk", "rb") as file:
            return file.read(16)

    attempt("the disk by a device node", node, host["disk"])
    for name in os.listdir("/dev"):
        if os.path.exists("/dev/" + name) and stat.S_ISBLK(os.stat("/dev/" + name).st_mode):
            breach(f"block device {name}")


@attack("secrets")
def file_by_handle(host: dict[str, Any]) -> None:
    """The attack `shocker`: a file by its inode, past every mount."""
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    handle = (ctypes.c_char * 16).from_buffer_copy(
        (8).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"\2" + bytes(7)
    )
    for path in ("/", "/usr", "/proc", "/etc/hosts", "/dev/shm", "."):
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        if libc.open_by_handle_at(fd, handle, os.O_RDONLY) >= 0:
            breach(f"open_by_handle_at from {path}")


# -- the parent's memory, descriptors and processes --------------------------------------------------------------------


@attack("parent")
def memory_of_every_process(host: dict[str, Any]) -> None:
    import os

    needle = host["needle"][::-1].encode()
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    for pid in {*others, str(os.getppid()), str(host["pid"])}:
        try:
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                areas = [line.split()[0] for line in maps if " rw-p " in line][:200]
                for area in areas:
                    start, end = (int(part, 16) for part in area.split("-"))
                    memory.seek(start)
                    if needle in memory.read(min(end - start, 4 << 20)):
                        breach(f"memory of process {pid}")
        except (OSError, ValueError):
            pass


@attack("parent")
def tracing(host: dict[str, Any]) -> None:
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for pid in {os.getppid(), 1, host["pid"], host["victim"]} - {0, os.getpid()}:
        if libc.ptrace(0x4206, pid, None, None) == 0:  # PTRACE_SEIZE does not stop what it holds
            breach(f"traces process {pid}")


@attack("parent")
def memory_by_system_call(host: dict[str, Any]) -> None:
    import ctypes
    import os

    class Span(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    libc = ctypes.CDLL(None, use_errno=True)
    target = ctypes.create_string_buffer(16)
    here = Span(ctypes.addressof(target), 16)
    for pid in {os.getppid(), 1, host["pid"], host["victim"]} - {0, os.getpid()}:
        there = Span(id(os), 16)
        if libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0:
            breach(f"reads process {pid}")


@attack("parent")
def inherited_descriptors(host: dict[str, Any]) -> None:
    import os

    for fd in range(3, 256):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
            data = os.pread(fd, 4096, 0)
        except OSError:
            continue
        if host["needle"][::-1].encode() in data or target == host["file"]:
            breach(f"descriptor {fd} is {target}")


@attack("parent")
def folders_left_open(host: dict[str, Any]) -> None:
    """A descriptor of a folder outside leads out of any root."""
    import os

    for fd in range(3, 256):
        attempt(f"through descriptor {fd}", lambda fd=fd: os.open("../" * 20 + host["file"][1:], 0, dir_fd=fd))


@attack("parent")
def descriptors_of_others(host: dict[str, Any]) -> None:
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    for pid in {os.getppid(), 1, host["pid"], host["victim"]} - {0, os.getpid()}:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        for fd in range(16):
            if libc.syscall(438, handle, fd, 0) >= 0:  # pidfd_getfd
                breach(f"descriptor {fd} of process {pid}")


@attack("parent")
def signals_to_the_host(host: dict[str, Any]) -> None:
    import contextlib
    import os
    import signal

    if not isolated():
        return breach("shares process ids with the host")
    for pid in (host["victim"], host["pid"], -host["victim"]):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@attack("parent", outcomes=ENDED | {Outcome.KILLED, Outcome.TIMEOUT})
def signal_to_everyone(host: dict[str, Any]) -> None:
    import contextlib
    import os
    import signal

    if not isolated():
        return breach("shares process ids with the host")
    with contextlib.suppress(ProcessLookupError):  # there is nobody else
        os.kill(-1, signal.SIGKILL)


@attack("parent")
def processes_of_the_host(host: dict[str, Any]) -> None:
    import os

    for name in os.listdir("/proc"):
        if name.isdigit():
            with open(f"/proc/{name}/stat") as file:
                if host["victim_comm"] in file.read():
                    breach(f"sees the host's process {name}")
    if os.path.exists(f"/proc/{host['victim']}/comm") and not isolated():
        breach("shares process ids with the host")
