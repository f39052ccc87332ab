"""ToolEnv: tools chosen for one instance, options for one episode, calls that end the episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from agentrl.env import GeneratedTasks, Task, TaskSet
from agentrl.errors import ConfigError
from agentrl.messages import Message, ToolCall, assistant, user
from agentrl.task import Episode
from agentrl.tool import Tool, ToolResult, tool
from agentrl.tool_env import ToolEnv, Verdict


@tool(inline=True)
def shout(text: str) -> str:
    """Says it louder."""
    return text.upper()


class Opened(Tool):
    """Says what it was opened with."""

    name = "opened"

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    async def open(self, episode: Episode) -> None:
        self.seen = episode.tool_options.get("opened", {})

    async def call(self) -> str:
        return str(self.seen)


class Hand(Tool):
    """Hands in the answer."""

    name = "hand_in"

    async def call(self, answer: str) -> ToolResult:
        return ToolResult("handed in", final=True, data=answer)


class Small(ToolEnv):
    """Right is `yes`."""

    tools: ClassVar = (shout, Opened, Hand)

    def tasks(self, split: str) -> TaskSet:
        return GeneratedTasks(split, 4, lambda index: Task(f"{split}:{index}", split, (user("?"),), {"index": index}))

    def episode_tool_options(self, task: Task) -> Mapping[str, Mapping[str, Any]]:
        return {"opened": {"index": task.data["index"]}, "absent": {"x": 1}}

    def judge(self, episode: Episode) -> Verdict:
        return Verdict(float(episode.answer == "yes"))


def call(name: str, arguments: str = "{}") -> Message:
    return assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),))


def names(env: ToolEnv) -> list[str]:
    return [schema["function"]["name"] for schema in env.tool_schemas()]


def test_tools_are_chosen_for_one_instance() -> None:
    assert names(Small()) == ["shout", "opened", "hand_in"]
    assert names(Small(tools=["hand_in"])) == ["hand_in"]
    assert names(Small(tools=())) == []
    assert names(Small(tools=["calculator", "shout"])) == ["calculator", "shout"]
    assert names(Small()) == ["shout", "opened", "hand_in"]


def test_a_tool_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="tool 'calculater' is unknown; did you mean 'calculator'"):
        Small(tools=["calculater"])
    with pytest.raises(ConfigError, match="'shout' is no tool here; there are no tools"):
        Small(tools=(), tool_options={"shout": {"timeout": 1}})


async def test_a_tool_knows_its_options_of_the_episode_when_it_is_opened() -> None:
    env = Small()
    for index in (3, 1):
        await env.areset(options={"task": f"train:{index}"})
        assert (await env.astep(call("opened"))).observation[0].text == str({"index": index})
    assert env.episode.tool_options == {"opened": {"index": 1}}
    await env.aclose()


@pytest.mark.parametrize(("answer", "reward"), [("yes", 1.0), ("no", 0.0)])
async def test_a_final_result_ends_the_episode_with_its_data_as_the_answer(answer: str, reward: float) -> None:
    env = Small()
    await env.areset(options={"task": "test:0"})
    step = await env.astep(call("hand_in", f'{{"answer": "{answer}"}}'))
    assert (step.reward, step.terminated, step.truncated) == (reward, True, False)
    assert step.observation[0].text == "handed in"
    assert step.info["stop_reason"] == "terminated"
    assert env.episode.submission == env.episode.answer == answer


async def test_a_submission_that_fails_goes_on() -> None:
    env = Small()
    await env.areset(options={"task": "test:0"})
    step = await env.astep(call("hand_in"))
    assert not step.terminated
    assert env.episode.submission is None
    assert (await env.astep("yes")).reward == 1.0


async def test_a_snapshot_keeps_the_options_of_the_episode() -> None:
    env, other = Small(tools=["shout"]), Small(tools=["shout"])
    await env.areset(options={"task": "train:2"})
    snapshot = await env.asnapshot()
    await other.arestore(snapshot)
    assert other.episode.tool_options == env.episode.tool_options == {}
    await env.aclose()
    await other.aclose()
