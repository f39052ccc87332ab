"""Templates of tasks that change the database: level 3 in one table, level 4 by what another table says."""

from __future__ import annotations

from .asking import Asker, Draft, NoQuestion, Template, literal
from .domains import Amount, Choice, Day, Link, Table, Text, Whole

_END = " Change nothing else."


def _raise(asker: Asker) -> Draft:
    table = asker.table(Amount, complete=True)
    column, condition = asker.column(table, Amount, complete=True), asker.condition(table)
    amount = asker.rng.randint(1, 2000) / 100
    text = f"Raise the {column.label} of all {table.name} {condition.words} by {amount}, rounded to 2 decimals.{_END}"
    return Draft(text, f"UPDATE {table.name} SET {column.name} = {_raised(column.name, amount)} WHERE {condition.sql}")


def _set_choice(asker: Asker) -> Draft:
    table = asker.table(Choice)
    column, condition = asker.column(table, Choice), asker.conditions(table)
    value = asker.value(table, column)
    text = f"Set the {column.label} of all {table.name} {condition.words} to {value}.{_END}"
    rest = f"AND {column.name} <> {literal(value)}"  # so that a task is never done already
    return Draft(text, f"UPDATE {table.name} SET {column.name} = {literal(value)} WHERE {condition.sql} {rest}")


def _delete(asker: Asker) -> Draft:
    table = _leaf(asker)
    condition = asker.conditions(table)
    return Draft(f"Delete all {table.name} {condition.words}.{_END}", f"DELETE FROM {table.name} WHERE {condition.sql}")


def _insert(asker: Asker) -> Draft:
    table = asker.table()
    values: dict[str, object] = {"id": table.size(asker.rows) + asker.rng.randint(1, 50)}
    for column in table.columns:
        if column.missing and asker.rng.random() < 0.5:
            continue
        if isinstance(column, Text):
            values[column.name] = asker.rng.choice(column.pool)
        else:
            values[column.name] = asker.value(table, column)
    listed = ", ".join(f"{name} {value}" for name, value in values.items())
    text = f"Insert a row into {table.name} with {listed}; columns not named are NULL.{_END}"
    columns, row = ", ".join(values), ", ".join(map(literal, values.values()))
    return Draft(text, f"INSERT INTO {table.name} ({columns}) VALUES ({row})")


def _raise_by_parent(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda child, _: bool(child.of(Amount, complete=True)))
    column, condition = asker.column(child, Amount, complete=True), asker.condition(parent)
    amount = asker.rng.randint(1, 2000) / 100
    text = (
        f"Raise the {column.label} of all {child.name} {link.verb} {parent.name} {condition.words} by {amount}, "
        f"rounded to 2 decimals.{_END}"
    )
    change = f"UPDATE {child.name} SET {column.name} = {_raised(column.name, amount)}"
    return Draft(text, f"{change} WHERE {link.name} IN (SELECT id FROM {parent.name} WHERE {condition.sql})")


def _set_choice_by_children(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda _, parent: bool(parent.of(Choice)))
    column, condition = asker.column(parent, Choice), asker.condition(child)
    value = asker.value(parent, column)
    text = (
        f"Set the {column.label} of all {parent.name} that have at least one of the {child.name} {condition.words} to "
        f"{value}.{_END}"
    )
    inner = f"SELECT {link.name} FROM {child.name} WHERE {condition.sql}"
    change = f"UPDATE {parent.name} SET {column.name} = {literal(value)} WHERE id IN ({inner})"
    return Draft(text, f"{change} AND {column.name} <> {literal(value)}")


def _delete_by_parent(asker: Asker) -> Draft:
    table = _leaf(asker)
    links = [link for link in asker.domain.links() if link[0].name == table.name]
    _, link, parent = asker.pick(links)
    condition = asker.conditions(parent)
    text = f"Delete all {table.name} {link.verb} {parent.name} {condition.words}.{_END}"
    inner = f"SELECT id FROM {parent.name} WHERE {condition.sql}"
    return Draft(text, f"DELETE FROM {table.name} WHERE {link.name} IN ({inner})")


def _erase_above_average(asker: Asker) -> Draft:
    table = asker.table()
    columns = [column for column in table.columns if column.missing and isinstance(column, Amount | Whole | Day)]
    column = asker.pick(columns)
    operator, word = asker.pick(((">", "above"), ("<", "below")))
    text = (
        f"Set the {column.label} to NULL for all {table.name} in which it is {word} the average {column.label} of all "
        f"{table.name} as it is now.{_END}"
    )
    average = f"SELECT AVG({column.name}) FROM {table.name}"
    return Draft(text, f"UPDATE {table.name} SET {column.name} = NULL WHERE {column.name} {operator} ({average})")


def _raised(name: str, amount: float) -> str:
    return f"ROUND({name} + {amount}, 2)"


def _leaf(asker: Asker) -> Table:
    """A table that no other points to."""
    targets = {link.name for _, _, link in asker.domain.links()}
    leaves = [table for table in asker.tables if table.name not in targets and table.of(Link)]
    if not leaves:
        raise NoQuestion
    found: Table = asker.pick(leaves)
    return found


CHANGES: dict[int, tuple[Template, ...]] = {
    3: (_raise, _set_choice, _delete, _insert),
    4: (_raise_by_parent, _set_choice_by_children, _delete_by_parent, _erase_above_average),
}
"""Templates by level."""
