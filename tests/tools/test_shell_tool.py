"""The tool `shell`: commands over one working folder, and what its policy reads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentrl import registry
from agentrl.errors import ConfigError, EnvError
from agentrl.sandbox import Execution, Outcome, close_sandboxes
from agentrl.tool import resolve_tool
from tests.tools.sessions import call, episode, gone, needs, opened


@pytest.fixture(params=["none", "fork", pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)])
def sandbox(request: pytest.FixtureRequest) -> str:
    return needs(request.param)


@pytest.fixture
def plain() -> str:
    return needs("none")


@pytest.mark.parametrize(
    ("command", "text", "error"),
    [
        ("echo hello", "hello", None),
        ("true", "(no output)", None),
        ("echo out; echo err >&2", "out\nerr", None),
        ("printf 'a b c' | wc -w", "3", None),
        ("echo before; exit 3", "before\n[exit code 3]", "failed"),
        ("false", "[exit code 1]", "failed"),
        ("for i in 1 2 3; do\n  echo $i\ndone", "1\n2\n3", None),
    ],
)
async def test_output_and_exit_code(sandbox: str, command: str, text: str, error: str | None) -> None:
    async with opened("shell", sandbox=sandbox) as tool:
        result = await call(tool, command=command)
        assert (result.text, result.error) == (text, error)


async def test_a_command_that_is_not_there(sandbox: str) -> None:
    async with opened("shell", sandbox=sandbox) as tool:
        result = await call(tool, command="no-such-command")
        assert result.error == "failed"
        assert "not found" in result.text
        assert result.text.endswith("[exit code 127]")


async def test_files_are_kept_and_variables_are_not(sandbox: str) -> None:
    async with opened("shell", sandbox=sandbox) as tool:
        await call(tool, command="mkdir d && echo hello > d/a && cd d && X=1")
        assert (await call(tool, command="cat d/a; echo [$X]")).text == "hello\n[]"
    async with opened("shell", sandbox=sandbox) as tool:
        assert (await call(tool, command="ls")).text == "(no output)"


async def test_files_of_the_episode_are_there(sandbox: str) -> None:
    async with opened("shell", episode(shell={"files": {"in/data.txt": b"3\n1\n2\n"}}), sandbox=sandbox) as tool:
        assert (await call(tool, command="sort -n in/data.txt | head -1")).text == "1"


async def test_a_timeout_ends_the_session(sandbox: str) -> None:
    async with opened("shell", sandbox=sandbox, wall=1) as tool:
        await call(tool, command="echo x > kept")
        result = await call(tool, command="trap '' TERM INT HUP; echo begun; while :; do :; done")
        assert result.error == "timeout"
        assert "its state and files are lost" in result.text
        assert isinstance(result.data, Execution)
        assert result.data.outcome is Outcome.TIMEOUT
        assert (await call(tool, command="ls")).text == "(no output)"


async def test_a_cancelled_command_leaves_no_process(plain: str) -> None:
    command = ["sleep", "61.5"]
    async with opened("shell", sandbox=plain) as tool:
        task = asyncio.ensure_future(call(tool, command=f"{' '.join(command)} & {' '.join(command)}"))
        pids = await started(command, count=2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all([await gone(pid) for pid in pids])


async def started(command: list[str], count: int) -> list[int]:
    """Ids of the processes of that command line, when there are so many."""
    wanted = b"".join(word.encode() + b"\0" for word in command)
    async with asyncio.timeout(10):
        while True:
            found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if content(path) == wanted]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


async def test_an_episode_branches_by_running_its_commands_again(sandbox: str) -> None:
    async with opened("shell", sandbox=sandbox) as trunk, opened("shell", sandbox=sandbox) as branch:
        await call(trunk, command="echo 1 > n")
        await call(trunk, command="echo $(( $(cat n) + 1 )) > n; false")
        await branch.restore(await trunk.snapshot())
        await call(trunk, command="echo trunk > n")
        assert (await call(branch, command="cat n")).text == "2"


async def test_a_command_that_is_not_deterministic_cannot_be_branched(plain: str) -> None:
    async with opened("shell", sandbox=plain) as trunk, opened("shell", sandbox=plain) as branch:
        await call(trunk, command="date +%N")
        with pytest.raises(EnvError, match="tool 'shell': the episode cannot be branched: cell 1 of 1"):
            await branch.restore(await trunk.snapshot())


async def test_many_episodes_at_once(plain: str) -> None:
    async def play(number: int) -> str:
        async with opened("shell", sandbox=plain) as tool:
            await call(tool, command=f"echo {number} > n")
            return (await call(tool, command="cat n")).text

    assert await asyncio.gather(*(play(number) for number in range(16))) == [str(number) for number in range(16)]


def test_a_sandbox_that_runs_no_shell_is_refused(plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    close_sandboxes()
    silent = type("Silent", (registry.sandboxes.get(plain),), {"languages": frozenset({"python"})})
    monkeypatch.setitem(registry.sandboxes._registered, plain, silent)
    with pytest.raises(ConfigError, match="tool 'shell': sandbox 'none' does not run shell"):
        resolve_tool("shell", sandbox=plain)
    close_sandboxes()
