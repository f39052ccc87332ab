"""Arithmetic: tasks that are disjoint and repeatable, an oracle that is right, rewards for what they say."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl.env import make
from agentrl.errors import ConfigError
from agentrl.messages import Message, ToolCall, assistant
from tests.envs.playing import play

ENV = "agentrl/Arithmetic-v0"


def call(expression: str) -> Message:
    arguments = f'{{"expression": "{expression}"}}'
    return assistant(tool_calls=(ToolCall(id="call_0", name="calculator", arguments=arguments),))


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("operations", [("+", "-", "*"), ("+", "-", "*", "/")])
async def test_the_oracle_is_right_and_takes_a_call_a_level(level: int, operations: tuple[str, ...]) -> None:
    env = make(ENV, levels=[level], operations=operations)
    for index in range(300):
        reward, metrics = await play(env, f"train:{index}")
        assert reward == 1.0
        assert metrics == {
            "correct": 1.0,
            "correct_tool_use": 1.0,
            "tool_calls": level,
            "right_calls": level,
            "well_formed_calls": level,
        }


def test_the_oracle_speaks_in_messages() -> None:
    env = make(ENV)
    env.reset(options={"task": "test:0"})
    expression, answer = (env.gold(env.task("test:0"))[key] for key in ("expressions", "answer"))
    message = env.oracle_action()
    assert message.content == ""
    assert message.tool_calls[0].name == "calculator"
    assert message.tool_calls[0].arguments == f'{{"expression": "{expression[0]}"}}'
    env.step(message)
    assert env.oracle_action() == assistant(f"The answer is {answer}.")


async def test_the_oracle_goes_on_after_somebody_elses_mistakes() -> None:
    env = make(ENV, levels=(2,))
    await env.areset(options={"task": "train:0"})
    await env.astep(call("1 + 1"))
    await env.astep(call("nonsense"))
    for _ in range(2):
        await env.astep(env.oracle_action())
    assert (await env.astep(env.oracle_action())).reward == 1.0


def test_no_question_is_in_both_splits() -> None:
    settings: list[dict[str, Any]] = [{}, {"seed": 1}, {"digits": 1}, {"levels": (1, 2, 3, 4)}, {"operations": ("/",)}]
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    for options in settings:
        env = make(ENV, **options)
        for split, questions in seen.items():
            tasks = env.tasks(split)
            questions.update(tasks[index].messages[-1].text for index in range(1000))
    assert len(seen["train"]) > 1000
    assert not seen["train"] & seen["test"]


def test_tasks_are_functions_of_seed_split_and_index() -> None:
    tasks, again, other = (make(ENV, levels=(1, 3), seed=seed).tasks("train") for seed in (5, 5, 6))
    assert [tasks[index] for index in range(50)] == [again[index] for index in reversed(range(50))][::-1]
    assert [tasks[index].level for index in range(4)] == [1, 3, 1, 3]
    same = sum(tasks[index].messages == other[index].messages for index in range(50))
    assert same < 10
    assert tasks[17] == tasks.by_id("train:17")
    assert len(make(ENV).tasks("train")) == 100_000
    assert len(make(ENV, num_test_tasks=7).tasks("test")) == 7


def test_questions_read_as_they_should() -> None:
    first = make(ENV).tasks("train")[3]
    assert [message.role for message in first.messages] == ["system", "user"]
    expression = first.data["steps"][0][0]
    assert first.messages[1].text == f"What is {expression}?"
    chain = make(ENV, levels=(4,), system_prompt="", digits=3).tasks("train")[0]
    (message,) = chain.messages
    assert message.text.startswith("Start with ")
    assert message.text.endswith(" What is the result?")
    assert message.text.count(".") == 5


async def test_the_answer_is_nowhere_in_what_the_policy_sees() -> None:
    env = make(ENV, levels=(3,))
    for index in range(50):
        opening, _ = await env.areset(options={"task": f"train:{index}"})
        assert f" {env.task(f'train:{index}').data['answer']}." not in opening[-1].text


@pytest.mark.parametrize(
    "answer", ["", "I do not know", "The answer is one", "\\boxed{}", "1e999999999", "9" * 1_000_000]
)
async def test_a_wrong_or_empty_answer_scores_nothing(answer: str) -> None:
    reward, metrics = await play(make(ENV), "train:0", [answer])
    assert reward == 0.0
    assert metrics["correct"] == metrics["correct_tool_use"] == 0.0


async def test_a_right_answer_without_the_tool_is_correct_but_no_tool_use() -> None:
    env = make(ENV)
    answer = env.task("train:0").data["answer"]
    reward, metrics = await play(env, "train:0", [call(f"{answer}"), f"It is {answer}"])
    assert reward == 1.0
    assert (metrics["correct"], metrics["correct_tool_use"], metrics["right_calls"]) == (1.0, 0.0, 0.0)
    assert metrics["well_formed_calls"] == 1.0


async def test_one_call_computes_one_operation_unless_told_otherwise() -> None:
    chained = "(2 + 3) * 4"
    env = make(ENV, levels=(2,))
    await env.areset(seed=0)
    assert "only one operation" in (await env.astep(call(chained))).observation[0].text
    free = make(ENV, levels=(2,), max_operations=None)
    await free.areset(seed=0)
    assert (await free.astep(call(chained))).observation[0].text == "20"


async def test_turn_rewards_are_off_by_default_and_cannot_be_farmed() -> None:
    shaped = make(ENV, levels=(2,), well_formed_reward=0.1, right_call_reward=0.2)
    steps = shaped.gold(shaped.task("train:0"))["expressions"]
    first, second = call(steps[0]), call(steps[1])
    assert (await play(shaped, "train:0", [first, first, second, second, ""]))[0] == pytest.approx(2 * 0.1 + 2 * 0.2)
    assert (await play(shaped, "train:0", [call("oops"), first, ""]))[0] == pytest.approx(0.1 + 0.2)
    assert (await play(make(ENV, levels=(2,)), "train:0", [first, first, second, ""]))[0] == 0.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": ()}, "levels=()"),
        ({"levels": (5,)}, "levels=(5,)"),
        ({"digits": 0}, "digits=(0,)"),
        ({"levels": (1, 2), "digits": (1, 2, 3)}, "digits=(1, 2, 3)"),
        ({"operations": ()}, "operations=()"),
        ({"operations": ("/",), "levels": (2,)}, "another beside '/'"),
        ({"operations": ("^",)}, "operations"),
        ({"num_tasks": -1}, "num_tasks=-1"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(ENV, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_split_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="no tasks"):
        make(ENV, num_tasks=0).reset(seed=0)
