"""The system calls that a tenant is refused, as a seccomp filter.

Standard library only. The filter comes in two parts, so that a process that forks tenants can put the large one on
itself: that takes a third of a millisecond. Invariants of both together: a call of another architecture kills the
process; a call newer than this list is answered as if the kernel did not know it; creating or joining namespaces is
refused whatever the way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_NEWEST = 462
"""mseal; later calls have not been looked at."""

_CLONE3 = 435

_COMMON = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448, "statmount": 457,
    "listmount": 458,
}  # fmt: skip
_X86_64 = {
    "shmget": 29, "shmat": 30, "semget": 64, "msgget": 68, "ptrace": 101, "syslog": 103, "uselib": 134,
    "personality": 135, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155, "_sysctl": 156, "adjtimex": 159,
    "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
    "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
    "delete_module": 176, "quotactl": 179, "nfsservctl": 180, "io_setup": 206, "lookup_dcookie": 212, "mq_open": 240,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272,
    "vmsplice": 278, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "io_setup": 0, "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "chroot": 51,
    "vhangup": 58, "quotactl": 60, "vmsplice": 75, "acct": 89, "personality": 92, "unshare": 97, "kexec_load": 104,
    "init_module": 105, "delete_module": 106, "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161,
    "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "msgget": 186, "semget": 190,
    "shmget": 194, "shmat": 196, "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "swapoff": 225,
    "migrate_pages": 238, "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "process_vm_readv": 270, "process_vm_writev": 271,
    "kcmp": 272, "finit_module": 273, "memfd_create": 279, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip
_MACHINES = {  # AUDIT_ARCH, denied, calls whose arguments are looked at
    "x86_64": (0xC000003E, _X86_64, {"mmap": 9, "ioctl": 16, "socket": 41, "clone": 56, "setns": 308}),
    "aarch64": (0xC00000B7, _AARCH64, {"mmap": 222, "ioctl": 29, "socket": 198, "clone": 220, "setns": 268}),
}

_NAMESPACES = 0x7E020080
"""CLONE_NEW*: user, pid, net, ipc, uts, cgroup, mounts; 0x80 is NEWTIME, or an exit signal that nobody uses."""
_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6. Others have been ways out: AF_VSOCK is in no namespace."""
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI, TIOCLINUX: put characters into a terminal's input."""
_SHARED_ANONYMOUS = 0x21
"""Memory of MAP_SHARED | MAP_ANONYMOUS can be held where no process's resident size shows it."""

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def denied(machine: str | None = None) -> frozenset[str]:
    """Names of the calls that both parts together always refuse with EPERM."""
    return frozenset(_MACHINES[machine or platform.machine()][1]) | frozenset(_COMMON) | {"setns"}


def joining(machine: str | None = None) -> bytes:
    """The small part: no joining of namespaces. To be put on top of `program`, which has looked at the architecture."""
    setns = _MACHINES[machine or platform.machine()][2]["setns"]
    return _packed(
        [(_LOAD, 0, 0, 0), (_EQUAL, 0, 1, setns), (_RETURN, 0, 0, _FAIL | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    )


def program(machine: str | None = None) -> bytes:
    """The large part, an array of `struct sock_filter`."""
    architecture, calls, looked_at = _MACHINES[machine or platform.machine()]
    refuse = _FAIL | errno.EPERM
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    code += [(_GREATER, 0, 1, 0x3FFFFFFF), (_RETURN, 0, 0, _KILL)]  # the x32 calls of x86-64
    code += [(_GREATER, 0, 1, _NEWEST), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    code += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]  # the C library then uses clone
    for number in sorted({*calls.values(), *_COMMON.values()}):
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    for name, argument, test in (
        ("clone", 0, [(_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, refuse)]),
        ("mmap", 3, [(_AND, 0, 0, _SHARED_ANONYMOUS), (_EQUAL, 0, 1, _SHARED_ANONYMOUS), (_RETURN, 0, 0, refuse)]),
        ("ioctl", 1, [step for item in _TERMINAL_INPUT for step in ((_EQUAL, 0, 1, item), (_RETURN, 0, 0, refuse))]),
        ("socket", 0, [step for item in _FAMILIES for step in ((_EQUAL, 0, 1, item), (_RETURN, 0, 0, _ALLOW))]
                      + [(_RETURN, 0, 0, _FAIL | errno.EAFNOSUPPORT)]),
    ):  # fmt: skip
        block = [(_LOAD, 0, 0, 16 + 8 * argument), *test, (_RETURN, 0, 0, _ALLOW)]
        code += [(_EQUAL, 0, len(block), looked_at[name]), *block]
    code.append((_RETURN, 0, 0, _ALLOW))
    return _packed(code)


def _packed(code: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *step) for step in code)


_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(filters: bytes) -> None:
    """Put the filter on this process and its children for good; raises `OSError`. Needs `no_new_privs`."""
    value = _Program(len(filters) // 8, filters)
    none = ctypes.c_ulong(0)
    if _libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(value), none, none) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
