"""Generated tasks: functions of their index, splits without a problem in common, clear refusals."""

from __future__ import annotations

import random

import pytest

from agentrl.errors import ConfigError
from agentrl.generators import Problem, check_sizes, generated_tasks, split_of
from agentrl.messages import Message, user
from agentrl.task import GeneratedTasks


def draw(rng: random.Random, level: int) -> Problem:
    number = rng.randrange(10**level)
    return Problem(f"Is {number} even?", {"answer": number % 2 == 0})


def opening(problem: Problem) -> tuple[Message, ...]:
    return (user(problem.question),)


def tasks(split: str, size: int = 200, seed: int = 0, levels: tuple[int, ...] = (2, 3)) -> GeneratedTasks:
    return generated_tasks("even", split, size, levels=levels, seed=seed, draw=draw, opening=opening)


def questions(split: str, seed: int = 0) -> set[str]:
    return {task.messages[0].text for task in tasks(split, seed=seed)}


def test_a_task_is_a_function_of_its_index() -> None:
    assert list(tasks("train")) == list(tasks("train"))
    assert tasks("train", size=3)[2] == tasks("train")[2]
    assert tasks("train")[0] != tasks("train", seed=1)[0]
    assert [task.level for task in tasks("test", size=4)] == [2, 3, 2, 3]


def test_no_problem_is_in_both_splits_whatever_the_seeds() -> None:
    assert not questions("train", 0) & questions("test", 1)
    assert {split_of(question) for question in questions("train")} == {"train"}


def test_options_that_leave_no_problem_are_refused() -> None:
    def only(rng: random.Random, level: int) -> Problem:
        return Problem("the one question", {})

    wrong = "test" if split_of("the one question") == "train" else "train"
    with pytest.raises(ConfigError, match="no problem of level 1"):
        _ = generated_tasks("one", wrong, 1, levels=(1,), seed=0, draw=only, opening=opening)[0]


def test_a_key_of_ones_own_decides_what_is_the_same_problem() -> None:
    made = generated_tasks(
        "parity", "test", 50, levels=(3,), seed=0, draw=draw, opening=opening, key=lambda p: str(p.data["answer"])
    )
    wanted = {answer for answer in (True, False) if split_of(str(answer)) == "test"}
    assert {task.data["answer"] for task in made} == wanted == {True}


def test_sizes_are_not_negative() -> None:
    check_sizes(num_tasks=0)
    with pytest.raises(ConfigError, match="num_tasks=-1"):
        check_sizes(num_tasks=-1)
