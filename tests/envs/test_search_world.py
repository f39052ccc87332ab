"""The generated world: repeatable, its names its own, its questions with one answer that no article gives away."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from agentrl.envs.search.articles import Style, article, corpus_file, fact, sentences, write_corpus
from agentrl.envs.search.questions import draw
from agentrl.envs.search.relations import OF_KIND, RELATIONS, SHARES
from agentrl.envs.search.world import World
from agentrl.errors import ConfigError

STYLES: list[Style] = ["full", "short"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def world() -> World:
    return World(1000, seed=3)


def stands_in(name: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


@pytest.mark.parametrize("documents", [100, 999, 1000, 20_000])
def test_every_entity_has_a_name_of_its_own(documents: int) -> None:
    world = World(documents)
    assert sum(world.sizes.values()) == documents
    assert len({world.name(entity).casefold() for entity in range(documents)}) == documents
    assert {world.kind(entity) for entity in range(documents)} == set(SHARES)


def test_a_million_entities_have_names_of_their_own() -> None:
    world = World(1_000_000)
    sample = range(0, 1_000_000, 7)
    assert len({world.name(entity) for entity in sample}) == len(sample)
    assert world.name(999_999)


def test_a_world_is_a_function_of_its_size_and_seed(world: World) -> None:
    again, other = World(1000, seed=3), World(1000, seed=4)
    for entity in range(0, 1000, 7):
        assert article(world, entity, "full") == article(again, entity, "full")
    assert sum(world.name(entity) == other.name(entity) for entity in range(1000)) < 20


def test_the_same_world_comes_out_on_every_machine() -> None:
    world = World(1000, seed=0)
    assert [world.name(entity) for entity in (0, 500, 999)] == NAMES
    assert article(world, 500, "short") == SHORT


NAMES = ["Hun Arman", "Verbibu", "Pombigo"]
SHORT = "River: Verkiko. Mayor: Lis Elfim. Town hall: Bil Elfim. Founded: 1449."


def test_values_are_of_the_right_kind_and_nobody_is_their_own_teacher(world: World) -> None:
    for entity in range(world.documents):
        for relation in OF_KIND[world.kind(entity)]:
            value = world.value(entity, relation)
            if isinstance(relation.target, tuple):
                assert relation.target[0] <= value <= relation.target[1]
            else:
                assert world.kind(value) == relation.target
                assert value != entity


def test_like_names_come_in_pairs_that_differ_in_one_part(world: World) -> None:
    pairs = {entity: world.similar(entity) for entity in range(world.documents)}
    found = {entity: other for entity, other in pairs.items() if other is not None}
    assert len(found) > world.documents / 10
    for entity, other in found.items():
        assert other != entity
        assert pairs[other] == entity
        assert world.kind(other) == world.kind(entity)


def test_the_mentions_are_what_stands_in_the_articles(world: World) -> None:
    for entity in range(0, world.documents, 10):
        text = f"{world.name(entity)}. {article(world, entity, 'full')}"
        assert all(stands_in(name, text) for name in world.mentions(entity))


def test_who_mentions_an_entity_is_found_as_by_reading_everything(world: World) -> None:
    texts = [f"{world.name(entity)}. {article(world, entity, 'full')}" for entity in range(world.documents)]
    for entity in range(0, world.documents, 25):
        name = world.name(entity)
        assert world.mentioned_by(entity) == {other for other, text in enumerate(texts) if stands_in(name, text)}


@pytest.mark.parametrize("style", STYLES)
def test_every_fact_stands_once_in_its_own_article(world: World, style: Style) -> None:
    for entity in range(0, world.documents, 5):
        stated = [relation for relation, _ in sentences(world, entity, style) if relation is not None]
        assert sorted(relation.name for relation in stated) == sorted(r.name for r in OF_KIND[world.kind(entity)])
        for relation in stated:
            assert stands_in(world.shown(entity, relation), fact(world, entity, relation, style))


def test_articles_vary(world: World) -> None:
    def pattern(entity: int) -> str:
        text = article(world, entity, "full")
        for name in sorted(world.mentions(entity), key=len, reverse=True):
            text = text.replace(name, "_")
        return text

    for kind in SHARES:
        first = world.first[kind]
        patterns = {pattern(entity) for entity in range(first, first + world.sizes[kind])}
        assert len(patterns) > 0.9 * world.sizes[kind]


def test_a_short_fact_has_at_most_24_characters(world: World) -> None:
    large = World(100_000)
    for some in (world, large):
        for entity in range(0, some.documents, some.documents // 500):
            assert all(len(sentence) <= 24 for _, sentence in sentences(some, entity, "short"))


def test_templates_keep_their_promise() -> None:
    for relation in RELATIONS:
        words = relation.query.split()
        for sentence in relation.sentences:
            assert "{o}" in sentence
            assert any(word[:5] in sentence for word in words), (relation.name, sentence)
        assert all(question.count("{}") == 1 for question in relation.questions)
        if isinstance(relation.target, str):
            assert relation.phrase.count("{}") == 1


# -- questions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_a_question_follows_its_hops_to_one_answer(world: World, hops: int) -> None:
    numbers = {world.name(entity): entity for entity in range(world.documents)}
    for index in range(200):
        problem = draw(world, "full", random.Random(index), hops)
        found = problem.data["hops"]
        assert len(found) == hops
        assert problem.data["subject"] == found[0][1]
        assert stands_in(found[0][1], problem.question)
        assert problem.data["answers"] == [found[-1][3]]
        titles = [hop[1] for hop in found]
        assert titles[1:] == [hop[3] for hop in found[:-1]]
        assert len({*titles, found[-1][3]}) == hops + 1
        for query, title, stated, value in found:
            assert title in query
            assert stands_in(value, stated)
            assert stated in article(world, numbers[title], "full")


@pytest.mark.parametrize("hops", [2, 3, 4])
def test_closed_book_no_article_has_both_the_question_and_its_answer(world: World, hops: int) -> None:
    texts = [f"{world.name(entity)}. {article(world, entity, 'full')}" for entity in range(world.documents)]
    for index in range(100):
        problem = draw(world, "full", random.Random(index), hops)
        subject, answer = problem.data["subject"], problem.data["answers"][0]
        assert any(stands_in(subject, text) for text in texts)
        assert any(stands_in(answer, text) for text in texts)
        assert not [text for text in texts if stands_in(subject, text) and stands_in(answer, text)]
        assert not stands_in(answer, problem.question)


def test_the_commonest_answer_is_rare(world: World) -> None:
    for hops in (1, 2):
        answers = [draw(world, "full", random.Random(index), hops).data["answers"][0] for index in range(500)]
        assert max(answers.count(answer) for answer in set(answers)) <= 0.05 * len(answers)


def test_questions_of_one_world_are_about_many_things(world: World) -> None:
    questions = [draw(world, "full", random.Random(index), 1) for index in range(500)]
    assert len({problem.data["subject"] for problem in questions}) > 300
    assert len({problem.question for problem in questions}) > 450


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_the_corpus_has_every_article_in_mixed_order(style: Style) -> None:
    path = write_corpus(300, 1, style)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    world = World(300, seed=1)
    assert {row["title"]: row["text"] for row in rows} == {
        world.name(entity): article(world, entity, style) for entity in range(300)
    }
    assert [row["id"] for row in rows] == [str(number) for number in range(300)]
    kinds = [world.kind(next(e for e in range(300) if world.name(e) == row["title"])) for row in islice(rows, 40)]
    assert len(set(kinds)) >= 4


def test_the_corpus_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_corpus(200, 0, "full")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr("agentrl.envs.search.articles._write", lambda *_: pytest.fail("written again"))
    assert write_corpus(200, 0, "full") == path
    assert path.stat().st_mtime_ns == before
    assert [entry.name for entry in path.parent.iterdir() if "partial" in entry.name] == []


def test_an_interrupted_write_leaves_no_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.envs.search.articles.article", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_corpus(200, 0, "full")
    assert not corpus_file(200, 0, "full").exists()
    monkeypatch.undo()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="AGENTRL_CACHE") as caught:
        write_corpus(200, 0, "full")
    assert "\n" not in str(caught.value)


def test_two_processes_write_the_same_file(cache: Path) -> None:
    program = "from agentrl.envs.search.articles import write_corpus; print(write_corpus(2000, 0, 'full'))"
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert paths == {str(corpus_file(2000, 0, "full"))}
    assert len(corpus_file(2000, 0, "full").read_text().splitlines()) == 2000


def test_a_world_of_a_wrong_size_is_one_line() -> None:
    for documents in (0, 99, 1_000_001):
        with pytest.raises(ConfigError, match=f"documents={documents} must be 100 to 1000000"):
            World(documents)
