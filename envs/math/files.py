"""Exercises from files: GSM8K, MATH, AIME and whatever has a question and an answer.

What a row is, is told by its keys: a question stands under `question` or `problem`, an answer under `answer` (of which
`#### 72` at the end of a worked answer counts) or in the last `\\boxed{}` of `solution`. Invariant: the split of a row
depends on its question alone unless the file says it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from agentrl.datafiles import read_rows
from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.rewards.equivalence import boxed

TEST_PART = 10
"""One row of so many belongs to `test` where one file holds both splits."""
_QUESTIONS = ("question", "problem", "Problem", "Question")
_ANSWERS = ("answer", "Answer", "final_answer", "expected_answer")
_TOPICS = ("topic", "subject", "type")
_MARKED = re.compile(r"####\s*(.+?)\s*$")


@dataclass(frozen=True, slots=True)
class Row:
    """One exercise of a file."""

    question: str
    answer: str
    level: int
    topic: str


def read(source: str | Mapping[str, str], splits: tuple[str, ...]) -> dict[str, list[Row]]:
    """The exercises of each split; `source` is one file, or one a split. Raises `ConfigError`."""
    if isinstance(source, str):
        rows = _rows(source, "source")
        return {
            "train": [row for row in rows if not _is_test(row.question)],
            "test": [row for row in rows if _is_test(row.question)],
        }
    for split in source:
        if split not in splits:
            raise ConfigError(f"source: {split!r} is no split; {nearest(split, list(splits))}")
    return {split: _rows(source[split], f"source.{split}") if split in source else [] for split in splits}


def _is_test(question: str) -> bool:
    digest = blake2b(question.strip().encode("utf-8", "replace"), digest_size=4).digest()
    return int.from_bytes(digest, "little") % TEST_PART == 0


def _rows(path: str, what: str) -> list[Row]:
    return [_row(row, f"{what}={path!r}, row {number}") for number, row in enumerate(read_rows(path, what=what), 1)]


def _row(row: dict[str, Any], where: str) -> Row:
    question = _first(row, _QUESTIONS)
    if question is None:
        raise ConfigError(f"{where}: there is no key 'question' or 'problem'; it has {', '.join(map(str, row))}")
    answer = _answer(row)
    if not answer:
        raise ConfigError(
            f"{where}: no answer: expected 'answer', with '#### ...' in it or not, or \\boxed{{}} in 'solution'"
        )
    level = re.search(r"\d+", str(row.get("level", "")))
    return Row(question, answer, int(level[0][:6]) if level else 1, _first(row, _TOPICS) or "file")


def _answer(row: dict[str, Any]) -> str:
    given = _first(row, _ANSWERS)
    if given is None:
        given = str(row.get("solution", ""))
        boxes = boxed(given)
        return boxes[-1] if boxes else ""
    marked = _MARKED.search(given)
    if marked:
        return marked[1]
    boxes = boxed(given)
    return boxes[-1] if boxes else given.strip()


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    found = next((row[key] for key in keys if row.get(key) not in (None, "")), None)
    return None if found is None else str(found).strip()
