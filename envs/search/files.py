"""Somebody's own questions (HotpotQA, Natural Questions, ...) from a file.

A row has `question` and its answers, as `answer`, `answers`, `golden_answers` or `answer_aliases` (text or a list of
texts, all that are there count), and may have `id` and `split`. Invariant: without `split` a hash of the question
decides to which split a row belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentrl.datafiles import read_rows
from agentrl.errors import ConfigError
from agentrl.generators import SPLITS, Problem, split_of
from agentrl.messages import Message
from agentrl.registry import nearest
from agentrl.task import ListedTasks, Task

_KEYS = ("answer", "answers", "golden_answers", "answer_aliases")


def question_tasks(
    train: str | Path, test: str | Path | None, opening: Callable[[Problem], tuple[Message, ...]]
) -> dict[str, ListedTasks]:
    """The tasks by split; with a file for `test`, all of `train` belongs to that split. Raises `ConfigError`."""
    if test is None:
        rows = [(_split(train, number, row), row) for number, row in _numbered(train, "questions")]
    else:
        sources = {"train": (train, "questions"), "test": (test, "test_questions")}
        rows = [(split, row) for split, source in sources.items() for _, row in _numbered(*source)]
    tasks: dict[str, list[Task]] = {split: [] for split in SPLITS}
    names: set[str] = set()
    for split, row in rows:
        name = f"{split}:{row.get('id', row.get('_id', len(tasks[split])))}"
        while name in names:
            name += "+"
        names.add(name)
        problem = Problem(row["question"], {"answers": row["answers"], "hops": []})
        tasks[split].append(Task(name, split, opening(problem), problem.data))
    return {split: ListedTasks(split, found) for split, found in tasks.items()}


def _numbered(source: str | Path, what: str) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, row in enumerate(read_rows(source, required=("question",), what=what), 1):
        answers = [text for key in _KEYS for text in _texts(row.get(key))]
        if not answers or not isinstance(row["question"], str):
            keys = ", ".join(_KEYS)
            raise ConfigError(f"{what}={str(source)!r}, row {number}: needs a question and an answer in one of {keys}")
        found.append((number, {**row, "answers": answers}))
    return found


def _split(source: str | Path, number: int, row: dict[str, Any]) -> str:
    split = row.get("split")
    if split is None:
        return split_of(row["question"])
    if split not in SPLITS:
        offer = nearest(str(split), list(SPLITS))
        raise ConfigError(f"questions={str(source)!r}, row {number}: split {split!r} is unknown; {offer}")
    return str(split)


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(item) for item in values if isinstance(item, str | int | float) and str(item).strip()]
