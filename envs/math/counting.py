"""Counting and probability."""

from __future__ import annotations

import math
import operator
import random
from collections import Counter
from fractions import Fraction

from .exercise import Exercise, exercise, generator, program, step

_WORDS = (
    *("BANANA", "LETTER", "COFFEE", "PEPPER", "BALLOON", "SUCCESS", "COMMITTEE", "TENNESSEE", "ADDRESS", "MINIMUM"),
    *("PARALLEL", "ASSESS", "BOOKKEEPER", "POSSESS", "CINNAMON", "TOMORROW", "STATISTICS", "ENGINEER", "GRAMMAR"),
    *("MISSISSIPPI", "CONNECTICUT", "ALABAMA", "HAWAII", "ILLINOIS", "MASSACHUSETTS", "INDIANA", "KANSAS", "TEXAS"),
    *("ARKANSAS", "DELAWARE", "NEVADA", "OREGON", "VIRGINIA", "WYOMING", "COLORADO", "GEORGIA", "MARYLAND", "MONTANA"),
)

_COMPARISONS = (("at least", ">=", operator.ge), ("at most", "<=", operator.le), ("exactly", "==", operator.eq))


@generator("counting", 2)
def outfits(rng: random.Random) -> Exercise:
    a, b, c = rng.randint(3, 25), rng.randint(3, 25), rng.randint(2, 15)
    return exercise(
        f"A menu has {a} starters, {b} main dishes and {c} desserts. "
        "How many different meals of three courses are there?",
        a * b * c,
        step(f"{a} * {b}", a * b),
        step(f"{a * b} * {c}", a * b * c),
    )


@generator("counting", 3)
def committee(rng: random.Random) -> Exercise:
    people = rng.randint(7, 90)
    chosen = rng.randint(2, 5)
    value = math.comb(people, chosen)
    return exercise(
        f"In how many ways can {chosen} of {people} people be chosen?",
        value,
        step(f"binomial({people}, {chosen})", value),
    )


@generator("counting", 4)
def mixed_committee(rng: random.Random) -> Exercise:
    women, men = rng.randint(5, 18), rng.randint(5, 18)
    first, second = rng.randint(2, 4), rng.randint(2, 4)
    a, b = math.comb(women, first), math.comb(men, second)
    return exercise(
        f"In how many ways can {first} of {women} women and {second} of {men} men be chosen?",
        a * b,
        step(f"binomial({women}, {first})", a),
        step(f"binomial({men}, {second})", b),
        step(f"{a} * {b}", a * b),
    )


@generator("counting", 5)
def anagrams(rng: random.Random) -> Exercise:
    word = "".join(rng.sample(rng.choice(_WORDS), k=5)) + rng.choice("AEIOU") * rng.randint(1, 3)
    counts = [count for count in Counter(word).values() if count > 1]
    value = math.factorial(len(word)) // math.prod(map(math.factorial, counts))
    below = " / ".join(f"factorial({count})" for count in counts)
    steps = [step(f"factorial({len(word)})", math.factorial(len(word)))]
    if counts:
        steps.append(step(f"{math.factorial(len(word))} / {below}", value))
    return exercise(f"In how many different orders can the letters of {word} be written?", value, *steps)


@generator("counting", 6)
def lattice_paths(rng: random.Random) -> Exercise:
    right, up = rng.randint(5, 14), rng.randint(5, 14)
    x, y = rng.randint(1, right - 1), rng.randint(1, up - 1)
    every = math.comb(right + up, right)
    through = math.comb(x + y, x) * math.comb(right + up - x - y, right - x)
    return exercise(
        f"A path goes from (0, 0) to ({right}, {up}) in steps of 1 to the right or up and must not touch ({x}, {y}). "
        "How many such paths are there?",
        every - through,
        step(f"binomial({right + up}, {right})", every),
        step(f"binomial({x + y}, {x}) * binomial({right + up - x - y}, {right - x})", through),
        step(f"{every} - {through}", every - through),
    )


@generator("probability", 2)
def one_draw(rng: random.Random) -> Exercise:
    red, blue, green = (rng.randint(2, 30) for _ in range(3))
    total = red + blue + green
    return exercise(
        f"A bag holds {red} red, {blue} blue and {green} green balls. What is the probability that a ball drawn is not "
        "red? Give a fraction.",
        Fraction(total - red, total),
        step(f"{red} + {blue} + {green}", total),
        step(f"({blue} + {green}) / {total}", Fraction(total - red, total)),
    )


@generator("probability", 3)
def two_draws(rng: random.Random) -> Exercise:
    red, blue = rng.randint(2, 20), rng.randint(2, 20)
    total = red + blue
    value = Fraction(red, total) * Fraction(red - 1, total - 1)
    return exercise(
        f"A bag holds {red} red and {blue} blue balls. Two are drawn without putting back. "
        "What is the probability that both are red? Give a fraction.",
        value,
        step(f"{red} + {blue}", total),
        step(f"{red}/{total} * {red - 1}/{total - 1}", value),
    )


@generator("probability", 4)
def exactly(rng: random.Random) -> Exercise:
    red, blue = rng.randint(4, 15), rng.randint(4, 15)
    drawn = rng.randint(3, 5)
    wanted = rng.randint(1, min(drawn - 1, red - 1))
    ways = math.comb(red, wanted) * math.comb(blue, drawn - wanted)
    every = math.comb(red + blue, drawn)
    return exercise(
        f"A bag holds {red} red and {blue} blue balls. {drawn} are drawn without putting back. What is the probability "
        f"that exactly {wanted} of them are red? Give a fraction.",
        Fraction(ways, every),
        step(f"binomial({red}, {wanted}) * binomial({blue}, {drawn - wanted})", ways),
        step(f"binomial({red + blue}, {drawn})", every),
        step(f"{ways} / {every}", Fraction(ways, every)),
    )


@generator("probability", 5)
def sum_of_dice(rng: random.Random) -> Exercise:
    dice, sides = rng.randint(2, 4), rng.randint(4, 10)
    bound = rng.randint(dice + 2, dice * sides - 2)
    said, sign, holds = rng.choice(_COMPARISONS)
    counts = Counter({0: 1})
    for _ in range(dice):
        counts = Counter({s: sum(counts[s - face] for face in range(1, sides + 1)) for s in range(dice * sides + 1)})
    value = Fraction(sum(count for total, count in counts.items() if holds(total, bound)), sides**dice)
    code = (
        "from fractions import Fraction\nfrom itertools import product\n"
        f"rolls = list(product(range(1, {sides + 1}), repeat={dice}))\n"
        f"print(Fraction(sum(sum(roll) {sign} {bound} for roll in rolls), len(rolls)))"
    )
    return exercise(
        f"{dice} fair dice with faces 1 to {sides} are rolled. "
        f"What is the probability that their sum is {said} {bound}? Give a fraction.",
        value,
        program(code, value),
    )


@generator("probability", 6)
def bayes(rng: random.Random) -> Exercise:
    rare, hit, alarm = rng.randint(1, 20), rng.randint(80, 99), rng.randint(1, 15)
    positive = Fraction(rare * hit + (100 - rare) * alarm, 10_000)
    value = Fraction(rare * hit, 10_000) / positive
    return exercise(
        f"{rare}% of all parts are faulty. A test finds {hit}% of the faulty parts and also reports {alarm}% of the "
        "good ones. What is the probability that a reported part is faulty? Give a fraction.",
        value,
        step(f"{rare}/100 * {hit}/100", Fraction(rare * hit, 10_000)),
        step(f"{rare}/100 * {hit}/100 + (1 - {rare}/100) * {alarm}/100", positive),
        step(f"({Fraction(rare * hit, 10_000)}) / ({positive})", value),
    )
