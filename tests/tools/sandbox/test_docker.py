"""The backend `docker` over a real engine: hardening, limits, the warm pool, leases, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from agentrl.errors import ConfigError, SandboxError
from agentrl.sandbox import Limits, Outcome, Sandbox, Session, get_sandbox
from agentrl.tools.sandbox import docker as backend
from agentrl.tools.sandbox.docker import PACKAGES, DockerSandbox, DockerSession
from agentrl.tools.sandbox.docker_engine import Container, Engine
from agentrl.tools.sandbox.docker_image import REPOSITORY, Contents, missing
from agentrl.tools.sandbox.docker_stream import AttachedTransport
from tests.tools.sandbox.engine import OwnEngine
from tests.tools.sessions import call, descriptors, opened


@pytest.fixture
async def make(own_docker: OwnEngine) -> AsyncIterator[Callable[..., DockerSandbox]]:
    """Makes sandboxes with options; closes them at the end, after which the engine has no container that is new."""
    made: list[DockerSandbox] = []
    before = ids(own_docker)

    def one(**options: Any) -> DockerSandbox:
        made.append(DockerSandbox(base_url=own_docker.url, **options))
        return made[-1]

    yield one
    for sandbox in made:
        await asyncio.to_thread(sandbox.close)
    assert ids(own_docker) <= before


def ids(engine: OwnEngine) -> set[str]:
    return {container["Id"] for container in engine.containers()}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what comes soon; bounded against hangs."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


def container_of(session: Session) -> str:
    assert isinstance(session, DockerSession)
    return session.container


# -- sessions ----------------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_a_session_keeps_state_runs_commands_and_carries_files(make: Callable[..., DockerSandbox]) -> None:
    async with await make().open(files={"in/a.txt": b"41"}) as session:
        assert (await session.python("x = int(open('in/a.txt').read())")).outcome is Outcome.OK
        assert (await session.python("x + 1")).value == "42"
        assert (await session.shell("cat in/a.txt; id -u; pwd")).stdout == "4165534\n/tmp/work\n"
        await session.write("b.bin", bytes(range(256)))
        assert await session.read("b.bin") == bytes(range(256))
        numbers = await session.python("import numpy, sympy\nint(numpy.ones(3).sum()) + sympy.Integer(2) ** 64")
        assert numbers.value == str(2**64 + 3)


@pytest.mark.docker
async def test_a_container_is_hardened(make: Callable[..., DockerSandbox], own_docker: OwnEngine) -> None:
    limits = Limits(memory=128 << 20, disk=16 << 20, processes=10)
    async with await make(pool=0).open(limits=limits) as session:
        client = docker.APIClient(base_url=own_docker.url)
        described = client.inspect_container(container_of(session))
        client.close()
        host = described["HostConfig"]
        assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert host["Memory"] == host["MemorySwap"] == (128 + 16) << 20
        assert host["PidsLimit"] == 13
        assert host["Init"] is True
        assert host["LogConfig"]["Type"] == "none"
        assert described["Config"]["User"] == "65534:65534"
        assert not described["Mounts"]


@pytest.mark.docker
@pytest.mark.parametrize(
    "code",
    [
        "open('/usr/local/x', 'w')",
        "open('/etc/passwd', 'a')",
        "import socket; socket.create_connection(('1.1.1.1', 53), timeout=2)",
        "import os; os.setuid(0)",
        "import os; os.mkdir('/x')",
        "open('/proc/sys/kernel/hostname', 'w')",
        "open('f', 'wb').write(bytes(40 << 20)); open('/tmp/g', 'wb').write(bytes(40 << 20))",
    ],
)
async def test_what_a_container_forbids(shared: Sandbox, code: str) -> None:
    execution = await shared.run(code)
    assert execution.outcome is Outcome.ERROR
    assert "Error" in execution.stderr


@pytest.fixture
def shared(docker_engine: str) -> Sandbox:
    """One sandbox for the tests that need nothing of their own; no start of its is under way between two tests."""
    return get_sandbox({"name": "docker", "base_url": docker_engine, "pool": 0})


@pytest.mark.docker
async def test_one_container_for_one_session(make: Callable[..., DockerSandbox], own_docker: OwnEngine) -> None:
    sandbox, seen = make(pool=2), set()
    for _ in range(4):
        async with await sandbox.open() as session:
            seen.add(container_of(session))
            left = await session.shell("ls; echo x > left; ls /tmp")
            assert left.stdout == "work\n"
        assert container_of(session) not in ids(own_docker)
    assert len(seen) == 4


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.docker
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal, time\nfor n in range(1, 30):\n  try: signal.signal(n, signal.SIG_IGN)\n  except OSError: pass\n"
        "time.sleep(60)",
        "import os\nos.fork() or os.setsid()\nos.close(1)\nimport time\ntime.sleep(60)",
    ],
)
async def test_the_wall_limit_ends_a_session(shared: Sandbox, own_docker: OwnEngine, code: str) -> None:
    async with await shared.open(limits=Limits(wall=1.0)) as session:
        assert (await session.python(code)).outcome is Outcome.TIMEOUT
        assert not session.alive
        assert container_of(session) not in ids(own_docker)
        with pytest.raises(SandboxError, match="dead"):
            await session.python("1")


@pytest.mark.docker
async def test_a_hanging_command_is_ended_like_code(shared: Sandbox, own_docker: OwnEngine) -> None:
    async with await shared.open() as session:
        assert (await session.shell("trap '' TERM INT HUP; sleep 60", wall=0.5)).outcome is Outcome.TIMEOUT
        assert container_of(session) not in ids(own_docker)


@pytest.mark.docker
async def test_the_memory_of_all_processes_counts_and_all_of_them_end(shared: Sandbox, own_docker: OwnEngine) -> None:
    code = """
        import os, signal
        for _ in range(6):
            if os.fork() == 0:
                kept = bytearray(os.urandom(1 << 20)) * 100
                signal.pause()
        os.wait()
        signal.pause()
    """
    async with await shared.open(limits=Limits(memory=200 << 20, disk=1 << 20, wall=30)) as session:
        assert (await session.python(textwrap.dedent(code))).outcome is Outcome.MEMORY
        assert container_of(session) not in ids(own_docker)


@pytest.mark.docker
async def test_memory_of_the_session_itself(shared: Sandbox) -> None:
    execution = await shared.run("x = bytearray(600 << 20)", limits=Limits(memory=256 << 20))
    assert execution.outcome is Outcome.MEMORY


@pytest.mark.docker
async def test_cpu_seconds_end_a_session(shared: Sandbox) -> None:
    assert (await shared.run("while True: pass", limits=Limits(wall=30, cpu=1))).outcome is Outcome.TIMEOUT


@pytest.mark.docker
async def test_a_fork_bomb_stays_within_its_container(shared: Sandbox) -> None:
    code = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    assert (await shared.run(code, limits=Limits(wall=2.0))).outcome.fatal
    assert (await shared.run("1 + 1")).value == "2"


@pytest.mark.docker
async def test_an_engine_that_hangs_does_not_hang_a_call(
    make: Callable[..., DockerSandbox], own_docker: OwnEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "RELEASE_SECONDS", 0.5)
    session = await make(pool=0).open(limits=Limits(wall=1.0))
    own_docker.pause()
    try:
        async with asyncio.timeout(20):
            assert (await session.python("1 + 1")).outcome is Outcome.TIMEOUT
    finally:
        own_docker.resume()
    await until(lambda: container_of(session) not in ids(own_docker))


# -- the pool ----------------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_warm_containers_are_there_before_they_are_asked_for(
    make: Callable[..., DockerSandbox], own_docker: OwnEngine
) -> None:
    before, sandbox = ids(own_docker), make(pool=3)
    async with await sandbox.open():
        await until(lambda: len(ids(own_docker) - before) == 4)
        warm = ids(own_docker)
        async with await sandbox.open() as second, await sandbox.open() as third:
            assert {container_of(second), container_of(third)} <= warm
    await until(lambda: len(ids(own_docker) - before) == 3)


@pytest.mark.docker
async def test_other_limits_get_a_container_of_their_own(make: Callable[..., DockerSandbox]) -> None:
    sandbox = make(pool=1)
    for megabytes in (16, 32, 16):
        async with await sandbox.open(limits=Limits(disk=megabytes << 20)) as session:
            assert (await session.shell("df -m /tmp | tail -1 | awk '{print $2}'")).stdout == f"{megabytes}\n"


@pytest.mark.docker
async def test_starts_are_ramped(make: Callable[..., DockerSandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    lock, now, most, start = threading.Lock(), 0, 0, Engine.start

    def counted(self: Engine, image: str, limits: Limits) -> Container:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return start(self, image, limits)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(Engine, "start", counted)
    sandbox = make(pool=2, max_starts=3)

    async def play(number: int) -> str | None:
        async with await sandbox.open() as session:
            return (await session.python(str(number))).value

    assert await asyncio.gather(*map(play, range(12))) == [str(number) for number in range(12)]
    assert most == 3


@pytest.mark.docker
async def test_an_open_that_is_cancelled_leaves_nothing(
    make: Callable[..., DockerSandbox], own_docker: OwnEngine
) -> None:
    before, sandbox = ids(own_docker), make(pool=1, max_starts=2)
    for delay in (0.0, 0.05, 0.2):
        opening = [asyncio.ensure_future(sandbox.open()) for _ in range(3)]
        await asyncio.sleep(delay)
        for task in opening:
            task.cancel()
        for result in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(result, Session):
                await result.close()
    await until(lambda: len(ids(own_docker) - before) == 1)
    async with await sandbox.open() as session:
        assert (await session.python("1 + 1")).value == "2"


@pytest.mark.docker
async def test_close_ends_what_is_open_and_what_is_opening(
    make: Callable[..., DockerSandbox], own_docker: OwnEngine
) -> None:
    before, sandbox = ids(own_docker), make(pool=2, max_starts=1)
    session = await sandbox.open()
    opening = asyncio.gather(*(sandbox.open() for _ in range(5)), return_exceptions=True)
    await asyncio.sleep(0.1)
    await asyncio.to_thread(sandbox.close)
    assert ids(own_docker) <= before
    assert all(isinstance(result, SandboxError | Session) for result in await opening)
    assert (await session.python("1")).outcome is Outcome.KILLED
    await session.close()


@pytest.mark.docker
def test_two_event_loops_share_a_sandbox(shared: Sandbox) -> None:
    async def play() -> str | None:
        async with await shared.open() as session:
            return (await session.python("1 + 1")).value

    values: list[str | None] = []
    threads = [threading.Thread(target=lambda: values.append(asyncio.run(play()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == ["2"] * 3


@pytest.mark.docker
async def test_descriptors_do_not_grow(shared: Sandbox) -> None:
    counts = []
    for number in range(12):
        async with await shared.open() as session:
            await session.python("1")
        if number >= 4:
            counts.append(descriptors())
    assert max(counts) - counts[0] <= 4  # a start ahead of its use comes and goes


# -- leases ------------------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_a_lease_ends_a_session_that_was_forgotten(
    make: Callable[..., DockerSandbox], own_docker: OwnEngine
) -> None:
    session = await make(pool=0, lease=2.0).open()
    await until(lambda: container_of(session) not in ids(own_docker))
    assert not session.alive
    with pytest.raises(SandboxError, match="dead"):
        await session.python("1")


OWNER = """
import asyncio, sys, time
from agentrl.sandbox import get_sandbox

async def main():
    sandbox = get_sandbox({"name": "docker", "base_url": sys.argv[1], "pool": 1})
    sessions = [await sandbox.open() for _ in range(2)]
    print(*(session.container for session in sessions), flush=True)
    await asyncio.sleep(120)

asyncio.run(main())
"""


@pytest.mark.docker
async def test_containers_of_a_killed_owner_are_swept_and_those_of_a_living_one_are_not(
    make: Callable[..., DockerSandbox], own_docker: OwnEngine
) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, own_docker.url], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        theirs = set((await asyncio.to_thread(owner.stdout.readline)).split())
        assert len(theirs) == 2
        async with await make(pool=0).open():
            await asyncio.sleep(0.5)
            assert theirs <= ids(own_docker)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert theirs <= ids(own_docker)
        async with await make(pool=0).open():
            await until(lambda: not theirs & ids(own_docker))
    finally:
        owner.kill()
        owner.communicate()


@pytest.mark.docker
async def test_a_container_past_its_deadline_is_swept_though_its_owner_lives(
    shared: Sandbox, own_docker: OwnEngine
) -> None:
    assert (await shared.run("1")).value == "1"
    short, long = (Engine(own_docker.url, runtime=None, python="python3", lease=lease) for lease in (1.0, 3600.0))
    tag = f"{REPOSITORY}:{Contents(PACKAGES).digest()}"
    containers = [await asyncio.to_thread(engine.start, tag, Limits()) for engine in (short, long)]
    await asyncio.sleep(2.0)
    assert await asyncio.to_thread(long.sweep) == 1
    assert containers[0].id not in ids(own_docker)
    assert containers[1].id in ids(own_docker)
    await asyncio.to_thread(long.remove, containers[1].id)
    for container in containers:
        container.connection.close()


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_an_image_is_made_once_and_can_be_named(
    make: Callable[..., DockerSandbox], shared: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (await shared.run("1")).value == "1"
    capfd.readouterr()
    tag = f"{REPOSITORY}:{Contents(PACKAGES).digest()}"
    assert (await make(pool=0).run("2")).value == "2"
    assert (await make(pool=0, image=tag).run("3")).value == "3"
    assert "making the Docker image" not in capfd.readouterr().err


@pytest.mark.docker
async def test_no_such_image_and_no_such_interpreter(make: Callable[..., DockerSandbox]) -> None:
    with pytest.raises(SandboxError, match="no image 'agentrl-no-such-image' and cannot pull it"):
        await make(image="agentrl-no-such-image", pool=0).run("1")
    with pytest.raises(SandboxError, match=r"could not be started: .*exec no-such-python failed"):
        await make(python="no-such-python", pool=0).run("1")
    with pytest.raises(SandboxError, match="could not be started"):
        await make(python="true", pool=0).run("1")


@pytest.mark.docker
async def test_the_image_names_no_folder_of_the_users(shared: Sandbox) -> None:
    home = os.path.expanduser("~")
    execution = await shared.run(f"import os, sys\n(os.path.exists({home!r}), sys.prefix)")
    assert execution.value == "(False, '/usr/local')"


# -- tools -------------------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_the_tools_run_in_containers_and_branch(docker_engine: str) -> None:
    spec = {"name": "docker", "base_url": docker_engine}
    async with opened("python", sandbox=spec) as trunk, opened("python", sandbox=spec) as branch:
        await call(trunk, code="import random\nx = random.random()\nprint({'b', 'a', 'c'})")
        await branch.restore(await trunk.snapshot())
        assert (await call(branch, code="x")).text == (await call(trunk, code="x")).text
    async with opened("shell", sandbox=spec) as shell:
        await call(shell, command="echo 1 > a")
        assert (await call(shell, command="cat a; false")).text == "1\n[exit code 1]"


# -- mistakes, without an engine ---------------------------------------------------------------------------------------


def test_no_engine_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/no.sock"
    with pytest.raises(ConfigError) as raised:
        get_sandbox({"name": "docker", "base_url": url})
    said = str(raised.value)
    assert said.startswith(f"sandbox 'docker' does not work here: no Docker engine answers at {url}: ")
    assert "DOCKER_HOST" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pool": -1}, "pool=-1 must be at least 0"),
        ({"max_starts": 0}, "max_starts=0 must be at least 1"),
        ({"lease": 0.5}, "lease=0.5 must be at least 1"),
        ({"base_url": "ssh://host"}, "base_url='ssh://host' must begin with unix:// or tcp://"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DockerSandbox(**options)


def test_a_package_that_is_not_here_is_named() -> None:
    assert missing(["numpy"]) is None
    assert "packages='no-such-package' is not installed here" in str(missing(["no-such-package"]))


async def test_the_stream_is_taken_apart_however_it_arrives() -> None:
    ours, theirs = socket.socketpair()
    transport = AttachedTransport(ours)
    pieces = [(1, b"hello "), (2, b"a complaint\nthe reason\n"), (1, b""), (1, b"world"), (1, bytes(100_000))]
    sent = b"".join(struct.pack(">BxxxL", stream, len(data)) + data for stream, data in pieces)

    def send() -> None:
        with theirs:
            for start in range(0, 60):
                theirs.send(sent[start : start + 1])
            theirs.sendall(sent[60:])

    sender = threading.Thread(target=send)
    sender.start()
    received = b""
    while part := await transport.receive(7):
        assert len(part) <= 7
        received += part
    sender.join()
    assert received == b"hello world" + bytes(100_000)
    assert transport.complaint == "the reason"
    transport.close()
