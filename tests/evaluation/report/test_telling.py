"""Which episodes a page shows."""

from __future__ import annotations

from dataclasses import replace

from agentrl.evaluation.report.telling import EACH, choose
from agentrl.evaluation.samples import Sample


def samples(task: str, verdicts: str, level: int = 1, **changes: int) -> list[Sample]:
    made = [
        Sample("e", task, sample=number, level=level, correct={"+": True, "-": False}.get(letter), turns=1)
        for number, letter in enumerate(verdicts)
    ]
    return [replace(sample, aborted=sample.correct is None, **changes) for sample in made]


def shown(table: list[Sample]) -> dict[str, list[tuple[str, int]]]:
    return {rule.title: [(item.task_id, item.sample) for item in chosen] for rule, chosen in choose(table)}


def test_hardest_solved_and_easiest_failed() -> None:
    table = samples("easy", "+++-") + samples("middle", "++--") + samples("hard", "-+--") + samples("never", "----")
    found = shown(table)
    assert found == {
        "Hardest solved": [("hard", 1), ("middle", 0)],
        "Easiest failed": [("easy", 3), ("middle", 2)],
    }


def test_with_one_sample_a_task_its_level_decides() -> None:
    table = [
        *samples("a", "+", 1), *samples("b", "+", 1), *samples("c", "-", 1),
        *samples("d", "+", 2), *samples("e", "-", 2), *samples("f", "-", 2), *samples("g", "-", 2),
    ]  # fmt: skip
    found = shown(table)
    assert found["Hardest solved"] == [("d", 0), ("a", 0)]
    assert found["Easiest failed"] == [("c", 0), ("e", 0)]


def test_errors_length_and_aborted() -> None:
    table = [
        *samples("plain", "+-"), *samples("clumsy", "-", tool_errors=3, tool_calls=4),
        *samples("clumsier", "--", tool_errors=5, tool_calls=5), *samples("long", "---", turns=9),
        *samples("broken", "xxx"), *samples("broken too", "x"), *samples("and a third", "x"),
    ]  # fmt: skip
    found = shown(table)
    assert found["Most tool errors"] == [("clumsier", 0)]  # clumsy stands under an earlier rule
    assert found["Easiest failed"] == [("plain", 1), ("clumsy", 0)]
    assert found["Longest"] == [("long", 0)]
    assert found["Aborted"] == [("broken", 0), ("broken too", 0)]


def test_no_episode_is_shown_twice_and_none_of_nothing() -> None:
    assert choose([]) == []
    table = samples("a", "+-+-x") + samples("b", "-----", turns=3, tool_errors=1)
    keys = [item.key for _, chosen in choose(table) for item in chosen]
    assert len(keys) == len(set(keys))
    assert all(len(chosen) <= EACH for _, chosen in choose(table))
