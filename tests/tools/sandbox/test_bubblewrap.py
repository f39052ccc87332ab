"""What is the backend `bubblewrap`'s own: its command line, the user it runs as, and why it does not work."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, SandboxError
from agentrl.sandbox import Limits, Outcome
from agentrl.tools.sandbox import bubblewrap
from agentrl.tools.sandbox.bubblewrap import BubblewrapSandbox
from agentrl.tools.sandbox.local import tree
from tests.tools.sandbox.backends import opened

HANG = 60.0
needs_bwrap = pytest.mark.bubblewrap
TREE = Path(__file__).resolve().parents[3]


@pytest.fixture
def sandbox() -> Iterator[BubblewrapSandbox]:
    for made in opened("bubblewrap"):
        assert isinstance(made, BubblewrapSandbox)
        yield made


# -- why it does not work ----------------------------------------------------------------------------------------------


def test_without_the_program_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert BubblewrapSandbox.why_not() == "bwrap is not on PATH: apt-get install bubblewrap"


def test_elsewhere_than_on_linux_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert BubblewrapSandbox.why_not() == "it needs Linux"


@pytest.mark.parametrize("said", ["bwrap: No permissions to create new namespace", ""])
def test_the_reason_is_what_the_program_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str) -> None:
    for name in ("setpriv", "unshare", "mount", "sh"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 3\n")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(0o755)
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = BubblewrapSandbox.why_not()
    assert reason and "\n" not in reason and reason.startswith(said or "exit code 3") and "user namespaces" in reason


@pytest.mark.parametrize("path", ["relative", "/no/such/path"])
def test_a_wrong_option_is_one_line(path: str) -> None:
    with pytest.raises(ConfigError, match=f"readonly='{path}' must be an absolute path that exists"):
        BubblewrapSandbox(readonly=[path])


def test_the_interpreter_is_named_once() -> None:
    folders = bubblewrap._interpreter()
    assert len(set(folders)) == len(folders)
    for path in (sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)):
        assert any(Path(path).is_relative_to(folder) for folder in ["/usr", *folders])
    assert not any(Path(one).is_relative_to(other) for one in folders for other in folders if one != other)


# -- what is inside ----------------------------------------------------------------------------------------------------


@needs_bwrap
async def test_the_user_is_nobody_without_capabilities(sandbox: BubblewrapSandbox) -> None:
    async with await sandbox.open() as session:
        assert (await session.python("import os; (os.getuid(), os.getgid(), os.getgroups())")).value in (
            "(65534, 65534, [])",
            "(65534, 65534, [65534])",
        )
        status = (await session.shell("cat /proc/self/status")).stdout
        assert "CapBnd:\t0000000000000000" in status and "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status


@needs_bwrap
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give up being root")
async def test_root_does_not_run_it_as_root(sandbox: BubblewrapSandbox) -> None:
    async with await sandbox.open() as session:
        pids = tree(session._process.pid)  # type: ignore[attr-defined]
        assert len(pids) >= 3
        assert {os.stat(f"/proc/{pid}").st_uid for pid in pids} <= {65534}


@needs_bwrap
async def test_bwrap_itself_has_no_environment(sandbox: BubblewrapSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_TEST_KEY", "secret")
    async with await sandbox.open() as session:
        for pid in tree(session._process.pid):  # type: ignore[attr-defined]
            assert b"AGENTRL_TEST_KEY" not in Path(f"/proc/{pid}/environ").read_bytes()
        first = (await session.shell("cat /proc/1/environ")).stdout.split("\0")
        assert {entry.partition("=")[0] for entry in first} <= {"", "PATH", "PWD", "OLDPWD", "_", "SHLVL"}


@needs_bwrap
async def test_all_but_its_own_folders_is_read_only(sandbox: BubblewrapSandbox) -> None:
    mounts = (await sandbox.run("cat /proc/self/mounts", language="shell")).stdout.splitlines()
    writable = {line.split()[1] for line in mounts if line.split()[3].startswith("rw")}
    assert {place for place in writable if not place.startswith(("/proc", "/dev/"))} == {"/tmp"}
    sizes = [line.split()[3] for line in mounts if line.split()[1] in ("/tmp", "/dev/shm")]
    assert len(sizes) == 2 and all("size=" in size for size in sizes)


@needs_bwrap
async def test_further_folders_can_be_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "f").write_text("x")
    (tmp_path / "file").write_text("y")
    sandbox = BubblewrapSandbox(readonly=[str(tmp_path / "data"), str(tmp_path / "file")])
    try:
        async with await sandbox.open() as session:
            command = f"cat {tmp_path}/data/f {tmp_path}/file; ls {tmp_path}; echo z > {tmp_path}/data/f"
            execution = await session.shell(command)
            assert execution.stdout == "xydata\nfile\n" and "Read-only file system" in execution.stderr
    finally:
        sandbox.close()
    assert (tmp_path / "data" / "f").read_text() == "x"


@needs_bwrap
async def test_sessions_start_from_the_same_state(sandbox: BubblewrapSandbox) -> None:
    code = "hash('a'), list({'a', 'b', 'c'})"
    assert (await sandbox.run(code)).value == (await sandbox.run(code)).value


@needs_bwrap
async def test_it_ends_with_the_program_that_started_it(sandbox: BubblewrapSandbox) -> None:
    program = (
        "import asyncio, os, signal\n"
        "from agentrl.tools.sandbox.bubblewrap import BubblewrapSandbox\n"
        "async def main():\n"
        "    session = await BubblewrapSandbox().open()\n"
        "    print(session._process.pid, flush=True)\n"
        "    await session.shell('setsid sleep 1000 &')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    async with asyncio.timeout(HANG):
        while os.path.exists(f"/proc/{done.stdout.strip()}"):
            await asyncio.sleep(0.01)


@needs_bwrap
async def test_killing_bwrap_from_outside_is_seen(sandbox: BubblewrapSandbox) -> None:
    async with await sandbox.open() as session:
        call = asyncio.ensure_future(session.python("import time; time.sleep(1000)", wall=HANG))
        await asyncio.sleep(0.1)
        session._process.kill()  # type: ignore[attr-defined]
        assert (await call).outcome is Outcome.KILLED
        with pytest.raises(SandboxError):
            await session.python("1")


@needs_bwrap
async def test_memory_of_all_processes_counts(sandbox: BubblewrapSandbox) -> None:
    code = (
        "import os, time\n"
        "for _ in range(6):\n"
        "    if os.fork() == 0:\n"
        "        kept = bytearray(b'x') * (60 << 20)\n"
        "        time.sleep(1000)\n"
        "time.sleep(1000)"
    )
    execution = await sandbox.run(code, limits=Limits(memory=200 << 20, wall=HANG))
    assert execution.outcome is Outcome.MEMORY and execution.seconds < HANG


@needs_bwrap
async def test_memory_that_forks_share_counts_once(sandbox: BubblewrapSandbox) -> None:
    code = (
        "import os, time\n"
        "kept = bytearray(b'x') * (60 << 20)\n"
        "for _ in range(6):\n"
        "    if os.fork() == 0: time.sleep(1000)\n"
        "time.sleep(0.5)\n'alive'"
    )
    assert (await sandbox.run(code, limits=Limits(memory=200 << 20, wall=HANG))).value == "'alive'"


@needs_bwrap
async def test_memory_counts_between_calls(sandbox: BubblewrapSandbox) -> None:
    code = (
        "import os, time\n"
        "for _ in range(6):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(0.3)\n"
        "        kept = bytearray(b'x') * (60 << 20)\n"
        "        time.sleep(1000)"
    )
    async with await sandbox.open(limits=Limits(memory=200 << 20)) as session:
        assert (await session.python(code)).ok
        async with asyncio.timeout(HANG):
            while tree(session._process.pid):  # type: ignore[attr-defined]
                await asyncio.sleep(0.05)
        assert (await session.python("1")).outcome is Outcome.MEMORY


# -- as an ordinary user -----------------------------------------------------------------------------------------------

_AS_USER = """
import asyncio, os
from agentrl.sandbox import Limits
from agentrl.tools.sandbox.bubblewrap import BubblewrapSandbox
assert os.getuid() == 12345, os.getuid()
print(BubblewrapSandbox.why_not())
sandbox = BubblewrapSandbox()
async def main():
    async with await sandbox.open(files={"f": b"x"}) as session:
        print((await session.python("import os; open('f').read(), os.getuid()")).value)
        print((await session.shell("ls -A /home; cat /etc/shadow")).stdout.split())
        print((await session.python("[os.fork() for _ in range(3)] and __import__('time').sleep(9)", wall=0.5)).outcome)
    print((await sandbox.run("b'x' * (1 << 30)", limits=Limits(memory=256 << 20))).outcome)
    limits = Limits(processes=8)
    code = "import subprocess\\nfor _ in range(20): subprocess.Popen(['sleep', '100'])"
    print("BlockingIOError" in (await sandbox.run(code, limits=limits)).stderr)
asyncio.run(main())
sandbox.close()
"""


@needs_bwrap
@pytest.mark.skipif(os.getuid() != 0, reason="these tests run as an ordinary user already")
def test_an_ordinary_user_can_use_it(sandbox: BubblewrapSandbox) -> None:
    """In a mount namespace where the user can reach the interpreter and the package, wherever they lie."""
    places = [*bubblewrap._interpreter(), str(TREE)]
    covers = sorted({next(iter(_closed(path)), "") for path in places} - {""})
    script = ["set -e"]
    for number, path in enumerate(places):
        script += [f"mkdir /mnt/{number}", f"mount --rbind {path} /mnt/{number}"]
    script += [f"mount -t tmpfs -o mode=755 tmpfs {cover}" for cover in covers]
    for number, path in enumerate(places):
        if any(Path(path).is_relative_to(cover) for cover in covers):
            script += [f"mkdir -p {path}", f"mount --rbind /mnt/{number} {path}"]
    script += ['exec setpriv --reuid=12345 --regid=12345 --clear-groups "$@"']
    text = "\n".join(["mount -t tmpfs -o mode=755 tmpfs /mnt", *script])
    command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", text, "sh"]
    command += [sys.executable, "-c", _AS_USER]
    environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["None", "('x', 65534)", "[]", "timeout", "memory", "True"], done.stdout


def _closed(path: str) -> list[str]:
    """Folders on the way to `path`, from the top, that other users cannot enter."""
    way = [folder for folder in reversed((Path(path), *Path(path).parents)) if folder.is_dir()]
    return [str(folder) for folder in way if not folder.stat().st_mode & 0o001]
