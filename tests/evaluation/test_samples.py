"""The flat table: what counts as right, wrong and not judged, and pooling."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentrl.errors import ConfigError
from agentrl.evaluation.samples import TaskKey, duplicates, judged, pool, samples_of, stop_reasons, task_counts
from agentrl.messages import assistant, tool_result
from agentrl.store import RunStore
from agentrl.trajectory import StopReason, ToolCallRecord, Trajectory, Turn
from tests.evaluation.made_samples import sample, table


def episode(task: str = "test:1", correct: float | None = 1.0, **values: object) -> Trajectory:
    calls = [
        ToolCallRecord("calculator", "{}", "3", seconds=0.25),
        ToolCallRecord("calculator", "{", "no", error="parse"),
        ToolCallRecord("calculator", "{}", "no", error="timeout", seconds=0.5),
    ]
    first = Turn([1, 2], None, [3, 4], [-0.5, -1.5], assistant("x"), [tool_result("3", "a")], 0.25, tool_calls=calls)
    second = Turn([5], 0, [6], [-1.0], assistant("y"), reward=1.0)
    options: dict[str, object] = {"info": {"level": 3, "answer": "7", "token_entropy": [0.5, 2.0]}, "seconds": 2.0}
    metrics = {} if correct is None else {"correct": correct}
    return Trajectory(task, "env", turns=[first, second], metrics=metrics, seed=5, **options | values)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "store.sqlite")


def test_every_column_of_an_episode(store: RunStore) -> None:
    run = store.begin_run("r", "", "eval")
    store.add_episode(run, "eval/maths", 0, "00004", 2, episode())
    (found,) = samples_of(store, run)
    assert (found.entry, found.task_id, found.env_id, found.sample) == ("maths", "test:1", "env", 2)
    assert (found.level, found.reward, found.correct, found.aborted, found.answer) == (3, 1.25, True, False, "7")
    assert (found.turns, found.tokens, found.prompt_tokens) == (2, 3, 2 + 5)
    assert (found.tool_calls, found.tool_errors, found.invalid_calls, found.tool_seconds) == (3, 2, 1, 0.75)
    assert (found.seconds, found.stop_reason, found.seed, found.error) == (2.0, StopReason.TERMINATED, 5, None)
    assert found.surprisal == pytest.approx(1.0)
    assert found.token_entropy == pytest.approx((0.5 * 2 + 2.0 * 1) / 3)
    assert (found.step, found.group, found.metrics) == (0, "00004", {"correct": 1.0})
    summary = next(store.episodes(run))
    assert (found.prompt_tokens, found.tool_errors) == (summary.prompt_tokens, summary.tool_errors)


def test_an_answer_that_is_no_text_is_read_as_one(store: RunStore) -> None:
    run = store.begin_run("r", "", "import")
    store.add_episode(run, "eval/maths", 0, "00000", 0, episode(info={"answer": 42}))
    assert samples_of(store, run)[0].answer == "42"


def test_a_time_out_is_wrong_and_a_fault_has_no_verdict(store: RunStore) -> None:
    run = store.begin_run("r", "", "eval")
    reasons = [
        StopReason.TERMINATED,
        StopReason.TIMEOUT,
        StopReason.ENV_ERROR,
        StopReason.ENGINE_ERROR,
        StopReason.CANCELLED,
    ]
    for member, reason in enumerate(reasons):
        played = episode(correct=1.0 if reason is StopReason.TERMINATED else None, stop_reason=reason)
        store.add_episode(run, "eval/maths", 0, "00000", member, played)
    found = samples_of(store, run)
    assert [item.correct for item in found] == [True, False, None, None, None]
    assert [item.aborted for item in found] == [False, False, True, True, True]
    (count,) = task_counts(found)
    assert (count.n, count.c, count.left_out) == (2, 1, 3)
    assert stop_reasons(found)["timeout"] == 1


def test_an_environment_without_verdicts_gives_time_outs_none(store: RunStore) -> None:
    run = store.begin_run("r", "", "eval")
    store.add_episode(run, "eval/free", 0, "00000", 0, episode(correct=None))
    store.add_episode(run, "eval/free", 0, "00000", 1, episode(correct=None, stop_reason=StopReason.TIMEOUT))
    assert [item.correct for item in samples_of(store, run)] == [None, None]


def test_only_time_outs_are_all_wrong(store: RunStore) -> None:
    run = store.begin_run("r", "", "eval")
    store.add_episode(run, "eval/slow", 0, "00000", 0, episode(correct=None, stop_reason=StopReason.TIMEOUT))
    assert [item.correct for item in samples_of(store, run)] == [False]


def test_entries_are_chosen_and_the_last_step_counts(store: RunStore) -> None:
    run = store.begin_run("r", "", "train")
    for step in (0, 5):
        store.add_episode(run, "eval/step", step, "00000", 0, episode(f"test:{step}"))
    store.add_episode(run, "eval/base", 0, "00000", 0, episode("test:9"))
    store.add_episode(run, "train", 7, "00000", 0, episode("train:1"))
    assert {item.task_id for item in samples_of(store, run)} == {"test:5", "test:9"}
    assert [item.task_id for item in samples_of(store, run, ["base"])] == ["test:9"]
    with pytest.raises(ConfigError, match=r"no evaluated entry 'bse'; .*base"):
        samples_of(store, run, ["bse"])


def test_a_task_without_a_verdict_is_listed() -> None:
    found = task_counts(table({"t:0": [1, 0, None], "t:1": [None, None]}))
    assert [(item.task.task_id, item.n, item.c, item.left_out) for item in found] == [
        ("t:0", 2, 1, 1),
        ("t:1", 0, 0, 2),
    ]


def test_the_same_id_in_two_entries_is_two_tasks() -> None:
    found = task_counts([sample("t:0"), sample("t:0", entry="other")])
    assert [item.task for item in found] == [TaskKey("e", "t:0"), TaskKey("other", "t:0")]


def test_pooling_renumbers_and_refuses_equal_seeds() -> None:
    first = table({"t:0": [1, 0], "t:1": [1]})
    second = [sample("t:0", 0, True, seed=77), sample("t:1", 0, False, seed=78)]
    pooled = pool(first, second)
    assert [(item.task_id, item.sample) for item in pooled] == [
        ("t:0", 0),
        ("t:0", 1),
        ("t:1", 0),
        ("t:0", 2),
        ("t:1", 1),
    ]
    assert [item.n for item in task_counts(pooled)] == [3, 2]
    with pytest.raises(ConfigError, match="pooled samples are not independent: 3 seeds"):
        pool(first, first)


def test_duplicates_say_whether_the_outcome_is_the_same() -> None:
    found = duplicates([sample(seed=1), sample(number=1, seed=1), sample(number=2, seed=2)])
    assert [(item.samples, item.same) for item in found] == [((0, 1), True)]
    other = duplicates([sample(seed=1, tokens=5), sample(number=1, seed=1, tokens=6)])
    assert [item.same for item in other] == [False]
    assert duplicates([sample("t:0", seed=1), sample("t:1", seed=1)]) == []


def test_judged_leaves_out_what_has_no_verdict() -> None:
    assert [item.sample for item in judged(table({"t:0": [1, None, 0]}))] == [0, 2]
