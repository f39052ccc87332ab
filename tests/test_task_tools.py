"""Tools that belong to one task: offered, called, recorded and replayed in its episodes, and unknown in all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from agentrl.chat import ChatRenderer
from agentrl.conformance import check_environment
from agentrl.engines.base import Capabilities, Engine, FinishReason, Reply, Sampling
from agentrl.engines.scripted import ScriptedEngine
from agentrl.env import GeneratedTasks, Step, Task, TaskSet, ensure_env
from agentrl.errors import EnvError
from agentrl.messages import Message, ToolCall, assistant, user
from agentrl.oracle import oracle_trajectory
from agentrl.replay import first_difference
from agentrl.rollout import GroupRequest, RolloutContext, RolloutLimits
from agentrl.rollouts.branching import BranchAtTurns
from agentrl.rollouts.independent import IndependentChains
from agentrl.task import Episode
from agentrl.tool import tool
from agentrl.tool_env import ToolEnv, ToolSource, Verdict
from agentrl.trajectory import Trajectory
from tests.chat.templates import make_tokenizer


@tool(inline=True)
def shared(text: str) -> str:
    """Every task has it."""
    return text


class Doors(ToolEnv):
    """Each task has a door of its own to open, and the number behind it is the answer."""

    tools: ClassVar = (shared,)

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        shift = 100 if split == "train" else 200
        return GeneratedTasks(
            split,
            4,
            lambda index: Task(f"{split}:{index}", split, (user(f"Door {shift + index}?"),), {"n": shift + index}),
        )

    def task_tools(self, task: Task) -> Sequence[ToolSource]:
        number = task.data["n"]

        def opened(times: int) -> str:
            return str(7 * number * times)

        return [tool(name=f"open_{number}", description="Opens the door.", inline=True)(opened)]

    def oracle_action(self) -> Message:
        number = self.episode.task.data["n"]
        if not self.episode.turns:
            return assistant("", (ToolCall(id="call_0", name=f"open_{number}", arguments='{"times": 1}'),))
        return assistant(str(7 * number))

    def judge(self, episode: Episode) -> Verdict:
        correct = float(episode.answer == str(7 * episode.task.data["n"]))
        return Verdict(correct, {"correct": correct})


def names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    return [item["function"]["name"] for item in tools]


async def call(env: ToolEnv, name: str, arguments: str = '{"times": 2}') -> Step:
    return await env.astep(assistant("", (ToolCall(id="call_0", name=name, arguments=arguments),)))


async def test_an_episode_offers_its_own_tools_beside_the_others() -> None:
    env = Doors()
    assert names(env.tool_schemas()) == ["shared"]
    _, info = await env.areset(options={"task": "train:1"})
    assert names(info["tools"]) == ["shared", "open_101"]
    assert (await call(env, "open_101")).observation[0].text == str(7 * 101 * 2)
    assert "there is no tool 'open_102'" in (await call(env, "open_102")).observation[0].text
    await env.areset(options={"task": "train:2"})
    assert (await call(env, "open_102")).info["tool_calls"][0].error is None
    assert (await call(env, "open_101")).info["tool_calls"][0].error == "unknown_tool"


async def test_a_copy_has_them_too() -> None:
    env, copy = Doors(), Doors()
    await env.areset(options={"task": "test:3"})
    await copy.arestore(await env.asnapshot())
    assert (await call(copy, "open_203")).observation[0].text == str(7 * 203 * 2)


async def test_two_tools_of_one_name_are_refused() -> None:
    class Twice(Doors):
        def task_tools(self, task: Task) -> Sequence[ToolSource]:
            return [shared]

    with pytest.raises(EnvError, match="task 'train:0': there are two tools named 'shared'"):
        await Twice().areset(options={"task": "train:0"})


def test_the_contract_holds_and_a_tool_that_no_endpoint_takes_is_found() -> None:
    report = check_environment(Doors, "Doors")
    assert not report.failures, report.failures
    assert all(finding.holds for finding in report.findings if "tool" in finding.rule)

    class Dotted(Doors):
        async def areset(self, **given: Any) -> Any:
            messages, info = await super().areset(**given)
            info["tools"][1]["function"]["name"] = "door.open"
            return messages, info

    failures = check_environment(Dotted, "Dotted").failures
    assert any("door.open" in failure.seen for failure in failures)


# -- the policy is shown them ------------------------------------------------------------------------------------------

REQUESTS = [GroupRequest(f"g{index}", f"test:{index}", 2, seed=index) for index in range(4)]


def renderer() -> ChatRenderer:
    return ChatRenderer(make_tokenizer("qwen", eos="<|im_end|>"), Doors().tool_schemas())


def scripted(made: ChatRenderer) -> ScriptedEngine:
    """Opens the door that its prompt offers, then says what it reads."""

    def policy(prompt: list[int], sampling: Sampling) -> str:
        text = made.tokenizer.decode(prompt)
        assert text.partition("<|im_end|>")[0].count('"name": "open_') == 1
        number = text.partition('"name": "open_')[2].partition('"')[0]
        if "<tool_response>" in text:
            return str(7 * int(number))
        return f'<tool_call>\n{{"name": "open_{number}", "arguments": {{"times": 1}}}}\n</tool_call>'

    return ScriptedEngine(made, policy)


def check_records(episodes: Sequence[Trajectory]) -> None:
    for episode in episodes:
        assert episode.metrics == {"correct": 1.0}, episode.error
        assert names(episode.info["tools"]) == ["shared", f"open_{200 + int(episode.task_id[-1])}"]
        assert Trajectory.from_json(episode.to_json()) == episode


async def played(context: RolloutContext, **branching: Any) -> list[Trajectory]:
    strategy = BranchAtTurns(context, **branching) if branching else IndependentChains(context)
    groups = [group async for group in strategy.run(REQUESTS)]
    return [episode for group in groups for episode in group.trajectories]


async def test_a_policy_of_tokens_has_them_in_its_prompt() -> None:
    made = renderer()
    episodes = await played(RolloutContext(scripted(made), made, Doors, RolloutLimits()))
    assert len(episodes) == 8
    check_records(episodes)
    for episode in episodes:
        own = made.for_tools(episode.info["tools"])
        assert episode.context_ids(0) == own.opening(episode.opening) != made.opening(episode.opening)
        assert len(episode.rows()) == 1


async def test_a_branch_has_them_in_its_prompt() -> None:
    made = renderer()
    episodes = await played(RolloutContext(scripted(made), made, Doors, RolloutLimits()), turns=[1], roots=1)
    assert sum(episode.branch is not None for episode in episodes) == 4
    check_records(episodes)


class Chatting(Engine):
    """An endpoint without token ids."""

    capabilities = Capabilities(logprobs=False, tokens=False)

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("takes messages")

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        *,
        session: str | None = None,
    ) -> Reply:
        assert names(tools)[0] == "shared" and len(tools) == 2
        if messages[-1].role == "tool":
            return Reply(assistant(messages[-1].text), FinishReason.STOP)
        chosen = ToolCall(id="call_9", name=names(tools)[1], arguments='{"times": 1}')
        return Reply(assistant("", (chosen,)), FinishReason.STOP)


async def test_an_endpoint_of_messages_is_given_them() -> None:
    check_records(await played(RolloutContext(Chatting(), None, Doors, RolloutLimits())))


async def test_the_oracle_s_tokens_are_those_of_a_policy_that_says_the_same() -> None:
    made = renderer()
    sampled = await played(RolloutContext(scripted(made), made, Doors, RolloutLimits()))
    by_task = {episode.task_id: episode for episode in sampled}
    for task, policy in by_task.items():
        oracle = await oracle_trajectory(Doors(), made, task, policy.seed)
        assert oracle.info["tools"] == policy.info["tools"]
        ids = [(oracle.context_ids(turn), oracle.turns[turn].sampled_ids) for turn in range(2)]
        assert ids == [(policy.context_ids(turn), policy.turns[turn].sampled_ids) for turn in range(2)]


async def test_a_replay_tells_tools_that_have_changed() -> None:
    recorded = await oracle_trajectory(Doors(), None, "train:0", seed=0)
    assert await first_difference(Doors(), recorded) is None
    recorded.info["tools"][1]["function"]["description"] = "Opens a window."
    assert await first_difference(Doors(), recorded) == "opening: the episode's tools are not the recorded ones"


async def test_a_wrapped_environment_passes_them_on() -> None:
    import gymnasium

    env = ensure_env(gymnasium.wrappers.RecordEpisodeStatistics(Doors()))
    _, info = await env.areset(options={"task": "train:1"})
    assert names(info["tools"]) == ["shared", "open_101"]
