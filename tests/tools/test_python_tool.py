"""The tool `python`: what is kept, what is shown, how a session dies, and how an episode branches."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agentrl import registry
from agentrl.errors import ConfigError, EnvError, UnknownNameError
from agentrl.messages import Message, ToolCall, assistant, user
from agentrl.sandbox import Execution, Outcome, close_sandboxes
from agentrl.task import Episode, ListedTasks, Task, TaskSet, Verdict
from agentrl.tool import resolve_tool
from agentrl.tool_env import ToolEnv
from tests.tools.sessions import call, descriptors, episode, gone, needs, opened, runs


@pytest.fixture(params=["none", "fork", pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)])
def sandbox(request: pytest.FixtureRequest) -> str:
    return needs(request.param)


@pytest.fixture
def plain() -> str:
    return needs("none")


# -- what the policy reads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        ("print(1 + 1)", "2", None),
        ("6 * 7", "42", None),
        ("print('a')\n'b'", "a\n'b'", None),
        ("x = 1", "(no output)", None),
        ("None", "(no output)", None),
        ("import sys; print('out'); print('err', file=sys.stderr); 'value'", "out\n'value'\nerr", None),
        ("print('no newline', end='')\n3", "no newline\n3", None),
    ],
)
async def test_output_is_a_notebooks(plain: str, code: str, text: str, error: str | None) -> None:
    async with opened("python", sandbox=plain) as tool:
        result = await call(tool, code=code)
        assert (result.text, result.error) == (text, error)
        assert isinstance(result.data, Execution)


async def test_an_exception_shows_the_users_frames_alone(plain: str) -> None:
    async with opened("python", sandbox=plain) as tool:
        code = "import json\ndef load(text):\n    return json.loads(text)\nprint('before')\nload('{')"
        result = await call(tool, code=code)
        assert result.error == "failed"
        assert result.text.startswith("before\nTraceback (most recent call last):")
        assert "json.decoder.JSONDecodeError: Expecting property name" in result.text
        assert ", in load" in result.text
        assert "decoder.py" not in result.text
        assert "guest" not in result.text
        assert result.text.count('File "') == 2


async def test_a_chained_exception_keeps_both_messages(plain: str) -> None:
    async with opened("python", sandbox=plain) as tool:
        code = "try:\n    int('x')\nexcept ValueError as error:\n    raise KeyError('y') from error"
        result = await call(tool, code=code)
        assert "ValueError: invalid literal" in result.text
        assert "direct cause" in result.text
        assert "KeyError: 'y'" in result.text


async def test_a_syntax_error_points_at_the_line(plain: str) -> None:
    async with opened("python", sandbox=plain) as tool:
        result = await call(tool, code="x = 1\ny = = 2")
        assert result.error == "failed"
        assert "line 2" in result.text
        assert "SyntaxError: invalid syntax" in result.text


async def test_too_much_output_is_cut_and_said(plain: str) -> None:
    async with opened("python", sandbox=plain, output=1000) as tool:
        result = await call(tool, code="print('x' * 100_000)")
        assert result.error is None
        assert 900 <= result.text.count("x") <= 1000
        assert "[output beyond 1000 bytes was dropped]" in result.text


async def test_bad_arguments_are_observations(plain: str) -> None:
    async with opened("python", sandbox=plain) as tool:
        assert (await call(tool)).error == "invalid_arguments"
        assert (await call(tool, code=3)).error == "invalid_arguments"
        assert (await call(tool, code="2", language="c")).error == "invalid_arguments"


def test_the_schema_says_whether_state_is_kept(plain: str) -> None:
    kept, fresh = (resolve_tool("python", sandbox=plain, stateful=stateful) for stateful in (True, False))
    assert "kept between calls" in kept.schema()["function"]["description"]
    assert "nothing is kept" in fresh.schema()["function"]["description"]
    assert kept.schema()["function"]["parameters"]["required"] == ["code"]


# -- state -------------------------------------------------------------------------------------------------------------


async def test_state_and_files_are_kept_within_an_episode_and_not_beyond(sandbox: str) -> None:
    tool = resolve_tool("python", sandbox=sandbox)
    try:
        await tool.open(episode())
        await call(tool, code="x = 41\nopen('note.txt', 'w').write('hello')")
        assert (await call(tool, code="print(open('note.txt').read(), x + 1)")).text == "hello 42"
        await tool.open(episode())
        result = await call(tool, code="import os\nprint('x' in globals(), os.listdir())")
        assert result.text == "False []"
    finally:
        await tool.close()


async def test_fresh_interpreters_share_nothing(sandbox: str) -> None:
    async with opened("python", sandbox=sandbox, stateful=False) as tool:
        assert (await call(tool, code="x = 1\nopen('a', 'w').close()\nx")).text == "1"
        assert (await call(tool, code="import os\n('x' in globals(), os.listdir())")).text == "(False, [])"
        assert (await call(tool, code="1 / 0")).text.endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("stateful", [True, False])
async def test_files_of_the_episode_are_there(plain: str, stateful: bool) -> None:
    files = {"python": {"files": {"data.csv": b"a,b\n1,2\n", "deep/note.txt": "hé"}}}
    async with opened("python", episode(**files), sandbox=plain, stateful=stateful) as tool:
        code = "print(open('data.csv').read(), open('deep/note.txt', encoding='utf-8').read())"
        assert (await call(tool, code=code)).text == "a,b\n1,2\n hé"


async def test_an_episode_may_lower_the_limits(plain: str) -> None:
    async with opened("python", episode(python={"wall": 0.5}), sandbox=plain) as tool:
        result = await call(tool, code="while True: pass")
        assert "did not finish within 0.5 s" in result.text


@pytest.mark.parametrize(
    ("options", "said"),
    [({"file": {}}, "did you mean 'files'"), ({"files": {"a": 3}}, "'a' has int"), ({"wall": -1}, "wall=-1")],
)
async def test_wrong_options_of_an_episode_are_refused(plain: str, options: dict[str, Any], said: str) -> None:
    tool = resolve_tool("python", sandbox=plain)
    with pytest.raises(ConfigError, match=said):
        await tool.open(episode(python=options))


async def test_calls_of_one_message_run_in_order(plain: str) -> None:
    async with opened("python", sandbox=plain) as tool:
        first = "import time\nx = [0]\ntime.sleep(0.1)"
        results = await asyncio.gather(call(tool, code=first), *(call(tool, code=f"x.append({i})") for i in range(5)))
        assert all(result.error is None for result in results)
        assert (await call(tool, code="x")).text == "[0, 0, 1, 2, 3, 4]"


async def test_an_episode_without_a_call_opens_no_session(plain: str) -> None:
    before = descriptors()
    tools = [resolve_tool("python", sandbox=plain) for _ in range(200)]
    for tool in tools:
        await tool.open(episode())
    assert descriptors() <= before
    for tool in tools:
        await tool.close()


async def test_the_seed_of_the_episode_makes_random_numbers(sandbox: str) -> None:
    code = "import random\n(random.random(), hash('word'))"
    texts = []
    for seed in (1, 1, 2):
        async with opened("python", episode(seed), sandbox=sandbox) as tool:
            texts.append((await call(tool, code=code)).text)
    assert texts[0] == texts[1] != texts[2]


# -- how a session ends ------------------------------------------------------------------------------------------------


async def test_a_timeout_says_that_the_state_is_lost_and_the_next_call_is_fresh(sandbox: str) -> None:
    async with opened("python", sandbox=sandbox, wall=1) as tool:
        await call(tool, code="x = 1")
        result = await call(tool, code="print('begun', flush=True)\nwhile True: pass")
        assert result.error == "timeout"
        assert "did not finish within 1 s" in result.text
        assert "its state and files are lost" in result.text
        assert isinstance(result.data, Execution)
        assert result.data.outcome is Outcome.TIMEOUT
        assert (await call(tool, code="'x' in globals()")).text == "False"


async def test_too_much_memory_is_said_and_the_next_call_is_fresh(sandbox: str) -> None:
    async with opened("python", sandbox=sandbox, memory=256 << 20) as tool:
        result = await call(tool, code="x = [bytearray(1 << 20) for _ in range(4000)]")
        assert result.error == "failed"
        assert "memory" in result.text.lower()
        assert (await call(tool, code="1 + 1")).text == "2"


async def test_a_process_that_ends_itself_is_said(sandbox: str) -> None:
    async with opened("python", sandbox=sandbox) as tool:
        result = await call(tool, code="import os\nos._exit(3)")
        assert result.error == "failed"
        assert "its state and files are lost" in result.text
        assert (await call(tool, code="1 + 1")).text == "2"


async def test_a_session_that_died_between_two_calls_is_said(plain: str) -> None:
    async with opened("python", sandbox=plain) as tool:
        code = "import os, threading\nx = 1\nthreading.Timer(0.2, os._exit, (1,)).start()\nprint(os.getpid())"
        pid = int((await call(tool, code=code)).text)
        assert await gone(pid)
        result = await call(tool, code="'x' in globals()")
        assert "state and files are lost" in result.text
        assert (await call(tool, code="'x' in globals()")).text == "False"


async def test_a_cancelled_call_kills_its_session(plain: str) -> None:
    async with opened("python", sandbox=plain) as tool:
        pid = int((await call(tool, code="import os\nos.getpid()")).text)
        task = asyncio.ensure_future(call(tool, code="import time\ntime.sleep(60)"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await gone(pid)
        assert (await call(tool, code="'os' in globals()")).text == "False"


async def test_the_tools_own_timeout_kills_the_session_too(plain: str) -> None:
    async with opened("python", sandbox=plain, wall=60, timeout=1.0) as tool:
        pid = int((await call(tool, code="import os\nos.getpid()")).text)
        result = await call(tool, code="import time\ntime.sleep(60)")
        assert result.error == "timeout"
        assert await gone(pid)


async def test_close_ends_a_session_in_the_middle_of_a_call(plain: str) -> None:
    tool = resolve_tool("python", sandbox=plain)
    await tool.open(episode())
    pid = int((await call(tool, code="import os\nos.getpid()")).text)
    assert runs(pid)
    task = asyncio.ensure_future(call(tool, code="import time\ntime.sleep(60)"))
    await asyncio.sleep(0.1)
    await tool.close()
    assert await gone(pid)
    assert (await task).error == "failed"
    await tool.close()


async def test_a_closed_tool_answers_that_it_is_closed(plain: str) -> None:
    tool = resolve_tool("python", sandbox=plain)
    result = await call(tool, code="1")
    assert result.error == "failed"
    assert "not open" in result.text


async def test_many_episodes_at_once_on_one_loop(sandbox: str) -> None:
    async def play(number: int) -> tuple[str, str]:
        async with opened("python", episode(number), sandbox=sandbox) as tool:
            await call(tool, code=f"n = {number}\nopen('f', 'w').write(str(n))")
            await asyncio.sleep(0)
            read = await call(tool, code="open('f').read()")
            return (await call(tool, code="n")).text, read.text

    before = descriptors()
    played = await asyncio.gather(*(play(number) for number in range(24)))
    assert played == [(str(number), repr(str(number))) for number in range(24)]
    assert descriptors() <= before + 8  # a fork server may have been started


# -- branching ---------------------------------------------------------------------------------------------------------


async def test_an_episode_branches_with_variables_files_and_random_state(sandbox: str) -> None:
    trunk, branch = resolve_tool("python", sandbox=sandbox), resolve_tool("python", sandbox=sandbox)
    played = episode(7, python={"files": {"n.txt": "5"}})
    try:
        await trunk.open(played)
        await branch.open(played)
        await call(trunk, code="import random\nx = int(open('n.txt').read()) + random.randrange(100)")
        await call(trunk, code="open('n.txt', 'w').write('6')")
        assert (await call(trunk, code="1 / 0")).error == "failed"
        state = await trunk.snapshot()
        code = "(x, random.random(), open('n.txt').read())"
        expected = (await call(trunk, code=code)).text
        await call(trunk, code="x = None\nopen('n.txt', 'w').write('trunk')")
        await branch.restore(state)
        assert (await call(branch, code=code)).text == expected
        assert (await call(trunk, code="open('n.txt').read()")).text == "'trunk'"
        again = await branch.snapshot()
        assert again[: len(state)] == state
        assert len(again) == len(state) + 1
    finally:
        await trunk.close()
        await branch.close()


@pytest.mark.parametrize(
    "code", ["import time\ntime.time_ns()", "import os\nos.urandom(8)", "import uuid\nprint(uuid.uuid4())"]
)
async def test_a_cell_that_is_not_deterministic_cannot_be_branched(plain: str, code: str) -> None:
    async with opened("python", sandbox=plain) as trunk, opened("python", sandbox=plain) as branch:
        await call(trunk, code="x = 1")
        await call(trunk, code=code)
        with pytest.raises(EnvError, match="cannot be branched: cell 2 of 2 gave another output"):
            await branch.restore(await trunk.snapshot())
        assert (await call(branch, code="'x' in globals()")).text == "False"


async def test_a_snapshot_after_a_kill_holds_only_what_survived(plain: str) -> None:
    async with opened("python", sandbox=plain) as trunk, opened("python", sandbox=plain) as branch:
        await call(trunk, code="x = 1")
        await call(trunk, code="import os\nos._exit(1)")
        assert await trunk.snapshot() == ()
        await call(trunk, code="y = 2")
        await branch.restore(await trunk.snapshot())
        assert (await call(branch, code="('x' in globals(), y)")).text == "(False, 2)"


class Notebook(ToolEnv):
    """An environment of one task that is solved when the answer is 42."""

    tools = ("python",)

    def tasks(self, split: str) -> TaskSet:
        return ListedTasks(split, [Task(f"{split}:0", split, (user("Compute."),))])

    def judge(self, episode: Episode) -> Verdict:
        return Verdict(float(episode.answer == "42"))

    def episode_tool_options(self, task: Task) -> dict[str, dict[str, Any]]:
        return {"python": {"files": {"n.txt": "41"}}}


def calls(*codes: str) -> Message:
    arguments = [json.dumps({"code": code}) for code in codes]
    return assistant("", tuple(ToolCall(id=f"c{i}", name="python", arguments=text) for i, text in enumerate(arguments)))


async def test_an_environment_branches_and_closes_everything(plain: str) -> None:
    env = Notebook(tool_options={"python": {"sandbox": plain}})
    other = Notebook(tool_options={"python": {"sandbox": plain}})
    before = descriptors()
    await env.areset(seed=3)
    await env.astep(calls("n = int(open('n.txt').read())", "n += 1"))
    state = await env.asnapshot()
    await other.arestore(state)
    for played in (env, other):
        step = await played.astep(calls("print(n)"))
        assert step.observation[0].text == "42"
        ended = await played.astep(assistant("42"))
        assert ended.reward == 1.0
    assert descriptors() <= before


# -- mistakes at construction ------------------------------------------------------------------------------------------


def test_mistakes_are_one_line_at_construction(plain: str) -> None:
    with pytest.raises(UnknownNameError, match="sandbox 'frok' is unknown; did you mean 'fork'"):
        resolve_tool("python", sandbox="frok")
    with pytest.raises(ConfigError, match="wall=0"):
        resolve_tool("python", sandbox=plain, wall=0)
    with pytest.raises(ConfigError, match="option 'sandboxes' is unknown; did you mean 'sandbox'"):
        resolve_tool("python", sandboxes=plain)
    with pytest.raises(ConfigError, match="no option 'colour'"):
        resolve_tool("python", sandbox={"name": plain, "colour": 1})


def test_a_sandbox_that_does_not_work_here_is_refused(plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    close_sandboxes()
    broken = type("Broken", (registry.sandboxes.get("none"),), {"why_not": classmethod(lambda cls: "no engine; do X")})
    monkeypatch.setitem(registry.sandboxes._registered, "none", broken)
    with pytest.raises(ConfigError, match="sandbox 'none' does not work here: no engine; do X"):
        resolve_tool("python", sandbox="none")
