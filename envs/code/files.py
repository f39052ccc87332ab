"""Benchmark files as tasks: HumanEval's form, and MBPP's, which is brought to it.

HumanEval: `task_id`, `prompt` (imports, helpers, signature and docstring), `entry_point`, `canonical_solution` (the
body), `test` (a program that defines `check(candidate)`). MBPP: `text` (or `prompt`), `code`, `test_list` (assert
statements).

Invariant: a file's rows are trusted programs, but none of them runs here: examples are read as literals from the text,
everything else happens in sandboxes.
"""

from __future__ import annotations

import ast
import doctest
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentrl.datafiles import read_rows
from agentrl.errors import ConfigError
from agentrl.generators import Problem

from .grader import Case

HUMAN_EVAL = ("prompt", "entry_point", "canonical_solution", "test")
MBPP = ("code", "test_list")


def read_problems(source: str | Path) -> list[tuple[str, Problem]]:
    """Names and problems of a file; raises `ConfigError` for what is malformed."""
    problems: dict[str, Problem] = {}
    for number, row in enumerate(read_rows(source, what="source"), 1):
        where = f"source={str(source)!r}, row {number}"
        try:
            name = _name(row, number)
            problem = _mbpp(row, where) if "test_list" in row else _human_eval(row, where)
        except SyntaxError as error:
            raise ConfigError(f"{where}: not a Python program: {error.msg}") from None
        if name in problems:
            raise ConfigError(f"{where}: task_id {name!r} stands twice in the file")
        problems[name] = problem
    return list(problems.items())


def _name(row: dict[str, Any], number: int) -> str:
    name = str(row.get("task_id", number)).strip()
    return name.replace(":", "_") or str(number)


def _human_eval(row: dict[str, Any], where: str) -> Problem:
    prompt, entry_point, solution, test = (_text(row, key, where, HUMAN_EVAL) for key in HUMAN_EVAL)
    if not entry_point.isidentifier():
        raise ConfigError(f"{where}: entry_point={entry_point!r} is no name")
    program = f"{prompt}{solution}\n"
    for part in (program, test):
        ast.parse(part)
    if not _defines(program, entry_point):
        raise ConfigError(f"{where}: the solution does not define {entry_point!r}")
    if not _defines(test, "check"):
        raise ConfigError(f"{where}: test does not define check(candidate)")
    question = f"Complete this Python program.\n\n{prompt.rstrip()}"
    return _problem(question, entry_point, program, f"{program}\n{test}\n", _doctests(prompt, entry_point), prompt)


def _mbpp(row: dict[str, Any], where: str) -> Problem:
    text = _text(row, "text" if "text" in row else "prompt", where, ("text", *MBPP))
    code, tests = _text(row, "code", where, MBPP), row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ConfigError(f"{where}: test_list must be a list of assert statements")
    defined = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    names = [node.id for node in ast.walk(ast.parse(tests[0])) if isinstance(node, ast.Name)]
    entry_point = next((name for name in names if name in defined), None)
    if entry_point is None:
        raise ConfigError(f"{where}: the first test calls no function that code defines")
    setup = str(row.get("test_setup_code") or "")
    body = "\n".join(f"    {line}" for test in tests for line in test.splitlines())
    check = f"def check({entry_point}):\n{body}\n"
    ast.parse(check)
    examples = [case for case in map(lambda test: _asserted(test, entry_point), tests[:1]) if case]
    question = f"{text.strip()}\n\nYour code should pass these tests:\n{tests[0]}"
    return _problem(question, entry_point, f"{code}\n", f"{setup}\n{code}\n{check}", examples, "")


def _problem(question: str, entry_point: str, program: str, check: str, public: Sequence[Case], prompt: str) -> Problem:
    data = {
        "family": "file",
        "entry_point": entry_point,
        "solution": program,
        "check": check,
        "public": list(public),
        "prompt": prompt,
    }
    return Problem(question, data)


def _text(row: dict[str, Any], key: str, where: str, keys: Sequence[str]) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        fault = "is missing" if key not in row else "must be text"
        raise ConfigError(f"{where}: {key!r} {fault}; a row has {', '.join(keys)}")
    return value


def _defines(program: str, name: str) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(ast.parse(program)))


def _doctests(prompt: str, entry_point: str) -> list[Case]:
    """The examples of a docstring that are a call with literals and its literal result."""
    try:
        examples = doctest.DocTestParser().get_examples(prompt)
    except ValueError:  # no doctest after all
        return []
    cases = [_example(example.source.strip(), example.want.strip(), entry_point) for example in examples]
    return [case for case in cases if case is not None]


def _example(call: str, result: str, entry_point: str) -> Case | None:
    try:
        node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or node.keywords or getattr(node.func, "id", None) != entry_point:
            return None
        return Case(tuple(map(ast.literal_eval, node.args)), ast.literal_eval(result))
    except (SyntaxError, ValueError):
        return None


def _asserted(statement: str, entry_point: str) -> Case | None:
    """`assert f(1, 2) == 3` as a test."""
    test = ast.parse(statement.strip()).body[0]
    if not isinstance(test, ast.Assert) or not isinstance(test.test, ast.Compare):
        return None
    if len(test.test.ops) != 1 or not isinstance(test.test.ops[0], ast.Eq):
        return None
    return _example(ast.unparse(test.test.left), ast.unparse(test.test.comparators[0]), entry_point)
