"""The kernel's walls around a tenant of the fork sandbox, each one touched from inside."""

from __future__ import annotations

import errno
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl.sandbox import Outcome
from agentrl.tools.sandbox import fork_root, isolation, seccomp
from agentrl.tools.sandbox.fork import ForkSandbox

REASON = ForkSandbox.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"fork: {REASON}")
CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*map(ctypes.c_long, (number, *arguments)))
    return ctypes.get_errno() if result == -1 else 0
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ForkSandbox]:
    made = ForkSandbox(preload=())
    yield made
    made.close()


async def outcome(sandbox: ForkSandbox, expression: str) -> str | None:
    execution = await sandbox.run(CALLS + expression)
    assert execution.ok, execution
    return execution.value


async def test_every_denied_call_is_denied(sandbox: ForkSandbox) -> None:
    _, calls, looked_at = seccomp._MACHINES[isolation.machine() or ""]
    numbers = {**calls, **seccomp._COMMON, "setns": looked_at["setns"]}
    assert set(numbers) == seccomp.denied()
    said = await outcome(sandbox, f"{{name: call(number) for name, number in {numbers}.items()}}")
    assert said == str(dict.fromkeys(numbers, errno.EPERM))


async def test_new_namespaces_have_no_way_in(sandbox: ForkSandbox) -> None:
    clone = seccomp._MACHINES[isolation.machine() or ""][2]["clone"]
    flags = [isolation.NEW_USER, isolation.NEW_PID, isolation.NEW_NETWORK, isolation.NEW_MOUNTS, isolation.NEW_CGROUP]
    assert await outcome(sandbox, f"[call({clone}, flag | 17) for flag in {flags}]") == str([errno.EPERM] * len(flags))
    assert await outcome(sandbox, "call(435, 0, 0)") == str(errno.ENOSYS)  # clone3, whose flags a filter cannot see
    assert (
        await outcome(sandbox, "import os\npid = os.fork()\nif not pid: os._exit(7)\nos.waitpid(pid, 0)[1] >> 8") == "7"
    )


async def test_unknown_calls_do_not_exist(sandbox: ForkSandbox) -> None:
    assert await outcome(sandbox, "[call(463), call(600), call(100000)]") == str([errno.ENOSYS] * 3)


@pytest.mark.skipif(isolation.machine() != "x86_64", reason="only x86-64 has a second set of numbers")
async def test_calls_of_the_other_set_of_numbers_kill(sandbox: ForkSandbox) -> None:
    execution = await sandbox.run(CALLS + "call(0x40000000 + 39)")
    assert execution.outcome is Outcome.KILLED


async def test_sockets_are_of_few_families(sandbox: ForkSandbox) -> None:
    code = "import socket\nsaid = {}\nfor family in range(1, 46):\n    try:\n        socket.socket(family).close()\n"
    code += "    except OSError as error:\n        said[family] = error.errno\nsorted(set(range(1, 46)) - set(said))"
    assert await outcome(sandbox, code) == str(list(seccomp._FAMILIES))
    code = "import socket\nsaid = []\nfor address in ('127.0.0.1', '8.8.8.8'):\n    try:\n"
    code += "        socket.create_connection((address, 53), 1)\n    except OSError:\n        said.append(address)\n"
    assert await outcome(sandbox, code + "said") == "['127.0.0.1', '8.8.8.8']"


async def test_memory_that_nobody_sees_cannot_be_had(sandbox: ForkSandbox) -> None:
    code = "import mmap\nsaid = []\nfor flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):\n    try:\n"
    code += "        mmap.mmap(-1, 4096, flags=flags | mmap.MAP_ANONYMOUS)\n    except PermissionError:\n"
    code += "        said.append(flags == mmap.MAP_SHARED)\nsaid"
    assert await outcome(sandbox, code) == "[True]"
    assert await outcome(sandbox, "import os\nos.path.exists('/dev/zero')") == "False"


async def test_a_tenant_has_no_privilege_and_no_way_to_any(sandbox: ForkSandbox) -> None:
    code = "status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())\n"
    code += (
        "[status[name].strip() for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp')]"
    )
    assert await outcome(sandbox, code) == str(["0" * 16] * 5 + ["1", "2"])


async def test_every_namespace_is_another_one(sandbox: ForkSandbox) -> None:
    names = ["user", "pid", "net", "ipc", "uts", "mnt"]
    code = f"import os\n[os.readlink('/proc/self/ns/' + name) for name in {names}]"
    mine = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in names]
    first, second = await outcome(sandbox, code), await outcome(sandbox, code)
    assert first is not None and second is not None
    assert len({*mine, *literal_eval(first), *literal_eval(second)}) == 3 * len(names)


async def test_mounts_cannot_be_written_or_executed_with_other_rights(sandbox: ForkSandbox) -> None:
    code = "[(line.split()[4], line.split()[5].split(',')) for line in open('/proc/self/mountinfo')]"
    mounts = literal_eval(await outcome(sandbox, code) or "")
    for point, options in mounts:
        own = point in ("/tmp", "/proc", "/dev/shm", fork_root.WORK)
        assert own or point.startswith("/dev/") or "ro" in options, point
        assert point.startswith("/dev/") or "nosuid" in options, point


LANDLOCK = """
import sys
from agentrl.tools.sandbox import isolation
isolation.no_new_privileges()
reading, writing = sys.argv[1:]
version = isolation.landlock(("/usr", "/lib", reading), (writing,), ("/dev/null",))
assert version == isolation.landlock_version()
open(writing + "/new", "w").write("x")
open("/dev/null", "w").write("x")
assert open(reading + "/file").read() == "old"
outside = (("/etc/passwd", "r"), (writing + "/../file", "r"))
for path, mode in ((reading + "/file", "w"), (reading + "/other", "x"), *outside):
    try:
        open(path, mode)
    except PermissionError:
        continue
    raise SystemExit(f"{path} can be opened for {mode}")
print("walls stand")
"""


@pytest.mark.skipif(not isolation.landlock_version(), reason="this kernel has no Landlock")
def test_landlock_alone(tmp_path: Path) -> None:
    for name in ("reading", "writing"):
        (tmp_path / name).mkdir()
    (tmp_path / "reading" / "file").write_text("old")
    (tmp_path / "file").write_text("outside")
    command = [sys.executable, "-c", LANDLOCK, str(tmp_path / "reading"), str(tmp_path / "writing")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == "walls stand\n", done.stderr


FILTER = """
import ctypes, os, sys
from agentrl.tools.sandbox import isolation, seccomp
if sys.argv[1] == "bare":
    try:
        os.setresuid(12345, 12345, 12345)
    except PermissionError:
        pass
    try:
        seccomp.install(seccomp.program())
    except OSError as error:
        print(error)
else:
    isolation.no_new_privileges()
    seccomp.install(seccomp.program())
    print(ctypes.CDLL(None, use_errno=True).unshare(isolation.NEW_USER), os.getpid() > 0)
"""


def test_the_filter_alone() -> None:
    said = [
        subprocess.run([sys.executable, "-c", FILTER, how], capture_output=True, text=True, timeout=30).stdout
        for how in ("bare", "whole")
    ]
    assert said[0].startswith(f"[Errno {errno.EACCES}] seccomp:") and said[1] == "-1 True\n"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_is_a_whole_number_of_steps_that_jump_within(machine: str) -> None:
    for filters in (seccomp.program(machine), seccomp.joining(machine)):
        steps = [filters[place : place + 8] for place in range(0, len(filters), 8)]
        assert len(steps[-1]) == 8 and len(steps) < 4096
        for place, step in enumerate(steps):
            if step[0] & 7 == 5:  # a jump
                assert place + 1 + max(step[2], step[3]) < len(steps)
        assert int.from_bytes(steps[-1][:2], "little") == 6  # the last returns


def test_readable_folders_are_the_outermost_ones(tmp_path: Path) -> None:
    (tmp_path / "interpreter" / "lib").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "interpreter")
    wanted = [str(tmp_path / name) for name in ("interpreter/lib", "interpreter", "link", "missing")]
    shown = fork_root.readable(wanted)
    assert "/usr" in shown and str(tmp_path / "interpreter") in shown
    assert not [path for path in shown if path.endswith(("lib/", "link", "missing", "interpreter/lib"))]


def test_errors_name_the_call() -> None:
    with pytest.raises(OSError, match="open_tree /no/such/folder"):
        isolation.copy_tree("/no/such/folder")
    with pytest.raises(OSError, match="setns"):
        isolation.join(0, isolation.NEW_NETWORK)
