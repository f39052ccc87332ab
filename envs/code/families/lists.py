"""Families over lists of integers: a pipeline of steps, and counting into a dict."""

from __future__ import annotations

import random

from .draft import WORDS, Arguments, Draft, integers, steps

_EDGES: tuple[Arguments, ...] = (([],), ([0],), ([5, 5, 5],), ([-3, -2, -1],), ([9, 1, 8, 2, 7, 3],))


def _one_list(rng: random.Random) -> Arguments:
    return (integers(rng),)


def _filter(rng: random.Random) -> tuple[str, str]:
    k, limit = rng.randint(2, 5), rng.randint(-10, 30)
    r = rng.randrange(k)
    return rng.choice(
        [
            (
                f"Keep only the numbers whose remainder on division by {k} is {r}",
                f"[v for v in values if v % {k} == {r}]",
            ),
            (f"Remove the numbers whose remainder on division by {k} is {r}", f"[v for v in values if v % {k} != {r}]"),
            (f"Keep only the numbers greater than {limit}", f"[v for v in values if v > {limit}]"),
            (f"Remove the numbers greater than {limit}", f"[v for v in values if v <= {limit}]"),
            ("Remove repeated numbers, keeping the first of each", "list(dict.fromkeys(values))"),
            ("Keep only the numbers that occur exactly once", "[v for v in values if values.count(v) == 1]"),
            (
                "Remove every number that equals the one before it",
                "[v for i, v in enumerate(values) if not i or values[i - 1] != v]",
            ),
        ]
    )


def _map(rng: random.Random) -> tuple[str, str]:
    a, b, m, k = rng.randint(2, 9), rng.randint(-20, 20), rng.randint(4, 15), rng.randint(-10, 30)
    return rng.choice(
        [
            (f"Multiply every number by {a} and add {b}", f"[v * {a} + {b} for v in values]"),
            (f"Replace every number by its remainder on division by {m} (Python's %)", f"[v % {m} for v in values]"),
            (f"Replace every number by its distance from {k}", f"[abs(v - {k}) for v in values]"),
            (
                f"Add to every number {a} times its position, counted from 0",
                f"[v + {a} * i for i, v in enumerate(values)]",
            ),
            (f"Replace every number below {k} by {k}", f"[max(v, {k}) for v in values]"),
            (f"Divide every number by {a}, rounding down", f"[v // {a} for v in values]"),
            (
                "Replace every number by the sum of all numbers up to and with it",
                "[sum(values[: i + 1]) for i in range(len(values))]",
            ),
            (
                "Replace every number but the first by its difference from the one before it",
                "values[:1] + [y - x for x, y in zip(values, values[1:])]",
            ),
        ]
    )


def _order(rng: random.Random) -> tuple[str, str]:
    k = rng.randint(2, 4)
    return rng.choice(
        [
            ("Sort the numbers in ascending order", "sorted(values)"),
            ("Sort the numbers in descending order", "sorted(values, reverse=True)"),
            ("Reverse the list", "values[::-1]"),
            (f"Move the first {k} numbers to the end, in their order", f"values[{k}:] + values[:{k}]"),
            (
                f"Sort by remainder on division by {k + 1}, equal ones in their order",
                f"sorted(values, key=lambda v: v % {k + 1})",
            ),
            (f"Keep the first {k + 2} numbers", f"values[:{k + 2}]"),
            (f"Keep every {('second', 'third', 'fourth')[k - 2]} number, beginning with the first", f"values[::{k}]"),
            (
                "Put the numbers at even positions (counted from 0) before those at odd positions",
                "values[::2] + values[1::2]",
            ),
        ]
    )


def _end(rng: random.Random) -> tuple[str, str, str]:
    m = rng.randint(2, 9)
    return rng.choice(
        [
            ("the list", "values", "list[int]"),
            ("the sum of the numbers", "sum(values)", "int"),
            (
                "the largest minus the smallest number, 0 for an empty list",
                "max(values) - min(values) if values else 0",
                "int",
            ),
            (
                f"how many numbers are greater than {m}, plus the sum of all",
                f"sum(v > {m} for v in values) + sum(values)",
                "int",
            ),
            ("the sum of the products of neighbours", "sum(x * y for x, y in zip(values, values[1:]))", "int"),
            ("a tuple of the number of elements and their sum", "(len(values), sum(values))", "tuple[int, int]"),
            ("the mean of the numbers, 0.0 for an empty list", "sum(values) / len(values) if values else 0.0", "float"),
            (
                f"the sum of every number times its position, counted from {m}",
                f"sum(i * v for i, v in enumerate(values, {m}))",
                "int",
            ),
        ]
    )


def pipeline(rng: random.Random, level: int) -> Draft:
    """A list of integers through `level` steps to a list or a number."""
    kinds = [_filter, _map, _order]
    drawn = [rng.choice(kinds)(rng) for _ in range(level)]
    phrase, result, returns = _end(rng)
    return Draft(
        name="process",
        parameters="values: list[int]",
        returns=returns,
        task=f"{steps([phrase for phrase, _ in drawn])}\nReturn {phrase}.",
        body="\n".join([*(f"values = {line}" for _, line in drawn), f"return {result}"]),
        inputs=_one_list,
        edges=_EDGES,
    )


def _some_words(rng: random.Random) -> Arguments:
    return ([rng.choice(WORDS) for _ in range(rng.randint(0, 12))],)


def counting(rng: random.Random, level: int) -> Draft:
    """Words into a dict of counts or lists by a key; higher levels drop, weigh and order."""
    k = rng.randint(2, 4)
    key, named, kind = rng.choice(
        [
            ("word[0].lower()", "its first letter in lower case", "str"),
            ("word[-1]", "its last letter", "str"),
            ("len(word)", "its length", "int"),
            (f"len(word) % {k}", f"its length modulo {k}", "int"),
            (
                "sum(c in 'aeiou' for c in word.lower())",
                "the number of vowels (a, e, i, o, u in either case) in it",
                "int",
            ),
            (
                "(word[0].isupper(), len(word))",
                "the tuple of whether its first letter is upper case, and its length",
                "tuple[bool, int]",
            ),
            (f"word[:{k}]", f"its first {k} letters", "str"),
        ]
    )
    weight, weighed = rng.choice(
        [("1", "the number of such words"), ("len(word)", "the sum of the lengths of such words")]
        + [(f"max(len(word) - {k}, 0)", f"the sum over such words of the letters beyond the first {k}")] * (level > 1)
        + [("word.count('e') + 1", "the number of such words plus the number of letters 'e' in them")] * (level > 1)
    )
    lines = ["counts = {}", "for word in words:"]
    told = [f"Return a dict that maps each key to {weighed}. The key of a word is {named}."]
    if level > 2:
        least = rng.randint(2, 4)
        lines += [f"    if len(word) < {least + 1}:", "        continue"]
        told.append(f"Ignore words of fewer than {least + 1} letters.")
    lines += [f"    key = {key}", f"    counts[key] = counts.get(key, 0) + {weight}"]
    if level > 1:
        low = rng.randint(2, 3)
        lines.append(f"counts = {{key: n for key, n in counts.items() if n >= {low}}}")
        told.append(f"Leave out keys whose value would be less than {low}.")
    returns = f"dict[{kind}, int]"
    if level > 3:
        lines.append("return sorted(counts.items(), key=lambda item: (-item[1], item[0]))")
        told[0] = told[0].replace("Return a dict that maps", "Map")
        told.append("Return a list of (key, value) tuples, the largest value first, equal ones by ascending key.")
        returns = f"list[tuple[{kind}, int]]"
    else:
        lines.append("return counts")
    edges: tuple[Arguments, ...] = (([],), (["ox"],), (["noon", "noon", "Noon"],), (["abba", "ant", "Ant", "apple"],))
    return Draft("tally", "words: list[str]", returns, " ".join(told), "\n".join(lines), _some_words, edges)
