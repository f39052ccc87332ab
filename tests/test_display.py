"""What a person sees while a run goes on, in a terminal and in a log."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from agentrl.display import LiveDisplay, LogDisplay, PhaseProgress, _rate, duration, make_display
from agentrl.observe import Observer

METRICS = {
    "reward": 0.8125,
    "accuracy": 0.75,
    "tokens_per_second": 1234.4,
    "seconds": 41.26,
    "seconds/rollout": 25.0,
    "seconds/update": 15.36,
    "seconds/other": 0.9,
    "makespan_over_bound": 1.034,
}
HOSTILE = "\x1b[31mred\x1b]0;title\x07 [bold]not markup[/bold] \u202e \r\nsecond"


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def console() -> Console:
    return Console(record=True, force_terminal=True, width=100, file=io.StringIO(), color_system=None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def live(console: Console, clock: Clock) -> Iterator[LiveDisplay]:
    display = LiveDisplay(console, clock)
    yield display
    display.close()


def screen(console: Console, display: LiveDisplay) -> str:
    """What the display shows now."""
    console.export_text()
    console.print(display)
    return console.export_text()


def play(display: Observer) -> None:
    """A short run."""
    display.phase("load")
    display.phase("evaluate base", 2)
    display.advance(1, accuracy=0.0)
    display.advance(1, accuracy=0.5)
    display.phase("train", 3)
    for step in (1, 2):
        display.activity("rollout", 64, 64)
        display.step(step, METRICS)
        display.advance(1, reward=0.8125, accuracy=0.75)
    display.note("checkpoint written")
    display.close()


def test_live_shows_phase_progress_and_remaining_time(live: LiveDisplay, console: Console, clock: Clock) -> None:
    assert "starting" in screen(console, live)
    live.phase("train", 10)
    assert "train" in screen(console, live) and "0/10" in screen(console, live) and "? left" in screen(console, live)
    for _ in range(4):
        clock.now += 30
        live.advance(1, reward=0.5, accuracy=0.25)
    shown = screen(console, live)
    assert "4/10" in shown
    assert "3m 00s left" in shown
    assert "2m 00s elapsed" in shown
    assert "reward 0.5, accuracy 25.0%" in shown
    clock.now += 10
    assert "2m 50s left" in screen(console, live)


def test_live_shows_the_present_activity_until_the_unit_is_done(live: LiveDisplay, console: Console) -> None:
    live.phase("train", 10)
    live.activity("rollout", 37, 64)
    assert "rollout 37/64 episodes" in screen(console, live)
    live.activity("update", 3, 9)
    assert "update 3/9 micro-batches" in screen(console, live)
    live.advance()
    assert "micro-batches" not in screen(console, live)


def test_live_shows_the_latest_steps_and_where_their_seconds_went(live: LiveDisplay, console: Console) -> None:
    live.phase("train", 20)
    for step in range(1, 11):
        live.step(step, METRICS)
    lines = [line.split() for line in screen(console, live).splitlines()]
    assert lines[0] == ["step", "reward", "accuracy", "tokens/s", "seconds", "rollout", "update", "other", "x", "bound"]
    assert [line[0] for line in lines[1:9]] == [str(step) for step in range(3, 11)]
    assert lines[1][1:] == ["0.812", "75.0%", "1,234", "41.3", "25.0", "15.4", "0.9", "1.03"]


def test_live_draws_accuracy_from_zero_to_one(live: LiveDisplay, console: Console) -> None:
    for step, accuracy in enumerate((0.0, 0.5, math.nan, 1.0, 7.0)):
        live.step(step, {"accuracy": accuracy})
    assert "accuracy 0% ▁▅ ██ 700%" in screen(console, live)


def test_live_copes_with_metrics_that_are_missing_or_no_numbers(live: LiveDisplay, console: Console) -> None:
    live.advance()
    live.activity("dream", 1, 2)
    live.step(1, {})
    live.step(2, dict.fromkeys(METRICS, math.nan))
    shown = screen(console, live)
    assert shown.splitlines()[1].split() == ["1", *["-"] * 8]
    assert shown.splitlines()[2].split() == ["2", *["-"] * 8]
    assert "dream 1/2" in shown


def test_live_prints_notes_above_without_obeying_them(live: LiveDisplay, console: Console) -> None:
    live.note(HOSTILE)
    shown = console.export_text()
    assert "␛[31mred␛]0;title␇ [bold]not markup[/bold] ⟨U+202E⟩ second" in shown


def test_remaining_time_forgets_old_speed_and_ignores_what_an_earlier_process_did(clock: Clock) -> None:
    progress = PhaseProgress("train", 100, clock)
    assert progress.remaining is None
    progress.advance(40, {})
    assert progress.remaining is None
    clock.now += 10
    progress.advance(1, {})
    assert progress.remaining == pytest.approx(590)
    for _ in range(16):
        clock.now += 2
        progress.advance(1, {})
    assert progress.remaining == pytest.approx(86)
    clock.now += 1000  # a unit that hangs is taken for nearly done, not for the rest of the run
    assert progress.remaining == pytest.approx(84)


def test_units_that_end_in_bursts_are_not_taken_for_quick_ones(clock: Clock) -> None:
    progress = PhaseProgress("evaluate", 1000, clock)
    for _ in range(10):
        clock.now += 10
        for _ in range(20):
            progress.advance(1, {})
    assert progress.rate == pytest.approx(2.0, rel=0.05)
    assert progress.remaining == pytest.approx(400, rel=0.05)


def test_log_is_one_plain_line_a_phase_and_a_step(clock: Clock) -> None:
    file = io.StringIO()
    play(LogDisplay(Console(file=file), clock))
    assert file.getvalue().splitlines() == [
        "load",
        "evaluate base (2)",
        "evaluate base: 2 of 2 in 0s, accuracy 50.0%",
        "train (3)",
        *[
            f"step {step}: reward 0.812, accuracy 75.0%, 1,234 tokens/s, 41.3 s "
            "(rollout 25.0, update 15.4, other 0.9), rollout 1.03 x its lower bound"
            for step in (1, 2)
        ],
        "checkpoint written",
    ]


def test_log_has_no_escape_codes_and_one_line_a_note() -> None:
    file = io.StringIO()
    LogDisplay(Console(file=file)).note(HOSTILE)
    assert file.getvalue() == "␛[31mred␛]0;title␇ [bold]not markup[/bold] ⟨U+202E⟩ second\n"


def test_log_writes_what_the_file_can_hold_and_flushes_each_line() -> None:
    raw = io.BytesIO()
    display = LogDisplay(Console(file=io.TextIOWrapper(raw, encoding="ascii")))
    display.note("a … b")
    assert raw.getvalue() == b"a ? b\n"


def test_make_display_redraws_only_where_that_can_work(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    display = make_display(console)
    display.close()
    assert isinstance(display, LiveDisplay)
    assert isinstance(make_display(Console(file=io.StringIO())), LogDisplay)
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert isinstance(make_display(Console(file=ascii_only, force_terminal=True)), LogDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(Console(file=io.StringIO(), force_terminal=True)), LogDisplay)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (3599.7, "1h 00m"), (7530, "2h 05m")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


PROGRAM = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tests.test_display import METRICS
from agentrl.display import make_display
display = make_display()
display.phase("train", 3)
display.step(1, METRICS)
display.advance(1, accuracy=0.75)
if sys.argv[2] == "close":
    display.close()
elif sys.argv[2] == "interrupt":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("ending", ["close", "interrupt", "exit"])
def test_a_real_terminal_is_left_with_its_cursor(ending: str) -> None:
    ours, theirs = pty.openpty()
    here = str(Path(__file__).parents[1])
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, here, ending], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b"".join(iter(lambda: _read(ours), b"")).decode()
    os.close(ours)
    process.wait(30)
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") > -1, shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "75.0%" in plain and "1/3" in plain
    assert ("KeyboardInterrupt" in plain) == (ending == "interrupt")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other side is gone
        return b""


def test_a_log_says_now_and_then_how_far_a_long_phase_is() -> None:
    out, clock = io.StringIO(), Clock()
    display = LogDisplay(Console(file=out), clock)
    display.phase("evaluate core", 200)
    for _ in range(100):
        clock.now += 1.0
        display.advance(1, accuracy=0.5)
    lines = out.getvalue().splitlines()
    assert lines[0] == "evaluate core (200)"
    assert lines[1:] == [
        f"evaluate core: {done} of 200, 1/s, {left} left, accuracy 50.0%"
        for done, left in ((30, "2m 50s"), (60, "2m 20s"), (90, "1m 50s"))
    ]


@pytest.mark.parametrize(("seconds", "said"), [(0.1, "10/s"), (4.0, "15/min"), (3600.0, "1/h")])
def test_the_rate_has_a_unit_to_read(seconds: float, said: str) -> None:
    clock = Clock()
    progress = PhaseProgress("evaluate", 10, clock)
    assert progress.rate is None
    for _ in range(3):
        clock.now += seconds
        progress.advance(1, {})
    assert progress.rate == pytest.approx(1 / seconds)
    assert _rate(progress.rate) == said
