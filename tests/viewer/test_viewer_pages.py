"""The pages: what they show of a store, that links lead somewhere, and what they say when there is nothing."""

from __future__ import annotations

import math
import random
import re
import shutil
import sqlite3
import time
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrl.evaluation.samples import samples_of
from agentrl.store import EpisodeQuery, RunStore
from agentrl.trajectory import StopReason, Trajectory
from agentrl.viewer.beside import laid_out
from agentrl.viewer.data import POINTS
from agentrl.viewer.filters import Filters
from agentrl.viewer.runs import SILENT_AFTER
from agentrl.viewer.templating import figure
from tests.viewer.conftest import Site
from tests.viewer.synthetic import ENV, episode, make_evaluation, policy_turn

RUN = "/runs/first/1"
HUGE = "1" * 5000
EVALUATION = "/runs/eval~core-smollm2-0a1b2c3d/1"
ROW = re.compile(r'href="(/runs/[^"]+/episodes/(\d+)[^"]*)" data-row')


def rows(page: str) -> list[int]:
    return [int(number) for _, number in ROW.findall(page)]


def column(page: str, index: int) -> list[str]:
    """Texts of one column of the table of episodes."""
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    cells = [re.findall(r"<td.*?</td>", row, re.DOTALL) for row in body.split("<tr>")[1:]]
    return [re.sub(r"<[^>]*>", " ", row[index]).split()[0] for row in cells]


def test_the_list_has_every_run_of_every_store(site: Site) -> None:
    page = site.get("/")
    for name in ("first", "second", "core-smollm2-0a1b2c3d"):
        assert f">{name}</a>" in page
    assert "12 / 12 steps" in page
    assert "12 / 12 episodes" in page


@pytest.mark.parametrize(
    ("query", "shown", "hidden"),
    [
        ("?q=FIR", "first", "second"),
        ("?kind=eval", "core-smollm2-0a1b2c3d", "first"),
        ("?state=running", "hostile", "first"),
    ],
)
def test_the_list_is_filtered_by_its_address(site: Site, query: str, shown: str, hidden: str) -> None:
    page = site.get(f"/{query}")
    assert f"/runs/{'eval~' if shown.startswith('core') else ''}{shown}/1" in page
    assert f"/runs/{hidden}/1" not in page


def test_the_list_is_sorted_by_its_address(site: Site) -> None:
    names = re.findall(r"/runs/([^/]+)/1\" data-row", site.get("/?sort=episodes&down=0"))
    assert names == sorted(names, key=lambda name: {"hostile": 2, "eval~core-smollm2-0a1b2c3d": 12}.get(name, 24))


def test_a_run_shows_evaluations_phases_and_asks_for_its_curves(site: Site) -> None:
    page = site.get(RUN)
    assert "20.0 %" in page and "85.0 %" in page
    assert "78.0 % to 91.0 %" in page
    assert 'data-curves="first:1 "' in page
    assert f"{RUN}/episodes?phase=train" in page


def test_an_evaluation_without_metrics_counts_its_verdicts(site: Site) -> None:
    assert "8 of 12 with a verdict" in site.get(EVALUATION)


def test_the_configuration_and_the_facts_of_a_run(site: Site) -> None:
    page = site.get(f"{EVALUATION}/configuration")
    assert "smollm2-135m-instruct" in page
    assert "samples: 2" in page


def test_curves_come_as_columns_and_then_only_what_is_new(site: Site) -> None:
    phases = site.json("/data/first/1/series")["phases"]
    assert phases["train"]["steps"] == list(range(1, 13))
    assert len(phases["train"]["metrics"]["loss"]) == 12
    later = site.json("/data/first/1/series?after=train:10&after=eval/base:0")["phases"]
    assert later["train"]["steps"] == [10, 11, 12]  # the known step again: it may have got more metrics, or others
    assert later["eval/base"]["steps"] == [0]


def test_the_comparison_has_last_values_and_what_differs(site: Site) -> None:
    page = site.get("/compare?run=first:1&run=second:1")
    assert "optimiser.lr" in page
    assert "model.precision" not in page
    assert 'data-curves="first:1 second:1 "' in page
    assert "+0.1<" in page  # the second run's accuracy lies above


def test_a_comparison_of_nothing_says_what_to_do(site: Site) -> None:
    assert "Choose two runs or more" in site.get("/compare")
    assert "There is no run" in site.get("/compare?run=none:1&run=first:1", 404)


def test_episodes_are_filtered(site: Site) -> None:
    assert len(rows(site.get(f"{RUN}/episodes"))) == 24
    assert set(column(site.get(f"{RUN}/episodes?correct=yes"), 6)) == {"correct"}
    assert set(column(site.get(f"{RUN}/episodes?correct=none"), 6)) == {"aborted"}
    assert len(rows(site.get(f"{RUN}/episodes?stop=timeout"))) == 3
    assert len(rows(site.get(f"{RUN}/episodes?errors=1"))) == 3
    assert set(column(site.get(f"{RUN}/episodes?step=2"), 3)) == {"2"}
    assert len(rows(site.get(f"{RUN}/episodes?min_reward=0.5&max_reward=1&q=train:0"))) == 6


def test_episodes_are_sorted_both_ways(site: Site) -> None:
    up = [int(text) for text in column(site.get(f"{RUN}/episodes?sort=tokens"), 9)]
    down = [int(text) for text in column(site.get(f"{RUN}/episodes?sort=tokens&down=1"), 9)]
    assert up == sorted(up) and down == sorted(up, reverse=True)


def test_pages_of_episodes_follow_one_another(tmp_path: Path) -> None:
    make_evaluation(tmp_path / "many", tasks=20, samples=3)
    site, table = Site(tmp_path), "/runs/many/1/episodes"
    everything = rows(site.get(f"{table}?sort=reward&down=1&size=100"))
    pages = [site.get(f"{table}?sort=reward&down=1&size=25&page={page}") for page in (1, 2, 3)]
    assert [len(rows(page)) for page in pages] == [25, 25, 10]
    assert [row for page in pages for row in rows(page)] == everything
    turns = [re.findall(r'rel="(prev|next)" href="\?[^"]*page=(\d)|rel="(prev)"', page) for page in pages]
    assert [[turn[0] or turn[2] for turn in found] for found in turns] == [["next"], ["prev", "next"], ["prev"]]
    assert "past the end" in site.get(f"{table}?page=99")


def test_every_link_of_every_page_leads_somewhere(site: Site) -> None:
    """Pages are followed from the list on, three links deep, a few of each kind."""
    seen: set[str] = set()
    waiting = ["/"]
    for _ in range(3):
        found: list[str] = []
        for address in waiting:
            page = site.get(address)
            base = address.partition("?")[0]
            links = [
                link.replace("&amp;", "&").partition("#")[0] for link in re.findall(r'<a [^>]*href="([^"]*)"', page)
            ]
            found += [base + link if link.startswith("?") else link for link in links if link]
        fresh = [link for link in dict.fromkeys(found) if link not in seen and "/episodes/" not in link]
        fresh += [link for link in dict.fromkeys(found) if link not in seen and "/episodes/" in link][:3]
        seen |= set(fresh)
        waiting = fresh[:25]
    assert len(seen) > 40


def test_an_episode_shows_turns_calls_results_and_where_the_seconds_went(site: Site) -> None:
    page = site.get(f"{RUN}/episodes/1")
    for text in ("I add the two numbers.", "calculator", "expression = ", "tool result", "The answer is", "Advantage"):
        assert text in page
    assert "Where the" in page and "stage-decode" in page
    assert "The reasoning is sound." in page and "judge-model" in page
    assert "answer&#34;: 42" in page  # gold, from the table of tasks


def test_a_group_is_shown_with_its_tree(site: Site) -> None:
    page = site.get(f"{RUN}/episodes/3")
    assert "copied from its parent" in page
    assert "follows turn 1 of member 1" in page
    assert page.count('class="member"') == 4
    assert "Branches" not in site.get(f"{EVALUATION}/episodes/1")


def test_previous_and_next_keep_to_the_filters(site: Site) -> None:
    right = rows(site.get(f"{RUN}/episodes?correct=yes"))
    page = site.get(f"{RUN}/episodes/{right[3]}?correct=yes")
    links = {rel: unquote(link) for rel, link in re.findall(r'rel="(prev|next)" href="([^"]+)"', page)}
    assert links == {
        "prev": f"{RUN}/episodes/{right[2]}?correct=yes",
        "next": f"{RUN}/episodes/{right[4]}?correct=yes",
    }


def test_an_episode_that_never_began_says_why(site: Site) -> None:
    number = rows(site.get(f"{RUN}/episodes?stop=timeout"))[0]
    page = site.get(f"{RUN}/episodes/{number}")
    assert "no place within episode_seconds=30" in page
    assert "The policy was never asked." in page


def test_tokens_have_text_probability_and_advantage(site: Site) -> None:
    answer = site.json("/data/first/1/episodes/1/tokens/1")
    assert "".join(answer["pieces"]).startswith("The answer is ")
    assert answer["pieces"].count("✓") == 1 and answer["pieces"].count("") == 2  # three bytes, one character
    assert len(answer["advantages"]) == len(answer["logprobs"]) == len(answer["ids"]) == answer["total"]
    context = site.json("/data/first/1/episodes/1/tokens/0?context=1")
    assert "".join(context["pieces"]) == "<|user|>question<|assistant|>"


def test_without_a_tokenizer_tokens_are_ids(site: Site) -> None:
    answer = site.json("/data/eval~core-smollm2-0a1b2c3d/1/episodes/1/tokens/0")
    assert answer["pieces"] is None and answer["advantages"] is None


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/runs/none/1", 404, "no such run"),
        ("/runs/first/2", 404, "no such run"),
        ("/runs/first/x", 404, "no page"),
        (f"{RUN}/episodes/999999", 404, "no such episode"),
        (f"{RUN}/episodes/0", 404, "no such episode"),
        (f"{RUN}/episodes?correct=maybe", 400, "correct=&#39;maybe&#39; is unknown"),
        (f"{RUN}/episodes?step=-1", 400, "step=&#39;-1&#39; is no whole number"),
        (f"{RUN}/episodes?min_reward=nan", 400, "is no number"),
        (f"{RUN}/episodes?page=0", 400, "whole number"),
        (f"{RUN}/episodes?sort=answer", 400, "sort=&#39;answer&#39; is unknown"),
        (f"{RUN}/episodes/1?turn=x", 400, "turn=&#39;x&#39;"),
        ("/?sort=colour", 400, "valid are created"),
        ("/nothing", 404, "no page"),
        (f"/runs/first/{HUGE}", 404, "no page"),
        (f"{RUN}/episodes/{HUGE}", 404, "no page"),
        (f"{RUN}/episodes/{10**14}", 404, "no such episode"),
        (f"/data/first/1/episodes/1/tokens/{HUGE}", 404, "no page"),
        (f"/compare?run=first:{HUGE}", 404, "There is no run"),
        (f"{RUN}/episodes?step={HUGE}", 400, "step=&#39;1111"),
    ],
)
def test_a_wrong_address_says_what_is_wrong(site: Site, path: str, status: int, said: str) -> None:
    page = site.get(path, status)
    assert said in page
    assert len(page) < 6000  # what was wrong is quoted, but not all of it


def test_an_episode_is_shown_under_its_own_run_only(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        for name in ("a", "b"):
            run = store.begin_run(name, "")
            store.add_episode(run, "train", 1, "g", 0, episode(0, 0))
    site = Site(tmp_path)
    slug = site.catalog.places()[0].slug
    site.get(f"/runs/{slug}/1/episodes/1")
    site.get(f"/runs/{slug}/1/episodes/2", 404)
    site.get(f"/data/{slug}/1/episodes/2/tokens/0", 404)


def test_empty_states_say_what_to_do(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        site = Site(tmp_path)
        slug = site.catalog.places()[0].slug
        assert "agentrl train --recipe tiny" in site.get("/")
        store.begin_run("fresh", "")
        assert "Nothing has been written yet" in site.get(f"/runs/{slug}/1")
        assert "No episode yet" in site.get(f"/runs/{slug}/1/episodes")
        store.add_episode(1, "train", 1, "g", 0, episode(0, 0))
        assert "No episode is like that" in site.get(f"/runs/{slug}/1/episodes?correct=none")
        assert "No run is like that" in site.get("/?q=zzz")


def test_a_run_that_begins_later_and_what_it_writes_is_seen(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with RunStore(tmp_path / "one" / "store.sqlite") as store:
        run = store.begin_run("one", "steps: 4")
        site = Site(tmp_path)
        assert "two" not in site.get("/")
        with RunStore(tmp_path / "two" / "store.sqlite") as other:
            other.begin_run("two", "")
            assert "/runs/two/1" in site.get("/")
        for step in (1, 2):
            store.log(run, "train", step, {"reward": float(step)})
            assert f"{step} / 4 steps" in site.get("/")
            assert site.json("/data/one/1/series")["phases"]["train"]["steps"] == list(range(1, step + 1))
        store.log(run, "train", 2, {"reward": 5.0, "late": 1.0})
        assert site.json("/data/one/1/series")["phases"]["train"]["metrics"] == {"late": [None, 1], "reward": [1, 5]}


def test_a_resumed_run_that_stepped_back_is_read_again(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("r", "")
        for step in range(1, 6):
            store.log(run, "train", step, {"reward": float(step)})
        site = Site(tmp_path)
        address = f"/data/{site.catalog.places()[0].slug}/1/series"
        assert site.json(address)["phases"]["train"]["last"] == 5
        store.discard_after(run, 2, ["train"])
        assert site.json(address)["phases"]["train"]["steps"] == [1, 2]


def test_a_run_that_was_resumed_while_nobody_looked_is_read_again(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("r", "")
        for step in range(1, 6):
            store.log(run, "train", step, {"reward": float(step), "unknown": math.nan})
        site = Site(tmp_path)
        address = f"/data/{site.catalog.places()[0].slug}/1/series"
        assert site.json(address)["phases"]["train"]["metrics"]["reward"] == [1, 2, 3, 4, 5]
        store.discard_after(run, 2, ["train"])
        for step in range(3, 8):
            store.log(run, "train", step, {"reward": step + 0.5, "unknown": math.nan})
        assert site.json(address)["phases"]["train"]["metrics"]["reward"] == [1, 2, 3.5, 4.5, 5.5, 6.5, 7.5]


def test_a_look_does_not_make_a_killed_run_look_alive(tmp_path: Path) -> None:
    """A reader makes the files beside the store, and whoever copies a store makes a new one: neither writes the run."""
    long_ago = time.time() - 2 * SILENT_AFTER
    with RunStore(tmp_path / "store.sqlite") as store:
        store.begin_run("killed", "")
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    connection.execute("UPDATE runs SET created = ?, updated = ?", (long_ago, long_ago))
    connection.commit()
    connection.close()
    site = Site(tmp_path)
    for _ in range(2):
        assert 'class="state silent"' in site.get("/") and "20 min ago" in site.get("/")


def test_a_time_out_is_wrong_as_in_the_report(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("e", "", kind="eval")
        for member in range(4):
            store.add_episode(run, "eval/x", 0, "g", member, episode(0, member))
        correct = store.count(EpisodeQuery(run, correct=True))
        late = Trajectory("t", ENV, stop_reason=StopReason.TIMEOUT, seconds=1.0)
        broken = Trajectory("t", ENV, stop_reason=StopReason.ENGINE_ERROR, seconds=1.0)
        for member, played in enumerate((late, broken), 4):
            store.add_episode(run, "eval/x", 0, "g", member, played)
            store.add_episode(run, "eval/unjudged", 0, "g", member, played)
        judged = sum(sample.correct is not None for sample in samples_of(store, run, ["x"]))
        assert judged == 5
    site = Site(tmp_path)
    page = site.get(f"/runs/{site.catalog.places()[0].slug}/1")
    assert f"{correct} of 5 with a verdict; 1 timed out" in page
    assert f"{100 * correct / 5:.1f} %" in page


def test_one_number_is_written_in_one_way() -> None:
    """JavaScript's toPrecision, which the charts use, rounds a tie away from zero."""
    assert [figure(value) for value in (0.90625, -0.03125 - 0.5, 1e-5, 0.75)] == [
        "0.9063",
        "\u22120.5313",
        "1e\u221205",
        "0.75",
    ]


def test_turns_beyond_a_window_are_a_link_away(tmp_path: Path) -> None:
    rng = random.Random(0)
    turns = [policy_turn(f"word {index}", (), rng, prefix_turn=index - 1 if index else None) for index in range(150)]
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("long", "")
        store.add_episode(run, "train", 1, "g", 0, Trajectory("t", ENV, turns=turns, seconds=400.0))
        assert store.count(EpisodeQuery(run)) == 1
    site = Site(tmp_path)
    page = site.get(f"/runs/{site.catalog.places()[0].slug}/1/episodes/1")
    assert "word 59" in page and "word 60" not in page
    stretches = re.findall(r'<a href="([^"]*)" tabindex="-1"><rect', page)
    assert "#turn-60" in stretches and "?&amp;turn=61#turn-61" in stretches and "#turn-61" not in stretches
    later = site.get(f"/runs/{site.catalog.places()[0].slug}/1/episodes/1?turn=61")
    assert "word 60" in later and "word 119" in later and "word 59<" not in later


def test_a_store_that_cannot_be_read_is_a_line_among_the_others(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    with RunStore(tmp_path / "good" / "store.sqlite") as store:
        store.begin_run("good", "")
    (tmp_path / "bad" / "store.sqlite").write_bytes(b"nonsense" * 500)
    site = Site(tmp_path)
    page = site.get("/")
    assert "/runs/good/1" in page and "file is not a database" in page
    assert "cannot be read" in site.get("/runs/bad/1", 503)


def test_a_store_is_read_while_a_writer_holds_it(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("busy", "")
        store.add_episode(run, "train", 1, "g", 0, episode(0, 0))
        site = Site(tmp_path)
        slug = site.catalog.places()[0].slug
        with store._writing():  # the write lock, as a process would hold it in the middle of a transaction
            assert "busy" in site.get("/")
            assert "The answer is" in site.get(f"/runs/{slug}/1/episodes/1")


def test_a_damaged_record_says_so(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        store.add_episode(store.begin_run("r", ""), "train", 1, "g", 0, episode(0, 0))
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    connection.execute("UPDATE records SET record = x'00'")
    connection.commit()
    connection.close()
    site = Site(tmp_path)
    slug = site.catalog.places()[0].slug
    assert "is damaged" in site.get(f"/runs/{slug}/1/episodes/1", 503)
    assert "train:0" in site.get(f"/runs/{slug}/1/episodes")


def test_evaluations_are_compared_by_their_verdicts(tmp_path: Path) -> None:
    make_evaluation(tmp_path / "a", tasks=6, samples=2)
    make_evaluation(tmp_path / "b", tasks=3, samples=2)
    page = Site(tmp_path).get("/compare?run=a:1&run=b:1")
    assert "agentrl compare" in page and "data-curves" not in page
    assert re.search(r"eval/arithmetic</td><th[^>]*>correct</th><td[^>]*>0.6667", page)
    assert "entries.arithmetic.tasks" in page


def test_evaluations_of_two_models_differ_in_their_model(tmp_path: Path) -> None:
    for name in ("base", "trained"):
        make_evaluation(tmp_path / name, tasks=3, samples=2)
        with RunStore(tmp_path / name / "store.sqlite") as store:
            store.update_run(1, meta={"model": name})
    page = Site(tmp_path).get("/compare?run=base:1&run=trained:1")
    assert re.search(r'<th scope="row">model</th><td[^>]*>&#34;base&#34;</td><td[^>]*>&#34;trained&#34;', page)


def test_gold_that_is_a_program_is_laid_out() -> None:
    assert laid_out({"code": "def f():\n    return 1", "n": 1}) == "code = \ndef f():\n    return 1\nn = 1"
    assert laid_out({"answer": 42}) == '{\n  "answer": 42\n}'
    assert laid_out(["a\nb"]) == '[\n  "a\\nb"\n]' and laid_out("a\nb") == "a\nb"


def test_long_curves_are_thinned_and_end_where_the_run_does(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("long", "")
        for step in range(1, 2501):
            store.log(run, "train", step, {"reward": float(step)})
    site = Site(tmp_path)
    train = site.json(f"/data/{site.catalog.places()[0].slug}/1/series")["phases"]["train"]
    assert len(train["steps"]) == POINTS and train["thinned"]
    assert train["steps"][0] == 1 and train["steps"][-1] == train["last"] == 2500


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from([field.name for field in fields(Filters)] + ["turn", "tree"]), st.text(max_size=9))
)
def test_no_address_breaks_the_table_or_an_episode(site: Site, params: dict[str, str]) -> None:
    for page in (f"{RUN}/episodes", f"{RUN}/episodes/1"):
        assert site.ask("GET", f"{page}?{urlencode(params)}").status_code in (200, 400)


def test_everything_beside_an_episode_has_an_address(site: Site) -> None:
    base = f"{RUN}/episodes/1/text"
    assert site.get(f"{base}/judgement.0") == "The reasoning is sound."
    assert '"answer": 42' in site.get(f"{base}/gold")
    assert site.get(f"{base}/answer") == "164"
    site.get(f"{base}/judgement.1", 404)
    site.get(f"{base}/info", 404)


def test_a_run_that_is_thrown_away_and_begun_again_is_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    RunStore(tmp_path / "other" / "store.sqlite").close()
    folder = tmp_path / "again"
    site = Site(tmp_path)
    for name in ("old", "new"):
        folder.mkdir()
        with RunStore(folder / "store.sqlite") as store:
            store.begin_run(name, "")
        assert f">{name}</h1>" in site.get("/runs/again/1")
        shutil.rmtree(folder)
        site.get("/runs/again/1", 404)
        assert "again" not in site.get("/")
