"""Hand-made samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.evaluation.samples import Sample, TaskCounts, TaskKey


def counts(n: int, rights: Sequence[int]) -> list[TaskCounts]:
    """Tasks of n samples each, with these numbers of right ones."""
    return [TaskCounts(TaskKey("e", f"t:{index}"), n, c) for index, c in enumerate(rights)]


def sample(task: str = "t:0", number: int = 0, correct: bool | None = True, **values: Any) -> Sample:
    """One sample of entry `e`; its seed depends on task and number."""
    options: dict[str, Any] = {
        "entry": "e",
        "seed": sum(map(ord, task)) * 1000 + number,
        "reward": float(bool(correct)),
    }
    return Sample(task_id=task, sample=number, correct=correct, **options | values)


def table(verdicts: Mapping[str, Sequence[bool | int | None]], **values: Any) -> list[Sample]:
    """Samples by task; verdicts as booleans or 0 and 1."""
    return [
        sample(task, number, None if verdict is None else bool(verdict), **values)
        for task, several in verdicts.items()
        for number, verdict in enumerate(several)
    ]


def drawn(n: int, rights: Sequence[int], **values: Any) -> list[Sample]:
    """Tasks of n samples, the first of which are right."""
    return table({f"t:{index}": [1] * c + [0] * (n - c) for index, c in enumerate(rights)}, **values)
