"""Families that ask for recursion or dynamic programming: nested lists, recurrences, counting and best sums."""

from __future__ import annotations

import random
from typing import Any

from .draft import Arguments, Draft, integers


def _nest(rng: random.Random, depth: int) -> list[Any]:
    return [
        _nest(rng, depth - 1) if depth and rng.random() < 0.4 else rng.randint(-20, 50)
        for _ in range(rng.randint(0, 5))
    ]


def _nested(rng: random.Random) -> Arguments:
    return (_nest(rng, 3),)


def nesting(rng: random.Random, level: int) -> Draft:
    """A nested list of integers to one number or a flat list; the depth counts."""
    k, a = rng.randint(2, 6), rng.randint(2, 20)
    leaf, leafed = rng.choice(
        [("item", "the number itself"), (f"item * {a}", f"the number times {a}")]
        + [
            ("item * depth", "the number times its depth"),
            (f"item % {k} + depth", f"the number modulo {k} plus its depth"),
        ]
        * (level > 1)
        + [(f"abs(item - {a}) * (depth % {k})", f"its distance from {a} times (its depth modulo {k})")] * (level > 2)
    )
    test, tested = "else", ""
    if level > 2:
        test, tested = rng.choice(
            [
                (f"elif item % {k} != 0", f" Numbers divisible by {k} are left out."),
                ("elif item >= 0", " Negative numbers are left out."),
                ("elif depth > 1", " Numbers of the outermost list are left out."),
                (f"elif depth < {k}", f" Numbers at depth {k} or deeper are left out."),
            ]
        )
    ends = [
        ("the sum of", "sum(found)", "int"),
        ("the flat list, from left to right, of", "found", "list[int]"),
        ("the largest (0 if there is none) of", "max(found, default=0)", "int"),
        ("the sum of the first and the last (0 if there is none) of", "found[0] + found[-1] if found else 0", "int"),
        ("the number of different values among", "len(set(found))", "int"),
    ]
    phrase, result, returns = rng.choice(ends[: 3 + level // 2])
    order, ordered = ("reversed(part)", "from right to left") if level > 3 and rng.random() < 0.5 else ("part", "")
    direction = f" Go through every list {ordered}." if ordered else ""
    phrase = phrase.replace(", from left to right,", "") if ordered else phrase
    body = (
        f"found = []\n\ndef walk(part, depth):\n    for item in {order}:\n        if isinstance(item, list):\n"
        f"            walk(item, depth + 1)\n        {test}:\n            found.append({leaf})\n\n"
        f"walk(nested, 1)\nreturn {result}"
    )
    task = (
        "nested is a list of integers and of such lists, at any depth; an integer's depth is 1 in the outermost list. "
        f"For every integer take {leafed}.{tested}{direction} Return {phrase} what was taken."
    )
    edges: tuple[Arguments, ...] = (([],), ([[]],), ([1],), ([[[3]]],), ([1, [2, [3, [4]]]],), ([-1, [-2], 7, [0, 5]],))
    return Draft("collect", "nested: list", returns, task, body, _nested, edges)


def _small(rng: random.Random) -> Arguments:
    return (rng.randint(0, 60),)


def recurrence(rng: random.Random, level: int) -> Draft:
    """A sequence defined by its first terms and a recurrence, modulo a number."""
    order = min(1 + level // 2, 3)
    first = [rng.randint(0, 9) for _ in range(order)]
    factors = [rng.randint(1, 5) for _ in range(order)]
    m, c = rng.choice([97, 101, 997, 1009, 10_007]), rng.randint(0, 9)
    terms = " + ".join(f"{factor} * f(n - {back})" for back, factor in enumerate(factors, 1))
    starts = ", ".join(f"f({index}) = {value}" for index, value in enumerate(first))
    code = " + ".join(f"{factor} * f[n - {back}]" for back, factor in enumerate(factors, 1))
    special, line = "", ""
    if level > 2:
        k, other = rng.randint(3, 5), rng.randint(1, 9)
        special = f" But where n is divisible by {k} and f(n) is not given, f(n) = (f(n - 1) + {other} * n) mod {m}."
        line = f"    if n % {k} == 0:\n        f.append((f[n - 1] + {other} * n) % {m})\n        continue\n"
    returned, result = ("f(n)", "f[last]")
    if level > 3:
        returned, result = rng.choice(
            [
                ("the sum f(0) + ... + f(n)", "sum(f[: last + 1])"),
                ("the largest of f(0), ..., f(n)", "max(f[: last + 1])"),
                ("how many of f(0), ..., f(n) are odd", "sum(v % 2 for v in f[: last + 1])"),
            ]
        )
    body = f"f = {first}\nfor n in range({order}, last + 1):\n{line}    f.append(({code} + {c}) % {m})\nreturn {result}"
    task = (
        f"A sequence begins with {starts}; after that f(n) = ({terms} + {c}) mod {m}.{special} "
        f"Return {returned} for n = last, which is not negative."
    )
    edges: tuple[Arguments, ...] = ((0,), (1,), (2,), (3,), (200,))
    return Draft("term", "last: int", "int", task, body, _small, edges)


def _values(rng: random.Random) -> Arguments:
    return (integers(rng, longest=10, low=-9, high=20),)


def dynamic(rng: random.Random, level: int) -> Draft:
    """Dynamic programming: ways, fewest pieces, best sums, longest runs."""
    return rng.choice([_ways, _fewest, _best_apart, _longest][: 2 if level == 1 else 4])(rng, level)


def _pieces(rng: random.Random, level: int) -> list[int]:
    return sorted(rng.sample(range(1, 10), min(level + 1, 4)))


def _ways(rng: random.Random, level: int) -> Draft:
    pieces, m = _pieces(rng, level), rng.choice([1_000, 10_007, 997])
    banned, told, line = rng.randint(4, 9), "", ""
    if level > 2:
        told = f" You must never stand on a step whose number is divisible by {banned} (0 and total excepted)."
        line = f"    if n % {banned} == 0 and n != total:\n        ways.append(0)\n        continue\n"
    task = (
        f"You climb from step 0 to step total; each move goes up by one of {pieces} steps.{told} Return the number of "
        f"different sequences of moves, modulo {m}. For total = 0 there is one, the empty sequence."
    )
    body = (
        f"ways = [1]\nfor n in range(1, total + 1):\n{line}"
        f"    ways.append(sum(ways[n - p] for p in {pieces} if p <= n) % {m})\nreturn ways[total]"
    )
    return Draft("count_ways", "total: int", "int", task, body, _small, ((0,), (1,), (2,), (5,), (150,)))


def _fewest(rng: random.Random, level: int) -> Draft:
    pieces = [piece * rng.randint(1, 2) + 1 for piece in _pieces(rng, level)]
    pieces = sorted({*pieces, rng.randint(10, 14)})
    cost, told = "1", "the smallest number of coins"
    if level > 2:
        extra = rng.randint(1, 4)
        cost = f"(1 + {extra} * (p % 2))"
        told = f"the smallest weight, where an even coin weighs 1 and an odd coin {1 + extra},"
    task = (
        f"There are coins of the values {pieces}, as many as you like of each. Return {told} that add up to exactly "
        "total; -1 if that is not possible. For total = 0 it is 0."
    )
    body = (
        f"best = [0]\nfor n in range(1, total + 1):\n"
        f"    found = [best[n - p] + {cost} for p in {pieces} if p <= n and best[n - p] >= 0]\n"
        "    best.append(min(found, default=-1))\nreturn best[total]"
    )
    return Draft("fewest", "total: int", "int", task, body, _small, ((0,), (1,), (3,), (13,), (100,)))


def _best_apart(rng: random.Random, level: int) -> Draft:
    gap, price = rng.randint(1, 3), rng.randint(1, 4) if level > 2 else 0
    told = f" Each number that you choose costs {price}, which is subtracted from the sum." if price else ""
    task = (
        f"Choose any of the numbers, but between two chosen ones there must be at least {gap} others.{told} Return the "
        "largest possible result; choosing none gives 0."
    )
    body = (
        f"best = [0]\nfor i, value in enumerate(values):\n"
        f"    before = best[max(i - {gap}, 0)]\n    best.append(max(best[-1], before + value - {price}))\n"
        "return best[-1]"
    )
    edges: tuple[Arguments, ...] = (([],), ([-1, -2],), ([5],), ([9, 9, 9, 9, 9],), ([1, 20, 1, 20],))
    return Draft("best_sum", "values: list[int]", "int", task, body, _values, edges)


def _longest(rng: random.Random, level: int) -> Draft:
    step = rng.randint(1, 4)
    relation, told = rng.choice(
        [
            (f"values[j] + {step} <= value", f"each number is greater than the one before it by at least {step}"),
            (f"values[j] - {step} >= value", f"each number is less than the one before it by at least {step}"),
            (f"abs(values[j] - value) <= {step}", f"each number differs from the one before it by at most {step}"),
            (
                f"(value - values[j]) % {step + 1} == 0",
                f"each number differs from the one before it by a multiple of {step + 1}",
            ),
        ]
    )
    weight, measured = ("value", "largest sum") if level > 3 else ("1", "length")
    task = (
        "Numbers may be removed from the list, the others keep their order. Look at what remains when "
        f"{told}. Return the {'largest sum' if level > 3 else 'greatest length'} that can remain; 0 for an empty list."
        + (" At least one number must remain if there is one." if measured == "largest sum" else "")
    )
    body = (
        "best = []\nfor i, value in enumerate(values):\n"
        f"    before = [best[j] for j in range(i) if {relation}]\n"
        f"    best.append(max(max(before, default=0), 0) + {weight})\nreturn max(best, default=0)"
    )
    edges: tuple[Arguments, ...] = (([],), ([4],), ([-5, -5],), ([1, 2, 3, 4, 5],), ([9, 7, 5, 3],))
    return Draft("longest", "values: list[int]", "int", task, body, _values, edges)
