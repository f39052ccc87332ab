"""What a tenant of the fork sandbox sees of the file system.

One root is made when the server starts: copies of the interpreter's folders and of the system's programs and libraries,
a few files of /etc written here, a few devices, all read-only. A session gets a copy of that mount table, and in it its
own /proc and one tmpfs of the size of its disk limit, which holds the working folder, /tmp and /dev/shm.

Standard library only. Invariant: nothing is reachable that is not named here; the old root is detached for good.
"""

from __future__ import annotations

import os

from . import isolation

WORK = "/sandbox"
"""The tenant's working folder and home."""
USER = 1000
"""The tenant's user and group, as it sees itself; outside it is an ordinary user without privileges."""
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/etc/alternatives")
READABLE_FILES = ("/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("null", "full", "random", "urandom")
"""Not `zero`: mapped shared, it is memory that no process's resident size shows."""
_WRITTEN = {
    "/etc/passwd": f"sandbox:x:{USER}:{USER}::{WORK}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "/etc/group": f"sandbox:x:{USER}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_BYTES_PER_INODE = 4096
_FLAGS = isolation.NO_SUID | isolation.NO_DEVICES


def readable(prefixes: list[str]) -> list[str]:
    """The folders that are shown, outermost ones only; links and what is missing left out."""
    wanted = sorted({*PROGRAMS, *(os.path.realpath(path) for path in prefixes), *prefixes}, key=len)
    kept: list[str] = []
    for path in wanted:
        if os.path.isdir(path) and not os.path.islink(path) and not any(_below(path, other) for other in kept):
            kept.append(path)
    return kept


def build(prefixes: list[str], hidden: list[str]) -> list[str]:
    """Make the root and move into it; returns the shown folders that a session's /tmp would cover.

    `hidden` are folders within those that are covered by nothing. Needs mount privileges in a mount namespace of its
    own, and to be pid 1 of its pid namespace.
    """
    isolation.make_private()
    shown = readable(prefixes)
    trees = {path: isolation.copy_tree(path) for path in shown}
    devices = {name: isolation.copy_tree(f"/dev/{name}") for name in DEVICES}
    links = {path: os.readlink(path) for path in PROGRAMS if os.path.islink(path)}
    files = {path: _content(path) for path in READABLE_FILES if os.path.isfile(path)}
    process = _copy_process_folder()
    base = "/tmp"
    isolation.mount("tmpfs", base, "tmpfs", isolation.NO_SUID, "mode=755,size=16m")
    for path, tree in trees.items():
        os.makedirs(base + path)
        isolation.attach_tree(tree, base + path)
    for path in hidden:
        if os.path.isdir(base + path):
            isolation.mount("tmpfs", base + path, "tmpfs", _FLAGS, "mode=755,size=4k,nr_inodes=2")
    for path, target in links.items():
        os.symlink(target, base + path)
    for folder in (WORK, "/tmp", "/proc", "/dev/shm", "/etc"):
        os.makedirs(base + folder, exist_ok=True)
    for path, content in {**files, **{path: text.encode() for path, text in _WRITTEN.items()}}.items():
        with open(base + path, "xb") as file:
            file.write(content)
    _devices(base, devices)
    isolation.attach_tree(process, base + "/proc")
    isolation.change_root(base)
    attributes = isolation.READ_ONLY | isolation.NO_SUID
    isolation.restrict_mounts("/", attributes, below=False)  # not /proc: a session's must not be stricter than this one
    for path in shown:
        isolation.restrict_mounts(path, attributes | isolation.NO_DEVICES, below=True)
    return [path for path in shown if any(_below(path, covered) for covered in ("/tmp", WORK, "/dev/shm"))]


def mount_session(covered: list[str]) -> None:
    """The parts of the root that are the session's own, not yet of their size. Needs its namespaces."""
    trees = [(path, isolation.copy_tree(path)) for path in covered]
    isolation.mount("proc", "/proc", "proc", _FLAGS | isolation.NO_EXEC)
    isolation.mount("tmpfs", "/tmp", "tmpfs", _FLAGS, f"mode=755,{_size(1 << 20)}")
    for name, target, mode in (("work", WORK, 0o755), ("shm", "/dev/shm", 0o1777), ("tmp", "/tmp", 0o1777)):
        folder = f"/tmp/{name}"  # /tmp comes last: it covers the tmpfs's own root
        os.mkdir(folder)
        os.chmod(folder, mode)
        isolation.attach_tree(isolation.copy_tree(folder), target)
    for path, tree in trees:
        os.makedirs(path)
        isolation.attach_tree(tree, path)


def resize_session(disk: int) -> None:
    """Set how many bytes the session's files may have."""
    isolation.mount("tmpfs", "/tmp", "tmpfs", _FLAGS | isolation.REMOUNT, _size(disk))


def _size(disk: int) -> str:
    size = max(disk, 1 << 16)
    return f"size={size},nr_inodes={256 + size // _BYTES_PER_INODE}"


def landlock() -> int:
    """Repeat in Landlock what the mounts say; the version used, 0 where the kernel has none."""
    # a rule for the root and not for each folder: what is there is what may be read
    return isolation.landlock(("/",), (WORK, "/tmp", "/dev/shm"), tuple(f"/dev/{name}" for name in DEVICES))


def _below(path: str, other: str) -> bool:
    return path == other or path.startswith(other.rstrip("/") + "/")


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _copy_process_folder() -> int:
    """A /proc of this pid namespace, detached."""
    isolation.mount("proc", "/proc", "proc", isolation.NO_SUID | isolation.NO_DEVICES | isolation.NO_EXEC)
    return isolation.copy_tree("/proc")


def _devices(base: str, devices: dict[str, int]) -> None:
    for name, tree in devices.items():
        with open(f"{base}/dev/{name}", "x"):
            pass
        isolation.attach_tree(tree, f"{base}/dev/{name}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{base}/dev/{name}")
