"""What the templates of questions share: picking tables, columns and values, and wording a condition.

Invariant: whatever is picked depends on the random numbers and the database alone, and a condition names a value that
occurs, so that a question about it has an answer.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .domains import Amount, Choice, Column, Day, Domain, Link, Table, Text, Whole


class NoQuestion(Exception):
    """A template does not fit this database; another one will."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question with its gold SQL, before anybody has looked at the result."""

    text: str
    query: str
    ordered: bool = False
    """Whether the question states an order of rows."""


Template = Callable[["Asker"], Draft]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the rows of a table."""

    sql: str
    words: str
    """To stand behind the table's plural: `with status paid`, `whose status is paid`."""


@dataclass(slots=True)
class Asker:
    """Draws the parts of a question about one database."""

    domain: Domain
    rows: int
    connection: sqlite3.Connection
    run: Callable[[str], list[tuple[Any, ...]]]
    """The first rows of a query; keeps results."""
    rng: random.Random
    short: bool = False
    """Terse questions about the domain's main table."""
    tables: list[Table] = field(init=False)

    def __post_init__(self) -> None:
        self.tables = [self.domain.table(self.domain.main)] if self.short else list(self.domain.tables)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of them; raises `NoQuestion` where there is none."""
        if not options:
            raise NoQuestion
        return self.rng.choice(options)

    def table(self, *kinds: type[Column], complete: bool = False) -> Table:
        """A table that has a column of each kind."""
        fits = [table for table in self.tables if all(table.of(kind, complete=complete) for kind in kinds)]
        found: Table = self.pick(fits)
        return found

    def column(self, table: Table, *kinds: type[Column], complete: bool = False) -> Column:
        """A column of one of the kinds."""
        found: Column = self.pick([column for kind in kinds for column in table.of(kind, complete=complete)])
        return found

    def number(self, table: Table, *, complete: bool = False) -> Column:
        return self.column(table, Amount, Whole, complete=complete)

    def link(self, fits: Callable[[Table, Table], bool] = lambda _child, _parent: True) -> tuple[Table, Link, Table]:
        """(child, foreign key, parent) of which `fits(child, parent)`."""
        found: tuple[Table, Link, Table] = self.pick([link for link in self.domain.links() if fits(link[0], link[2])])
        return found

    def chain(self) -> tuple[tuple[Table, Link, Table], tuple[Table, Link, Table]]:
        """Two links in a row: the first one's parent is the second one's child."""
        links = self.domain.links()
        pairs = [(lower, upper) for lower in links for upper in links if lower[2].name == upper[0].name]
        found: tuple[tuple[Table, Link, Table], tuple[Table, Link, Table]] = self.pick(pairs)
        return found

    def value(self, table: Table, column: Column) -> Any:
        """The value that a row drawn at random has, rows without one left out."""
        for _ in range(20):
            identifier = self.rng.randint(1, table.size(self.rows))
            query = f"SELECT {column.name} FROM {table.name} WHERE id = ?"
            found = self.connection.execute(query, (identifier,)).fetchone()[0]
            if found is not None:
                return found
        raise NoQuestion

    def scalar(self, query: str) -> Any:
        """The only cell of a result."""
        return self.run(query)[0][0]

    def condition(self, table: Table, *, qualified: bool = False, complete: bool = False) -> Condition:
        """A condition that some rows meet; with `complete` every row meets it or its opposite."""
        columns = [column for column in table.columns if not isinstance(column, Link | Text)]
        column: Column = self.pick([column for column in columns if not (complete and column.missing)])
        name = f"{table.name}.{column.name}" if qualified else column.name
        if column.missing and self.rng.random() < 0.25:
            words = self.pick((f"without {column.label}", f"whose {column.label} is missing"))
            return Condition(f"{name} IS NULL", words)
        value = self.value(table, column)
        if isinstance(column, Choice):
            return Condition(f"{name} = {literal(value)}", self._that_have(column, value))
        if isinstance(column, Day):
            return self._day_condition(column, name, value)
        operator, words = self.pick(((">", "above"), ("<", "below"), (">=", "at least"), ("<=", "at most")))
        return Condition(f"{name} {operator} {literal(value)}", self._that_have(column, f"{words} {value}"))

    def conditions(self, table: Table, most: int = 2, *, qualified: bool = False) -> Condition:
        """One condition, or two on different columns."""
        first = self.condition(table, qualified=qualified)
        if most < 2 or self.rng.random() < 0.6:
            return first
        second = self.condition(table, qualified=qualified)
        if first.sql.split()[0] == second.sql.split()[0]:
            return first
        return Condition(f"{first.sql} AND {second.sql}", f"{first.words} and {second.words}")

    def _day_condition(self, column: Column, name: str, value: str) -> Condition:
        kind = self.rng.randrange(3)
        if kind == 0:
            year = value[:4]
            return Condition(f"strftime('%Y', {name}) = '{year}'", self._that_have(column, f"in {year}"))
        operator, words = ((">", "after"), ("<", "before"))[kind - 1]
        return Condition(f"{name} {operator} '{value}'", self._that_have(column, f"{words} {value}"))

    def _that_have(self, column: Column, what: str) -> str:
        wording: str = self.pick((f"with {column.label} {what}", f"whose {column.label} is {what}"))
        return wording

    def counted(self, what: str) -> str:
        """A question for the number of something."""
        wording: str = self.pick(
            (
                "How many {} are there?",
                "Count the {}.",
                "What is the number of {}?",
                "Find the number of {}.",
                "Give the number of {}.",
                "Tell me the number of {}.",
            )
        )
        return wording.format(what)

    def asked(self, what: str) -> str:
        """A question for one value, named with its article: `the highest total of orders`."""
        wording: str = self.pick(("What is {}?", "Find {}.", "Tell me {}.", "Give {}.", "Determine {}."))
        return wording.format(what)


def literal(value: Any) -> str:
    """A value as SQL writes it."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def aggregate(asker: Asker, column: Column, name: str) -> tuple[str, str, str]:
    """(SQL, words, rounding): an aggregate of a number's column and what the question calls it."""
    function, words = asker.pick((("MAX", "highest"), ("MIN", "lowest"), ("AVG", "average"), ("SUM", "summed-up")))
    rounds = function == "AVG" or (function == "SUM" and isinstance(column, Amount))
    sql = f"ROUND({function}({name}), 2)" if rounds else f"{function}({name})"
    left_out = ", missing values left out" if column.missing else ""
    return sql, f"{words} {column.label}", left_out + (", rounded to 2 decimals" if rounds else "")


def joined(child: Table, link: Column, parent: Table) -> str:
    """The two tables in a FROM clause."""
    return f"{child.name} JOIN {parent.name} ON {parent.name}.id = {child.name}.{link.name}"
