"""The parts that pages are made of, each by itself."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.account import STAGES
from agentrl.errors import ConfigError, StoreError
from agentrl.messages import assistant
from agentrl.store import EpisodeQuery, PhaseRecord, RunStore
from agentrl.trajectory import StopReason, Trajectory, Turn
from agentrl.viewer.catalog import Catalog, find_places
from agentrl.viewer.compare import flattened
from agentrl.viewer.excerpt import LIMIT, Excerpt, readable, text_at
from agentrl.viewer.filters import SORTS, Filters
from agentrl.viewer.opening import bring_up_to_date, open_for_reading
from agentrl.viewer.overview import metric_names, tiles_of
from agentrl.viewer.runs import Outcome, Runs, leading_phase, thinned
from agentrl.viewer.templating import ago, environment, figure, seconds
from agentrl.viewer.timeline import WIDTH, timeline_of
from agentrl.viewer.tree import tree_of
from agentrl.viewer.vocabulary import Vocabulary, fitting_vocabulary
from tests.viewer.synthetic import ATTRIBUTE, BIDI, TOKENIZER, branched, episode, ids_of, make_training

FILTERS = st.builds(
    Filters,
    phase=st.none() | st.text(min_size=1),
    step=st.none() | st.integers(0, 10**9),
    task=st.none() | st.sampled_from(["train:0", "a&b=c", "x y", "ü?#%"]),
    correct=st.sampled_from([None, "yes", "no", "none"]),
    stop=st.sampled_from([None, *map(str, StopReason)]),
    min_reward=st.none() | st.floats(allow_nan=False),
    errors=st.booleans(),
    sort=st.sampled_from(SORTS),
    down=st.booleans(),
    page=st.integers(1, 10**6),
    size=st.sampled_from([25, 50, 100, 200]),
)


@given(FILTERS)
def test_filters_come_back_from_their_address(filters: Filters) -> None:
    assert Filters.read(dict(filters.pairs())) == filters


def test_a_changed_filter_goes_back_to_the_first_page() -> None:
    filters = Filters(phase="train", page=7)
    assert filters.link(correct="yes") == "?phase=train&correct=yes"
    assert filters.link(page=8) == "?phase=train&page=8"
    assert [label for label, _, _ in filters.chosen] == ["phase"]


def test_filters_ask_the_store_for_their_page() -> None:
    query = Filters(correct="none", errors=True, page=3, size=25, sort="reward", down=True).query(4)
    assert query == EpisodeQuery(4, correct="none", errors=True, sort="reward", descending=True, limit=25, offset=50)


def test_a_nearly_right_value_is_offered() -> None:
    with pytest.raises(ConfigError, match="timeout"):
        Filters.read({"stop": "timeuot"})


@given(st.lists(st.dictionaries(st.sampled_from(STAGES[:-1]), st.floats(0, 50)), max_size=5), st.floats(0.001, 500))
def test_the_stretches_of_a_timeline_sum_to_the_episode(parts: list[dict[str, float]], total: float) -> None:
    turns = [Turn([], None, [], [], assistant("x"), timings=timings) for timings in parts]
    timeline = timeline_of(Trajectory("t", turns=turns, seconds=total))
    assert timeline is not None
    assert math.isclose(sum(entry.seconds for entry in timeline.sums), total, rel_tol=1e-9)
    assert math.isclose(sum(entry.share for entry in timeline.sums), 1.0, rel_tol=1e-9)
    ends = [0.0] + [part.x + part.width for part in timeline.stretches]
    assert all(part.x >= end - 0.02 for part, end in zip(timeline.stretches, ends, strict=False))
    assert max(ends) <= WIDTH + 0.02


def test_an_episode_without_time_has_no_timeline() -> None:
    assert timeline_of(Trajectory("t", seconds=0.0)) is None
    assert timeline_of(Trajectory("t", seconds=math.nan)) is None


def test_a_branch_of_a_branch_hangs_on_the_turn_that_it_shares(tmp_path: Path) -> None:
    with RunStore(tmp_path / "s.sqlite") as store:
        run = store.begin_run("r", "")
        for trajectory in branched(0):
            store.add_episode(run, "train", 1, "g", trajectory.member, trajectory)
        records = list(store.episodes(run))
    tree = tree_of(records, chosen=records[2].id)
    assert tree is not None
    lines = {line.member: line for line in tree.members}
    assert lines[1].join == lines[2].join == lines[0].y  # turn 1 is member 0's own, though member 2 left member 1
    assert lines[3].join is None and [dot.turn for dot in lines[2].dots] == [1]
    assert [line.member for line in tree.members if line.chosen] == [2]
    assert tree_of(records[3:], chosen=0) is None


@given(st.text(max_size=40))
def test_pieces_of_bytes_make_up_the_text(text: str) -> None:
    pieces = Vocabulary("here", TOKENIZER).pieces(ids_of(text))
    from agentrl.text import visible

    assert len(pieces) == len(ids_of(text))
    if text.isprintable():
        assert "".join(piece or "" for piece in pieces) == visible(text)


def test_unknown_ids_and_foreign_tokenizers_give_no_text() -> None:
    vocabulary = Vocabulary("here", TOKENIZER)
    assert vocabulary.pieces([10**6, -1]) == [None, None]
    played = episode(0, 0)
    assert vocabulary.fits(played)
    played.turns[0].sampled_ids = [(token + 1) % 256 for token in played.turns[0].sampled_ids]
    assert not vocabulary.fits(played)


@pytest.mark.parametrize("model", ["x" * 5000, "a\x00b", "../" * 900, "", "no-such-model", "/etc"])
def test_a_model_without_a_tokenizer_here_gives_no_text(tmp_path: Path, model: str) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        store.begin_run("r", "", meta={"model": model})
    runs = Runs(Catalog(str(tmp_path)))
    (view,), _ = runs.all()
    assert fitting_vocabulary(view, episode(0, 0)) is None


def test_long_texts_are_cut_and_counted() -> None:
    text = "a" * LIMIT + "b"
    cut = Excerpt.of(text, "x")
    assert cut.cut == 1 and len(cut.head) + len(cut.tail) == LIMIT and cut.tail.endswith("b")
    assert Excerpt.of(text[:LIMIT], "x").cut == 0
    assert Excerpt.of(BIDI, "x").head.isprintable()


def test_texts_have_addresses() -> None:
    played = episode(0, 0)
    assert text_at(played, "opening.1") == played.opening[1].text
    assert text_at(played, "turn.0.observation.0") == played.turns[0].observation[0].text
    assert (text_at(played, "turn.0.arguments.0") or "").startswith('expression = "')
    for address in ("", "error", "turn", "turn.2.message", "turn.0.arguments.1", "opening.x", "turn.0.message.0"):
        assert text_at(played, address) is None


def test_arguments_are_laid_out_where_they_can_be() -> None:
    assert readable('{"code": "a\\nb", "n": 1}') == "code = \na\nb\nn = 1"
    for text in ("not json", "[1]", "{}", "[" * 100_000):
        assert readable(text) == text


def test_every_printed_value_is_escaped_and_made_visible() -> None:
    shown = environment().from_string('<a title="{{ value }}">{{ value }}</a>').render(value=ATTRIBUTE + BIDI)
    assert shown.count('"') == 2 and "'" not in shown
    assert "\u202e" not in shown and "⟨U+202E⟩" in shown


def test_numbers_for_people() -> None:
    assert [figure(value) for value in (0, 1234567.0, 0.5, -1.0, 1e-7, None)] == [
        *("0", "1.235e+06", "0.5", "\u22121", "1e\u221207", "\u2013")
    ]
    assert figure(math.nan) == "not a number" and figure(-math.inf) == "\u2212∞"
    assert [seconds(value) for value in (0.0012, 0.9996, 5.0, 75.0, 7322.0)] == [
        "1.2 ms",
        "1 s",
        "5 s",
        "1 min 15 s",
        "2 h 2 min",
    ]
    assert ago(None) == "\u2013" and ago(0.0).endswith("d ago")


def test_thinning_keeps_the_length_and_the_mean() -> None:
    values = [float(index) for index in range(1000)] + [math.nan]
    few = thinned(values, 10)
    assert len(few) == 10 and math.isclose(sum(few) / 10, 499.5)
    assert thinned([1.0, math.inf, 2.0], 10) == [1.0, 2.0]


def test_the_leading_phase_is_training_or_the_longest() -> None:
    phases = [PhaseRecord("eval/a", 1, 0, 5), PhaseRecord("x", 9, 9, 0)]
    assert leading_phase(phases) == phases[1]
    assert leading_phase([*phases, train := PhaseRecord("train", 1, 1, 0)]) == train
    assert leading_phase([]) is None


def test_tiles_prefer_what_was_logged() -> None:
    evaluations = {"eval/base": {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "other": 1.0}}
    tiles = tiles_of(evaluations, {"eval/base": Outcome(1, 0), "eval/extra": Outcome(1, 3), "train": Outcome(1, 1)})
    assert [(tile.name, tile.value, tile.low) for tile in tiles] == [("base", 0.5, 0.4), ("extra", 0.25, None)]
    assert metric_names(evaluations) == ["accuracy", "other"]
    assert tiles_of({}, {"eval/none": Outcome(0, 0)}) == []


def test_settings_are_flattened_to_dotted_keys() -> None:
    assert dict(flattened({"a": {"b": [1], "c": {}}, "d": None})) == {"a.b": "[1]", "a.c": "{}", "d": "null"}


def test_stores_are_found_and_named_in_addresses(tmp_path: Path) -> None:
    names = ["run", "a b", "eval/x-1", ".hidden", "policy", "deep/er/than/that"]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        RunStore(tmp_path / name / "store.sqlite").close()
    os.symlink(tmp_path, tmp_path / "loop")
    places = find_places(str(tmp_path))
    assert [place.title for place in places] == ["a b", "eval/x-1", "run"]
    slugs = [place.slug for place in places]
    assert slugs[1:] == ["eval~x-1", "run"] and slugs[0].startswith("a~b~") and len(set(slugs)) == 3


def test_runs_that_share_a_store_show_it_once(tmp_path: Path) -> None:
    shared = tmp_path / "shared.sqlite"
    RunStore(shared).close()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"name: {name}\nstore: sqlite:///{shared}\n")
    places = find_places(str(tmp_path))
    assert [place.target for place in places] == [f"sqlite:///{shared}"]
    assert Catalog(str(tmp_path)).open(places[0]).runs() == []


def test_a_store_is_opened_for_reading_wherever_it_lies(tmp_path: Path) -> None:
    folder = tmp_path / "odd #?% name"
    folder.mkdir()
    make_training(folder / "run", steps=1, groups=0)
    with open_for_reading(str(folder / "run" / "store.sqlite")) as store:
        assert store.runs()[0].name == "run" and store.place == str(folder / "run" / "store.sqlite")


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be looked at" * 20])
def test_what_is_no_store_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "store.sqlite"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.sqlite"):
        open_for_reading(str(file))
    assert file.read_bytes() == content and list(tmp_path.iterdir()) == [file]


def test_an_old_store_is_migrated_only_when_asked(tmp_path: Path) -> None:
    from sqlalchemy import create_engine, text

    file = tmp_path / "store.sqlite"
    RunStore(file).close()
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE agentrl_schema SET version = 1"))
    engine.dispose()
    before = file.read_bytes()
    with pytest.raises(StoreError, match="schema 1, of an older agentrl; agentrl view --migrate"):
        open_for_reading(str(file))
    assert file.read_bytes() == before


def test_bringing_up_to_date_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        bring_up_to_date(str(tmp_path / "none.sqlite"))
    assert list(tmp_path.iterdir()) == []
