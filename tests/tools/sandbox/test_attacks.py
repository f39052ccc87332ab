"""Hostile programs over every backend that runs here, and what must hold after each.

`none` isolates nothing: only the attacks on limits and clean-up are run against it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agentrl.errors import SandboxError
from agentrl.sandbox import Limits, Outcome, Sandbox, Session
from tests.tools.sandbox import attacks_limits, attacks_protocol, attacks_system
from tests.tools.sandbox.attacks import ATTACKS, ENDED, ISOLATED, SMALL, TRIED, Attack, program
from tests.tools.sandbox.backends import BACKENDS, WITH_POOL, opened, processes_with
from tests.tools.sandbox.hostile_host import Host, hostile_host

HANG = 40.0
"""Seconds after which a test has hung; nothing is timed by it."""
TRIED_TO_THE_END = ("secrets", "parent", "network", "mounts", "modules")
"""Kinds whose programs must have come to their end for the test to mean something."""
HOST_MEMORY = 200 << 10
"""Kilobytes by which the host may grow while a program floods it."""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="agentrl-attacks-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with hostile_host(folder) as planted:
            yield planted
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=BACKENDS)
def sandbox(request: pytest.FixtureRequest, host: Host) -> Iterator[Sandbox]:
    for each in opened(request.param):
        assert asyncio.run(each.run("print(1 + 1)")).stdout == "2\n"  # what the backend keeps for good is there now
        yield each


@pytest.fixture
def mark() -> str:
    """Names this test's processes: `atk` and eight hexadecimal digits."""
    return f"atk{secrets.token_hex(4)}"


def test_there_are_enough_of_them() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 40
    assert {attack.function.__module__ for attack in ATTACKS} >= {
        module.__name__ for module in (attacks_limits, attacks_protocol, attacks_system)
    }


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_attack(sandbox: Sandbox, attack: Attack, host: Host, mark: str) -> None:
    if sandbox.name not in attack.blocked:
        pytest.skip(f"{sandbox.name} does not isolate")
    facts = host.facts(mark)
    before, memory = host.state(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with asyncio.timeout(HANG):
        async with await sandbox.open(limits=attack.limits, files=attack.files) as session:
            seen: list[int] = []
            counting = asyncio.ensure_future(count_tasks(mark, seen) if attack.kind == "processes" else nothing())
            execution = await session.python(attack.source(facts))
            counting.cancel()
            said = execution.stdout + execution.stderr + str(execution.value)
            assert "BREACH" not in said, said
            assert execution.outcome in attack.outcomes, execution
            if attack.kind in TRIED_TO_THE_END and execution.outcome in ENDED:
                assert TRIED in execution.stdout, execution
            assert max(map(len, (execution.stdout, execution.stderr))) <= attack.limits.output
            if sandbox.name in ISOLATED:  # `none` looks ten times a second, and kills
                assert max(seen, default=0) <= attack.limits.processes + 2  # a backend may allow for its own
            if attack.kind == "leaks":
                await found_nothing(sandbox, facts)
            await still_bounded(session)
        if attack.kind == "leaks":
            await found_nothing(sandbox, facts)
        assert (await sandbox.run("print(1 + 1)")).stdout == "2\n"
        await nothing_left(sandbox, host, mark, before)
    host.unharmed()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < HOST_MEMORY


async def nothing() -> None:
    """Counts nothing: counting costs a look at every process."""


async def count_tasks(mark: str, seen: list[int]) -> None:
    """Note how many threads there are, again and again until cancelled."""
    while True:
        await asyncio.sleep(0.05)
        count = 0
        for pid in processes_with(mark):
            with suppress(OSError):
                count += len(os.listdir(f"/proc/{pid}/task"))
        seen.append(count)


async def still_bounded(session: Session) -> None:
    """A session that was tampered with answers, or says that it is dead; whatever it says is bounded."""
    if session.alive:
        with suppress(SandboxError):
            execution = await session.python("print('and now?')", wall=0.3)
            assert len(execution.stdout) <= SMALL.output
    if session.alive:
        with suppress(SandboxError):
            assert len(await session.read("file", limit=100)) <= 100
    if not session.alive:
        with pytest.raises(SandboxError):
            await session.python("1")


async def found_nothing(sandbox: Sandbox, facts: dict[str, object]) -> None:
    """What another session sees of the attack's."""
    execution = await sandbox.run(program(attacks_protocol.what_another_left, facts), limits=SMALL)
    assert (execution.outcome, execution.stdout) == (Outcome.OK, ""), execution


async def nothing_left(sandbox: Sandbox, host: Host, mark: str, before: set[str]) -> None:
    """The kernel takes a moment to end processes that were killed."""
    for _ in range(100):
        left = host.left(mark) + sorted(host.state() - before)
        if sandbox.name in WITH_POOL:
            left = [each for each in left if "socket:" not in each]
        if not left:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"left behind: {left}")


# -- attacks that take several steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["file", "folder", "chain", "process"])
async def test_links_out_of_the_folder_are_not_read(sandbox: Sandbox, host: Host, link: str) -> None:
    if sandbox.name not in ISOLATED:
        pytest.skip(f"{sandbox.name} does not isolate")
    target, path = {
        "file": (str(host.file), "link"),
        "folder": (str(host.file.parent), f"link/{host.file.name}"),
        "chain": ("./next", "link"),
        "process": ("/proc/self/root", f"link{host.file}"),
    }[link]
    async with await sandbox.open() as session:
        await session.python(f"import os; os.symlink({target!r}, 'link'); os.symlink({str(host.file)!r}, 'next')")
        with pytest.raises(SandboxError):
            await session.read(path)
        with suppress(SandboxError):  # refused, or done within the sandbox
            await session.write(path, b"changed")
        assert (await session.python("1")).value == "1"
    host.unharmed()


async def test_links_are_followed_by_the_guest_only(sandbox: Sandbox, host: Host) -> None:
    """Nobody outside of the sandbox opens what a program named: it may have become a link meanwhile."""
    async with await sandbox.open(files={"f": b"mine"}) as session:
        swap = (
            "import os, threading\n"
            "def swap():\n"
            "    for _ in range(20000):\n"
            f"        os.symlink({str(host.file)!r}, 'g'); os.replace('g', 'f')\n"
            "        open('g', 'w').write('mine'); os.replace('g', 'f')\n"
            "threading.Thread(target=swap, daemon=True).start()"
        )
        await session.python(swap)
        for _ in range(100 if sandbox.name in ISOLATED else 1):
            with suppress(SandboxError):
                assert (await session.read("f")).decode() != host.canary or sandbox.name not in ISOLATED
    host.unharmed()


@pytest.mark.parametrize(
    "make", ["os.mkfifo('f')", "os.symlink('/dev/zero', 'f')", "os.symlink('f', 'f')", "os.mkdir('f')"]
)
async def test_reading_what_never_ends(sandbox: Sandbox, make: str) -> None:
    async with await sandbox.open() as session:
        await session.python(f"import os; os.{make}")
        async with asyncio.timeout(HANG):
            with pytest.raises(SandboxError):
                await session.read("f")
        assert session.alive


async def test_a_file_of_a_terabyte_is_not_read(sandbox: Sandbox) -> None:
    async with await sandbox.open() as session:
        await session.python("f = open('f', 'wb')\ntry: f.truncate(1 << 40)\nexcept OSError: f.truncate(1 << 25)")
        with pytest.raises(SandboxError):
            await session.read("f")
        assert session.alive


async def test_a_sandbox_survives_many_that_die(sandbox: Sandbox, host: Host) -> None:
    before = host.state()
    limits = Limits(wall=0.2)
    async with asyncio.timeout(HANG):
        ends = await asyncio.gather(*[sandbox.run("import time; time.sleep(1000)", limits=limits) for _ in range(12)])
        assert {end.outcome for end in ends} == {Outcome.TIMEOUT}
        assert (await sandbox.run("print(1 + 1)")).stdout == "2\n"
        await nothing_left(sandbox, host, "atk00000000", before)


async def test_sessions_do_not_see_each_other(sandbox: Sandbox, mark: str) -> None:
    """Neither processes nor files of a session that is open at the same time."""
    if sandbox.name not in ISOLATED:
        pytest.skip(f"{sandbox.name} does not isolate")
    async with await sandbox.open(files={mark: b"x"}) as one, await sandbox.open() as two:
        await one.shell(f"sleep {int(mark[3:], 16)}.25 & exit 0")
        looked = await two.shell(f"cat /proc/[0-9]*/cmdline; find /tmp /run /dev /home /root -name {mark} 2>&1")
        assert mark not in looked.stdout.replace(f"name\0{mark}", "").replace(f"name {mark}", "")
        assert f"{int(mark[3:], 16)}.25" not in looked.stdout
