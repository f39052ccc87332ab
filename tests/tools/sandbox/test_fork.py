"""What the fork sandbox promises beyond the contract of every backend."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl.sandbox import Limits, Outcome
from agentrl.tools.sandbox.fork import ForkSandbox
from tests.tools.sandbox.fork_support import HANG, below, server, value

REASON = ForkSandbox.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"fork: {REASON}")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ForkSandbox]:
    made = ForkSandbox()
    yield made
    made.close()


@pytest.fixture
def bare() -> Iterator[ForkSandbox]:
    """One that loads no library, for tests that end it."""
    made = ForkSandbox(preload=())
    yield made
    made.close()


# -- the state that a session starts from ------------------------------------------------------------------------------


async def test_libraries_are_loaded_before_the_first_call(sandbox: ForkSandbox, bare: ForkSandbox) -> None:
    code = "import sys; sorted({'numpy', 'sympy'} & set(sys.modules))"
    assert (await sandbox.run(code)).value == "['numpy', 'sympy']"
    assert (await bare.run(code)).value == "[]"


async def test_sessions_start_from_the_same_state_and_share_none(sandbox: ForkSandbox, bare: ForkSandbox) -> None:
    code = (
        "import random\nleft = globals().get('kept')\nkept = 1\nrandom.kept = 1\nopen('f', 'x').close()\n"
        "(hash('a'), random.random(), left)"
    )
    values = [(await sandbox.run(code)).value for _ in range(3)] + [(await bare.run(code)).value]
    assert values[0] is not None and values[0].endswith("None)") and set(values) == {values[0]}
    numbers = {(await sandbox.run("import numpy\nnumpy.random.random()")).value for _ in range(3)}
    assert len(numbers) == 1
    assert (await sandbox.run("hasattr(__import__('random'), 'kept')")).value == "False"


async def test_a_session_ends_where_its_files_do(sandbox: ForkSandbox) -> None:
    assert (await sandbox.run("import os; os.listdir(), os.listdir('/dev/shm')")).value == "([], [])"
    left = "open('/tmp/left', 'x'), open('/dev/shm/left', 'x'), open('left', 'x')"
    assert (await sandbox.run(left)).ok and (await sandbox.run(left)).ok


async def test_programs_of_the_tenant_find_interpreter_and_libraries(sandbox: ForkSandbox) -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import sympy; print(sympy.pi)'], check=True)"
    assert (await sandbox.run(code)).stdout == "pi\n"
    async with await sandbox.open() as session:
        assert (await session.shell("id -un; pwd; awk 'BEGIN {print 1 + 1}'")).stdout == "sandbox\n/sandbox\n2\n"


async def test_processes_of_the_standard_library_work(sandbox: ForkSandbox) -> None:
    code = """
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
    print(sum(pool.map(abs, range(-5, 0))))
with ThreadPoolExecutor(2) as pool:
    print(sum(pool.map(abs, range(-5, 0))))
"""
    execution = await sandbox.run(code)
    assert execution.stdout == "15\n15\n", execution


# -- what a tenant does not see ----------------------------------------------------------------------------------------


async def test_no_secret_of_the_host_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(16)
    monkeypatch.setenv("AGENTRL_TEST_SECRET", secret)
    made = ForkSandbox(preload=())
    try:
        async with await made.open():
            everyone = {server(made)} | below(server(made))
            assert len(everyone) >= 5  # launcher, nursery, zygote, a session's init and its tenant
            for pid in everyone:
                assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
                assert secret.encode() not in memory(pid), pid
    finally:
        made.close()


def memory(pid: int) -> bytes:
    """What a process holds in memory that it can write."""
    held = bytearray()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if rights.startswith("rw"):
                begin, end = (int(part, 16) for part in span.split("-"))
                file.seek(begin)
                held += file.read(end - begin)
    return bytes(held)


async def test_only_the_interpreter_and_the_systems_programs_are_there(sandbox: ForkSandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    hidden = [tmp_path, Path(__file__), Path.cwd() / "pyproject.toml", Path("/etc/shadow"), Path("/etc/hostname")]
    hidden += [Path("/sys"), Path("/run"), Path("/var"), Path("/dev/mem"), Path("/dev/kmsg"), Path("/boot")]
    code = f"import os\n[path for path in {[str(path) for path in hidden]} if os.path.lexists(path)]"
    assert (await sandbox.run(code)).value == "[]"
    written = "import os\n[path for path in ('/', '/usr', '/etc', '/dev') if os.access(path, os.W_OK)]"
    assert (await sandbox.run(written)).value == "[]"


async def test_a_tenant_holds_one_channel_and_the_standard_streams(sandbox: ForkSandbox) -> None:
    code = "import os\nkinds = []\nfor name in os.listdir('/proc/self/fd'):\n"
    code += "    try: kinds.append(os.readlink('/proc/self/fd/' + name).split(':')[0])\n"
    code += "    except FileNotFoundError: pass\nsorted(kinds)"
    assert (await sandbox.run(code)).value == str(["/dev/null"] + ["pipe"] * 4 + ["socket"])
    child = "import subprocess\nprint(subprocess.run(['ls', '/proc/self/fd'], capture_output=True, text=True).stdout)"
    assert (await sandbox.run(child)).stdout.split() == ["0", "1", "2", "3"]  # 3 is the listed folder itself


async def test_the_sessions_first_process_is_out_of_reach(sandbox: ForkSandbox) -> None:
    async with await sandbox.open() as session:
        code = """
import os
said = []
for name in ("environ", "mem", "maps", "fd", "root", "cwd", "exe"):
    try:
        said.append(os.listdir(f"/proc/1/{name}") if name == "fd" else open(f"/proc/1/{name}").read(1))
    except OSError:
        continue
try:
    said.append(os.kill(1, 9))
except PermissionError:
    pass
try:
    said.append(os.kill(1, 19))
except PermissionError:
    pass
said, sorted(name for name in os.listdir("/proc") if name.isdigit())"""
        assert await value(session, code) == "([], ['1', '2'])"
        assert await value(session, "1") == "1"


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_memory_of_all_processes_counts_together(sandbox: ForkSandbox) -> None:
    code = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = b"x" * (100 << 20)
        time.sleep(60)
time.sleep(60)"""
    execution = await sandbox.run(code, limits=Limits(memory=256 << 20, wall=HANG))
    assert execution.outcome is Outcome.MEMORY
    execution = await sandbox.run("held = b'x' * (100 << 20)", limits=Limits(memory=256 << 20))
    assert execution.ok


async def test_files_count_as_memory_and_end_at_the_limit(sandbox: ForkSandbox) -> None:
    code = "for name in 'abc': open('/tmp/' + name, 'wb').write(bytes(3 << 20))"
    execution = await sandbox.run(code, limits=Limits(disk=8 << 20))
    assert execution.outcome is Outcome.ERROR and "No space left" in execution.stderr


async def test_cpu_seconds_of_all_processes_count_together(sandbox: ForkSandbox) -> None:
    code = (
        "import os\nfor _ in range(3):\n    if os.fork() == 0:\n        while True: pass\nimport time\ntime.sleep(60)"
    )
    execution = await sandbox.run(code, limits=Limits(cpu=0.5, wall=HANG))
    assert execution.outcome is Outcome.TIMEOUT and execution.seconds < HANG


async def test_cpu_seconds_are_those_of_one_call(sandbox: ForkSandbox) -> None:
    burn = "import time\nend = time.process_time() + 0.25\nwhile time.process_time() < end: pass"
    async with await sandbox.open(limits=Limits(cpu=0.5)) as session:
        for _ in range(3):
            assert (await session.python(burn)).ok
        assert (await session.python("while True: pass")).outcome is Outcome.TIMEOUT


async def test_a_tenant_that_raises_its_cpu_limit_is_ended_all_the_same(sandbox: ForkSandbox) -> None:
    code = "import resource, signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nwhile True: pass"
    execution = await sandbox.run(code, limits=Limits(cpu=0.3, wall=HANG))
    assert execution.outcome is Outcome.TIMEOUT and execution.seconds < HANG


async def test_threads_and_processes_are_limited(sandbox: ForkSandbox) -> None:
    code = """
import threading
count = 0
try:
    while count < 100:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        count += 1
except RuntimeError:
    pass
count"""
    execution = await sandbox.run(code, limits=Limits(processes=8))
    assert execution.value == "7"  # the eighth is the tenant itself
