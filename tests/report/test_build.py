"""The report of a run: everything that is there, nothing that is not, hostile text as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentrl.errors import StoreError
from agentrl.report import build_report
from agentrl.report.build import SPARK_HEIGHT, TABLE_ROWS, sparks
from agentrl.report.page import figure
from agentrl.store import RunStore
from agentrl.trajectory import StopReason
from tests.report.reading import HOSTILE, SEEN, assert_inert, read
from tests.report.synthetic import EPISODES, episode, write_run

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A whole run of eight steps."""
    return write_run(tmp_path / "quickstart")


def test_a_whole_run(run_folder: Path) -> None:
    built = build_report(run_folder)
    assert built == run_folder / "report.html"
    assert (run_folder / "curve.png").read_bytes().startswith(PNG)
    assert not list(run_folder.glob("*.tmp"))
    text = " ".join(read(built).text.split())
    assert "step 8 of 8" in text
    assert "quickstart" in text
    headings = ("Learning curve", "Held-out evaluation", "Where the time went", "Training metrics", "Episodes")
    for heading in (*headings, "How training's episodes ended"):
        assert heading in text
    assert StopReason.TERMINATED.meaning in text
    for fact in ("base step 0", "warm start step 0", "trained step 8", "After warm start"):
        assert fact in text
    assert "Training changed held-out accuracy by" in text
    assert "calculator" in text and 'expression = "84 + 62"' in text and "84 + 62 = 146" in text
    assert "stands at step" not in text and "No " not in text


def test_figures_are_those_of_the_store(run_folder: Path) -> None:
    with RunStore(run_folder / "store.sqlite") as store:
        ((_, trained),) = store.metrics(1, "eval/trained")
        train = store.metrics(1, "train")
    text = " ".join(read(build_report(run_folder)).text.split())
    shown = [f"{100 * trained[name]:.1f}" for name in ("accuracy", "accuracy_low", "accuracy_high")]
    assert f"{shown[0]} % held-out accuracy, 95 %: {shown[1]} – {shown[2]} %" in text  # noqa: RUF001
    assert f"loss {figure(train[-1][1]['loss'])}" in text
    rollout = sum(metrics["seconds/rollout"] for _, metrics in train)
    assert f"{rollout:.0f} s" in text


def test_the_page_loads_nothing_and_runs_nothing(run_folder: Path) -> None:
    assert_inert(build_report(run_folder))


def test_both_colour_schemes_reach_the_curve(run_folder: Path) -> None:
    source = build_report(run_folder).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in source and "@media print" in source
    curve = source[source.index("<svg") : source.index("</svg>")]
    used = set(re.findall(r"var\(--(\w+)\)", curve))
    assert {"paper", "ink", "muted", "grid", "accuracy", "reward", "held"} == used
    assert all(source.count(f"--{name}: #") == 2 for name in used - {"paper", "ink", "muted", "grid"})
    assert not re.search(r"#[0-9a-f]{6}", curve)


def test_hostile_text_is_text_wherever_it_comes_from(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", stages=(), name=HOSTILE.replace("\x00", ""))
    with RunStore(folder / "store.sqlite") as store:
        for phase in ("eval/base", "eval/trained"):
            made = episode(HOSTILE, False, observation=HOSTILE, says=HOSTILE)
            call = made.turns[0].message.tool_calls[0]
            call = call.model_copy(update={"name": HOSTILE, "arguments": HOSTILE, "error": HOSTILE})
            made.turns[0].message = made.turns[0].message.model_copy(update={"tool_calls": (call,)})
            made.turns[0].tool_calls[0].name = made.turns[0].tool_calls[0].error = HOSTILE
            made.opening = [message.model_copy(update={"content": HOSTILE}) for message in made.opening]
            made.error = HOSTILE
            store.add_episode(1, phase, 0, "g", 0, made)
        store.log(1, "train", 8, {HOSTILE: 1.0, f"seconds/{HOSTILE}": 1.0})
        store.log(1, "eval/base", 0, {f"{HOSTILE}{end}": 0.5 for end in ("", "_low", "_high")})
    (folder / "config.yaml").write_text(f"name: x\nmodel: {{name: {HOSTILE!r}}}\n# {HOSTILE}\n", encoding="utf-8")
    built = build_report(folder)
    assert_inert(built)
    text = read(built).text
    assert "<script>alert(1)</script>" in text
    assert SEEN in text
    assert "{{ 7 * 7 }}" in text


def test_a_megabyte_of_observation_is_cut_and_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", stages=())
    with RunStore(folder / "store.sqlite") as store:
        store.add_episode(1, "eval/trained", 8, "g", 0, episode("t", True, "HEAD" + "x" * 1_000_000 + "TAIL"))
    built = build_report(folder)
    text = read(built).text
    assert "HEADxxx" in text and "xxxTAIL" in text
    assert "996,008 characters cut; the store has them all" in text
    assert built.stat().st_size < 300_000


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", steps=0, stages=())
    text = read(build_report(folder)).text
    for said in (
        "No training step is recorded yet.",
        "No held-out evaluation is recorded.",
        "No timings are recorded.",
        "No episode is recorded yet.",
        "step 0 of 8",
    ):
        assert said in text


def test_an_interrupted_run_says_where_it_stands_and_shows_its_last_episodes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", steps=3, stages=("eval/base",))
    text = read(build_report(folder)).text
    assert "The run stands at step 3 of 8." in text
    assert "The trained policy was not evaluated." in text
    assert "base policy" in text and "training, step 3" in text


def test_a_folder_without_its_configuration_file_falls_back_on_the_store(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", config=False)
    text = read(build_report(folder)).text
    assert "config.yaml cannot be read" in text
    assert "groups_per_step" in text
    assert "step 8 of 8" in text


@pytest.mark.parametrize("text", ["[1, 2", "- a\n- b", "a: 2026-99-99", "steps: many\nmodel: 3\n", "\x00\x01"])
def test_a_configuration_that_is_none_is_no_obstacle(run_folder: Path, text: str) -> None:
    (run_folder / "config.yaml").write_text(text)
    assert "step 8" in read(build_report(run_folder)).text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    RunStore(tmp_path / "store.sqlite").close()
    with pytest.raises(StoreError, match="holds no run yet"):
        build_report(tmp_path)


def test_a_report_is_built_again_in_place_while_the_run_goes_on(run_folder: Path) -> None:
    build_report(run_folder)
    with RunStore(run_folder / "store.sqlite") as store:
        store.log(1, "train", 9, {"accuracy": 0.5, "reward": 0.25})
        assert "step 9 of 8" in read(build_report(run_folder)).text


def test_a_long_run_is_thinned_and_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", steps=3 * TABLE_ROWS, planned=3 * TABLE_ROWS, stages=())
    page = read(build_report(folder))
    assert f"{TABLE_ROWS} of {3 * TABLE_ROWS}, evenly spread" in page.text
    assert sum(tag == "tr" for tag, _ in page.elements) == TABLE_ROWS + 1 + 2  # the last ones tell why episodes ended


def test_sparks_part_what_changes_from_what_never_does() -> None:
    steps = [(1, {"a": 1.0, "b": 2.0, "c": float("nan")}), (2, {"a": 3.0, "b": 2.0, "d": 4.0})]
    moving, still = sparks(steps)
    assert still == [("b", "2")]
    assert [(spark.name, spark.last, spark.low, spark.high) for spark in moving] == [
        ("a", "3", "1", "3"),
        ("d", "4", "4", "4"),
    ]
    (left, bottom), (right, top) = (map(float, point.split(",")) for point in moving[0].points.split())
    assert left < right and SPARK_HEIGHT >= bottom > top >= 0


def test_sparks_of_the_widest_range_stay_in_the_box() -> None:
    moving, _ = sparks([(1, {"a": -1.7e308}), (2, {"a": 1.7e308})])
    heights = [float(point.split(",")[1]) for point in moving[0].points.split()]
    assert heights == [SPARK_HEIGHT - 3, 3]


def test_outcomes_count_every_task_that_both_sides_have(run_folder: Path) -> None:
    text = " ".join(read(build_report(run_folder)).text.split())
    said = re.search(r"The same (\d+) tasks before and after: ([^.]*)\.", text)
    assert said is not None
    counts = [int(number) for number in re.findall(r"\d+", said.group(2))]
    assert int(said.group(1)) == EPISODES == sum(counts)
