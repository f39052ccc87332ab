"""Task files in the leaderboard's form: an object a line, and the answers in a folder `possible_answer` beside them.

A file's name tells its category: `BFCL_v4_live_simple.json`, or `live_simple.jsonl`. Invariant: whatever is wrong with
a file is one `ConfigError` that names the file and the line; a problem that was read can be judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentrl.datafiles import HUB, read_lines
from agentrl.errors import ConfigError
from agentrl.messages import Message, Role, user
from agentrl.registry import nearest

from .functions import Function, read_functions
from .match import Answer

LEVELS = {"simple": 1, "irrelevance": 1, "relevance": 1, "multiple": 2, "parallel": 3, "parallel_multiple": 4}
"""Level of each category; that of `live_simple` is that of `simple`."""
CATEGORIES = tuple(f"{prefix}{kind}" for prefix in ("", "live_") for kind in LEVELS)
_REFUSED = {
    "javascript": "its arguments are JavaScript source in strings, which the leaderboard's own parser reads",
    "java": "its arguments are Java source in strings, which the leaderboard's own parser reads",
    "multi_turn": "its calls are executed by the leaderboard's own API classes",
    "memory": "its calls are executed by the leaderboard's own memory stores",
    "web_search": "its calls search the web, and the answers age",
    "format_sensitivity": "it varies the prompts of models without tool calls",
    "exec": "its calls are executed",
    "rest": "its calls are executed on the web",
    "sql": "its answers have no published check of calls",
    "chatable": "it has no answers",
}
"""Beginnings of the categories that cannot be judged here, and why."""
_PREFIX = re.compile(r"^(?:BFCL_v\d+_|gorilla_openfunctions_v\d+_test_)?(?:simple_(?=java))?")
_SUFFIX = re.compile(r"\.jsonl?(?:\.gz)?$")


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of a task file, and its answer."""

    name: str
    category: str
    messages: tuple[Message, ...]
    functions: tuple[Function, ...]
    answers: tuple[Answer, ...]
    """The calls that are expected; empty where none is, and for `relevance`, where any is."""

    @property
    def kind(self) -> str:
        """The category without `live_`."""
        return self.category.removeprefix("live_")


def read_problems(source: str | Sequence[str], categories: Sequence[str] | None) -> list[Problem]:
    """The problems of a folder, of a file or of several files, those of `categories` only, in the order of the files.

    A folder may hold categories that cannot be judged here; they are left out unless they are asked for. Raises
    `ConfigError`.
    """
    if categories is not None:
        if not categories:
            raise ConfigError("categories=[] names no category; leave it out to take all")
        categories = [_known(category, "categories") for category in categories]
    files = _folder(source) if isinstance(source, str) and _is_folder(source) else _files(source)
    chosen = [(path, name) for path, name in files if categories is None or name in categories]
    for name in categories or ():
        if name not in dict(files).values():
            there = nearest(name, sorted({category for _, category in files}))
            raise ConfigError(f"categories: path={source!r} has no file of {name!r}; {there}")
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for path, name in chosen:
        for place, problem in _problems(path, name, _stamp(path)):
            if problem.name in places:
                raise ConfigError(f"{place}: the id {problem.name!r} is also that of {places[problem.name]}")
            places[problem.name] = place
            problems.append(problem)
    return problems


def _is_folder(source: str) -> bool:
    return not source.startswith(HUB) and Path(source).expanduser().is_dir()


def _folder(source: str) -> list[tuple[str, str]]:
    """(path, category) of the files of a folder."""
    paths = sorted(path for path in Path(source).expanduser().iterdir() if path.is_file() and _SUFFIX.search(path.name))
    named = [(str(path), _named(path.name)) for path in paths]
    found = [(path, name) for path, name in named if name in CATEGORIES]
    if not found:
        raise ConfigError(f"path={source!r}: no file of a category, such as BFCL_v4_{CATEGORIES[0]}_python.json")
    return sorted(found, key=lambda file: CATEGORIES.index(file[1]))


def _files(source: str | Sequence[str]) -> list[tuple[str, str]]:
    paths = [source] if isinstance(source, str) else list(source)
    if not paths:
        raise ConfigError("path=[] names no file")
    for path in paths:
        if not path.startswith(HUB) and not _SUFFIX.search(path) and not Path(path).expanduser().is_file():
            found = "is a folder, which is given alone" if _is_folder(path) else "there is no such file or folder"
            raise ConfigError(f"path={path!r}: {found}")
    return [(path, _known(_named(path.rpartition("/")[2]), f"path={path!r}")) for path in paths]


def _named(file: str) -> str:
    """What a file's name says about its category."""
    return _SUFFIX.sub("", _PREFIX.sub("", file)).replace("simple_python", "simple")


def _known(category: str, where: str) -> str:
    """A category that can be judged, by its name."""
    name = _named(category)
    if name in CATEGORIES:
        return name
    if reason := next((reason for start, reason in _REFUSED.items() if name.startswith(start)), None):
        raise ConfigError(f"{where}: the category {name!r} cannot be judged here: {reason}")
    raise ConfigError(f"{where}: {name!r} is no category; {nearest(name, list(CATEGORIES))}")


def _stamp(path: str) -> tuple[int, ...]:
    """Changes when a file, or its answers, may have changed."""
    if path.startswith(HUB):
        return ()
    files = [Path(path).expanduser(), Path(_answers_path(path)).expanduser()]
    return tuple(
        number for file in files if file.is_file() for number in (file.stat().st_mtime_ns, file.stat().st_size)
    )


def _answers_path(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}possible_answer/{name}"


@lru_cache(maxsize=64)  # every environment of a rollout reads the same files
def _problems(path: str, category: str, stamp: tuple[int, ...]) -> tuple[tuple[str, Problem], ...]:
    """(place, problem) of each line."""
    kind = category.removeprefix("live_")
    answers = {} if kind in ("irrelevance", "relevance") else _answers(path)
    problems = []
    for number, row in read_lines(path, what="path"):
        where = f"path={path!r}, line {number}"
        name = _name(row, where)
        functions = read_functions(_entry(row, "function", where), where)
        if not functions and kind != "irrelevance":
            raise ConfigError(f"{where}: 'function' is empty, but a call is expected")
        messages = _messages(_entry(row, "question", where), where)
        expected: tuple[Answer, ...] = ()
        if kind not in ("irrelevance", "relevance"):
            if name not in answers:
                raise ConfigError(f"{where}: {_answers_path(path)} has no answer to {name!r}")
            expected = _checked(answers[name], functions)
        problems.append((where, Problem(name, category, messages, functions, expected)))
    return tuple(problems)


def _answers(path: str) -> dict[str, tuple[str, Any]]:
    """(place, answer) by id."""
    file = _answers_path(path)
    if not file.startswith(HUB) and not Path(file).expanduser().is_file():
        raise ConfigError(f"path={path!r}: its answers are missing; there is no {file}")
    answers: dict[str, tuple[str, Any]] = {}
    for number, row in read_lines(file, what="path"):
        where = f"path={file!r}, line {number}"
        name = _name(row, where)
        if name in answers:
            raise ConfigError(f"{where}: the id {name!r} is also that of {answers[name][0]}")
        answers[name] = (where, _entry(row, "ground_truth", where))
    return answers


def _checked(answer: tuple[str, Any], functions: Sequence[Function]) -> tuple[Answer, ...]:
    """Calls of functions that are on offer, each with a list of values a parameter."""
    where, calls = answer
    names = [function.name for function in functions]
    if not isinstance(calls, list) or not calls:
        raise ConfigError(f"{where}: 'ground_truth' must be a list of calls")
    for call in calls:
        if not isinstance(call, dict) or len(call) != 1 or not isinstance(next(iter(call.values())), dict):
            raise ConfigError(f"{where}: a call must be an object {{function: {{parameter: [values]}}}}")
        ((name, values),) = call.items()
        if name not in names:
            raise ConfigError(f"{where}: the function {name!r} is not offered; {nearest(name, names)}")
        wrong = next((key for key, options in values.items() if not isinstance(options, list)), None)
        if wrong is not None:
            raise ConfigError(f"{where}: the values of {wrong!r} must be a list")
    return tuple(calls)


def _name(row: Mapping[str, Any], where: str) -> str:
    name = _entry(row, "id", where)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}: 'id' must be a text")
    return name


def _entry(row: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in row:
        raise ConfigError(f"{where}: there is no key {key!r}; {nearest(key, list(row))}")
    return row[key]


def _messages(question: Any, where: str) -> tuple[Message, ...]:
    """The messages of the one turn that there is; older files have a text."""
    if isinstance(question, str):
        return (user(question),)
    if isinstance(question, list) and question and all(isinstance(turn, list) for turn in question):
        if len(question) > 1:
            raise ConfigError(f"{where}: a question of {len(question)} turns; {_REFUSED['multi_turn']}")
        question = question[0]
    try:
        messages = tuple(Message.from_wire(message) for message in question)
    except (ValidationError, TypeError):
        messages = ()
    if not messages or messages[-1].role is not Role.USER or any(message.role is Role.TOOL for message in messages):
        raise ConfigError(f"{where}: 'question' must be a list of one turn: messages, the last one the user's")
    return messages
