"""The code environment: tasks that are disjoint and repeatable, a tool that tells no more than it should, rewards."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from agentrl.env import Env, make
from agentrl.envs.code import tests_tool, wire
from agentrl.envs.code.families import FAMILIES, by_example
from agentrl.envs.code.families.draft import compiled
from agentrl.envs.code.generators import draw_problem, key
from agentrl.envs.code.grader import Case
from agentrl.errors import ConfigError
from agentrl.messages import Role
from tests.envs.code_support import BEST, SANDBOXES, Spy, call
from tests.envs.playing import play

ENV = "agentrl/Code-v0"
ALL = (*FAMILIES, "by_example")
EVERY_LEVEL = (1, 2, 3, 4)


def code_env(**options: Any) -> Env:
    return make(ENV, **{"sandbox": BEST, **options})


def run_tests(code: str) -> Any:
    return call("run_tests", json.dumps({"code": code}))


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", EVERY_LEVEL)
@pytest.mark.parametrize("family", ALL)
def test_problems_tell_functions_apart(family: str, level: int) -> None:
    for number in range(8):
        problem = draw_problem(random.Random(f"{family} {level} {number}"), level, (family,), False)
        data = problem.data
        function = compiled(data["solution"], data["entry_point"])
        assert 10 <= len(data["hidden"]) <= 30
        assert 2 <= len(data["public"]) <= 4
        for case in (*data["public"], *data["hidden"]):
            again = function(*[copy.deepcopy(argument) for argument in case.args])
            assert wire.matches(case.expected, wire.encode(again))
        answers = Counter(wire.canonical(wire.encode(case.expected)) for case in data["hidden"])
        assert len(answers) > 1
        assert answers.most_common(1)[0][1] <= 0.8 * len(data["hidden"])
        calls = [repr(case.args) for case in (*data["public"], *data["hidden"])]
        assert len(calls) == len(set(calls))
        assert problem.question.isascii()
        assert family == "by_example" or " Return " in problem.question or "\nReturn " in problem.question
        assert data["solution"].partition(":")[2].strip() not in problem.question


def test_there_are_many_functions() -> None:
    keys = set()
    for number in range(600):
        keys.add(key(draw_problem(random.Random(number), EVERY_LEVEL[number % 4], tuple(FAMILIES), False)))
    assert len(keys) > 500


def test_the_examples_of_a_statement_are_true_and_all_there_is() -> None:
    task = code_env(levels=(2,)).tasks("train")[1]
    question = task.messages[-1].text
    assert [message.role for message in task.messages] == [Role.SYSTEM, Role.USER]
    space: dict[str, Any] = {}
    exec(task.data["solution"], space)
    examples = question.split("Examples:\n")[1].splitlines()
    assert len(examples) == len(task.data["public"])
    assert all(eval(line, space) for line in examples)
    assert task.data["solution"].splitlines()[0] in question


def test_no_function_is_in_both_splits() -> None:
    settings: list[dict[str, Any]] = [{}, {"seed": 1}, {"families": ("lists",)}, {"families": ("by_example",)}]
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    for options in settings:
        env = code_env(levels=EVERY_LEVEL, **options)
        for split, keys in seen.items():
            tasks = env.tasks(split)
            keys.update(tasks[index].data["behaviour"] for index in range(40))
    assert len(seen["train"]) > 120
    assert not seen["train"] & seen["test"]


def test_functions_that_do_the_same_have_the_same_key() -> None:
    seen = defaultdict(set)
    for number in range(400):
        problem = draw_problem(random.Random(number), 1, ("lists",), False)
        seen[key(problem)].add(problem.data["solution"])
    assert any(len(solutions) > 1 for solutions in seen.values())


def test_tasks_are_functions_of_seed_split_and_index() -> None:
    tasks, again, other = (code_env(levels=(1, 3), seed=seed).tasks("train") for seed in (5, 5, 6))
    assert [tasks[index] for index in range(20)] == [again[index] for index in reversed(range(20))][::-1]
    assert [tasks[index].level for index in range(4)] == [1, 3, 1, 3]
    assert sum(tasks[index].messages == other[index].messages for index in range(20)) < 5
    assert tasks[17] == tasks.by_id("train:17")
    assert len(code_env().tasks("train")) == 100_000
    assert len(code_env(num_test_tasks=7).tasks("test")) == 7


# -- episodes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_oracle_is_right(family: str) -> None:
    env = code_env(levels=EVERY_LEVEL, families=(family,))
    index = list(FAMILIES).index(family) % 4
    reward, metrics = await play(env, f"train:{index}")
    assert reward == 1.0
    assert metrics == {"correct": 1.0, "hidden_passed": 1.0, "public_passed": 1.0, "tool_calls": 1.0}


@pytest.mark.parametrize("sandbox", SANDBOXES)
async def test_an_episode_on_each_sandbox(sandbox: str) -> None:
    env = make(ENV, sandbox=sandbox)
    assert (await play(env, "train:0"))[0] == 1.0
    assert (await play(env, "train:0", [run_tests("def nothing(): pass"), "no idea"]))[0] == 0.0


async def test_without_tools_the_oracle_answers_at_once() -> None:
    env = code_env(tools=())
    assert env.tool_schemas() == []
    reward, metrics = await play(env, "train:3")
    assert (reward, metrics["tool_calls"]) == (1.0, 0.0)


async def test_the_gold_solution_scores_and_trivial_ones_do_not() -> None:
    env = code_env(levels=(2,), tools=())
    for index in range(4):
        task = env.task(f"test:{index}")
        gold = env.gold(task)["code"]
        name = task.data["entry_point"]
        assert json.loads(json.dumps(env.gold(task)))
        assert (await play(env, task.id, [f"Here it is:\n```python\n{gold}```\nGood luck."]))[0] == 1.0
        assert (await play(env, task.id, [gold]))[0] == 1.0
        for trivial in ("", "I do not know.", f"def {name}(*a): return None", f"def {name}(*a): return a[0]"):
            assert (await play(env, task.id, [trivial]))[0] == 0.0


async def test_the_answer_may_go_through_the_tool_submit() -> None:
    env = code_env(answer_format="submit")
    assert [schema["function"]["name"] for schema in env.tool_schemas()] == ["run_tests", "submit"]
    assert "submit" in env.task("train:0").messages[0].text
    reward, metrics = await play(env, "train:0")
    assert (reward, metrics["tool_calls"]) == (1.0, 2.0)
    gold = env.gold(env.task("train:0"))["code"]
    assert (await play(env, "train:0", [gold]))[0] == 0.0


async def test_the_tool_python_can_be_offered_beside() -> None:
    env = code_env(tools=("run_tests", "python"))
    await env.areset(options={"task": "train:0"})
    step = await env.astep(call("python", '{"code": "print(6 * 7)"}'))
    assert "42" in step.observation[0].text
    await env.aclose()


async def test_a_share_of_the_tests_may_count() -> None:
    task_id = "train:0"
    share = code_env(reward="fraction", families=("arithmetic",), tools=())
    case = share.task(task_id).data["hidden"][0]
    lookup = f"def compute(x, y): return {{{case.args!r}: {case.expected!r}}}.get((x, y))"
    hidden = len(share.task(task_id).data["hidden"])
    reward, metrics = await play(share, task_id, [lookup])
    assert reward == metrics["hidden_passed"] == pytest.approx(1 / hidden)
    assert metrics["correct"] == 0.0
    assert (await play(code_env(families=("arithmetic",), tools=()), task_id, [lookup]))[0] == 0.0


async def test_many_episodes_at_once() -> None:
    envs = [code_env(levels=EVERY_LEVEL) for _ in range(12)]
    results = await asyncio.gather(*(play(env, f"train:{number}") for number, env in enumerate(envs)))
    assert [reward for reward, _ in results] == [1.0] * 12


async def test_a_snapshot_goes_on_elsewhere() -> None:
    env = code_env(public_gain_reward=1.0)
    await env.areset(options={"task": "train:1"})
    await env.astep(run_tests("nonsense"))
    state = await env.asnapshot()
    other = code_env(public_gain_reward=1.0)
    await other.arestore(state)
    for each in (env, other):
        first = await each.astep(run_tests(env.gold(env.task("train:1"))["code"]))
        assert first.reward == 1.0
        assert (await each.astep(each.oracle_action())).info["metrics"]["correct"] == 1.0
    await other.arestore(state)
    assert other.episode.turns == 1


async def test_turn_rewards_come_once() -> None:
    env = code_env(families=("arithmetic",), public_pass_reward=0.5, public_gain_reward=0.3)
    data = env.task("train:0").data
    cases = data["public"]
    table = {case.args: case.expected for case in cases}
    one = dict([next(iter(table.items()))])

    def lookup(values: dict[Any, Any]) -> Any:
        return run_tests(f"def compute(x, y): return {values!r}.get((x, y))")

    await env.areset(options={"task": "train:0"})
    rewards = [(await env.astep(action)).reward for action in (lookup({}), lookup(one), lookup({}), lookup(table))]
    assert rewards == pytest.approx([0.0, 0.3 / len(cases), 0.0, 0.3 * (1 - 1 / len(cases)) + 0.5])
    assert (await env.astep(lookup(table))).reward == 0.0
    plain = code_env(families=("arithmetic",))
    await plain.areset(options={"task": "train:0"})
    assert (await plain.astep(lookup(table))).reward == 0.0


# -- the tool ----------------------------------------------------------------------------------------------------------


async def results(env: Env, *codes: str) -> list[str]:
    await env.areset(options={"task": "train:0"})
    return [(await env.astep(run_tests(code))).observation[0].text for code in codes]


async def test_the_tool_says_how_many_pass_and_shows_the_first_that_fails() -> None:
    env = code_env(families=("arithmetic",))
    data = env.task("train:0").data
    first, count = data["public"][0], len(data["public"])
    shown = f"compute({first.args[0]}, {first.args[1]}): expected {first.expected}"
    gold, wrong, raising, missing, broken, printing = await results(
        env,
        data["solution"],
        "def compute(x, y): return 'a'",
        "def compute(x, y): raise ValueError('no')",
        "x = 1",
        "def compute(x, y) return",
        "print('noise')\nimport os\ndef compute(x, y): os._exit(3)",
    )
    assert gold == f"passed {count} of {count}"
    assert wrong == f"passed 0 of {count}\n{shown}, got 'a'"
    assert raising == f"passed 0 of {count}\n{shown}, got ValueError: no"
    assert missing == "Error: NameError: there is no function 'compute'"
    assert broken.startswith("Error: SyntaxError")
    assert printing == "Error: the interpreter was ended"


async def test_the_tool_knows_the_public_tests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()
    monkeypatch.setattr(tests_tool, "get_sandbox", lambda spec: spy)
    env = code_env(families=("lists",), levels=(2,))
    data = env.task("train:0").data
    assert (await results(env, data["solution"]))[0].startswith("passed 3 of 3")
    (sent,) = spy.sent

    def occurs(case: Case) -> bool:
        return json.dumps(wire.encode(list(case.args))) in sent

    assert all(map(occurs, data["public"]))
    assert not any(occurs(case) for case in data["hidden"] if len(repr(case.args)) > 20)


async def test_a_call_without_code_is_an_observation() -> None:
    env = code_env()
    await env.areset(options={"task": "train:0"})
    step = await env.astep(call("run_tests", "{}"))
    assert step.info["tool_calls"][0].error == "invalid_arguments"
    assert not step.terminated


# -- by example --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", EVERY_LEVEL)
async def test_by_example_the_oracle_reads_the_tool_and_is_right(level: int) -> None:
    env = code_env(families=("by_example",), levels=(level,), brief=True, system_prompt="")
    for index in range(4):
        reward, metrics = await play(env, f"test:{index}")
        assert reward == 1.0
        assert 1 <= metrics["tool_calls"] <= 3
        said = "".join(
            message.text + "".join(c.arguments for c in message.tool_calls) for message in env.episode.messages
        )
        assert len(said) < 110 * (1 + metrics["tool_calls"])
        if level == 1:
            assert len(said) < 160


@pytest.mark.parametrize("level", EVERY_LEVEL)
def test_by_example_the_oracle_uses_what_was_shown_and_nothing_else(level: int) -> None:
    for number in range(40):
        puzzle = by_example.draw(random.Random(f"{level} {number}"), level)
        seen: list[str] = []
        code, certain = by_example.next_attempt(puzzle.form, seen)
        assert not certain
        while not certain:
            function = compiled(code, "f")
            wrong = next((case for case in puzzle.public if function(*case.args) != case.expected), None)
            if wrong is None:
                break
            seen.append(f"f({wrong.args[0]!r}): expected {wrong.expected!r}, got {function(*wrong.args)!r}")
            code, certain = by_example.next_attempt(puzzle.form, seen)
        function = compiled(code, "f")
        assert all(function(*case.args) == case.expected for case in puzzle.hidden)


def test_by_example_a_question_does_not_tell_its_constants() -> None:
    asked = defaultdict(set)
    env = code_env(families=("by_example",), brief=True, system_prompt="")
    tasks = env.tasks("train")
    for index in range(1000):
        task = tasks[index]
        (message,) = task.messages
        asked[message.text].add(task.data["solution"])
        assert len(message.text) < 25
    assert len(asked) == len(by_example.FORMS[1])
    assert min(len(solutions) for solutions in asked.values()) > 20


async def test_by_example_the_examples_alone_do_not_score() -> None:
    env = code_env(families=("by_example",), levels=(1,), brief=True)
    data = env.task("train:0").data
    table = {case.args[0]: case.expected for case in data["public"]}
    cheat = f"def f(x): return {table!r}.get(x)"
    reward, metrics = await play(env, "train:0", [run_tests(cheat), cheat])
    assert (reward, metrics["public_passed"], metrics["hidden_passed"]) == (0.0, 1.0, 0.0)
    assert (await results(env, cheat))[0] == "passed"


def test_by_example_in_words_for_larger_policies() -> None:
    question = code_env(families=("by_example",)).tasks("train")[0].messages[-1].text
    assert "\nf(" in question
    assert "Run the tests" in question


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"levels": ()}, "one or more of 1 to 4"),
        ({"levels": (5,)}, "one or more of 1 to 4"),
        ({"families": ()}, "must name at least one"),
        ({"families": ("list",)}, "did you mean 'lists'"),
        ({"num_tasks": -1}, "num_tasks=-1 must not be negative"),
        ({"seconds": 0}, "seconds=0"),
        ({"total": -1.0}, "total=-1.0 must be a positive number"),
        ({"memory": 0}, "memory=0 must be a positive number"),
        ({"reward": "half"}, "reward"),
        ({"answer_format": "boxed"}, "answer_format"),
        ({"sandbox": "forks"}, "did you mean 'fork'"),
        ({"sandbox": {"name": "none", "colour": 1}}, "colour"),
        ({"source": "nowhere.jsonl"}, "there is no such file"),
        ({"test_fraction": 2.0}, "test_fraction=2.0 must be from 0 to 1"),
        ({"split": "valid"}, "split='valid' is unknown"),
        ({"tools": ("run_test",)}, "run_test"),
        ({"tool_options": {"calculator": {}}}, "'calculator' is no tool here"),
        ({"colour": 1}, "colour"),
    ],
)
def test_wrong_options_are_told_in_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        code_env(**options)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_split_that_gets_no_function_is_told() -> None:
    with pytest.raises(ConfigError, match=r"task .* unknown"):
        code_env(num_tasks=3).task("train:3")
