"""The toolset `mcp` against a real server of the protocol: schemas, calls, failures, sessions, no growth."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentrl.env import ListedTasks, Task, TaskSet
from agentrl.errors import ConfigError
from agentrl.messages import ToolCall, assistant, user
from agentrl.task import Episode
from agentrl.tool import Tool, ToolResult, call_tool, resolve_tool, resolve_tools
from agentrl.tool_env import ToolEnv, Verdict
from tests.tools.sessions import descriptors

SERVER = Path(__file__).with_name("mcp_server.py")
COMMAND = (sys.executable, str(SERVER))


def episode() -> Episode:
    return Episode(Task("train:0", "train", ()), 0)


@asynccontextmanager
async def opened(**options: Any) -> Any:
    tools = {tool.name: tool for tool in resolve_tools("mcp", **options)}
    played = episode()
    for tool in tools.values():
        await tool.open(played)
    try:
        yield tools
    finally:
        for tool in tools.values():
            await tool.close()


async def call(tools: dict[str, Tool], name: str, /, **arguments: Any) -> ToolResult:
    return (await call_tool(tools, ToolCall(id="call_0", name=name, arguments=json.dumps(arguments))))[0]


def servers() -> int:
    return sum(str(SERVER).encode() in cmdline(pid) for pid in os.listdir("/proc") if pid.isdigit())


def cmdline(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_tools_of_a_server_have_its_schemas() -> None:
    tools = {tool.name: tool for tool in resolve_tools("mcp", command=COMMAND, timeout=7, include=("add", "remember"))}
    assert list(tools) == ["add", "remember"]
    assert tools["add"].timeout == 7
    function = tools["add"].schema()["function"]
    assert function["description"] == "Adds two numbers."
    assert function["parameters"]["properties"]["b"] == {"type": "integer", "description": "the second", "default": 1}
    assert [tool.name for tool in resolve_tools("mcp", command=COMMAND, include=("add",), prefix="n_")] == ["n_add"]


async def test_calls_are_answered_and_failures_are_observations() -> None:
    async with opened(command=COMMAND) as tools:
        assert (await call(tools, "add", a=2, b=5)).text == "7"
        assert (await call(tools, "add", a=2)).text == "3"
        wrong = await call(tools, "add", a="two")
        assert wrong.error == "invalid_arguments" and "is not of type 'integer'" in wrong.text
        missing = await call(tools, "add")
        assert missing.error == "invalid_arguments" and "'a' is a required property" in missing.text
        failed = await call(tools, "fail", text="oops")
        assert failed.error == "failed" and "fail" in failed.text


async def test_the_tools_of_an_episode_share_a_session_and_episodes_do_not() -> None:
    async with opened(command=COMMAND) as first, opened(command=COMMAND) as second:
        assert (await call(first, "remember", number=1)).text == "[1]"
        assert (await call(first, "remember", number=2)).text == "[1, 2]"
        assert (await call(second, "remember", number=3)).text == "[3]"
    assert servers() == 0


async def test_an_episode_that_calls_nothing_starts_no_server() -> None:
    resolve_tools("mcp", command=COMMAND)
    async with opened(command=COMMAND):
        assert servers() == 0


async def test_a_server_that_dies_is_an_observation_and_the_next_call_gets_another() -> None:
    async with opened(command=COMMAND) as tools:
        assert (await call(tools, "remember", number=1)).text == "[1]"
        assert (await call(tools, "die")).error == "failed"
        assert (await call(tools, "remember", number=2)).text == "[2]"


async def test_a_secret_of_ours_is_not_in_the_servers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_SECRET", "42")
    async with opened(command=COMMAND, env={"GIVEN": "yes"}) as tools:
        assert (await call(tools, "environment", name="OUR_SECRET")).text == "not set"
        assert (await call(tools, "environment", name="GIVEN")).text == "yes"


async def test_many_calls_and_sessions_leave_nothing_behind() -> None:
    async with opened(command=COMMAND) as tools:
        await call(tools, "add", a=1)
        before, tasks = descriptors(), len(asyncio.all_tasks())
        for number in range(1000):
            assert (await call(tools, "add", a=number)).text == str(number + 1)
        assert descriptors() <= before
        assert len(asyncio.all_tasks()) == tasks
    before = descriptors()
    for _ in range(3):
        async with opened(command=COMMAND) as tools:
            await asyncio.gather(*(call(tools, "add", a=number) for number in range(20)))
    assert descriptors() <= before
    assert servers() == 0


class Numbers(ToolEnv):
    """An environment that takes its tools from a server."""

    tools: ClassVar = ("mcp", "submit")

    def tasks(self, split: str) -> TaskSet:
        return ListedTasks(split, [Task(f"{split}:0", split, (user("2 + 3?"),))])

    def judge(self, episode: Episode) -> Verdict:
        return Verdict(float(episode.answer == "5"))


async def test_an_environment_offers_them_beside_its_own() -> None:
    env = Numbers(tool_options={"mcp": {"command": COMMAND, "include": ("add",)}})
    assert [schema["function"]["name"] for schema in env.tool_schemas()] == ["add", "submit"]
    await env.areset()
    step = await env.astep(assistant(tool_calls=(ToolCall(id="c", name="add", arguments='{"a": 2, "b": 3}'),)))
    assert step.observation[0].text == "5"
    assert (await env.astep("5")).reward == 1.0
    assert servers() == 0


@pytest.fixture
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*COMMAND, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


async def test_a_server_behind_a_url(url: str) -> None:
    for options in ({}, {"headers": {"Authorization": "Bearer key"}}):
        async with opened(url=url, **options) as tools:
            assert (await call(tools, "add", a=2, b=5)).text == "7"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give either command"),
        ({"command": ("a",), "url": "http://b"}, "give either command"),
        ({"command": ("no-such-program-at-all",)}, "does not answer"),
        ({"command": (sys.executable, "-c", "import sys; sys.exit(1)")}, "does not answer"),
        ({"url": "http://127.0.0.1:9/mcp"}, "does not answer"),
        ({"command": COMMAND, "include": ("ad",)}, "the server has no tool 'ad'; it has add, remember"),
        ({"command": COMMAND, "headers": {"a": "b"}}, "headers go with a url"),
        ({"comand": COMMAND}, "did you mean 'command'"),
    ],
)
def test_a_wrong_server_is_one_line_at_start(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_tools("mcp", **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_is_not_one_tool() -> None:
    with pytest.raises(ConfigError, match="is a set of tools"):
        resolve_tool("mcp", command=COMMAND)
