"""Digests of tasks: what they depend on, what they do not, and what a difference says."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentrl.env import ListedTasks, Task, TaskSet, register
from agentrl.envs.arithmetic import ArithmeticEnv
from agentrl.errors import ConfigError
from agentrl.evaluation.suite import Suite
from agentrl.evaluation.tasksets import canonical, digest_of, read_tasks
from agentrl.messages import user
from agentrl.suites import load_suite

BUNDLED = ("code", "core", "function-calling", "math", "search", "sql")


def suite_of(env: str, **entry: Any) -> Suite:
    return Suite(name="mine", entries={"one": {"env": env, **entry}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("code", "sql") else []) for name in BUNDLED]
)
def test_the_bundled_tasks_are_the_pinned_ones(name: str) -> None:
    suite = load_suite(name)
    read = read_tasks(suite)
    assert {key: tasks.digest for key, tasks in read.items()} == {key: e.digest for key, e in suite.entries.items()}
    for key, entry in suite.entries.items():
        if entry.levels:
            assert {task.level for task in read[key].tasks} == set(entry.levels)


PROBE = """
import json
from agentrl.evaluation.tasksets import read_tasks
from agentrl.suites import load_suite
print(json.dumps({key: tasks.digest for key, tasks in read_tasks(load_suite("core")).items()}))
"""


def test_digests_depend_on_no_process() -> None:
    """Another hash seed, another working directory, another locale."""
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == {key: entry.digest for key, entry in load_suite("core").entries.items()}


@dataclasses.dataclass
class Case:
    given: float


def test_one_form_for_what_is_equal() -> None:
    assert canonical({"b": (1, 2), "a": {3, 1}}) == canonical({"a": {1, 3}, "b": [1, 2]})
    assert canonical(0.1 + 0.2) == canonical(0.3)  # the last bit is a library's, not a task's
    assert canonical([Case(1.5)]) == canonical([{"given": 1.5}])
    assert canonical({1: "x", 2: "y"}) == canonical({2: "y", 1: "x"})
    assert canonical(Path("/here/a.db")) == canonical(Path("/there/a.db"))
    different = [1, 1.5, "1", True, None, b"1", [1], {1}, {"a": 1}, {1: 1}, float("nan"), float("inf")]
    assert len({canonical(value) for value in different}) == len(different)
    with pytest.raises(TypeError, match="a type has no form"):
        canonical({"kind": int})


def test_a_digest_changes_with_everything_that_is_asked_and_judged() -> None:
    class Listed(ArithmeticEnv):
        pass

    def digest(*tasks: Task) -> str:
        return digest_of(Listed(), tasks)

    task = Task("test:0", "test", (user("2 + 2?"),), {"answer": 4}, level=1)
    digests = {
        digest(task),
        digest(task, task),
        *(digest(dataclasses.replace(task, **change)) for change in CHANGES),
    }
    assert len(digests) == 2 + len(CHANGES)
    assert digest(dataclasses.replace(task)) == digest(task)


CHANGES: Sequence[dict[str, Any]] = (
    {"id": "test:1"},
    {"messages": (user("2 + 3?"),)},
    {"messages": (user("2 + 2?"), user(""))},
    {"data": {"answer": 5}},
    {"data": {"answer": "4"}},
    {"level": 2},
)


def test_other_tasks_than_the_pinned_ones_are_refused_and_say_what_to_do() -> None:
    suite = load_suite("core").chosen(["arithmetic"])
    suite.entries["arithmetic"].digest = "0" * 24
    with pytest.raises(ConfigError) as refused:
        read_tasks(suite)
    said = str(refused.value)
    assert "suite 'core 1', entry 'arithmetic'" in said and "raise the version" in said and "suites digest" in said
    assert "\n" not in said


def test_fewer_tasks_are_the_first_of_the_pinned_ones_and_more_are_possible() -> None:
    suite = load_suite("core").chosen(["arithmetic"])
    whole = read_tasks(suite)["arithmetic"]
    for count in (3, 20):
        some = read_tasks(suite, count)["arithmetic"]
        assert len(some.tasks) == len(some.gold) == count and some.digest != whole.digest
        shared = min(count, 16)
        assert [task.id for task in some.tasks[:shared]] == [task.id for task in whole.tasks[:shared]]
    suite.entries["arithmetic"].digest = "0" * 24
    with pytest.raises(ConfigError, match="not those that the suite was made with"):
        read_tasks(suite, 3)  # numbers of a part are compared as well


class LevelsOfItsOwn(ArithmeticEnv):
    """Lists tasks of mixed levels; has no option `levels`."""

    def __init__(self) -> None:
        super().__init__()

    def gold(self, task: Task) -> dict[str, Any]:
        return {"answer": task.data["answer"]}

    def tasks(self, split: str) -> TaskSet:
        levels = [1, 1, 1, 1, 2, 3, 3, 2]
        return ListedTasks(
            split, [Task(f"{split}:{n}", split, (), {"answer": n}, level) for n, level in enumerate(levels)]
        )


register("tests/LevelsOfItsOwn-v0", LevelsOfItsOwn)


@pytest.mark.parametrize(
    ("levels", "tasks", "found"),
    [
        (None, 3, [0, 1, 2]),
        (None, None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ([2], None, [4, 7]),
        ([1, 2, 3], 5, [0, 4, 5, 1, 7]),
        ([3, 1], None, [5, 0, 6, 1, 2, 3]),
        ([2], 9, [4, 7]),
    ],
)
def test_levels_are_chosen_among_the_tasks_where_the_environment_has_no_such_option(levels, tasks, found) -> None:
    read = read_tasks(suite_of("tests/LevelsOfItsOwn-v0", levels=levels, tasks=tasks))["one"]
    assert [int(task.id.partition(":")[2]) for task in read.tasks] == found


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"env": "agentrl/Arithmetik-v0"}, "did you mean 'agentrl/Arithmetic-v0'"),
        ({"env": "agentrl/Arithmetic-v0", "split": "tset"}, "'tset'"),
        ({"env": "agentrl/Arithmetic-v0", "levels": [9]}, "9"),
        ({"env": "agentrl/Arithmetic-v0", "options": {"digit": 1}}, "did you mean 'digits'"),
        ({"env": "tests/LevelsOfItsOwn-v0", "levels": [7]}, "no tasks of the levels [7]"),
        ({"env": "agentrl/Arithmetic-v0", "options": {"num_test_tasks": 0}}, "no tasks in the split 'test'"),
        ({"env": "agentrl/FunctionCalling-v0", "options": {"path": "/nowhere"}}, "/nowhere"),
    ],
)
def test_mistakes_name_the_entry_in_one_line(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_tasks(suite_of(**entry))
    assert "entry 'one'" in str(refused.value) and said in str(refused.value)
    assert "\n" not in str(refused.value)
