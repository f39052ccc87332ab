"""Arithmetic and word problems: sums, percentages, rates, averages."""

from __future__ import annotations

import random
from fractions import Fraction

from .exercise import Exercise, exercise, generator, step

_NAMES = ("Ana", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam")
_THINGS = ("apples", "stickers", "marbles", "coins", "cards", "pencils", "shells", "stamps", "beads", "buttons")


@generator("arithmetic", 1)
def product(rng: random.Random) -> Exercise:
    a, b = rng.randint(12, 99), rng.randint(12, 99)
    return exercise(f"What is {a} * {b}?", a * b, step(f"{a} * {b}", a * b))


@generator("arithmetic", 1)
def sum_or_difference(rng: random.Random) -> Exercise:
    a, b = rng.randint(100, 9999), rng.randint(100, 9999)
    sign = rng.choice("+-")
    value = a + b if sign == "+" else a - b
    return exercise(f"What is {a} {sign} {b}?", value, step(f"{a} {sign} {b}", value))


@generator("arithmetic", 2)
def order_of_operations(rng: random.Random) -> Exercise:
    a, b, c, d = (rng.randint(2, 60) for _ in range(4))
    first, second = a + b, c * d
    value = first * c - second
    return exercise(
        f"What is ({a} + {b}) * {c} - {c} * {d}?",
        value,
        step(f"{a} + {b}", first),
        step(f"{first} * {c}", first * c),
        step(f"{c} * {d}", second),
        step(f"{first * c} - {second}", value),
    )


@generator("arithmetic", 3)
def nested(rng: random.Random) -> Exercise:
    a, b, c, d = (rng.randint(2, 30) for _ in range(4))
    power = rng.randint(2, 3)
    inner = a**power - b
    value = inner * c + d * d
    return exercise(
        f"What is ({a}^{power} - {b}) * {c} + {d}^2?",
        value,
        step(f"{a}**{power} - {b}", inner),
        step(f"{inner} * {c}", inner * c),
        step(f"{inner * c} + {d}**2", value),
    )


@generator("word_problems", 1)
def one_step(rng: random.Random) -> Exercise:
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    kind = rng.randrange(4)
    if kind == 0:
        a, b = rng.randint(12, 900), rng.randint(12, 900)
        return exercise(f"{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?", a + b,
                        step(f"{a} + {b}", a + b))  # fmt: skip
    if kind == 1:
        b = rng.randint(12, 400)
        a = b + rng.randint(12, 500)
        return exercise(f"{name} has {a} {things} and gives away {b}. How many {things} are left?", a - b,
                        step(f"{a} - {b}", a - b))  # fmt: skip
    a, b = rng.randint(6, 60), rng.randint(6, 60)
    if kind == 2:
        return exercise(f"{name} fills {a} boxes with {b} {things} each. How many {things} are that?", a * b,
                        step(f"{a} * {b}", a * b))  # fmt: skip
    return exercise(f"{name} shares {a * b} {things} equally among {a} bags. How many {things} are in a bag?", b,
                    step(f"{a * b} / {a}", b))  # fmt: skip


@generator("word_problems", 2)
def shopping(rng: random.Random) -> Exercise:
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    price, count, other = rng.randint(3, 40), rng.randint(3, 30), rng.randint(5, 90)
    cost = price * count
    paid = cost + other + rng.randint(5, 200)
    return exercise(
        f"{name} buys {count} packs of {things} at {price} dollars each and a bag for {other} dollars, and pays with "
        f"{paid} dollars. How many dollars of change does {name} get?",
        paid - cost - other,
        step(f"{count} * {price}", cost),
        step(f"{cost} + {other}", cost + other),
        step(f"{paid} - {cost + other}", paid - cost - other),
    )


@generator("word_problems", 2)
def compare(rng: random.Random) -> Exercise:
    first, second = rng.sample(_NAMES, 2)
    things = rng.choice(_THINGS)
    own, times, more = rng.randint(8, 90), rng.randint(2, 9), rng.randint(3, 60)
    other = own * times + more
    return exercise(
        f"{first} has {own} {things}. {second} has {more} more than {times} times as many. "
        f"How many {things} do they have together?",
        own + other,
        step(f"{own} * {times} + {more}", other),
        step(f"{other} + {own}", own + other),
    )


@generator("word_problems", 3)
def ages(rng: random.Random) -> Exercise:
    first, second = rng.sample(_NAMES, 2)
    younger, times, years = rng.randint(4, 15), rng.randint(2, 5), rng.randint(3, 20)
    older = younger * times
    total = younger + older + 2 * years
    return exercise(
        f"{first} is {times} times as old as {second}. In {years} years they will be {total} years old together. "
        f"How old is {first} now?",
        older,
        step(f"{total} - 2*{years}", younger + older),
        step(f"{younger + older} / ({times} + 1)", younger),
        step(f"{younger} * {times}", older),
    )


@generator("word_problems", 4)
def tickets(rng: random.Random) -> Exercise:
    adults, children = rng.randint(20, 300), rng.randint(20, 300)
    price = rng.randint(8, 25)
    reduced = rng.randint(3, price - 2)
    people, money = adults + children, adults * price + children * reduced
    surplus = money - people * reduced
    return exercise(
        f"A show sells {people} tickets for {money} dollars. A ticket costs {price} dollars for an adult and {reduced} "
        "for a child. How many adults come?",
        adults,
        step(f"{people} * {reduced}", people * reduced),
        step(f"{money} - {people * reduced}", surplus),
        step(f"{surplus} / ({price} - {reduced})", adults),
    )


@generator("percentages", 1)
def percent_of(rng: random.Random) -> Exercise:
    percent, base = rng.randint(2, 95), rng.randint(2, 60) * 20
    value = Fraction(percent * base, 100)
    return exercise(f"What is {percent}% of {base}?", value, step(f"{percent}/100 * {base}", value))


@generator("percentages", 2)
def changed_price(rng: random.Random) -> Exercise:
    base, percent = rng.randint(4, 90) * 20, rng.randint(1, 18) * 5
    up = rng.random() < 0.5
    part = Fraction(base * percent, 100)
    value = base + part if up else base - part
    verb, sign = ("raised", "+") if up else ("lowered", "-")
    return exercise(
        f"A price of {base} dollars is {verb} by {percent}%. What is the new price in dollars?",
        value,
        step(f"{base} * {percent}/100", part),
        step(f"{base} {sign} {_plain(part)}", value),
    )


@generator("percentages", 3)
def back_to_the_base(rng: random.Random) -> Exercise:
    base, percent = rng.randint(3, 60) * 20, rng.choice((10, 15, 20, 25, 30, 40, 45, 60, 65))
    value = Fraction(base * (100 - percent), 100)
    return exercise(
        f"After a discount of {percent}% something costs {_plain(value)} dollars. What did it cost before?",
        base,
        step(f"1 - {percent}/100", Fraction(100 - percent, 100)),
        step(f"{_plain(value)} / ({100 - percent}/100)", base),
    )


@generator("percentages", 4)
def compound_interest(rng: random.Random) -> Exercise:
    base, percent, years = rng.randint(1, 40) * 1000, rng.randint(2, 12), rng.randint(2, 3)
    factor = Fraction(100 + percent, 100)
    value = base * factor**years
    return exercise(
        f"{base} dollars earn {percent}% interest a year, compounded yearly. "
        f"How many dollars are there after {years} years? Give the exact value.",
        value,
        step(f"(1 + {percent}/100)**{years}", factor**years),
        step(f"{base} * (1 + {percent}/100)**{years}", value),
    )


@generator("rates", 2)
def distance(rng: random.Random) -> Exercise:
    speed, hours, minutes = rng.randint(20, 120), rng.randint(1, 6), rng.choice((15, 20, 30, 40, 45))
    time = hours + Fraction(minutes, 60)
    return exercise(
        f"A train runs at {speed} km/h for {hours} hours and {minutes} minutes. How many kilometres does it cover?",
        speed * time,
        step(f"{hours} + {minutes}/60", time),
        step(f"{speed} * ({hours} + {minutes}/60)", speed * time),
    )


@generator("rates", 3)
def working_together(rng: random.Random) -> Exercise:
    a, b = rng.sample(range(2, 31), 2)
    rate = Fraction(1, a) + Fraction(1, b)
    return exercise(
        f"One pump fills a tank in {a} hours, another in {b} hours. How many hours do both take together? "
        "Give a fraction.",
        1 / rate,
        step(f"1/{a} + 1/{b}", rate),
        step(f"1 / ({rate})", 1 / rate),
    )


@generator("rates", 4)
def average_speed(rng: random.Random) -> Exercise:
    there, back = rng.sample(range(20, 121, 5), 2)
    way = rng.randint(3, 40) * 10
    first, second = Fraction(way, there), Fraction(way, back)
    value = 2 * way / (first + second)
    return exercise(
        f"Somebody drives {way} km at {there} km/h and the same way back at {back} km/h. "
        "What is the average speed of the whole trip in km/h? Give the exact value.",
        value,
        step(f"{way}/{there} + {way}/{back}", first + second),
        step(f"2*{way} / ({first + second})", value),
    )


@generator("averages", 2)
def mean(rng: random.Random) -> Exercise:
    numbers = [rng.randint(1, 99) for _ in range(rng.randint(4, 6))]
    total = sum(numbers)
    listed = ", ".join(map(str, numbers))
    return exercise(
        f"What is the mean of {listed}?",
        Fraction(total, len(numbers)),
        step(" + ".join(map(str, numbers)), total),
        step(f"{total} / {len(numbers)}", Fraction(total, len(numbers))),
    )


@generator("averages", 3)
def missing_number(rng: random.Random) -> Exercise:
    numbers = [rng.randint(1, 99) for _ in range(rng.randint(4, 6))]
    count = len(numbers) + 1
    mean_value = rng.randint(30, 60)
    missing = mean_value * count - sum(numbers)
    return exercise(
        f"The mean of {count} numbers is {mean_value}. All but one are {', '.join(map(str, numbers))}. "
        "What is the last?",
        missing,
        step(f"{mean_value} * {count}", mean_value * count),
        step(" + ".join(map(str, numbers)), sum(numbers)),
        step(f"{mean_value * count} - {sum(numbers)}", missing),
    )


def _plain(value: Fraction) -> str:
    """A decimal of at most two places, which is what a price has."""
    return str(value) if value.denominator == 1 else f"{float(value):.2f}".rstrip("0")
