"""What is the backend `none`'s own: no isolation, and everything that it started ended and removed."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl import sandbox as kernel
from agentrl.errors import ConfigError
from agentrl.sandbox import Limits, Outcome, get_sandbox
from agentrl.tools.sandbox.none import NoSandbox
from tests.tools.sandbox.backends import processes_with

HANG = 30.0


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NoSandbox]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = NoSandbox()
    yield made
    made.close()


def test_it_says_what_it_is() -> None:
    assert NoSandbox.why_not() is None
    assert "no isolation" in (sys.modules[NoSandbox.__module__].__doc__ or "")
    assert "only by name" in (NoSandbox.__doc__ or "")


def test_nothing_falls_back_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentrl.tools.sandbox.bubblewrap import BubblewrapSandbox

    monkeypatch.setattr(BubblewrapSandbox, "why_not", classmethod(lambda cls: "no reason"))
    monkeypatch.setattr(kernel, "_shared", {})
    with pytest.raises(ConfigError, match="'bubblewrap' does not work here: no reason"):
        get_sandbox("bubblewrap")
    assert not kernel._shared


async def test_it_does_not_isolate(sandbox: NoSandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("the host's")
    execution = await sandbox.run(f"import os\nprint(open({str(tmp_path / 'file')!r}).read(), os.getppid())")
    assert execution.stdout == f"the host's {os.getpid()}\n"


async def test_sessions_start_from_the_same_state(sandbox: NoSandbox) -> None:
    code = "hash('a'), list({'a', 'b', 'c'})"
    assert (await sandbox.run(code)).value == (await sandbox.run(code)).value


async def test_the_folder_is_private_and_removed(sandbox: NoSandbox, tmp_path: Path) -> None:
    async with await sandbox.open(files={"f": b"x"}) as session:
        assert (await session.python("import os; oct(os.stat('.').st_mode & 0o777)")).value == "'0o700'"
        assert [path.name for path in tmp_path.glob("*/f")] == ["f"]
        await session.shell("mkdir -p a/b && touch a/b/c && ln -s / a/root && chmod 000 a/b a")
    assert not list(tmp_path.iterdir())


async def test_links_are_not_followed_when_it_is_removed(sandbox: NoSandbox, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    await sandbox.run(f"import os; os.symlink({str(kept)!r}, 'link'); os.chmod('.', 0o500)")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and (kept / "file").exists()


@pytest.mark.parametrize("leave", ["setsid", "(setsid", "cd / && env -i setsid"])
async def test_processes_that_left_their_parents_are_ended(sandbox: NoSandbox, leave: str) -> None:
    number = f"{secrets.randbelow(10**8)}.75"
    command = f"{leave} sleep {number} > /dev/null 2>&1 & {')' if '(' in leave else ''}"
    async with await sandbox.open() as session:
        await session.shell(command)
        async with asyncio.timeout(HANG):
            while not processes_with(number):
                await asyncio.sleep(0.01)
    assert not processes_with(number)


async def test_orphans_of_a_session_that_ended_itself_are_ended(sandbox: NoSandbox) -> None:
    number = f"{secrets.randbelow(10**8)}.75"
    code = (
        f"import os, subprocess\nsubprocess.Popen(['sleep', {number!r}], start_new_session=True, cwd='/')\nos._exit(0)"
    )
    assert (await sandbox.run(code)).outcome is Outcome.KILLED
    assert not processes_with(number)


async def test_too_many_processes_end_the_session(sandbox: NoSandbox) -> None:
    code = "import subprocess, time\nall = [subprocess.Popen(['sleep', '1000']) for _ in range(20)]\ntime.sleep(1000)"
    execution = await sandbox.run(code, limits=Limits(processes=8, wall=HANG))
    assert execution.outcome is Outcome.KILLED and execution.seconds < HANG


def test_a_forgotten_session_ends_with_its_sandbox(sandbox: NoSandbox, tmp_path: Path) -> None:
    number = f"{secrets.randbelow(10**8)}.75"

    async def forget() -> None:
        session = await sandbox.open()
        await session.shell(f"sleep {number} &")

    asyncio.run(forget())
    sandbox.close()
    assert not processes_with(number) and not list(tmp_path.iterdir())
