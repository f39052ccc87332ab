"""The life of the fork sandbox: its server, its sessions, its users; what is left of them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, SandboxError
from agentrl.sandbox import Outcome
from agentrl.tools.sandbox.fork import ForkSandbox
from tests.tools.sandbox.backends import descriptors
from tests.tools.sandbox.fork_support import HANG, at_rest, below, children, parents, server, until, value

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


# -- the life of server and sessions -----------------------------------------------------------------------------------


async def test_nothing_grows_over_many_calls(sandbox: ForkSandbox) -> None:
    await sandbox.run("1")
    await until(lambda: at_rest(sandbox))
    before = descriptors()
    for number in range(120):
        assert (await sandbox.run(f"{number} + 1")).value == str(number + 1)
    await until(lambda: not sandbox._ending)
    assert descriptors() <= before
    assert "/sandbox" not in [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    await until(lambda: at_rest(sandbox))
    for pid in below(server(sandbox)):
        assert len(os.listdir(f"/proc/{pid}/fd")) < 16


async def test_many_sessions_at_once(sandbox: ForkSandbox) -> None:
    await sandbox.run("1")
    await until(lambda: at_rest(sandbox))
    before = descriptors()

    async def play(number: int) -> str | None:
        async with await sandbox.open() as session:
            await session.python(f"x = {number}")
            await asyncio.sleep(0.05)
            return await value(session, "x")

    async with asyncio.timeout(HANG):
        assert await asyncio.gather(*map(play, range(40))) == [str(number) for number in range(40)]
    assert descriptors() <= before


async def test_a_cancelled_call_kills_the_session(sandbox: ForkSandbox) -> None:
    session = await sandbox.open()
    call = asyncio.ensure_future(session.python("while True: pass"))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await session.close()
    await until(lambda: at_rest(sandbox))


@pytest.mark.parametrize("steps", range(0, 12, 3))
async def test_a_cancelled_open_leaves_nothing(sandbox: ForkSandbox, steps: int) -> None:
    await sandbox.run("1")
    await until(lambda: at_rest(sandbox))
    before = descriptors()
    opening = asyncio.ensure_future(sandbox.open(files={"f": b"x"}))
    for _ in range(steps):
        await asyncio.sleep(0.001)
    opening.cancel()
    done = (await asyncio.gather(opening, return_exceptions=True))[0]
    if not isinstance(done, BaseException):
        await done.close()
    await until(lambda: at_rest(sandbox))
    await until(lambda: descriptors() <= before)


def test_one_sandbox_serves_several_loops_and_threads(sandbox: ForkSandbox) -> None:
    found: list[str | None] = []

    def work(number: int) -> None:
        async def play() -> None:
            found.extend([(await sandbox.run(f"{number} * 10 + {turn}")).value for turn in range(3)])

        asyncio.run(play())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert sorted(map(str, found)) == sorted(str(number * 10 + turn) for number in range(3) for turn in range(3))


async def test_close_ends_everything_at_once(bare: ForkSandbox) -> None:
    session = await bare.open()
    root = server(bare)
    everyone = {root} | below(root)
    call = asyncio.ensure_future(session.python("while True: pass"))
    await asyncio.sleep(0.05)
    bare.close()
    bare.close()
    assert (await call).outcome is Outcome.KILLED and not session.alive
    assert not [pid for pid in everyone if Path(f"/proc/{pid}").exists()]
    with pytest.raises(SandboxError, match="closed"):
        await bare.open()


@pytest.mark.parametrize("place", [0, 1, 2], ids=["launcher", "nursery", "zygote"])
async def test_a_server_that_was_killed_is_replaced(bare: ForkSandbox, place: int) -> None:
    session = await bare.open()
    root = server(bare)
    nursery = children(root)[0]
    zygote = children(nursery)[0]
    everyone = {root} | below(root)
    os.kill((root, nursery, zygote)[place], signal.SIGKILL)
    assert (await session.python("import time; time.sleep(600)")).outcome is Outcome.KILLED
    await until(lambda: everyone.isdisjoint(parents()))
    assert (await bare.run("1 + 1")).value == "2"
    await session.close()


HOST = """
import asyncio, sys, time
from agentrl.tools.sandbox.fork import ForkSandbox
async def main():
    sandbox = ForkSandbox(preload=(), prefork=0)
    session = await sandbox.open()
    print(sandbox._server._process.pid, flush=True)
    code = "import os, time\\nif os.fork() == 0: os.setsid()\\ntime.sleep(600)"
    await session.python(code)
asyncio.run(main())
"""


async def test_everything_dies_with_the_host() -> None:
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        root = int(await asyncio.to_thread(host.stdout.readline))
        await until(lambda: len(below(root)) == 5)
        everyone = {root} | below(root)
        host.kill()
    await until(lambda: everyone.isdisjoint(parents()))


@pytest.mark.parametrize("name", ["no_such_library", "1/0", "numpy.no_such_part"])
async def test_a_library_that_is_not_there(name: str) -> None:
    with pytest.raises((ConfigError, SandboxError), match=name):
        await ForkSandbox(preload=(name,)).open()


@pytest.mark.parametrize("number", [-1, 65, True, 1.5])
def test_a_wrong_number_of_waiting_sessions(number: object) -> None:
    with pytest.raises(ConfigError, match=f"prefork={number}"):
        ForkSandbox(prefork=number)  # type: ignore[arg-type]


async def test_a_waiting_session_that_dies_is_not_handed_out(bare: ForkSandbox) -> None:
    await bare.run("1")
    await until(lambda: at_rest(bare))
    nursery = children(server(bare))[0]
    zygote = children(nursery)[0]
    waiting = (children(zygote)[0], children(nursery)[1])
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: set(waiting).isdisjoint(parents()))
    assert [(await bare.run(f"{number}")).value for number in range(3)] == ["0", "1", "2"]


REFUSED = """
from agentrl.errors import ConfigError, SandboxError
from agentrl.sandbox import get_sandbox
from agentrl.tools.sandbox import isolation, seccomp
isolation.no_new_privileges()
seccomp.install(seccomp.program())
try:
    get_sandbox("fork")
except ConfigError as error:
    print(error)
"""


def test_where_namespaces_are_refused_the_reason_and_the_remedy_are_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, timeout=60)
    (line,) = done.stdout.splitlines()
    assert line.startswith("sandbox 'fork' does not work here: the fork server did not start: ")
    assert "unshare: Operation not permitted; allow user namespaces" in line


HARSH = """
import asyncio, os, signal
os.umask(0o777)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
from agentrl.tools.sandbox.fork import ForkSandbox
sandbox = ForkSandbox(preload=())
code = "import os\\nif os.fork() == 0: os._exit(3)\\nos.wait()[1] >> 8, os.umask(0), os.listdir('/sandbox')"
print([asyncio.run(sandbox.run(code)).value for _ in range(3)])
sandbox.close()
"""


def test_the_hosts_mask_and_signals_do_not_matter() -> None:
    done = subprocess.run([sys.executable, "-c", HARSH], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{['(3, 18, [])'] * 3}\n", done.stderr


async def test_a_forked_child_does_not_keep_the_server_alive(bare: ForkSandbox) -> None:
    await bare.run("1")
    root, started = server(bare), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(started[1], b"x")
        time.sleep(60)
        os._exit(0)
    os.read(started[0], 1)
    try:
        bare.close()
        assert root not in parents()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for descriptor in started:
            os.close(descriptor)


async def test_protections_are_reported(sandbox: ForkSandbox) -> None:
    said = sandbox.protections()
    assert said["seccomp"] is True and said["no_new_privs"] is True
    assert json.loads(json.dumps(said)) == said


# -- the other user ----------------------------------------------------------------------------------------------------

ORDINARY = """
import asyncio, os, sys
from agentrl.tools.sandbox import isolation
visible = sys.argv[1:]
isolation.unshare(isolation.NEW_MOUNTS)
isolation.make_private()
trees = [(path, isolation.copy_tree(path)) for path in visible]
closed = {path for path in ("/root", "/home") if any(item.startswith(path + "/") for item in visible)}
for path in closed:
    isolation.mount("tmpfs", path, "tmpfs", 0, "mode=755")
for path, tree in trees:
    if any(path.startswith(item + "/") for item in closed):
        os.makedirs(path)
        isolation.attach_tree(tree, path)
os.setgroups([])
os.setresgid(12345, 12345, 12345)
os.setresuid(12345, 12345, 12345)
isolation.set_dumpable(True)
from agentrl.sandbox import Limits, Outcome
from agentrl.tools.sandbox.fork import ForkSandbox
async def main():
    print(ForkSandbox.why_not(), sorted(ForkSandbox().protections().items()))
    sandbox = ForkSandbox()
    execution = await sandbox.run("import sympy, os\\nprint(sympy.sqrt(8), os.getuid(), os.listdir('/root'))")
    print(execution.stdout, execution.stderr)
    fork = "import os, time\\nfor _ in range(9):\\n  if os.fork() == 0: held = b'x' * (90 << 20); time.sleep(60)\\n"
    fork += "time.sleep(60)"
    print((await sandbox.run(fork, limits=Limits(memory=256 << 20))).outcome)
    print((await sandbox.run("while True: pass", limits=Limits(wall=0.3))).outcome)
    print((await sandbox.run("import os; os.listdir('/proc/1/fd')")).outcome)
    sandbox.close()
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs this whole file as itself")
async def test_an_ordinary_user_has_the_same() -> None:
    visible = sorted({sys.prefix, sys.base_prefix})
    command = [sys.executable, "-c", ORDINARY, *visible]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines and lines[0].startswith("None [") and "the caller's" in lines[0], done.stdout + done.stderr
    assert "2*sqrt(2) 1000" in lines[1]
    assert [line for line in lines if line in {"memory", "timeout", "error"}] == ["memory", "timeout", "error"], lines


def test_the_hosts_random_state_is_left_alone(sandbox: ForkSandbox) -> None:
    random.seed(5)
    expected = random.Random(5).random()
    asyncio.run(sandbox.run("1"))
    assert random.random() == expected
