"""Hostile programs on the network, on mounts and privileges, and modules put in the way of the machinery."""

from __future__ import annotations

from typing import Any

from tests.tools.sandbox.attacks import attack, attempt, breach

# -- network -----------------------------------------------------------------------------------------------------------


@attack("network")
def server_on_loopback(host: dict[str, Any]) -> None:
    import socket

    for address in ("127.0.0.1", "localhost", "::1", "0.0.0.0", *host["addresses"]):
        attempt(address, lambda address=address: socket.create_connection((address, host["port"]), timeout=0.3))


@attack("network")
def route_to_elsewhere(host: dict[str, Any]) -> None:
    import socket

    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        attempt(f"route to {address}", lambda f=family, a=address: socket.socket(f, socket.SOCK_DGRAM).connect((a, 53)))
    attempt("address outside", lambda: socket.create_connection(("1.1.1.1", 53), timeout=0.3))


@attack("network")
def interfaces(host: dict[str, Any]) -> None:
    import socket

    try:
        names = {name for _, name in socket.if_nameindex()}
    except OSError:
        return
    if names & set(host["interfaces"]):
        breach(f"interfaces {names}")


@attack("network")
def name_lookup(host: dict[str, Any]) -> None:
    import socket

    attempt("DNS", socket.getaddrinfo, "example.com", 80)


@attack("network")
def raw_and_packet_sockets(host: dict[str, Any]) -> None:
    import socket

    attempt("raw socket", socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    attempt("packet socket", socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)


@attack("network")
def hypervisor_socket(host: dict[str, Any]) -> None:
    """Network namespaces do not hold sockets to the hypervisor."""
    import socket

    attempt("vsock", socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM)


@attack("network")
def unix_sockets_of_the_host(host: dict[str, Any]) -> None:
    import socket

    for path in (host["socket"], "\0" + host["abstract"], "/var/run/docker.sock", "/run/docker.sock", *host["sockets"]):
        attempt(repr(path), lambda path=path: socket.socket(socket.AF_UNIX).connect(path))


@attack("network")
def shared_memory_of_the_host(host: dict[str, Any]) -> None:
    import ctypes
    import os

    attempt("/dev/shm", os.stat, "/dev/shm/" + host["shm"])
    if ctypes.CDLL(None).shmget(host["shm_key"], 0, 0) >= 0:
        breach("System V shared memory of the host")


# -- mounts, links, privileges -----------------------------------------------------------------------------------------


@attack("mounts")
def mounting(host: dict[str, Any]) -> None:
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    os.makedirs("mnt", exist_ok=True)
    for source, target, kind, flags in (
        (b"tmpfs", b"mnt", b"tmpfs", 0),
        (b"proc", b"mnt", b"proc", 0),
        (b"/", b"mnt", None, 4096 | 16384),
        (None, b"/", None, 32),
        (None, b"/usr", None, 32 | 4096),
        (b"overlay", b"mnt", b"overlay", 0),
    ):
        if libc.mount(source, target, kind, flags, None) == 0:
            breach(f"mount {kind} {flags}")
    if libc.umount2(b"/proc", 2) == 0:
        breach("umount /proc")
    if libc.syscall(428, -100, b"/", 1) >= 0:  # open_tree, OPEN_TREE_CLONE
        breach("open_tree")


@attack("mounts")
def new_namespaces(host: dict[str, Any]) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for name, flag in (("user", 0x10000000), ("mount", 0x20000), ("pid", 0x20000000), ("net", 0x40000000)):
        if libc.unshare(flag) == 0:
            breach(f"unshare {name}")


@attack("mounts")
def other_roots(host: dict[str, Any]) -> None:
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    os.makedirs("root/old", exist_ok=True)
    attempt("chroot", os.chroot, "root")
    if libc.syscall(155, b"root", b"root/old") == 0:
        breach("pivot_root")


@attack("mounts")
def namespaces_of_others(host: dict[str, Any]) -> None:
    import ctypes
    import glob
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    own = {os.stat(path).st_ino for path in glob.glob("/proc/self/ns/*")}
    for path in glob.glob("/proc/[0-9]*/ns/*"):
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        if os.fstat(fd).st_ino not in own and libc.setns(fd, 0) == 0:
            breach(f"entered {path}")
        os.close(fd)


@attack("mounts")
def writing_the_interpreter(host: dict[str, Any]) -> None:
    import os
    import sys

    for folder in {
        os.path.dirname(os.__file__),
        sys.prefix,
        os.path.dirname(sys.executable),
        "/usr/bin",
        "/etc",
        "/lib",
    }:
        attempt(folder, lambda folder=folder: open(os.path.join(folder, host["mark"] + ".py"), "w").close())
    attempt("os.py", lambda: open(os.__file__, "r+").close())
    attempt("chmod", os.chmod, os.__file__, 0o666)


@attack("mounts")
def kernel_settings(host: dict[str, Any]) -> None:
    import os

    for path in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory/release_agent",
    ):
        attempt(path, os.open, path, os.O_WRONLY)


@attack("mounts")
def privileges(host: dict[str, Any]) -> None:
    import os

    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    if int(status["CapEff"], 16) or int(status["CapPrm"], 16):
        breach(f"capabilities {status['CapEff']}")
    if status["NoNewPrivs"] != "1":
        breach("set-user-id programs work")
    for what, action in (("root", lambda: os.setuid(0)), ("group", lambda: os.setgroups([0]))):
        if os.getuid() != 0:
            attempt(what, action)


@attack("mounts")
def dangerous_system_calls(host: dict[str, Any]) -> None:
    """Doors into the kernel that no honest program in here needs; x86-64 and arm64 number them differently."""
    import ctypes
    import os

    numbers = {
        "x86_64": {
            "bpf": 321,
            "perf_event_open": 298,
            "userfaultfd": 323,
            "io_uring_setup": 425,
            "add_key": 248,
            "keyctl": 250,
            "kexec_load": 246,
            "init_module": 175,
            "swapon": 167,
            "reboot": 169,
            "settimeofday": 164,
        },
        "aarch64": {"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "keyctl": 219},
    }
    libc = ctypes.CDLL(None, use_errno=True)
    attribute = ctypes.create_string_buffer((1).to_bytes(4, "little") + (112).to_bytes(4, "little"), 128)
    for name, number in numbers.get(os.uname().machine, {}).items():
        arguments = {
            "io_uring_setup": (4, ctypes.create_string_buffer(120)),
            "perf_event_open": (attribute, 0, -1, -1, 0),
            "userfaultfd": (1,),
            "add_key": (b"user", b"agentrl", b"x", 1, -3),
            "keyctl": (0, -3, 1),
        }.get(name, (0, 0, 0, 0, 0))
        if libc.syscall(number, *arguments) >= 0:
            breach(name)


# -- modules in the way ------------------------------------------------------------------------------------------------

_SHADOW = b"import os\nos.write(1, b'BREACH: a module of the working folder was imported\\n')\n"
_NAMES = ("json", "io", "struct", "traceback", "ast", "socket", "select", "sitecustomize", "usercustomize", "encodings")


@attack("modules", files={f"{name}.py": _SHADOW for name in _NAMES})
def modules_of_the_working_folder(host: dict[str, Any]) -> None:
    """The program imports none of them: whoever does is the machinery around it."""


@attack("modules", files={".local/lib/python3.11/site-packages/usercustomize.py": _SHADOW})
def modules_of_the_user(host: dict[str, Any]) -> None:
    import os

    os.environ["PYTHONPATH"] = os.getcwd()
    with open("sitecustomize.py", "w") as file:
        file.write("import os\nos.write(1, b'BREACH: imported by the machinery')")
