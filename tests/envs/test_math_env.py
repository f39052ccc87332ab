"""Mathematics: generators that are right and repeatable, an oracle for every set of tools, files, honest verdicts."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentrl import registry
from agentrl.env import Env, make
from agentrl.envs.math.generators import LEVELS, TOPICS, Exercise, Generator
from agentrl.errors import ConfigError
from agentrl.messages import Message, ToolCall, assistant
from agentrl.rewards.equivalence import equivalent
from agentrl.tool import resolve_tool
from tests.envs.playing import play

ENV = "agentrl/Math-v0"
_WHY_NOT = registry.sandboxes.get("fork").why_not()
needs_sandbox = pytest.mark.skipif(_WHY_NOT is not None, reason=f"sandbox fork: {_WHY_NOT}")
GENERATORS = [
    pytest.param(topic, level, generator, id=f"{topic}-{level}-{getattr(generator, '__name__', '')}")
    for topic, levels in sorted(TOPICS.items())
    for level, generators in sorted(levels.items())
    for generator in generators
]


def draw(generator: Generator, count: int) -> list[Exercise]:
    return [generator(random.Random(index)) for index in range(count)]


def math_env(**options: Any) -> Env:
    """With the calculator alone: what needs a sandbox says so."""
    return make(ENV, **{"tools": ("calculator",), **options})


def call(expression: str) -> Message:
    arguments = json.dumps({"expression": expression})
    return assistant(tool_calls=(ToolCall(id="call_0", name="calculator", arguments=arguments),))


# -- the generators ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("topic", "level", "generator"), GENERATORS)
async def test_every_step_gives_what_is_written_beside_it(topic: str, level: int, generator: Generator) -> None:
    calculator = resolve_tool("calculator")
    for drawn in draw(generator, 6):
        assert drawn.steps
        for step in drawn.steps:
            if step.tool == "calculator":
                result = await calculator.call(expression=step.text)
                assert result.error is None, (drawn, step)
                assert await equivalent(result.text.split(" (")[0], step.result), (drawn, step, result.text)
        assert drawn.answer not in drawn.question.split() or len(drawn.answer) < 3


@pytest.mark.parametrize(("topic", "level", "generator"), GENERATORS)
def test_questions_differ_and_answers_cannot_be_guessed(topic: str, level: int, generator: Generator) -> None:
    drawn = draw(generator, 200)
    assert len({exercise.question for exercise in drawn}) > 120
    answer, count = Counter(exercise.answer for exercise in drawn).most_common(1)[0]
    assert count <= 30, f"{answer} is the answer to {count} of 200"
    assert all(exercise.question.isascii() and len(exercise.question) < 300 for exercise in drawn)


def test_every_level_has_several_topics() -> None:
    for level in LEVELS:
        assert sum(level in levels for levels in TOPICS.values()) >= 5


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize(("topic", "level", "generator"), GENERATORS)
async def test_programs_and_expressions_run_under_python(topic: str, level: int, generator: Generator) -> None:
    env = make(ENV, tools=("python",), topics=(topic,), levels=(level,))
    for index in range(4):
        reward, metrics = await play(env, f"train:{index}")
        assert (reward, metrics["correct_tool_use"]) == (1.0, 1.0)
    await env.aclose()


# -- the environment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
async def test_the_oracle_is_right_with_the_calculator(level: int) -> None:
    env = math_env(levels=(level,))
    for index in range(25):
        reward, metrics = await play(env, f"train:{index}")
        task = env.task(f"train:{index}")
        assert reward == metrics["correct"] == 1.0, task
        assert metrics["verifier_failed"] == metrics["failed_calls"] == 0.0
        if all(step["tool"] == "calculator" for step in task.data["steps"]):
            assert metrics["correct_tool_use"] == metrics["right_steps"] == 1.0, task


@needs_sandbox
async def test_the_oracle_uses_python_where_the_calculator_does_not_reach() -> None:
    env = make(ENV, topics=("modular",), levels=(5,))
    reward, metrics = await play(env, "train:0")
    assert (reward, metrics["correct_tool_use"], metrics["tool_calls"]) == (1.0, 1.0, 1.0)
    alone = make(ENV, topics=("linear_equations",), levels=(1,), tools=("python",))
    reward, metrics = await play(alone, "train:0")
    assert (reward, metrics["correct_tool_use"]) == (1.0, 1.0)


async def test_without_tools_the_oracle_answers_at_once() -> None:
    env = math_env(tools=())
    assert env.tool_schemas() == []
    reward, metrics = await play(env, "train:3")
    assert (reward, metrics["tool_calls"], metrics["correct_tool_use"]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("answer_format", ["any", "plain", "boxed", "tags", "submit"])
async def test_answer_formats(answer_format: str) -> None:
    env = math_env(answer_format=answer_format, topics=("geometry", "quadratics"))
    for index in range(6):
        assert (await play(env, f"test:{index}"))[0] == 1.0
    names = [schema["function"]["name"] for schema in env.tool_schemas()]
    assert names == (["calculator", "submit"] if answer_format == "submit" else ["calculator"])
    reward, metrics = await play(env, "test:0", ["I do not know"])
    assert (reward, metrics["correct"]) == (0.0, 0.0)
    assert metrics["answered"] == float(answer_format == "plain")


async def test_answers_are_judged_as_mathematics() -> None:
    env = math_env(topics=("quadratics",), levels=(3,))
    low, high = env.task("train:0").data["answer"].split(", ")
    for answer in (
        f"The answer is {high}, {low}.",
        f"\\boxed{{{low}, {high}}}",
        f"\\boxed{{x = {low} \\text{{ or }} x = {high}}}",
    ):
        assert (await play(env, "train:0", [answer]))[0] == 1.0, answer
    for answer in (f"The answer is {low}.", f"\\boxed{{{low}}}", f"\\boxed{{{low}, {high}}} or \\boxed{{1, 2}}", ""):
        assert (await play(env, "train:0", [answer]))[0] == 0.0, answer


async def test_a_failure_of_the_verifier_is_told(tmp_path: Path) -> None:
    file = tmp_path / "towers.jsonl"
    file.write_text(json.dumps({"question": "What is it?", "answer": "9^{9^{9^9}}"}))
    env = math_env(source={"test": str(file)})
    reward, metrics = await play(env, "test:0", ["The answer is 5."])
    assert (reward, metrics["correct"], metrics["verifier_failed"]) == (0.0, 0.0, 1.0)
    reward, metrics = await play(env, "test:0", ["\\boxed{9^{9^{9^9}}}"])
    assert (reward, metrics["verifier_failed"]) == (1.0, 0.0)


def test_no_question_is_in_both_splits() -> None:
    settings: list[dict[str, Any]] = [{}, {"seed": 1}, {"levels": (1,)}, {"topics": ("geometry",)}]
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    for options in settings:
        env = math_env(**options)
        for split, questions in seen.items():
            tasks = env.tasks(split)
            questions.update(tasks[index].messages[-1].text for index in range(300))
    assert len(seen["train"]) > 900
    assert not seen["train"] & seen["test"]


def test_tasks_are_functions_of_seed_split_and_index() -> None:
    tasks, again, other = (math_env(levels=(1, 4), seed=seed).tasks("train") for seed in (5, 5, 6))
    assert [tasks[index] for index in range(30)] == [again[index] for index in reversed(range(30))][::-1]
    assert [tasks[index].level for index in range(4)] == [1, 4, 1, 4]
    assert sum(tasks[index].messages == other[index].messages for index in range(30)) < 5
    assert (len(math_env().tasks("train")), len(math_env(num_test_tasks=7).tasks("test"))) == (100_000, 7)


def test_topics_and_prompts() -> None:
    env = math_env(topics=("linear_equations", "rates"), levels=(2, 3))
    assert {env.tasks("train")[index].data["topic"] for index in range(40)} == {"linear_equations", "rates"}
    opening = env.tasks("train")[0].messages
    assert [message.role for message in opening] == ["system", "user"]
    assert "tool calculator" in opening[0].text
    assert "tool" not in math_env(tools=(), answer_format="boxed").tasks("train")[0].messages[0].text
    assert len(math_env(system_prompt="").tasks("train")[0].messages) == 1


async def test_turn_rewards_are_for_new_right_steps() -> None:
    env = math_env(topics=("arithmetic",), levels=(2,), right_step_reward=0.1)
    first, second, third, last = (step["text"] for step in env.gold(env.task("train:0"))["steps"])
    told = [call(first), call(first), call("1 + 1"), call("oops"), call(second), call(third), call(last), ""]
    assert (await play(env, "train:0", told))[0] == pytest.approx(0.4)
    answer = env.task("train:0").data["answer"]
    assert (await play(env, "train:0", [call(answer), "0"]))[0] == 0.0, "a bare number computes nothing"
    assert (await play(env, "train:0", [call(f"{answer} + 0"), "0"]))[0] == pytest.approx(0.4)


async def test_a_short_setting_for_a_policy_of_characters() -> None:
    env = math_env(topics=("linear_equations",), levels=(1,), system_prompt="", answer_format="plain")
    answers = Counter()
    for index in range(40):
        opening, info = await env.areset(options={"task": f"train:{index}"})
        (question,) = (message.text for message in opening)
        message = env.oracle_action()
        step = await env.astep(message)
        final = env.oracle_action()
        text = question + message.tool_calls[0].arguments + step.observation[0].text + final.text
        assert text.isascii() and len(text) < 100
        assert (
            question.startswith("Solve ") and final.text == step.observation[0].text == info["task"]["gold"]["answer"]
        )
        answers[final.text] += 1
    assert max(answers.values()) <= 5


async def test_a_snapshot_continues_elsewhere() -> None:
    env, other = math_env(topics=("averages",)), math_env(topics=("averages",))
    await env.areset(seed=1)
    await env.astep(env.oracle_action())
    await other.arestore(await env.asnapshot())
    while not (step := await other.astep(other.oracle_action())).terminated:
        pass
    assert step.info["metrics"]["correct_tool_use"] == 1.0


# -- files -------------------------------------------------------------------------------------------------------------

GSM8K = [
    {"question": f"{n} plus 1?", "answer": f"He adds.\n{n}+1=<<{n}+1={n + 1}>>{n + 1}\n#### 1,{n + 100:03d}"}
    for n in range(60)
]
MATH = [
    {
        "problem": f"Half of {n}?",
        "solution": f"So \\boxed{{1}}, no: $\\boxed{{\\frac{{{n}}}{{2}}}}$.",
        "level": f"Level {1 + n % 5}",
        "type": ("Algebra", "Geometry")[n % 2],
    }
    for n in range(60)
]
AIME = [{"id": n, "problem": f"Find {n}.", "answer": n} for n in range(30)]


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith("jsonl") else json.dumps(rows))
    return str(path)


@pytest.mark.parametrize(
    ("rows", "answer", "wrong"),
    [(GSM8K, "The answer is 1107.", "The answer is 8."), (MATH, "\\boxed{3.5}", "\\boxed{1}"), (AIME, "007", "70")],
)
async def test_files_of_the_usual_kinds(tmp_path: Path, rows: list[dict[str, Any]], answer: str, wrong: str) -> None:
    env = math_env(source={"test": written(tmp_path, "some.jsonl", rows)}, split="test")
    assert (len(env.tasks("train")), len(env.tasks("test"))) == (0, len(rows))
    assert (await play(env, "test:7", [answer]))[0] == 1.0
    assert (await play(env, "test:7", [wrong]))[0] == 0.0
    assert (await play(env, "test:8"))[0] == 1.0


def test_one_file_is_split_by_hash_and_filtered(tmp_path: Path) -> None:
    path = written(tmp_path, "math.json", MATH)
    env = math_env(source=path)
    train, test = (list(env.tasks(split)) for split in ("train", "test"))  # type: ignore[call-overload]
    assert len(train) + len(test) == 60
    assert 1 <= len(test) <= 15
    kept = math_env(source=path, levels=(2, 3), topics=("Geometry",)).tasks("train")
    assert {(task.level, task.data["topic"]) for task in kept} == {(2, "Geometry"), (3, "Geometry")}  # type: ignore[attr-defined]


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": ()}, "levels=()"),
        ({"levels": (7,)}, "levels=(7,)"),
        ({"topics": ()}, "topics=()"),
        ({"topics": ("geometri",)}, "did you mean 'geometry'"),
        ({"topics": ("rates",), "levels": (6,)}, "have the levels [2, 3, 4]"),
        ({"num_tasks": -1}, "num_tasks=-1"),
        ({"tools": ("calculater",)}, "did you mean 'calculator'"),
        ({"answer_format": "boxd"}, "answer_format"),
        ({"source": "nowhere.jsonl"}, "source='nowhere.jsonl'"),
        ({"source": {"tets": "x.jsonl"}}, "did you mean 'test'"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        math_env(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "1+1?", "answer": "2"}, "no key 'question' or 'problem'"),
        ({"question": "1+1?"}, "no answer"),
        ({"problem": "1+1?", "solution": "It is 2."}, "\\boxed{}"),
        ({"question": "1+1?", "answer": ""}, "no answer"),
    ],
)
def test_rows_that_say_too_little(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = written(tmp_path, "bad.jsonl", [{"question": "2+2?", "answer": "4"}, row])
    with pytest.raises(ConfigError) as caught:
        math_env(source=path)
    assert said in str(caught.value)
    assert "row 2" in str(caught.value)


def test_levels_and_topics_that_a_file_lacks(tmp_path: Path) -> None:
    path = written(tmp_path, "math.jsonl", MATH)
    for options in ({"levels": (9,)}, {"topics": ("Algebre",)}):
        with pytest.raises(ConfigError, match="is not in the file"):
            math_env(source=path, **options)
