"""The tool `submit`: the answer ends the episode and is what the judge reads."""

from __future__ import annotations

import json

import pytest

from agentrl.messages import Message, ToolCall, assistant, user
from agentrl.task import Episode, ListedTasks, Task, TaskSet, Verdict
from agentrl.tool import resolve_tool
from agentrl.tool_env import ToolEnv
from agentrl.trajectory import StopReason
from tests.tools.sessions import call


class Quiz(ToolEnv):
    """One question; the answer is Paris."""

    tools = ("submit", "calculator")

    def tasks(self, split: str) -> TaskSet:
        return ListedTasks(split, [Task(f"{split}:0", split, (user("The capital of France?"),))])

    def judge(self, episode: Episode) -> Verdict:
        return Verdict(float(episode.answer == "Paris"))


def message(**calls: dict[str, str]) -> Message:
    made = [ToolCall(id=name, name=name, arguments=json.dumps(arguments)) for name, arguments in calls.items()]
    return assistant("I am done.", tuple(made))


async def test_the_result_is_final_and_holds_the_answer() -> None:
    result = await call(resolve_tool("submit"), answer=" 4\n2 ")
    assert result.final
    assert result.error is None
    assert result.data == " 4\n2 "
    assert result.text == "submitted"


@pytest.mark.parametrize(("answer", "reward"), [("Paris", 1.0), ("paris", 0.0), ("", 0.0)])
async def test_an_answer_ends_the_episode_and_is_judged(answer: str, reward: float) -> None:
    env = Quiz()
    await env.areset(seed=0)
    step = await env.astep(message(submit={"answer": answer}))
    assert step.terminated
    assert step.reward == reward
    assert env.episode.submission == answer
    assert env.episode.stop_reason is StopReason.TERMINATED


async def test_a_call_beside_it_is_still_made() -> None:
    env = Quiz()
    await env.areset(seed=0)
    step = await env.astep(message(calculator={"expression": "1 + 1"}, submit={"answer": "Paris"}))
    assert step.terminated
    assert [item.text for item in step.observation] == ["2", "submitted"]
    assert step.reward == 1.0


@pytest.mark.parametrize("arguments", [{}, {"answer": 3}, {"answer": "x", "sure": "yes"}])
async def test_a_bad_call_is_an_observation_and_the_episode_goes_on(arguments: dict[str, str]) -> None:
    env = Quiz()
    await env.areset(seed=0)
    step = await env.astep(message(submit=arguments))
    assert not step.terminated
    assert step.observation[0].text.startswith("Error: invalid arguments")
    assert (await env.astep(message(submit={"answer": "Paris"}))).reward == 1.0
