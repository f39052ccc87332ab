"""Linux isolation by system calls: namespaces, mounts, privileges, Landlock, huge pages.

Standard library only, and nothing of agentrl: the fork server imports this file into processes that must hold little.
Every function raises `OSError` with the name of the call that failed; nothing here decides what is essential.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import sys

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

NEW_MOUNTS, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USER, NEW_PID, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
SESSION = NEW_USER | NEW_PID | NEW_MOUNTS | NEW_NETWORK | NEW_IPC | NEW_UTS
_CLONE_PIDFD = 0x00001000
_SIGCHLD = 17

_NUMBERS = {"x86_64": {"clone": 56, "pivot_root": 155}, "aarch64": {"clone": 220, "pivot_root": 41}}
_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _MOUNT_SETATTR = 428, 429, 436, 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT = 1, 2, 4, 8, 32
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_PR_DUMPABLE, _PR_DEATH_SIGNAL, _PR_CAPABILITY_DROP, _PR_NO_NEW_PRIVILEGES, _PR_CAPABILITY_AMBIENT = 4, 1, 24, 38, 47


def machine() -> str | None:
    """The machine's architecture where it is one whose numbers are known here."""
    return platform.machine() if platform.machine() in _NUMBERS else None


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _call(name: str, number: int, *arguments: object) -> int:
    wide = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *wide))


# -- namespaces --------------------------------------------------------------------------------------------------------


def unshare(flags: int) -> None:
    _checked("unshare", _libc.unshare(flags))


def join(descriptor: int, flags: int) -> None:
    """Enter namespaces of the process behind a pidfd; those of NEW_PID are entered by children only."""
    _checked("setns", _libc.setns(descriptor, flags))


def clone(flags: int) -> tuple[int, int]:
    """Fork into new namespaces: (pid, pidfd) in the parent, (0, -1) in the child.

    The C library does not know of this fork: the child may run plain Python, not threads, and ends by `os._exit`.
    """
    descriptor = ctypes.c_int(-1)
    number = _NUMBERS[platform.machine()]["clone"]
    pid = _call("clone", number, flags | _CLONE_PIDFD | _SIGCHLD, 0, ctypes.byref(descriptor), 0, 0)
    return (pid, descriptor.value) if pid else (0, -1)


def map_user(inside: int, user: int, group: int) -> None:
    """Make `user` and `group` of the outer namespace known here, both as `inside`; nobody else exists."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{inside} {user} 1"), ("gid_map", f"{inside} {group} 1")):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


# -- mounts ------------------------------------------------------------------------------------------------------------


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    words = [text.encode() for text in (source, target, kind)]
    _checked(f"mount {kind} on {target}", _libc.mount(*words, ctypes.c_ulong(flags), options.encode()))


def make_private() -> None:
    """No mount of this namespace reaches another one from now on, and none of another reaches this one."""
    _checked("mount private", _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))


def copy_tree(path: str) -> int:
    """A descriptor of a detached copy of the mounts at `path`; it survives that something is mounted over the path."""
    flags = 1 | os.O_CLOEXEC | _AT_RECURSIVE  # OPEN_TREE_CLONE
    return _call(f"open_tree {path}", _OPEN_TREE, _AT_FDCWD, ctypes.c_char_p(path.encode()), flags)


def attach_tree(descriptor: int, target: str) -> None:
    """Mount a copied tree on `target` and close the descriptor."""
    empty, where = ctypes.c_char_p(b""), ctypes.c_char_p(target.encode())
    _call(f"move_mount {target}", _MOVE_MOUNT, descriptor, empty, _AT_FDCWD, where, 4)
    os.close(descriptor)


def restrict_mounts(path: str, attributes: int, *, below: bool) -> None:
    """Add READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC to the mount at `path`, and to all `below` it."""
    value = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if below else 0
    _call("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, ctypes.c_char_p(path.encode()), flags, value, len(value))


def change_root(folder: str) -> None:
    """Make `folder`, a mount, the root of this mount namespace; the old root is gone afterwards."""
    os.chdir(folder)
    here = ctypes.c_char_p(b".")
    _call("pivot_root", _NUMBERS[platform.machine()]["pivot_root"], here, here)
    _checked("umount2", _libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


# -- privileges --------------------------------------------------------------------------------------------------------


if sys.platform == "linux":  # elsewhere this file is imported to say that it does not work there
    _libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def _prctl(name: str, option: int, value: int = 0) -> None:
    _checked(f"prctl {name}", _libc.prctl(option, value, 0, 0, 0))


def set_dumpable(on: bool) -> None:
    """Whether processes of the same user may trace this one and read its memory and descriptors."""
    _prctl("dumpable", _PR_DUMPABLE, int(on))


def die_with_parent() -> None:
    """SIGKILL when the thread that forked this process ends. To be called after the last change of user."""
    _prctl("parent death signal", _PR_DEATH_SIGNAL, 9)


def no_new_privileges() -> None:
    """From now on, executing a file gives no privilege to this process and its children."""
    _prctl("no_new_privs", _PR_NO_NEW_PRIVILEGES, 1)


def last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


def drop_capabilities(last: int) -> None:
    """Give up every capability up to number `last`, for good."""
    _prctl("ambient", _PR_CAPABILITY_AMBIENT, 4)
    for capability in range(last + 1):
        _prctl("capbset", _PR_CAPABILITY_DROP, capability)
    header, data = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _checked("capset", _libc.capset(header, data))


def close_others(first: int) -> None:
    """Close every descriptor from `first` on."""
    _call("close_range", _CLOSE_RANGE, first, 0xFFFFFFFF, 0)


# -- Landlock ----------------------------------------------------------------------------------------------------------

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14  # truncate
READING = _EXECUTE | _READ_FILE | _READ_FOLDER


def landlock_version() -> int:
    """The kernel's Landlock version; 0 where it has none."""
    return max(0, _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_long(0), ctypes.c_long(1)))


def landlock(reading: tuple[str, ...], writing: tuple[str, ...], devices: tuple[str, ...]) -> int:
    """Let this process and its children only read below `reading`, do anything to files below `writing`, use `devices`.

    Returns the version used; 0 and no effect where the kernel has none. Needs `no_new_privs`.
    """
    version = landlock_version()
    if not version:
        return 0
    every = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    every |= 1 << 15 if version >= 5 else 0  # ioctl of devices
    network = 3 if version >= 4 else 0  # TCP bind and connect
    scope = 3 if version >= 6 else 0  # abstract sockets and signals of outside
    attributes = struct.pack("=QQQ", every, network, scope)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _call("landlock_create_ruleset", _LANDLOCK_CREATE, attributes, len(attributes), 0)
    try:
        for paths, rights in ((reading, READING), (writing, every), (devices, (_WRITE_FILE | _READ_FILE) & every)):
            for path in paths:
                _allow(rules, path, rights)
        _call("landlock_restrict_self", _LANDLOCK_RESTRICT, rules, 0)
    finally:
        os.close(rules)
    return version


def _allow(rules: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(f"landlock_add_rule {path}", _LANDLOCK_ADD, rules, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


# -- memory ------------------------------------------------------------------------------------------------------------


def collapse_memory() -> int:
    """Put this process's private memory on huge pages where the kernel can; bytes that were.

    A fork copies a page table entry for each page: 512 times fewer of them halve the time of a fork.
    """
    huge, done = 2 << 20, 0
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        lines = file.read().splitlines()
    for line in lines:
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0\s*(?:\[heap\])?$", line)
        if match is None:
            continue
        begin, end = -(-int(match[1], 16) // huge) * huge, int(match[2], 16) // huge * huge
        if end > begin and _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), 25) == 0:
            done += end - begin
    return done
