"""FunctionCalling-v0: one message an episode, judged by its calls; policies of tokens and messages, oracle, replay."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from gymnasium.error import ResetNeeded

from agentrl.chat import ChatRenderer
from agentrl.conformance import check_environment
from agentrl.engines.base import Capabilities, Engine, FinishReason, Reply, Sampling
from agentrl.engines.scripted import ScriptedEngine
from agentrl.env import Env, Step, make
from agentrl.errors import EnvError
from agentrl.evaluation.tasksets import digest_of
from agentrl.messages import Message, ToolCall, assistant
from agentrl.oracle import oracle_trajectory
from agentrl.replay import first_difference
from agentrl.rollout import GroupRequest, RolloutContext, RolloutLimits
from agentrl.rollouts.independent import IndependentChains
from agentrl.task import Task, Verdict
from agentrl.trajectory import StopReason, Trajectory
from tests.chat.templates import make_tokenizer
from tests.envs.function_calling.agreement import EDGES
from tests.envs.function_calling.test_task_files import category, row
from tests.envs.playing import play

ENV = "agentrl/FunctionCalling-v0"


def tasks_of(env: Env) -> Iterable[Task]:
    for split in env.splits:
        tasks = env.tasks(split)
        yield from (tasks[index] for index in range(len(tasks)))


def calls(*named: tuple[str, Any]) -> Message:
    return assistant(
        tool_calls=tuple(
            ToolCall(id=f"call_{index}", name=name, arguments=given if isinstance(given, str) else json.dumps(given))
            for index, (name, given) in enumerate(named)
        )
    )


async def answered(env: Env, task: str, message: Message | str) -> Step:
    await env.areset(seed=0, options={"task": task})
    return await env.astep(message)


# -- our own tasks -----------------------------------------------------------------------------------------------------


def test_our_own_tasks_are_of_every_category_in_both_splits() -> None:
    env = make(ENV)
    found: dict[str, Counter[str]] = {split: Counter() for split in env.splits}
    for task in tasks_of(env):
        found[task.split][task.data["problem"].category] += 1
    for counts in found.values():
        assert counts.keys() == {"simple", "multiple", "parallel", "parallel_multiple", "irrelevance"}
        assert min(counts.values()) >= 3
    assert sum(sum(counts.values()) for counts in found.values()) == 56
    assert {task.level for task in tasks_of(env)} == {1, 2, 3, 4}


async def test_the_oracle_is_right_and_calls_what_is_expected() -> None:
    env = make(ENV)
    for task in tasks_of(env):
        reward, metrics = await play(env, task.id)
        expected = len(task.data["problem"].answers)
        assert (reward, metrics["correct"], metrics["tool_calls"]) == (1.0, 1.0, float(expected)), task.id
        assert metrics["correct_functions"] == 1.0


async def test_every_answer_that_can_be_met_is_met_by_the_oracle_at_the_edges_too() -> None:
    env = make(ENV, path=str(EDGES))
    missed = {task.id for task in tasks_of(env) if (await play(env, task.id))[0] != 1.0}
    # a required parameter that the answer does not list; a listed one that has no value and may not be left out
    assert missed == {"test:edge_simple_12", "test:edge_simple_13"}


def test_the_contract_holds_for_files_too(tmp_path: Path) -> None:
    rows = [row(f"relevance_{number}") for number in range(3)]
    file = str(category(tmp_path, "BFCL_v4_live_relevance.json", rows))
    report = check_environment(lambda: make(ENV, path=file), tasks=3)
    assert not report.failures, report.failures


# -- the verdict -------------------------------------------------------------------------------------------------------

TASK = "train:multiple_0"
RIGHT = ("weather_history", {"city": "Oslo", "date": "2025-02-14"})


@pytest.mark.parametrize(
    ("given", "error", "metrics"),
    [
        (RIGHT, None, (1, 1, 1)),
        (("weather_history", {"city": "oslo, norway", "date": "2025/02/14"}), None, (1, 1, 1)),
        (("weather_history", {"city": "Bergen", "date": "2025-02-14"}), None, (0, 1, 1)),
        (("weather.history", RIGHT[1]), "unknown_tool", (0, 0, 1)),
        (("weather_forecast", {"city": "Oslo", "days": 1}), None, (0, 0, 1)),
        (("weather_history", {"city": "Oslo"}), "invalid_arguments", (0, 1, 1)),
        (("weather_history", {**RIGHT[1], "hour": 3}), "invalid_arguments", (0, 1, 1)),
        (("weather_history", "[1]"), "invalid_arguments", (0, 0, 0)),
        (("weather_history", "{"), "parse", (0, 0, 0)),
        (("weather_history", "[" * 100_000), "parse", (0, 0, 0)),
        (("weather_history", ""), "invalid_arguments", (0, 1, 1)),
    ],
)
async def test_one_call(given: tuple[str, Any], error: str | None, metrics: tuple[int, int, int]) -> None:
    step = await answered(make(ENV), TASK, calls(given))
    names = ("correct", "correct_functions", "well_formed_calls")
    assert tuple(step.info["metrics"][name] for name in names) == metrics
    assert step.reward == metrics[0]
    assert [record.error for record in step.info["tool_calls"]] == [error]
    assert step.info["parse_error"] is (error == "parse")
    assert (step.terminated, step.truncated, step.info["stop_reason"]) == (True, False, "terminated")
    (observation,) = step.observation
    assert observation.tool_call_id == "call_0"
    assert observation.text.startswith("Error: ") is (error is not None)


async def test_too_many_calls_none_and_words_are_wrong() -> None:
    env = make(ENV)
    for message in (calls(RIGHT, RIGHT), calls(RIGHT, ("weather_history", "{")), "It was cold.", ""):
        assert (await answered(env, TASK, message)).reward == 0.0


async def test_calls_in_the_text_count_where_nobody_has_parsed_it() -> None:
    text = f'<tool_call>\n{{"name": "weather_history", "arguments": {json.dumps(RIGHT[1])}}}\n</tool_call>'
    assert (await answered(make(ENV), TASK, text)).reward == 1.0


async def test_where_no_call_is_right_any_attempt_is_wrong() -> None:
    env, task = make(ENV), "train:irrelevance_1"
    offered = [tool["function"]["name"] for tool in (await env.areset(options={"task": task}))[1]["tools"]]
    for words in ("", "I cannot do that.", "x" * 1000):
        assert (await answered(env, task, words)).reward == 1.0
    for message in (calls((offered[0], {})), calls(("other", {})), calls((offered[0], "{"))):
        assert (await answered(env, task, message)).reward == 0.0
    assert (await answered(env, task, "<tool_call>{</tool_call>")).reward == 0.0


async def test_where_any_call_is_right_one_that_can_be_read_is_enough(tmp_path: Path) -> None:
    env = make(ENV, path=str(category(tmp_path, "live_relevance.jsonl", [row("r")])))
    assert (await answered(env, "test:r", calls(("math_double", {"a": 5})))).reward == 1.0
    assert (await answered(env, "test:r", calls(("math_double", "{")))).reward == 0.0
    assert (await answered(env, "test:r", "No.")).reward == 0.0


async def test_the_answer_is_what_was_called() -> None:
    env = make(ENV)
    step = await answered(env, TASK, calls(("f", {"a": 1}), ("g", {})))
    assert step.info["answer"] == 'f({"a": 1}), g({})'
    assert (await answered(env, TASK, "Nothing.")).info["answer"] == "no call"
    written = [
        ("f", '{"b":"\u00e9" ,"a":[1,2]}'),
        ("f", '{"a": [1, 2], "b": "\\u00e9"}'),
        ("f", "{1"),
        ("f", '["\\ud800"]'),
    ]
    answers = [(await answered(env, TASK, calls(one))).info["answer"] for one in written]
    assert answers == ['f({"a": [1, 2], "b": "\u00e9"})'] * 2 + ["f({1)", 'f(["\\ud800"])']
    assert (await answered(env, TASK, calls(("f", '{"a": "\\ud800"}')))).info["answer"] == 'f({"a": "\\ud800"})'


async def test_arguments_as_deep_as_can_be_read_have_a_verdict() -> None:
    env = make(ENV)
    for depth in range(700, 1000, 3):
        deep = (RIGHT[0], '{"city": ' + "[" * depth + "]" * depth + "}")
        assert (await answered(env, TASK, calls(deep))).reward == 0.0


# -- episodes ----------------------------------------------------------------------------------------------------------


async def test_an_episode_is_one_message() -> None:
    env = make(ENV)
    with pytest.raises(ResetNeeded):
        await env.astep("x")
    await answered(env, TASK, "x")
    for late in (env.astep("y"), env.afinish(StopReason.MAX_TURNS)):
        with pytest.raises(ResetNeeded):
            await late


async def test_an_episode_that_is_cut_before_its_message_is_wrong_also_where_silence_is_right() -> None:
    env = make(ENV)
    await env.areset(options={"task": "train:irrelevance_1"})
    assert await env.afinish(StopReason.MAX_TOKENS) == Verdict(0.0, {"correct": 0.0})
    with pytest.raises(EnvError, match="not a snapshot"):
        await env.arestore({})


def test_a_suite_can_pin_the_tasks() -> None:
    env, other = make(ENV), make(ENV, categories=["simple", "irrelevance"])
    chosen = [task for task in tasks_of(env) if task.data["problem"].category in ("simple", "irrelevance")]
    again = sorted(tasks_of(other), key=lambda task: [one.id for one in chosen].index(task.id))
    assert digest_of(env, chosen) == digest_of(other, again)
    assert digest_of(env, chosen) != digest_of(env, chosen[1:])


# -- policies ----------------------------------------------------------------------------------------------------------


def gold_by_question(env: Env) -> dict[str, Message]:
    """The oracle's message for each question."""
    found = {}
    for task in tasks_of(env):
        env.reset(seed=0, options={"task": task.id})
        found[task.messages[-1].text] = env.oracle_action()
    return found


async def played(context: RolloutContext, env: Env) -> list[Trajectory]:
    requests = [GroupRequest(task.id, task.id, 2, 0) for task in tasks_of(env) if task.split == "test"]
    groups = [group async for group in IndependentChains(context).run(requests)]
    return [episode for group in groups for episode in group.trajectories]


@pytest.mark.parametrize("template", ["qwen", "chatml"])
async def test_a_policy_of_tokens_is_shown_the_functions_of_its_task(template: str) -> None:
    env = make(ENV)
    gold = gold_by_question(env)
    base = ChatRenderer(make_tokenizer(template, eos="<|im_end|>"), env.tool_schemas())

    def policy(prompt: list[int], sampling: Sampling) -> Sequence[int]:
        text = base.tokenizer.decode(prompt)
        message = next(message for question, message in gold.items() if f"{question}<|im_end|>" in text)
        for call in message.tool_calls:
            assert re.search(rf'"name": "{call.name}"', text)
        return base.turn_ids(message)

    limits = RolloutLimits(max_context=16_384, max_turn_tokens=1024)
    episodes = await played(RolloutContext(ScriptedEngine(base, policy), base, lambda: make(ENV), limits), env)
    assert len(episodes) == 52
    for episode in episodes:
        assert (episode.reward, episode.stop_reason) == (1.0, StopReason.TERMINATED), episode.error
        assert episode.info["answer"]
        assert Trajectory.from_json(episode.to_json()) == episode
        oracle = await oracle_trajectory(env, base, episode.task_id, episode.seed)
        assert (oracle.context_ids(0), oracle.turns[0].sampled_ids) == (
            episode.context_ids(0),
            episode.turns[0].sampled_ids,
        )
        assert await first_difference(env, episode) is None


class Endpoint(Engine):
    """Knows the answers; checks that the functions which it must call are on offer."""

    capabilities = Capabilities(logprobs=False, tokens=False)

    def __init__(self, gold: Mapping[str, Message]) -> None:
        self.gold = gold

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
        message = self.gold[messages[-1].text]
        assert {call.name for call in message.tool_calls} <= {tool["function"]["name"] for tool in tools}
        return Reply(message, FinishReason.STOP)


async def test_an_endpoint_of_messages_is_given_the_functions_of_its_task() -> None:
    env = make(ENV)
    context = RolloutContext(Endpoint(gold_by_question(env)), None, lambda: make(ENV), RolloutLimits())
    episodes = await played(context, env)
    assert [episode.reward for episode in episodes] == [1.0] * 52
    assert all(episode.info["tools"] for episode in episodes)
