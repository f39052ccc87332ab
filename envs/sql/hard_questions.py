"""Templates of level 3 (nested, HAVING, three tables) and 4 (windows, correlated subqueries, set operations)."""

from __future__ import annotations

from .asking import Asker, Draft, Template, aggregate, joined, literal
from .domains import Amount, Choice, Day, Table, Whole

# -- level 3 -----------------------------------------------------------------------------------------------------------


def _busy_parents(asker: Asker) -> Draft:
    child, link, parent = asker.link()
    count = asker.scalar(
        f"SELECT COUNT(*) FROM {child.name} WHERE {link.name} = {asker.value(child, link)}"
    )  # of a parent that has children
    operator, words = asker.pick(((">", "more than"), (">=", "at least"), ("=", "exactly")))
    count = max(count - (operator == ">"), 1)
    text = asker.counted(f"{parent.name} that have {words} {count} {child.name}")
    inner = f"SELECT {link.name} FROM {child.name} GROUP BY {link.name} HAVING COUNT(*) {operator} {count}"
    return Draft(text, f"SELECT COUNT(*) FROM ({inner})")


def _above_average(asker: Asker) -> Draft:
    table = asker.table()
    number, condition = asker.number(table), asker.condition(table)
    operator, word = asker.pick(((">", "above"), ("<", "below")))
    text = asker.counted(
        f"{table.name} {condition.words} and with {number.label} {word} the average {number.label} of all {table.name}"
    )
    average = f"SELECT AVG({number.name}) FROM {table.name}"
    query = f"SELECT COUNT(*) FROM {table.name} WHERE {condition.sql} AND {number.name} {operator} ({average})"
    return Draft(text, query)


def _chain(asker: Asker) -> Draft:
    (low, first, middle), (_, second, high) = asker.chain()
    condition = asker.condition(high, qualified=True)
    what = f"{low.name} {first.verb} {middle.name} {second.verb} {high.name} {condition.words}"
    source = f"{joined(low, first, middle)} JOIN {high.name} ON {high.name}.id = {middle.name}.{second.name}"
    if not (low.of(Amount) or low.of(Whole)) or asker.rng.random() < 0.5:
        return Draft(asker.counted(what), f"SELECT COUNT(*) FROM {source} WHERE {condition.sql}")
    column = asker.number(low)
    sql, words, rounding = aggregate(asker, column, f"{low.name}.{column.name}")
    return Draft(asker.asked(f"the {words} of {what}{rounding}"), f"SELECT {sql} FROM {source} WHERE {condition.sql}")


def _share(asker: Asker) -> Draft:
    child, link, parent = asker.link()
    one, all_of = asker.condition(child, qualified=True, complete=True), asker.condition(parent, qualified=True)
    text = asker.asked(
        f"the percentage of {child.name} {one.words} among all {child.name} {link.verb} {parent.name} "
        f"{all_of.words}, from 0 to 100 and rounded to 1 decimal"
    )
    ratio = f"ROUND(100.0 * SUM({one.sql}) / COUNT(*), 1)"
    return Draft(text, f"SELECT {ratio} FROM {joined(child, link, parent)} WHERE {all_of.sql}")


def _parents_with(asker: Asker) -> Draft:
    child, link, parent = asker.link()
    own, theirs = asker.condition(parent), asker.conditions(child)
    some = asker.rng.random() < 0.6
    what = "at least one" if some else "none"
    text = asker.counted(f"{parent.name} {own.words} that have {what} of the {child.name} {theirs.words}")
    inner = f"SELECT {link.name} FROM {child.name} WHERE {theirs.sql}"
    word = "IN" if some else "NOT IN"
    return Draft(text, f"SELECT COUNT(*) FROM {parent.name} WHERE {own.sql} AND id {word} ({inner})")


def _group_having(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda _, parent: bool(parent.of(Choice)))
    column = asker.column(parent, Choice)
    name = f"{parent.name}.{column.name}"
    source = joined(child, link, parent)
    groups = f"SELECT COUNT(*) AS n FROM {source} GROUP BY {name}"
    least = asker.scalar(f"SELECT CAST(AVG(n) AS INTEGER) FROM ({groups})")
    text = (
        f"For each {column.label} of {parent.name} give the {column.label} and the number of {child.name} "
        f"{link.verb} {parent.name} with that {column.label}; leave out those with fewer than {least} {child.name}. "
        "Any order."
    )
    return Draft(text, f"SELECT {name}, COUNT(*) FROM {source} GROUP BY {name} HAVING COUNT(*) >= {least}")


def _join_group(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda child, parent: bool(parent.of(Choice)) and _has_number(child))
    column, number = asker.column(parent, Choice), asker.number(child)
    condition = asker.condition(child, qualified=True)
    sql, words, rounding = aggregate(asker, number, f"{child.name}.{number.name}")
    text = (
        f"For each {column.label} of {parent.name} give the {column.label} and the {words} of {child.name} "
        f"{condition.words} {link.verb} {parent.name} with that {column.label}{rounding}; leave out those without such "
        f"{child.name}; sort by {column.label} in alphabetical order."
    )
    name = f"{parent.name}.{column.name}"
    source = f"{joined(child, link, parent)} WHERE {condition.sql}"
    return Draft(text, f"SELECT {name}, {sql} FROM {source} GROUP BY {name} ORDER BY {name}", ordered=True)


def _best_parent(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda child, _: _has_number(child))
    number = asker.number(child, complete=True)
    order, word = asker.pick((("DESC", "highest"), ("ASC", "lowest")))
    total = f"SUM({number.name})"
    shown, rounding = (f"ROUND({total}, 2)", ", rounded to 2 decimals") if isinstance(number, Amount) else (total, "")
    text = (
        f"Sum up the {number.label} of the {child.name} of each {parent.one} that has {child.name}. Which {parent.one} "
        f"has the {word} sum? Give its id and the sum{rounding}; of equal ones take the smallest id."
    )
    query = (
        f"SELECT {link.name}, {shown} FROM {child.name} GROUP BY {link.name} ORDER BY {shown} {order}, {link.name} "
        "LIMIT 1"
    )
    return Draft(text, query)


# -- level 4 -----------------------------------------------------------------------------------------------------------


def _best_of_each(asker: Asker) -> Draft:
    table = asker.table(Choice)
    column, number = asker.column(table, Choice), asker.number(table, complete=True)
    order, word = asker.pick((("DESC", "highest"), ("ASC", "lowest")))
    place, nth = asker.pick(((1, "first "), (2, "second ")))
    text = (
        f"For each {column.label} of {table.name}, rank the {table.name} by {number.label}, {word} first, of "
        f"equal ones the smaller id first. Give the {column.label} and the id of the {nth}of each ranking, in "
        "any order; leave out rankings without one."
    )
    window = f"ROW_NUMBER() OVER (PARTITION BY {column.name} ORDER BY {number.name} {order}, id)"
    inner = f"SELECT {column.name}, id, {window} AS place FROM {table.name}"
    return Draft(text, f"SELECT {column.name}, id FROM ({inner}) WHERE place = {place}")


def _second_value(asker: Asker) -> Draft:
    table = asker.table(Choice)
    column, number = asker.column(table, Choice), asker.number(table, complete=True)
    text = (
        f"For each {column.label} of {table.name}, give the {column.label} and the second highest of the different "
        f"values of {number.label}; leave out those with only one value; sort by {column.label} in alphabetical order."
    )
    window = f"DENSE_RANK() OVER (PARTITION BY {column.name} ORDER BY {number.name} DESC)"
    inner = f"SELECT {column.name}, {number.name}, {window} AS place FROM {table.name}"
    query = f"SELECT DISTINCT {column.name}, {number.name} FROM ({inner}) WHERE place = 2 ORDER BY {column.name}"
    return Draft(text, query, ordered=True)


def _above_own_group(asker: Asker) -> Draft:
    table = asker.table(Choice)
    column, number = asker.column(table, Choice), asker.number(table)
    operator, word = asker.pick(((">", "above"), ("<", "below")))
    text = asker.counted(
        f"{table.name} with {number.label} {word} the average {number.label} of the {table.name} with the same "
        f"{column.label}"
    )
    return Draft(text, _against_average(table, number.name, column.name, operator))


def _above_siblings(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda child, _: _has_number(child))
    number = asker.number(child)
    operator, word = asker.pick(((">", "above"), ("<", "below")))
    text = asker.counted(
        f"{child.name} with {number.label} {word} the average {number.label} of all {child.name} {link.verb} "
        f"the same {parent.one}"
    )
    return Draft(text, _against_average(child, number.name, link.name, operator))


def _one_but_not_the_other(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda child, _: bool(child.of(Choice)))
    column = asker.column(child, Choice)
    first, second = asker.value(child, column), asker.value(child, column)
    word, words = asker.pick((("INTERSECT", "and at least one"), ("EXCEPT", "but none")))
    if first == second:
        second = asker.pick([value for value in column.values if value != first])  # type: ignore[attr-defined]
    text = asker.counted(
        f"{parent.name} that have at least one of the {child.name} with {column.label} {first} {words} with "
        f"{column.label} {second}"
    )
    parts = [
        f"SELECT {link.name} FROM {child.name} WHERE {column.name} = {literal(value)}" for value in (first, second)
    ]
    return Draft(text, f"SELECT COUNT(*) FROM ({parts[0]} {word} {parts[1]})")


def _either(asker: Asker) -> Draft:
    links = asker.domain.links()
    parents = [parent for _, _, parent in links if sum(parent.name == other.name for _, _, other in links) > 1]
    parent: Table = asker.pick(parents)
    one, two = asker.rng.sample([link for link in links if link[2].name == parent.name], 2)
    conditions = [asker.condition(child) for child, _, _ in (one, two)]
    word, words = asker.pick((("UNION", "or"), ("INTERSECT", "and")))
    text = asker.counted(
        f"{parent.name} that have at least one of the {one[0].name} {conditions[0].words} {words} at least one of the "
        f"{two[0].name} {conditions[1].words}"
    )
    parts = [
        f"SELECT {link.name} FROM {child.name} WHERE {condition.sql}"
        for (child, link, _), condition in zip((one, two), conditions, strict=True)
    ]
    return Draft(text, f"SELECT COUNT(*) FROM ({parts[0]} {word} {parts[1]})")


def _rises(asker: Asker) -> Draft:
    child, link, parent = asker.link(lambda child, _: bool(child.of(Day)) and _has_number(child, complete=True))
    day, number = asker.column(child, Day), asker.number(child, complete=True)
    text = (
        f"Put the {child.name} {link.verb} the same {parent.one} in the order of {day.label}, then id. "
        + asker.counted(f"{child.name} with higher {number.label} than the one directly before in that order")
    )
    window = f"LAG({number.name}) OVER (PARTITION BY {link.name} ORDER BY {day.name}, id)"
    inner = f"SELECT {number.name}, {window} AS before FROM {child.name}"
    return Draft(text, f"SELECT COUNT(*) FROM ({inner}) WHERE {number.name} > before")


def _running(asker: Asker) -> Draft:
    table = asker.table(Day)
    day, number = asker.column(table, Day), asker.number(table, complete=True)
    whole = asker.scalar(f"SELECT SUM({number.name}) FROM {table.name}")
    mark = int(whole * asker.rng.uniform(0.1, 0.9)) + 0.5
    text = (
        f"Go through all {table.name} in the order of {day.label}, then id, and add up the {number.label}. What is the "
        f"id of the first of the {table.name} at which the running sum is above {mark}?"
    )
    window = f"SUM({number.name}) OVER (ORDER BY {day.name}, id ROWS UNBOUNDED PRECEDING)"
    inner = f"SELECT id, {day.name}, {window} AS running FROM {table.name}"
    query = f"SELECT id FROM ({inner}) WHERE running > {mark} ORDER BY {day.name}, id LIMIT 1"
    return Draft(text, query)


def _all_children(asker: Asker) -> Draft:
    child, link, parent = asker.link()
    condition = asker.condition(child, qualified=True, complete=True)
    text = asker.counted(
        f"{parent.name} that have {child.name} and whose {child.name} are all {child.name} {condition.words}"
    )
    own = f"SELECT 1 FROM {child.name} WHERE {child.name}.{link.name} = {parent.name}.id"
    query = f"SELECT COUNT(*) FROM {parent.name} WHERE EXISTS ({own}) AND NOT EXISTS ({own} AND NOT ({condition.sql}))"
    return Draft(text, query)


def _against_average(table: Table, number: str, group: str, operator: str) -> str:
    """A window rather than a correlated subquery: the groups of a large table may be large."""
    inner = f"SELECT {number}, AVG({number}) OVER (PARTITION BY {group}) AS average FROM {table.name}"
    return f"SELECT COUNT(*) FROM ({inner}) WHERE {number} {operator} average"


def _has_number(table: Table, *, complete: bool = False) -> bool:
    return bool(table.of(Amount, complete=complete) or table.of(Whole, complete=complete))


HARD_SINGLE: dict[int, tuple[Template, ...]] = {
    3: (_busy_parents, _above_average, _chain, _chain, _share, _parents_with),
    4: (
        *(_above_own_group, _above_siblings, _one_but_not_the_other, _either),
        *(_rises, _running, _all_children),
    ),
}
"""Templates by level of questions for one value."""
HARD: dict[int, tuple[Template, ...]] = {
    3: (*HARD_SINGLE[3], _group_having, _join_group, _best_parent),
    4: (*HARD_SINGLE[4], _best_of_each, _best_of_each, _second_value),
}
"""Templates by level."""
