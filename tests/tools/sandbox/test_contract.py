"""The contract of `agentrl.sandbox`, for every backend that runs here."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator

import pytest

from agentrl.errors import SandboxError
from agentrl.sandbox import Execution, Limits, Outcome, Sandbox, Session
from tests.tools.sandbox.backends import BACKENDS, WITH_POOL, descriptors, opened, processes_with

HANG = 30.0
"""Seconds after which a test has hung; nothing is timed by it."""


@pytest.fixture(scope="module", params=BACKENDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    yield from opened(request.param)


async def run(sandbox: Sandbox, code: str, **limits: float) -> Execution:
    async with asyncio.timeout(HANG):
        return await sandbox.run(code, limits=Limits(**limits))  # type: ignore[arg-type]


async def is_dead(session: Session) -> bool:
    """Whether every operation says so, by a `SandboxError`."""
    assert not session.alive
    for operation in (session.python("1"), session.shell("true"), session.write("f", b""), session.read("f")):
        with pytest.raises(SandboxError):
            await operation
    return True


async def test_python_has_output_and_value(sandbox: Sandbox) -> None:
    execution = await run(sandbox, "import sys\nprint(1 + 1)\nprint('oh', file=sys.stderr)\n'a' + 'b'")
    assert (execution.outcome, execution.stdout, execution.stderr) == (Outcome.OK, "2\n", "oh\n")
    assert execution.value == "'ab'" and execution.ok and not execution.truncated
    assert 0 < execution.seconds < HANG


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("print('x'", "SyntaxError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("import no_such_module", "ModuleNotFoundError"),
    ],
)
async def test_what_python_raises_is_an_error(sandbox: Sandbox, code: str, says: str) -> None:
    async with await sandbox.open() as session:
        execution = await session.python(code)
        assert execution.outcome is Outcome.ERROR and says in execution.stderr
        assert (await session.python("'still here'")).value == "'still here'"


@pytest.mark.parametrize(("code", "exit_code"), [("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('why')", 1)])
async def test_exit_has_a_code(sandbox: Sandbox, code: str, exit_code: int) -> None:
    async with await sandbox.open() as session:
        execution = await session.python(f"import sys\n{code}")
        assert execution.exit_code == exit_code and execution.ok == (exit_code == 0)
        assert ("why" in execution.stderr) == ("why" in code)
        assert session.alive


async def test_state_is_kept(sandbox: Sandbox) -> None:
    async with await sandbox.open() as session:
        await session.python("import math\nxs = [1]\ndef f(x): return math.sqrt(x) + len(xs)")
        await session.python("xs.append(2)")
        assert (await session.python("f(16)")).value == "6.0"
        await session.python("open('kept.txt', 'w').write('yes')")
        assert (await session.shell("cat kept.txt")).stdout == "yes"


async def test_runs_share_nothing(sandbox: Sandbox) -> None:
    await run(sandbox, "x = 1\nimport json\njson.x = 1\nopen('f', 'w').write('1')")
    assert (await run(sandbox, "x")).outcome is Outcome.ERROR
    assert (await run(sandbox, "import json, os\n(hasattr(json, 'x'), os.listdir())")).value == "(False, [])"


async def test_sessions_at_the_same_time_are_apart(sandbox: Sandbox) -> None:
    async def one(number: int) -> str | None:
        async with await sandbox.open(files={"mine": str(number).encode()}) as session:
            await session.python(f"x = {number}")
            await session.python("import time; time.sleep(0.05)")
            return (await session.python("(x, open('mine').read())")).value

    async with asyncio.timeout(HANG):
        assert await asyncio.gather(*map(one, range(6))) == [f"({n}, '{n}')" for n in range(6)]


async def test_shell(sandbox: Sandbox) -> None:
    async with await sandbox.open(files={"in.txt": b"b\na\n"}) as session:
        execution = await session.shell("sort in.txt | tee out.txt; echo oh >&2")
        assert (execution.outcome, execution.stdout, execution.stderr) == (Outcome.OK, "a\nb\n", "oh\n")
        assert execution.exit_code == 0 and await session.read("out.txt") == b"a\nb\n"
        execution = await session.shell("exit 7")
        assert (execution.outcome, execution.exit_code) == (Outcome.ERROR, 7)
        assert (await session.shell("no-such-program")).exit_code == 127
        assert (await session.shell("kill -9 $$")).outcome is Outcome.ERROR
        assert session.alive


async def test_run_of_a_command(sandbox: Sandbox) -> None:
    execution = await sandbox.run("cat f; pwd >/dev/null", language="shell", files={"f": b"x"})
    assert (execution.outcome, execution.stdout) == (Outcome.OK, "x")


async def test_files(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 40
    async with await sandbox.open(files={"a/b/c.bin": data, "empty": b"", "ünï code": b"u"}) as session:
        assert (await session.python("open('a/b/c.bin', 'rb').read() == bytes(range(256)) * 40")).value == "True"
        assert await session.read("a/b/c.bin") == data
        assert await session.read("empty") == b"" and await session.read("ünï code") == b"u"
        await session.write("d/new.py", b"answer = 42")
        await session.write("d/new.py", b"answer = 43")
        assert (await session.python("import d.new; d.new.answer")).value == "43"
        assert await session.read("a/b/c.bin", limit=len(data)) == data


@pytest.mark.parametrize("path", ["none", "folder", "..", "../x", "/etc/passwd", "", ".", "a\0b", "pipe", "empty/x"])
async def test_what_is_no_file_of_the_folder_cannot_be_read(sandbox: Sandbox, path: str) -> None:
    async with await sandbox.open(files={"folder/x": b"", "empty": b""}) as session:
        await session.python("import os; os.mkfifo('pipe')")
        async with asyncio.timeout(HANG):
            with pytest.raises(SandboxError):
                await session.read(path)
        assert session.alive and (await session.python("1")).value == "1"


@pytest.mark.parametrize("path", ["..", "../x", "/tmp/agentrl-x", "", ".", "a\0b", "empty/x", "folder"])
async def test_nothing_is_written_elsewhere(sandbox: Sandbox, path: str) -> None:
    async with await sandbox.open(files={"folder/x": b"", "empty": b""}) as session:
        with pytest.raises(SandboxError):
            await session.write(path, b"x")
        assert session.alive and (await session.python("1")).value == "1"


async def test_a_file_that_is_too_large_is_refused(sandbox: Sandbox) -> None:
    async with await sandbox.open(limits=Limits(disk=1 << 20)) as session:
        await session.python("open('f', 'wb').write(bytes(1001))")
        assert len(await session.read("f", limit=1001)) == 1001
        with pytest.raises(SandboxError, match="1000"):
            await session.read("f", limit=1000)
        with pytest.raises(SandboxError):
            await session.write("g", bytes(2 << 20))
        assert session.alive and len(await session.read("f")) == 1001


async def test_files_at_the_start_are_checked(sandbox: Sandbox) -> None:
    before = descriptors()
    with pytest.raises(SandboxError):
        await sandbox.open(files={"../x": b""})
    assert descriptors() <= before or sandbox.name in WITH_POOL


@pytest.mark.parametrize("code", ["import sys; sys.stdin.read()", "input()"])
async def test_standard_input_is_closed(sandbox: Sandbox, code: str) -> None:
    async with await sandbox.open() as session:
        async with asyncio.timeout(HANG):
            execution = await session.python(code)
        assert not execution.outcome.fatal
        assert (await session.shell("cat")).stdout == ""
        assert (await session.python("1")).value == "1"


async def test_output_of_any_bytes(sandbox: Sandbox) -> None:
    code = "import os\nprint('ü 😀 \\x00', flush=True)\nos.write(1, b'\\xff\\xfe')\nprint('\\ud800')\n'\\udfff'"
    execution = await run(sandbox, code)
    assert execution.outcome is Outcome.OK
    assert execution.stdout.startswith("ü 😀 \x00\n��")
    assert execution.value == "'\\udfff'"
    assert (await run(sandbox, "print('\ud800 in the source')")).outcome is Outcome.OK


async def test_output_of_subprocesses_is_heard(sandbox: Sandbox) -> None:
    code = "import subprocess\nprint('one')\nsubprocess.run('echo two; echo three >&2', shell=True)\nprint('four')"
    execution = await run(sandbox, code)
    assert sorted(execution.stdout.split()) == ["four", "one", "two"] and execution.stderr == "three\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_output_is_cut_at_the_limit(sandbox: Sandbox, stream: str) -> None:
    async with await sandbox.open(limits=Limits(output=1000)) as session:
        execution = await session.python(f"import sys\nfor _ in range(3000): print('x' * 9, file=sys.{stream})")
        assert execution.outcome is Outcome.OK and execution.truncated
        assert len(getattr(execution, stream)) == 1000
        execution = await session.python(f"import sys\nprint('y' * 999, file=sys.{stream})")
        assert not execution.truncated and len(getattr(execution, stream)) == 1000
        execution = await session.python("'z' * 5000")
        assert execution.value is not None and len(execution.value) <= 1000


async def test_wall_limit(sandbox: Sandbox) -> None:
    async with await sandbox.open(limits=Limits(wall=0.3)) as session:
        async with asyncio.timeout(HANG):
            execution = await session.python("print('begun', flush=True)\nimport time; time.sleep(1000)")
        assert (execution.outcome, execution.stdout) == (Outcome.TIMEOUT, "begun\n")
        assert await is_dead(session)


async def test_wall_limit_of_one_call(sandbox: Sandbox) -> None:
    async with await sandbox.open() as session:
        async with asyncio.timeout(HANG):
            assert (await session.python("1", wall=5)).value == "1"
            execution = await session.shell("sleep 1000", wall=0.3)
        assert execution.outcome is Outcome.TIMEOUT and await is_dead(session)


async def test_cpu_limit(sandbox: Sandbox) -> None:
    execution = await run(sandbox, "while True: pass", cpu=0.5, wall=20)
    assert execution.outcome is Outcome.TIMEOUT and execution.seconds < 15


async def test_cpu_limit_is_of_one_call(sandbox: Sandbox) -> None:
    async with await sandbox.open(limits=Limits(cpu=1)) as session:
        for _ in range(3):
            code = "import time\nuntil = time.process_time() + 0.4\nwhile time.process_time() < until: pass"
            assert (await session.python(code)).outcome is Outcome.OK


async def test_memory_limit(sandbox: Sandbox) -> None:
    async with await sandbox.open(limits=Limits(memory=256 << 20)) as session:
        execution = await session.python("kept = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): kept[i] = 1")
        assert execution.outcome is Outcome.MEMORY and await is_dead(session)


async def test_memory_within_the_limit(sandbox: Sandbox) -> None:
    execution = await run(sandbox, "len(bytearray(100 << 20))", memory=256 << 20)
    assert execution.value == str(100 << 20)


async def test_process_limit(sandbox: Sandbox) -> None:
    code = "import subprocess\nfor _ in range(40): subprocess.Popen(['sleep', '1000'])\nimport time; time.sleep(3)"
    execution = await run(sandbox, code, processes=16)
    assert execution.outcome in (Outcome.ERROR, Outcome.KILLED)  # refused where the kernel can, else ended


async def test_disk_limit(sandbox: Sandbox) -> None:
    async with await sandbox.open(limits=Limits(disk=4 << 20)) as session:
        execution = await session.python("open('large', 'wb').write(bytes(64 << 20))")
        assert execution.outcome is Outcome.ERROR and "OSError" in execution.stderr
        assert (await session.python("import os; os.remove('large'); open('small', 'wb').write(b'x')")).value == "1"


@pytest.mark.parametrize("ending", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"])
async def test_a_session_that_ends_itself(sandbox: Sandbox, ending: str) -> None:
    async with await sandbox.open() as session:
        async with asyncio.timeout(HANG):
            execution = await session.python(f"import os\nprint('bye', flush=True)\n{ending}")
        assert execution.outcome is Outcome.KILLED and await is_dead(session)


async def test_cancelling_a_call_kills_the_session(sandbox: Sandbox) -> None:
    mark = f"{secrets.randbelow(10**8)}.5"
    async with await sandbox.open(limits=Limits(wall=1000)) as session:
        call = asyncio.ensure_future(session.shell(f"sleep {mark}"))
        async with asyncio.timeout(HANG):
            while not processes_with(mark):
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await is_dead(session)
            await session.close()
    assert not processes_with(mark)


async def test_one_call_at_a_time(sandbox: Sandbox) -> None:
    async with await sandbox.open() as session:
        call = asyncio.ensure_future(session.python("import time; time.sleep(0.3); 'first'"))
        await asyncio.sleep(0.05)
        with pytest.raises(SandboxError, match="busy"):
            await session.python("'second'")
        assert (await call).value == "'first'"


async def test_close_is_idempotent_and_leaves_nothing(sandbox: Sandbox) -> None:
    await (await sandbox.open()).close()  # what the backend keeps for good is there now
    before, mark = descriptors(), f"{secrets.randbelow(10**8)}.5"
    session = await sandbox.open()
    orphans = (
        f"import subprocess\nfor own in (True, False): subprocess.Popen(['sleep', '{mark}'], start_new_session=own)"
    )
    await session.python(orphans)
    async with asyncio.timeout(HANG):
        while len(processes_with(mark)) < 2:
            await asyncio.sleep(0.01)
        await asyncio.gather(session.close(), session.close())
    assert not processes_with(mark) and await is_dead(session)
    await session.close()
    assert descriptors() <= before or sandbox.name in WITH_POOL


async def test_a_session_not_closed_ends_with_the_sandbox(sandbox: Sandbox) -> None:
    other, mark = type(sandbox)(), f"{secrets.randbelow(10**8)}.5"
    session = await other.open()
    await session.shell(f"sleep {mark} &")
    async with asyncio.timeout(HANG):
        while not processes_with(mark):
            await asyncio.sleep(0.01)
        closing = threading.Thread(target=other.close)  # from any thread, and while an event loop runs
        closing.start()
        while closing.is_alive():
            await asyncio.sleep(0.01)
    assert not processes_with(mark)
    other.close()
    await session.close()
    assert not session.alive
    with pytest.raises(SandboxError):
        await other.open()


def test_a_sandbox_outlives_event_loops(sandbox: Sandbox) -> None:
    for _ in range(3):
        assert asyncio.run(sandbox.run("print(1 + 1)")).stdout == "2\n"


def test_loops_in_several_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    results: list[str | None] = []

    def work() -> None:
        results.append(asyncio.run(sandbox.run("6 * 7")).value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert results == ["42"] * 4


async def test_nothing_of_the_environment_is_passed_on(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_TEST_KEY", "secret")
    assert (await run(sandbox, "import os; 'AGENTRL_TEST_KEY' in os.environ")).value == "False"
    assert (await sandbox.run("env", language="shell")).stdout.find("secret") < 0


async def test_usual_libraries_work(sandbox: Sandbox) -> None:
    code = "import numpy, sympy\nx = sympy.Symbol('x')\n(int(numpy.arange(4).sum()), str(sympy.factor(x**2 - 1)))"
    if (await run(sandbox, "import numpy, sympy", wall=60, cpu=60)).outcome is Outcome.ERROR:
        pytest.skip("the sandbox's interpreter has no numpy and sympy")
    assert (await run(sandbox, code, wall=60, cpu=60)).value == "(6, '(x - 1)*(x + 1)')"


async def test_the_working_folder_is_a_place_to_import_from(sandbox: Sandbox) -> None:
    async with await sandbox.open(files={"mine.py": b"def f(): return 'mine'"}) as session:
        assert (await session.python("import mine; mine.f()")).value == "'mine'"
        assert (await session.python("import os; os.getcwd() == os.path.realpath('.')")).value == "True"


async def test_multiprocessing_works(sandbox: Sandbox) -> None:
    code = (
        "import os\nr, w = os.pipe()\npid = os.fork()\n"
        "if pid == 0:\n    os.write(w, b'child'); os._exit(0)\nos.waitpid(pid, 0)\nos.read(r, 9)"
    )
    assert (await run(sandbox, code)).value == "b'child'"


async def test_a_busy_event_loop_does_not_lose_replies(sandbox: Sandbox) -> None:
    async with await sandbox.open() as session:
        for number in range(20):
            call = asyncio.ensure_future(session.python(f"print('x' * 40000); {number}"))
            await asyncio.sleep(0)
            time.sleep(0.002)
            execution = await call
            assert execution.value == str(number) and len(execution.stdout) == 40001


def test_why_not_is_none_where_it_works(sandbox: Sandbox) -> None:
    assert type(sandbox).why_not() is None
    assert type(sandbox).name and type(sandbox).languages <= {"python", "shell"}
