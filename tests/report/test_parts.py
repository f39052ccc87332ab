"""The parts of a report: the account of seconds, the curve, which episodes are shown, the table for terminals."""

from __future__ import annotations

import io
import math
import re
import threading
from pathlib import Path

import pytest
from rich.console import Console

from agentrl.messages import ToolCall
from agentrl.report import evaluation_table
from agentrl.report.curve import curve_png, draw
from agentrl.report.data import Evaluation, RunData, endings, load_run, open_store, seconds_account
from agentrl.report.drawing import Palette
from agentrl.report.episodes import SHOWN_PAIRS, SHOWN_TURNS, Comparison, compare
from agentrl.store import RunRecord, RunStore
from agentrl.trajectory import StopReason
from tests.report.synthetic import episode, write_run


def data(
    train: list[dict[str, float]] | None = None,
    warm_start: list[dict[str, float]] | None = None,
    evaluations: list[Evaluation] | None = None,
    on_the_way: list[Evaluation] | None = None,
) -> RunData:
    return RunData(
        RunRecord(1, "r", "", 0.0),
        "",
        {},
        list(enumerate(train or [], 1)),
        list(enumerate(warm_start or [], 1)),
        evaluations or [],
        on_the_way or [],
    )


def test_account_adds_up_and_counts_details_once() -> None:
    step = {
        "seconds": 10.0,
        "seconds/rollout": 6.0,
        "seconds/update": 3.0,
        "seconds/update_forward": 1.0,
        "seconds/update_backward": 2.0,
        "seconds/tools/python": 5.0,
    }
    evaluation = Evaluation("base", 0, {"seconds": 4.0})
    on_the_way = Evaluation("step", 1, {"seconds": 2.0})
    account = seconds_account(data([step, step], [{"seconds": 3.0}], [evaluation], [on_the_way]))
    assert {part.name: part.seconds for part in account} == {
        "evaluation": 6.0, "warm start": 3.0, "rollout": 12.0, "update": 6.0, "unaccounted": 2.0,
    }  # fmt: skip
    assert next(part for part in account if part.name == "update").details == {"forward": 2.0, "backward": 4.0}


def test_account_leaves_out_what_is_no_number() -> None:
    assert seconds_account(data([{"seconds/rollout": math.nan, "seconds": math.nan}, {"loss": 1.0}])) == []


def test_endings_are_means_over_the_steps_that_know_them() -> None:
    steps = [{"stop/terminated": 1.0}, {"reward": 0.5}, {"stop/terminated": 0.25, "stop/env_error": 0.75}]
    assert endings(data(steps)) == [(StopReason.TERMINATED, 0.625, 0.25), (StopReason.ENV_ERROR, 0.375, 0.75)]
    assert endings(data([{"reward": 0.5}])) == endings(data()) == []


def test_curve_draws_every_known_point_and_every_evaluation() -> None:
    interval = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.7}
    run = data(
        [{"accuracy": 0.1, "reward": 1.0}, {"reward": 2.0}, {"accuracy": math.nan}, {"accuracy": 0.4, "reward": 3.0}],
        evaluations=[Evaluation("base", 0, interval), Evaluation("trained", 4, {"accuracy": 0.9})],
        on_the_way=[Evaluation("step", 2, interval), Evaluation("step", 3, interval)],
    )
    upper, lower = draw(run, Palette()).axes
    assert upper.lines[0].get_xydata().tolist() == [[1, 0.1], [4, 0.4]]
    assert lower.lines[0].get_xydata().tolist() == [[1, 1], [2, 2], [4, 3]]
    labels = [text.get_text() for text in upper.get_legend().get_texts()]
    assert labels == ["training", "base, held out", "trained, held out", "held out"]
    bars = [container.lines[2][0].get_segments()[0].tolist() for container in upper.containers]
    assert bars[0] == [[0, pytest.approx(0.4)], [0, pytest.approx(0.7)]]
    assert bars[1] == [[4, 0.9], [4, 0.9]]
    assert [segment[0][0] for segment in bars] == [0, 4, 2, 3]


def test_curve_of_nothing_says_so() -> None:
    upper, lower = draw(data(), Palette()).axes
    assert [axes.texts[0].get_text() for axes in (upper, lower)] == ["no accuracy recorded", "no training step yet"]


def test_curves_can_be_drawn_by_several_threads_without_global_state() -> None:
    run = data([{"accuracy": 0.1 * step, "reward": 0.1} for step in range(5)])
    expected, drawn = curve_png(run), []
    threads = [threading.Thread(target=lambda: drawn.append(curve_png(run))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [expected] * 3


def compared(folder: Path) -> Comparison:
    with open_store(folder) as store:
        return compare(load_run(folder, store), store)


def test_failures_are_shown_too(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", stages=())
    verdicts = {"a": (0, 1), "b": (0, 1), "c": (0, 1), "d": (1, 1), "e": (1, 0), "f": (0, 0), "g": (0, 0)}
    with RunStore(folder / "store.sqlite") as store:
        for task, (before, after) in verdicts.items():
            store.add_episode(1, "eval/base", 0, task, 0, episode(task, bool(before)))
            store.add_episode(1, "eval/trained", 8, task, 0, episode(task, bool(after)))
    comparison = compared(folder)
    assert comparison.outcomes == {"learned": 3, "kept": 1, "lost": 1, "not learned": 2}
    shown = [(pair.task_id, pair.outcome) for pair in comparison.pairs]
    assert shown == [("a", "learned"), ("b", "learned"), ("e", "lost"), ("f", "not learned"), ("d", "kept")]
    assert len(shown) == SHOWN_PAIRS
    assert all(pair.before is not None and pair.after is not None for pair in comparison.pairs)


def test_the_warm_started_policy_stands_in_for_a_base_that_was_not_evaluated(tmp_path: Path) -> None:
    comparison = compared(write_run(tmp_path / "r", stages=("eval/warm_start", "eval/trained")))
    assert (comparison.before, comparison.after) == ("warm-started policy", "trained policy")


def test_an_aborted_episode_shows_its_error_and_has_no_verdict(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", steps=0, stages=())
    made = episode("t", True)
    made.stop_reason, made.error, made.turns = StopReason.ENV_ERROR, "ValueError: boom", []
    with RunStore(folder / "store.sqlite") as store:
        store.add_episode(1, "eval/base", 0, "g", 0, made)
    (pair,) = compared(folder).pairs
    assert pair.before is not None and pair.after is None
    assert pair.before.verdict == "aborted" and pair.outcome == ""
    assert [(view.role, view.text.head) for view in pair.before.messages] == [("error", "ValueError: boom")]
    assert pair.before.ending is StopReason.ENV_ERROR


def test_a_long_episode_is_cut_by_turns(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", steps=0, stages=())
    made = episode("t", True)
    made.turns = [made.turns[0]] * (SHOWN_TURNS + 7)
    with RunStore(folder / "store.sqlite") as store:
        store.add_episode(1, "eval/base", 0, "g", 0, made)
    (pair,) = compared(folder).pairs
    assert pair.before is not None
    assert pair.before.turns_left_out == 7
    assert len(pair.before.messages) == 2 * SHOWN_TURNS


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"expression": "1 + 2", "digits": 3}', 'expression = "1 + 2"\ndigits = 3'),
        ('{"code": "a = 1\\nprint(a)"}', "code = a = 1\nprint(a)"),
        ('{"nested": {"a": 1}}', '{"nested": {"a": 1}}'),
        ('{"broken": ', '{"broken": '),
        ("[" * 100_000, None),
        ("{}", "{}"),
        ("3", "3"),
    ],
)
def test_arguments_are_readable_or_as_they_were_written(tmp_path: Path, arguments: str, shown: str | None) -> None:
    folder = write_run(tmp_path / "r", steps=0, stages=())
    made = episode("t", True)
    call = ToolCall(id="c", name="python", arguments=arguments)
    made.turns[0].message = made.turns[0].message.model_copy(update={"tool_calls": (call,)})
    with RunStore(folder / "store.sqlite") as store:
        store.add_episode(1, "eval/base", 0, "g", 0, made)
    (pair,) = compared(folder).pairs
    assert pair.before is not None
    excerpt = pair.before.messages[0].calls[0].arguments
    assert excerpt.head == shown if shown is not None else excerpt.cut > 90_000


def test_table_shows_shares_with_their_intervals() -> None:
    def shares(accuracy: float, low: float, high: float) -> dict[str, float]:
        return {
            "accuracy": accuracy, "accuracy_low": low, "accuracy_high": high,
            "correct": accuracy, "correct_low": low, "correct_high": high,
            "reward": 0.5, "reward_low": 0.1, "reward_high": 0.9,
            "episodes": 200.0, "seconds": 61.4,
        }  # fmt: skip

    only_here = {"tool_calls": 0.0, "tool_calls_low": 0.0, "tool_calls_high": 0.1}
    results = {
        "base": shares(0.02, 0.008, 0.05) | only_here,
        "warm_start": shares(0.595, 0.525, 0.661),
        "[b]x\x1b": {"accuracy": 0.5, "accuracy_low": -math.inf, "accuracy_high": math.inf},
    }
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(evaluation_table(results))
    text = console.export_text()
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[2:]]
    assert rows == [
        ["base", "2.0 % [0.8, 5.0]", "200", "61"],
        ["warm start", "59.5 % [52.5, 66.1]", "200", "61"],
        ["[b]x␛", "50.0 %", "-", "-"],
    ]
    assert "tool calls" not in text


def test_table_of_nothing_is_a_table() -> None:
    assert evaluation_table({}).row_count == 0
