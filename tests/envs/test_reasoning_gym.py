"""reasoning-gym: every generator with a reference answer, its own scorer, and no way to run code through it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from agentrl.env import Env, make
from agentrl.envs import reasoning_gym, reasoning_source
from agentrl.errors import ConfigError

ENV = "agentrl/ReasoningGym-v0"


async def answered(env: Env, task_id: str, answer: str | None) -> tuple[float, dict[str, float]]:
    """Reward and metrics of an answer in the environment's format; None is the oracle's."""
    await env.areset(seed=0, options={"task": task_id})
    step = await env.astep(env.oracle_action() if answer is None else f"<answer>{answer}</answer>")
    assert step.terminated
    return step.reward, step.info["metrics"]


SLOW = {"arc_agi", "figlet_font", "group_anagrams", "knight_swap", "sokoban"}
"""Generators that take about a second to begin or for an item."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in reasoning_gym.names()]
)
async def test_the_reference_scores_one_and_nothing_does_not(name: str) -> None:
    env = make(ENV, name=name)
    reward, metrics = await answered(env, "train:0", None)
    assert (reward, metrics["correct"], metrics["verifier_failed"]) == (1.0, 1.0, 0.0)
    for answer in (" \n", "nonsense 12345", "[[["):
        reward, metrics = await answered(env, "train:0", answer)
        assert reward < 1.0, answer
        assert metrics["correct"] == metrics["verifier_failed"] == 0.0, answer
    assert (await answered(env, "train:0", ""))[0] == 0.0


@pytest.mark.parametrize("name", sorted(reasoning_source.REFUSED))
def test_generators_without_a_reference_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be an environment"):
        make(ENV, name=name)


def test_the_refused_ones_are_no_more_than_those_without_a_reference() -> None:
    registered, _ = reasoning_source._registered()
    assert set(reasoning_source.REFUSED) <= set(registered)
    assert len(reasoning_gym.names()) == len(registered) - len(reasoning_source.REFUSED) >= 100
    for name in set(reasoning_source.REFUSED) - {"composite"}:
        kind, config = registered[name]
        assert kind(config(seed=1, size=1))[0]["answer"] is None


@pytest.mark.parametrize("name", ["chain_sum", "word_sorting", "acre", "gsm_symbolic", "list_functions"])
def test_tasks_repeat_differ_and_no_question_is_in_both_splits(name: str) -> None:
    env, again, other = (make(ENV, name=name, seed=seed) for seed in (0, 0, 1))
    questions = {
        split: [env.tasks(split)[index].messages[-1].text for index in range(40)] for split in ("train", "test")
    }
    assert questions["train"] == [again.tasks("train")[index].messages[-1].text for index in range(40)]
    assert len(set(questions["train"])) > 30
    more = {other.tasks("test")[index].messages[-1].text for index in range(40)}
    assert not set(questions["train"]) & (set(questions["test"]) | more)
    assert not more & {env.tasks("train")[index].messages[-1].text for index in range(40)}


SETS = ["isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"]
"""Generators that iterate over sets, whose order is another one in every process."""


@pytest.mark.slow
def test_another_process_has_the_same_tasks() -> None:
    code = (
        "from agentrl.env import make\n"
        f"for name in {SETS}:\n"
        f"    print([make({ENV!r}, name=name).tasks('train')[i].messages[-1].text for i in range(2)])"
    )
    here = [str([make(ENV, name=name).tasks("train")[index].messages[-1].text for index in range(2)]) for name in SETS]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert there.stdout.splitlines() == here, there.stderr


async def test_scorers_that_take_wrong_answers_are_put_right() -> None:
    halting = make(ENV, name="game_of_life_halting")
    for index in range(4):
        gold = halting.task(f"train:{index}").data["answer"]
        assert (await answered(halting, f"train:{index}", gold.lower()))[0] == 1.0
        assert (await answered(halting, f"train:{index}", str(gold != "True")))[0] == 0.0
    puzzle = make(ENV, name="puzzle24")
    numbers = pickle.loads(puzzle.task("train:0").data["entry"])["metadata"]["numbers"]
    assert sorted(numbers) != [1, 1, 4, 6]
    assert (await answered(puzzle, "train:0", "6*4*1*1"))[0] == 0.0


def test_config_and_levels() -> None:
    long = make(ENV, name="chain_sum", config={"min_terms": 9, "max_terms": 9}).tasks("train")[0]
    assert pickle.loads(long.data["entry"])["metadata"]["num_terms"] == 9
    tasks = make(ENV, name="chain_sum", levels=(1, 8), config={"min_digits": 2, "max_digits": 2}).tasks("train")
    assert [tasks[index].level for index in range(4)] == [1, 8, 1, 8]
    entries = [pickle.loads(tasks[index].data["entry"])["metadata"] for index in range(20)]
    assert max(entry["num_terms"] for entry in entries[1::2]) > max(entry["num_terms"] for entry in entries[::2])
    assert {entry["num_digits"] for entry in entries} == {2}


@pytest.mark.parametrize("answer_format", ["plain", "boxed", "tags", "submit"])
async def test_answer_formats(answer_format: str) -> None:
    env = make(ENV, name="gcd", answer_format=answer_format)
    assert (await answered(env, "test:0", None))[0] == 1.0


async def test_tools_can_be_had() -> None:
    env = make(ENV, name="chain_sum", tools=("calculator",))
    assert [schema["function"]["name"] for schema in env.tool_schemas()] == ["calculator"]
    assert make(ENV).tool_schemas() == []


FORGERIES = [
    ("string_insertion", "oracle_answer"),
    ("string_insertion", "entry['answer']"),
    ("string_insertion", "[x for x in entry['answer']]"),
    ("spiral_matrix", "  entry['answer'].split()"),
    ("binary_matrix", "__import__('json').loads('[[1]]')"),
    ("n_queens", "[list(r) for r in entry['metadata']['valid_answers'][0].split('\\n')]"),
    ("countdown", "__import__('os').getpid()"),
    ("puzzle24", "exit(0)"),
    ("puzzle24", "chr(49)"),
    ("simple_integration", "().__class__"),
    ("simple_integration", "lambda: 0"),
    ("polynomial_multiplication", "eval(chr(49))"),
    ("intermediate_integration", "open(chr(47))"),
]


@pytest.mark.parametrize(("name", "answer"), FORGERIES)
async def test_an_answer_is_never_run_as_a_program(name: str, answer: str) -> None:
    env = make(ENV, name=name)
    task = env.task("train:0")
    assert not reasoning_source.harmless(name, answer, task.data["answer"])
    assert await answered(env, "train:0", answer) == (
        0.0,
        {"correct": 0.0, "score": 0.0, "answered": 1.0, "tool_calls": 0.0, "unreadable": 0.0, "verifier_failed": 0.0},
    )


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("spiral_matrix", "[1, 2, -3]"),
        ("string_insertion", "['A', 'B']"),
        ("n_queens", "_ Q _ _"),
        ("countdown", "82 + 20 * (67 - 50)"),
        ("simple_integration", "3*x**2/2 + sin(x) + C"),
        ("word_sorting", "__import__('os')"),
    ],
)
def test_honest_answers_reach_the_scorer(name: str, answer: str) -> None:
    assert reasoning_source.harmless(name, answer, "gold")


async def test_a_scorer_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(ENV, name="puzzle24")
    assert (await answered(env, "train:0", None))[0] == 1.0
    monkeypatch.setattr(reasoning_gym, "SCORE_SECONDS", 1.0)
    reward, metrics = await answered(env, "train:0", "9**9**9**9")
    assert (reward, metrics["verifier_failed"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "chain_sun"}, "did you mean 'chain_sum'"),
        ({"name": "rubiks_cube"}, "any solution is right"),
        ({"config": {"max_term": 3}}, "did you mean 'max_terms'"),
        ({"config": {"min_terms": 0}}, "min_terms must be positive"),
        ({"config": {"seed": 3}}, "'seed' is unknown"),
        ({"levels": ()}, "levels=()"),
        ({"levels": (99,)}, "has the levels 1 to 11, not 99"),
        ({"name": "acre", "levels": (1,)}, "has no curriculum"),
        ({"name": "caesar_cipher", "levels": (3,)}, "level 3 of 'caesar_cipher'"),
        ({"num_test_tasks": -1}, "num_test_tasks=-1"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(ENV, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
