"""Questions of every level about a generated database, each with its gold SQL and the result.

A template words a question and writes its SQL from the same parts. Invariant of what is asked: the result is neither
empty nor NULL nor a count of nothing, has at most `MAX_ROWS` rows and is stated by the question alone: order, columns,
rounding and ties are named where they matter.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from agentrl.errors import ConfigError

from .asking import Asker, Draft, NoQuestion, Template, aggregate, joined, literal
from .changes import CHANGES
from .connections import opened
from .domains import DOMAINS, Amount, Choice, Day, Whole
from .generate import Key, database
from .hard_questions import HARD, HARD_SINGLE

MAX_ROWS = 20
_ATTEMPTS = 200
_KEPT_RESULTS = 4096
"""Of gold queries: the members of a group and repeated passes ask for the same ones."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with an answer."""

    text: str
    query: str
    ordered: bool
    answer: list[list[Any]]
    """Rows of the gold query; empty for a change."""


def ask(rng: random.Random, key: Key, level: int, *, single: bool, short: bool, change: bool) -> Question:
    """A question about the database; `single` asks for one value, `change` for another state of the database."""
    templates = _templates(level, single=single, short=short, change=change)
    with opened(database(key)) as connection:
        asker = Asker(DOMAINS[key.domain], key.rows, connection, partial(_result, key), rng, short)
        for _ in range(_ATTEMPTS):
            try:
                draft = rng.choice(templates)(asker)
            except NoQuestion:
                continue
            if change:
                if _changes(asker, draft.query):
                    return Question(draft.text, draft.query, False, [])
                continue
            answer = _result(key, draft.query)
            if _is_fit(answer):
                return Question(draft.text, draft.query, draft.ordered, [list(row) for row in answer])
    raise ConfigError(f"domains={key.domain!r}, rows={key.rows}: no question of level {level} found; raise rows")


def _templates(level: int, *, single: bool, short: bool, change: bool) -> tuple[Template, ...]:
    if change:
        return CHANGES[level]
    if short:
        return SHORT
    return (SINGLE if single else ALL)[level]


@lru_cache(maxsize=_KEPT_RESULTS)
def _result(key: Key, query: str) -> list[tuple[Any, ...]]:
    """The first rows of a query of ours, one more than are allowed."""
    with opened(database(key)) as connection:
        return connection.execute(query).fetchmany(MAX_ROWS + 1)


def _is_fit(answer: list[tuple[Any, ...]]) -> bool:
    if not answer or len(answer) > MAX_ROWS or any(cell is None for row in answer for cell in row):
        return False
    return answer != [(0,)]


def _changes(asker: Asker, statement: str) -> bool:
    """Whether the statement changes a row of the (in-memory) database, which is left as it was."""
    asker.connection.execute("SAVEPOINT trial")
    changed = asker.connection.execute(statement).rowcount
    asker.connection.execute("ROLLBACK TO trial")
    asker.connection.execute("RELEASE trial")
    return changed > 0


# -- short: level 1 in a few words -------------------------------------------------------------------------------------


def _short_count(asker: Asker) -> Draft:
    table = asker.table(Choice)
    column = asker.column(table, Choice)
    value = asker.value(table, column)
    text = f"How many {table.name} have {column.label} {value}?"
    return Draft(text, f"SELECT COUNT(*) FROM {table.name} WHERE {column.name} = {literal(value)}")


def _short_lookup(asker: Asker) -> Draft:
    table = asker.table()
    column = asker.column(table, Amount, Whole, complete=True)
    number = asker.rng.randint(1, table.size(asker.rows))
    text = f"What is the {column.label} of {table.one} {number}?"
    return Draft(text, f"SELECT {column.name} FROM {table.name} WHERE id = {number}")


def _short_extreme(asker: Asker) -> Draft:
    table = asker.table(Choice)
    number, column = asker.number(table, complete=True), asker.column(table, Choice)
    value = asker.value(table, column)
    function, word = asker.pick((("MAX", "highest"), ("MIN", "lowest")))
    text = f"What is the {word} {number.label} of {table.name} with {column.label} {value}?"
    return Draft(text, f"SELECT {function}({number.name}) FROM {table.name} WHERE {column.name} = {literal(value)}")


# -- level 1: one table -----------------------------------------------------------------------------------------------


def _count(asker: Asker) -> Draft:
    table = asker.table()
    condition = asker.conditions(table)
    text = asker.counted(f"{table.name} {condition.words}")
    return Draft(text, f"SELECT COUNT(*) FROM {table.name} WHERE {condition.sql}")


def _count_between(asker: Asker) -> Draft:
    table = asker.table()
    column = asker.column(table, Amount, Whole, Day)
    low, high = sorted((asker.value(table, column), asker.value(table, column)))
    text = asker.counted(f"{table.name} with {column.label} between {low} and {high}, both included,")
    text = text.replace(",.", ".").replace(",?", "?")
    bounds = f"'{low}' AND '{high}'" if isinstance(column, Day) else f"{low} AND {high}"
    return Draft(text, f"SELECT COUNT(*) FROM {table.name} WHERE {column.name} BETWEEN {bounds}")


def _aggregate(asker: Asker) -> Draft:
    table = asker.table()
    column = asker.number(table)
    sql, words, rounding = aggregate(asker, column, column.name)
    if asker.rng.random() < 0.25:
        return Draft(asker.asked(f"the {words} of all {table.name}{rounding}"), f"SELECT {sql} FROM {table.name}")
    condition = asker.conditions(table)
    text = asker.asked(f"the {words} of {table.name} {condition.words}{rounding}")
    return Draft(text, f"SELECT {sql} FROM {table.name} WHERE {condition.sql}")


def _lookup(asker: Asker) -> Draft:
    table = asker.table()
    column = asker.column(table, Amount, Whole, Day)
    number = asker.rng.randint(1, table.size(asker.rows))
    text = asker.asked(f"the {column.label} of the {table.one} with id {number}")
    return Draft(text, f"SELECT {column.name} FROM {table.name} WHERE id = {number}")


def _extreme_day(asker: Asker) -> Draft:
    table = asker.table(Day)
    column, condition = asker.column(table, Day), asker.conditions(table)
    function, word = asker.pick((("MAX", "latest"), ("MIN", "earliest")))
    text = asker.asked(f"the {word} {column.label} of {table.name} {condition.words}")
    return Draft(text, f"SELECT {function}({column.name}) FROM {table.name} WHERE {condition.sql}")


def _distinct_count(asker: Asker) -> Draft:
    table = asker.table()
    column, condition = asker.column(table, Whole, Day, complete=True), asker.conditions(table)
    text = asker.counted(f"different values of {column.label} among {table.name} {condition.words}")
    return Draft(text, f"SELECT COUNT(DISTINCT {column.name}) FROM {table.name} WHERE {condition.sql}")


def _list_ids(asker: Asker) -> Draft:
    table = asker.table()
    condition = asker.conditions(table)
    opening = asker.pick(("List the ids of all", "Give the ids of all", "Find the ids of all"))
    text = f"{opening} {table.name} {condition.words}, in any order."
    return Draft(text, f"SELECT id FROM {table.name} WHERE {condition.sql}")


# -- level 2: two tables, or groups ------------------------------------------------------------------------------------


def _join_count(asker: Asker) -> Draft:
    child, link, parent = asker.link()
    condition = asker.conditions(parent, qualified=True)
    what, where = f"{child.name} {link.verb} {parent.name} {condition.words}", condition.sql
    if asker.rng.random() < 0.3:
        own = asker.condition(child, qualified=True)
        what, where = f"{child.name} {own.words} {link.verb} {parent.name} {condition.words}", f"{own.sql} AND {where}"
    return Draft(asker.counted(what), f"SELECT COUNT(*) FROM {joined(child, link, parent)} WHERE {where}")


def _join_aggregate(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda child, _: bool(child.of(Amount) or child.of(Whole)))
    column, condition = asker.number(child), asker.conditions(parent, qualified=True)
    sql, words, rounding = aggregate(asker, column, f"{child.name}.{column.name}")
    text = asker.asked(f"the {words} of {child.name} {link.verb} {parent.name} {condition.words}{rounding}")
    return Draft(text, f"SELECT {sql} FROM {joined(child, link, parent)} WHERE {condition.sql}")


def _childless(asker: Asker) -> Draft:
    child, link, parent = asker.link()
    condition = asker.condition(parent, qualified=True)
    wording = asker.pick(
        ("How many {} have no {}?", "Count the {} that have no {}.", "Find the number of {} that have no {}.")
    )
    text = wording.format(f"{parent.name} {condition.words}", child.name)
    query = (
        f"SELECT COUNT(*) FROM {parent.name} LEFT JOIN {child.name} ON {child.name}.{link.name} = {parent.name}.id "
        f"WHERE {child.name}.id IS NULL AND {condition.sql}"
    )
    return Draft(text, query)


def _group_count(asker: Asker) -> Draft:
    table = asker.table(Choice)
    column, condition = asker.column(table, Choice), asker.conditions(table)
    opening = asker.pick(("For each", "For every"))
    text = (
        f"{opening} {column.label} that occurs among {table.name} {condition.words}, give the {column.label} and the "
        f"number of those {table.name}, in any order."
    )
    query = f"SELECT {column.name}, COUNT(*) FROM {table.name} WHERE {condition.sql} GROUP BY {column.name}"
    return Draft(text, query)


def _group_aggregate(asker: Asker) -> Draft:
    table = asker.table(Choice)
    column, number = asker.column(table, Choice), asker.number(table)
    sql, words, rounding = aggregate(asker, number, number.name)
    text = f"For each {column.label} of {table.name}, give the {column.label} and the {words}{rounding}, in any order."
    return Draft(text, f"SELECT {column.name}, {sql} FROM {table.name} GROUP BY {column.name}")


def _most_frequent(asker: Asker) -> Draft:
    table = asker.table(Choice)
    column, condition = asker.column(table, Choice), asker.conditions(table)
    order, word = asker.pick((("DESC", "most"), ("ASC", "least")))
    text = (
        f"Which {column.label} occurs {word} often among {table.name} {condition.words}, and how often? Only those "
        f"that occur count; of equal ones take the first in the alphabet. Give the {column.label} and the number."
    )
    query = (
        f"SELECT {column.name}, COUNT(*) FROM {table.name} WHERE {condition.sql} GROUP BY {column.name} "
        f"ORDER BY COUNT(*) {order}, {column.name} LIMIT 1"
    )
    return Draft(text, query)


def _top(asker: Asker) -> Draft:
    table = asker.table()
    number, condition = asker.number(table, complete=True), asker.conditions(table)
    order, word = asker.pick((("DESC", "highest"), ("ASC", "lowest")))
    count = asker.rng.randint(2, 6)
    text = (
        f"Give the id and the {number.label} of the {count} {table.name} with the {word} {number.label} among "
        f"{table.name} {condition.words} (all of them if there are fewer), {word} first; of equal ones the smaller id "
        "comes first."
    )
    query = (
        f"SELECT id, {number.name} FROM {table.name} WHERE {condition.sql} "
        f"ORDER BY {number.name} {order}, id LIMIT {count}"
    )
    return Draft(text, query, ordered=True)


def _values_with_children(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda _, parent: bool(parent.of(Choice)))
    column, condition = asker.column(parent, Choice), asker.conditions(child, qualified=True)
    text = (
        f"List, in alphabetical order and each once, the {column.label} of all {parent.name} that have at least one "
        f"of the {child.name} {condition.words}."
    )
    query = (
        f"SELECT DISTINCT {parent.name}.{column.name} FROM {joined(child, link, parent)} WHERE {condition.sql} "
        f"ORDER BY {parent.name}.{column.name}"
    )
    return Draft(text, query, ordered=True)


SHORT: tuple[Template, ...] = (_short_count, _short_count, _short_lookup, _short_extreme)
_ONE_SINGLE: tuple[Template, ...] = (
    *(_count, _count, _count, _count_between, _aggregate, _aggregate),
    *(_lookup, _extreme_day, _distinct_count),
)
_TWO_SINGLE: tuple[Template, ...] = (_join_count, _join_count, _join_aggregate, _join_aggregate, _childless)
SINGLE: dict[int, tuple[Template, ...]] = {1: _ONE_SINGLE, 2: _TWO_SINGLE, **HARD_SINGLE}
"""Templates by level of questions for one value."""
ALL: dict[int, tuple[Template, ...]] = {
    1: (*_ONE_SINGLE, _list_ids, _list_ids),
    2: (*_TWO_SINGLE, _group_count, _group_aggregate, _most_frequent, _top, _top, _values_with_children),
    **HARD,
}
"""Templates by level."""
