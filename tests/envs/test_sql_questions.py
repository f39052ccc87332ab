"""Generated databases and the questions about them: repeatable, sound, answerable and not to be guessed."""

from __future__ import annotations

import random
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agentrl.envs.sql import changes, generate, questions
from agentrl.envs.sql.asking import Asker, Draft, NoQuestion, Template
from agentrl.envs.sql.connections import opened
from agentrl.envs.sql.domains import DOMAINS, Domain, Link
from agentrl.envs.sql.generate import Key, database, schema
from agentrl.envs.sql.judge import run_query, same_results
from agentrl.envs.sql.questions import MAX_ROWS, Question, ask
from agentrl.errors import ConfigError, EnvError

LEVELS = (1, 2, 3, 4)


def content(key: Key) -> bytes:
    found = database(key)
    assert isinstance(found, bytes)
    return found


def asked(
    level: int, count: int, *, rows: int = 200, single: bool = False, short: bool = False
) -> Iterator[tuple[Key, Question]]:
    """Questions about fifty databases in turn, ten of each domain."""
    for number in range(count):
        key = Key(list(DOMAINS)[number % len(DOMAINS)], rows, number % 50)
        yield key, ask(random.Random(number), key, level, single=single, short=short, change=False)


# -- databases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", DOMAINS.values(), ids=DOMAINS)
def test_a_domain_keeps_its_rules(plan: Domain) -> None:
    names = [table.name for table in plan.tables]
    assert 3 <= len(names) <= 6
    assert plan.main in names
    assert max(table.share for table in plan.tables) == 1.0
    for child, link, parent in plan.links():
        assert names.index(parent.name) < names.index(child.name)
        assert link.verb
    pairs = Counter((child.name, parent.name) for child, _, parent in plan.links())
    assert set(pairs.values()) == {1}  # "customers without orders" names one link


@pytest.mark.parametrize("rows", [10, 200, 3000])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_database_is_sound_and_has_the_rows_that_were_asked_for(domain: str, rows: int) -> None:
    plan = DOMAINS[domain]
    with opened(content(Key(domain, rows, 1))) as connection:
        sizes = {
            table.name: connection.execute(f"SELECT COUNT(*) FROM {table.name}").fetchone()[0] for table in plan.tables
        }
        assert max(sizes.values()) == rows
        assert min(sizes.values()) >= 3
        assert not connection.execute("PRAGMA foreign_key_check").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for table in plan.tables:
            assert connection.execute(f"SELECT MIN(id), MAX(id) FROM {table.name}").fetchone() == (1, sizes[table.name])
            for column in table.columns:
                missing, different = connection.execute(
                    f"SELECT SUM({column.name} IS NULL), COUNT(DISTINCT {column.name}) FROM {table.name}"
                ).fetchone()
                assert bool(missing) <= bool(column.missing)
                if rows == 3000 and sizes[table.name] > 200:
                    assert bool(missing) == bool(column.missing)
                    assert different > 1


def test_a_database_is_a_function_of_its_key() -> None:
    key = Key("shop", 100, 3)
    first = content(key)
    generate._small.cache_clear()
    assert content(key) == first
    for other in (Key("shop", 100, 4), Key("shop", 101, 3), Key("school", 100, 3)):
        assert content(other) != first


def test_the_schema_that_is_shown_is_the_schema_that_is_there() -> None:
    for name, domain in DOMAINS.items():
        with opened(content(Key(name, 10, 0))) as connection:
            found = [f"{sql};" for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'")]
        assert "\n".join(found) == schema(domain)
        assert schema(domain).count("REFERENCES") == sum(len(table.of(Link)) for table in domain.tables)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_large_database_is_a_file_made_once(cache: Path) -> None:
    key = Key("clinic", 20_000, 0)
    path = database(key)
    assert isinstance(path, Path)
    assert cache in path.parents
    made = path.stat().st_mtime_ns
    assert database(key) == path
    assert path.stat().st_mtime_ns == made
    assert [found.name for found in path.parent.iterdir() if not found.name.endswith(".lock")] == [path.name]
    with opened(path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM visits").fetchone() == (20_000,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM visits")


def test_a_damaged_file_is_made_again_with_a_warning(cache: Path) -> None:
    key = Key("shop", 6_000, 0)
    path = database(key)
    assert isinstance(path, Path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="is damaged: making it again"):
        database(key)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("AGENTRL_CACHE", str(blocked))
    with pytest.raises(EnvError, match="set AGENTRL_CACHE to another folder"):
        database(Key("shop", 6_000, 1))


@pytest.mark.slow
def test_a_million_rows_are_made_and_asked(cache: Path) -> None:
    key = Key("flights", 1_000_000, 0)
    for level in LEVELS:
        assert ask(random.Random(level), key, level, single=False, short=False, change=False).answer
    with opened(database(key)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM bookings").fetchone() == (1_000_000,)


# -- questions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [10, 200, 2000])
def test_a_question_has_an_answer_of_a_few_rows(level: int, rows: int) -> None:
    for key, question in asked(level, 60, rows=rows):
        assert 1 <= len(question.answer) <= MAX_ROWS
        assert all(cell is not None for row in question.answer for cell in row)
        assert question.answer != [[0]]
        assert question.text.isascii() and question.text[-1] in ".?"
        assert "  " not in question.text and ",." not in question.text and "None" not in question.text
        with opened(content(key)) as connection:  # under the judge's own limits
            found = run_query(connection, question.query, MAX_ROWS + 1, 5.0)
        assert same_results(found, [tuple(row) for row in question.answer], ordered=question.ordered, permute=False)


@pytest.mark.parametrize("level", LEVELS)
def test_a_question_for_a_value_has_one(level: int) -> None:
    for _, question in asked(level, 60, single=True):
        assert len(question.answer) == len(question.answer[0]) == 1


def test_a_question_is_a_function_of_its_random_numbers() -> None:
    first, again = (list(asked(4, 20)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("level", LEVELS)
def test_an_order_is_stated_where_it_is_judged_and_nowhere_else(level: int) -> None:
    told = re.compile(r"in alphabetical order|(highest|lowest) first; of equal ones")
    for _, question in asked(level, 100):
        assert question.ordered == bool(told.search(question.text)), question.text


TEMPLATES = sorted(
    {template for group in (questions.ALL, changes.CHANGES) for templates in group.values() for template in templates}
    | set(questions.SHORT),
    key=lambda template: template.__name__,
)


def _rows(connection: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    return connection.execute(query).fetchall()


def drafts(template: Template, rows: int = 200) -> Iterator[tuple[Key, Draft]]:
    """What a template asks of every domain that it fits."""
    for number in range(40):
        key = Key(list(DOMAINS)[number % len(DOMAINS)], rows, number % 50)
        with opened(content(key)) as connection:
            run = partial(_rows, connection)
            asker = Asker(DOMAINS[key.domain], rows, connection, run, random.Random(number))
            try:
                draft = template(asker)
            except NoQuestion:
                continue
        yield key, draft


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.__name__.lstrip("_"))
def test_every_template_asks_what_can_be_executed(template: Template) -> None:
    found = list(drafts(template))
    assert len({key.domain for key, _ in found}) >= 2
    assert len({draft.query for _, draft in found}) >= 8
    results = []
    for key, draft in found:
        with opened(content(key)) as connection:
            results.append(connection.execute(draft.query).fetchall())
    assert len({str(result) for result in results}) > 1 or template in {
        change for group in changes.CHANGES.values() for change in group
    }


def test_two_ways_to_write_a_query_give_the_gold_result() -> None:
    """Windows against correlated subqueries, set operations against joins: the gold SQL says what the text says."""
    pattern = re.compile(
        r"SELECT COUNT\(\*\) FROM \(SELECT (\w+), AVG\(\1\) OVER \(PARTITION BY (\w+)\) AS average FROM (\w+)\) "
        r"WHERE \1 ([<>]) average"
    )
    checked = 0
    for key, question in asked(4, 120, single=True):
        if match := pattern.fullmatch(question.query):
            number, group, table, operator = match.groups()
            other = (
                f"SELECT COUNT(*) FROM {table} AS a WHERE a.{number} {operator} "
                f"(SELECT AVG(b.{number}) FROM {table} AS b WHERE b.{group} = a.{group})"
            )
            with opened(content(key)) as connection:
                assert connection.execute(other).fetchall() == [tuple(question.answer[0])]
            checked += 1
    assert checked > 8


@pytest.mark.parametrize("level", LEVELS)
def test_a_guess_is_rarely_right(level: int) -> None:
    """The answer that is most frequent of all answers, as somebody would guess it who never looks."""
    for single in (True, False):
        answers = Counter(str(question.answer) for _, question in asked(level, 120, single=single))
        assert answers.most_common(1)[0][1] < 0.15 * 120


def test_the_words_vary() -> None:
    openings = Counter(question.text.split()[0] for _, question in asked(1, 200))
    assert len(openings) >= 7


def test_short_questions_are_short_and_not_to_be_guessed() -> None:
    found = [question for _, question in asked(1, 150, rows=100, short=True, single=True)]
    assert max(len(question.text) + len(question.query) for question in found) < 160
    assert Counter(str(question.answer) for question in found).most_common(1)[0][1] < 0.15 * 150


@pytest.mark.parametrize("level", [3, 4])
def test_a_change_changes_something(level: int) -> None:
    for number in range(60):
        key = Key(list(DOMAINS)[number % len(DOMAINS)], 200, number % 50)
        question = ask(random.Random(number), key, level, single=False, short=False, change=True)
        with opened(content(key)) as connection:
            before = list(connection.iterdump())
            connection.execute(question.query)
            assert list(connection.iterdump()) != before
            connection.commit()
            assert not connection.execute("PRAGMA foreign_key_check").fetchall()


def test_where_no_question_can_be_found_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfit(asker: Asker) -> Draft:
        return Draft("How many?", "SELECT NULL")

    monkeypatch.setitem(questions.ALL, 1, (unfit,))
    with pytest.raises(ConfigError, match="no question of level 1 found; raise rows"):
        ask(random.Random(0), Key("shop", 10, 0), 1, single=False, short=False, change=False)
