"""Equations, systems and sequences."""

from __future__ import annotations

import random
from fractions import Fraction

from .exercise import Exercise, exercise, generator, nonzero, polynomial, program, step, surd


@generator("linear_equations", 1)
def one_side(rng: random.Random) -> Exercise:
    a, root, b = rng.randint(2, 12), rng.randint(2, 60), rng.randint(2, 60)
    sign, inverse = rng.choice((("+", "-"), ("-", "+")))
    c = a * root + b if sign == "+" else a * root - b
    return exercise(f"Solve {a}x {sign} {b} = {c}.", root, step(f"({c}{inverse}{b})/{a}", root))


@generator("linear_equations", 2)
def both_sides(rng: random.Random) -> Exercise:
    a, c = rng.sample(range(2, 15), 2)
    root, b = nonzero(rng, 30), rng.randint(2, 60)
    d = (a - c) * root + b
    right = polynomial((c, d))
    return exercise(
        f"Solve {a}x + {b} = {right}.",
        root,
        step(f"{d} - {b}", d - b),
        step(f"{a} - {c}", a - c),
        step(f"{d - b} / ({a - c})", root),
    )


@generator("linear_equations", 3)
def with_parentheses(rng: random.Random) -> Exercise:
    a, c = rng.sample(range(2, 10), 2)
    b, d, root = nonzero(rng, 15), nonzero(rng, 15), nonzero(rng, 25)
    e = a * (root + b) - c * (root + d)
    return exercise(
        f"Solve {a}({polynomial((1, b))}) - {c}({polynomial((1, d))}) = {e}.",
        root,
        step(f"{a}*({b}) - {c}*({d})", a * b - c * d),
        step(f"{e} - ({a * b - c * d})", e - a * b + c * d),
        step(f"{e - a * b + c * d} / ({a} - {c})", root),
    )


@generator("linear_equations", 4)
def with_fractions(rng: random.Random) -> Exercise:
    p, q = rng.sample(range(2, 10), 2)
    a, b, c = nonzero(rng, 12), nonzero(rng, 12), nonzero(rng, 20)
    slope = Fraction(1, p) + Fraction(1, q)
    constant = Fraction(a, p) + Fraction(b, q)
    root = (c - constant) / slope
    return exercise(
        f"Solve ({polynomial((1, a))})/{p} + ({polynomial((1, b))})/{q} = {c}. Give the exact value of x.",
        root,
        step(f"1/{p} + 1/{q}", slope),
        step(f"{c} - ({a})/{p} - ({b})/{q}", c - constant),
        step(f"({c - constant}) / ({slope})", root),
    )


@generator("systems", 3)
def two_unknowns(rng: random.Random) -> Exercise:
    while True:
        a, b, c, d = (nonzero(rng, 9) for _ in range(4))
        if determinant := a * d - b * c:
            break
    x, y = nonzero(rng, 12), nonzero(rng, 12)
    e, f = a * x + b * y, c * x + d * y
    asked, value, top = rng.choice((("x", x, (e, d, b, f)), ("y", y, (a, f, e, c))))
    numerator = top[0] * top[1] - top[2] * top[3]
    return exercise(
        f"Solve the system {_sum((a, b), 'xy')} = {e}, {_sum((c, d), 'xy')} = {f}. What is {asked}?",
        value,
        step(f"({a})*({d}) - ({b})*({c})", determinant),
        step(f"({top[0]})*({top[1]}) - ({top[2]})*({top[3]})", numerator),
        step(f"({numerator}) / ({determinant})", value),
    )


@generator("systems", 5)
def three_unknowns(rng: random.Random) -> Exercise:
    while True:
        rows = [[nonzero(rng, 6) for _ in range(3)] for _ in range(3)]
        if _determinant(rows):
            break
    solution = [nonzero(rng, 9) for _ in range(3)]
    sides = [sum(factor * value for factor, value in zip(row, solution, strict=True)) for row in rows]
    equations = ", ".join(f"{_sum(row, 'xyz')} = {side}" for row, side in zip(rows, sides, strict=True))
    value = sum(solution)
    code = f"from sympy import Matrix\nprint(sum(Matrix({rows}).LUsolve(Matrix({sides}))))"
    return exercise(f"Solve the system {equations}. What is x + y + z?", value, program(code, value))


@generator("systems", 6)
def sum_and_product(rng: random.Random) -> Exercise:
    x, y = rng.sample(range(2, 40), 2)
    total, product = x + y, x * y
    cubes = x**3 + y**3
    return exercise(
        f"Two numbers have the sum {total} and the product {product}. What is the sum of their cubes?",
        cubes,
        step(f"{total}**3", total**3),
        step(f"3 * {product} * {total}", 3 * product * total),
        step(f"{total**3} - {3 * product * total}", cubes),
    )


@generator("quadratics", 3)
def whole_roots(rng: random.Random) -> Exercise:
    first, second = rng.sample([number for number in range(-15, 16) if number], 2)
    b, c = -(first + second), first * second
    discriminant = b * b - 4 * c
    high, low = max(first, second), min(first, second)
    return exercise(
        f"Find all solutions of {polynomial((1, b, c))} = 0, separated by commas.",
        (first, second),
        step(f"({b})**2 - 4*({c})", discriminant),
        step(f"(-({b}) + sqrt({discriminant})) / 2", high),
        step(f"(-({b}) - sqrt({discriminant})) / 2", low),
    )


@generator("quadratics", 4)
def larger_root(rng: random.Random) -> Exercise:
    first, second = (Fraction(nonzero(rng, 15), rng.randint(2, 5)) for _ in range(2))
    if first == second:
        return larger_root(rng)
    a = first.denominator * second.denominator
    b, c = int(-a * (first + second)), int(a * first * second)
    discriminant = b * b - 4 * a * c
    high, low = max(first, second), min(first, second)
    return exercise(
        f"What is the larger solution of {polynomial((a, b, c))} = 0? Give a fraction if it is not whole.",
        high,
        step(f"({b})**2 - 4*{a}*({c})", discriminant),
        step(f"(-({b}) - sqrt({discriminant})) / (2*{a})", low),
        step(f"(-({b}) + sqrt({discriminant})) / (2*{a})", high),
    )


@generator("quadratics", 5)
def distance_of_roots(rng: random.Random) -> Exercise:
    while True:
        a, b, c = rng.randint(1, 4), nonzero(rng, 14), nonzero(rng, 14)
        discriminant = b * b - 4 * a * c
        if discriminant > 0 and "sqrt" in (answer := surd(discriminant, Fraction(1, a))):
            break
    return exercise(
        f"How far apart are the two real solutions of {polynomial((a, b, c))} = 0? Give the exact value.",
        answer,
        step(f"({b})**2 - 4*{a}*({c})", discriminant),
        step(f"sqrt({discriminant}) / {a}", answer),
    )


@generator("quadratics", 6)
def power_sum_of_roots(rng: random.Random) -> Exercise:
    p, q = nonzero(rng, 9), nonzero(rng, 9)
    sums = [2, p]
    while len(sums) < 6:
        sums.append(p * sums[-1] - q * sums[-2])
    which = rng.randint(4, 5)
    steps = [step(f"{p}*({sums[k - 1]}) - ({q})*({sums[k - 2]})", sums[k]) for k in range(2, which + 1)]
    return exercise(
        f"Let r and s be the (possibly complex) solutions of {polynomial((1, -p, q))} = 0. "
        f"What is r^{which} + s^{which}?",
        sums[which],
        *steps,
    )


@generator("sequences", 1)
def next_term(rng: random.Random) -> Exercise:
    first, difference = rng.randint(2, 90), rng.randint(3, 40)
    terms = [first + difference * index for index in range(4)]
    return exercise(f"What comes next: {', '.join(map(str, terms))}?", terms[-1] + difference,
                    step(f"{terms[3]} + {terms[3]} - {terms[2]}", terms[-1] + difference))  # fmt: skip


@generator("sequences", 2)
def term_of_arithmetic(rng: random.Random) -> Exercise:
    first, difference, count = rng.randint(2, 60), nonzero(rng, 20), rng.randint(15, 90)
    shown = ", ".join(str(first + difference * index) for index in range(3))
    value = first + (count - 1) * difference
    return exercise(
        f"An arithmetic sequence begins {shown}. What is its term number {count}?",
        value,
        step(f"{count} - 1", count - 1),
        step(f"{first} + {count - 1}*({difference})", value),
    )


@generator("sequences", 3)
def sum_of_arithmetic(rng: random.Random) -> Exercise:
    first, difference, count = rng.randint(2, 60), rng.randint(2, 15), rng.randint(12, 80)
    shown = ", ".join(str(first + difference * index) for index in range(3))
    last = first + (count - 1) * difference
    total = count * (first + last) // 2
    return exercise(
        f"An arithmetic sequence begins {shown}. What is the sum of its first {count} terms?",
        total,
        step(f"{first} + ({count} - 1)*{difference}", last),
        step(f"{count} * ({first} + {last}) / 2", total),
    )


@generator("sequences", 4)
def sum_of_geometric(rng: random.Random) -> Exercise:
    first, ratio, count = rng.randint(1, 30), rng.randint(2, 5), rng.randint(5, 10)
    shown = ", ".join(str(first * ratio**index) for index in range(3))
    total = first * (ratio**count - 1) // (ratio - 1)
    return exercise(
        f"A geometric sequence begins {shown}. What is the sum of its first {count} terms?",
        total,
        step(f"{ratio}**{count} - 1", ratio**count - 1),
        step(f"{first} * {ratio**count - 1} / ({ratio} - 1)", total),
    )


@generator("sequences", 5)
def recurrence(rng: random.Random) -> Exercise:
    p, q, a, b = rng.randint(1, 4), nonzero(rng, 4), rng.randint(0, 9), rng.randint(1, 9)
    which = rng.randint(6, 8)
    terms = [a, b]
    while len(terms) <= which:
        terms.append(p * terms[-1] + q * terms[-2])
    sign = "+" if q > 0 else "-"
    steps = [step(f"{p}*({terms[k - 1]}) + ({q})*({terms[k - 2]})", terms[k]) for k in range(2, which + 1)]
    return exercise(
        f"Let a(0) = {a}, a(1) = {b} and a(n) = {p}*a(n-1) {sign} {abs(q)}*a(n-2). What is a({which})?",
        terms[which],
        *steps,
    )


@generator("sequences", 6)
def linear_recurrence_modulo(rng: random.Random) -> Exercise:
    p, q, modulus, which = rng.randint(2, 9), rng.randint(1, 9), rng.randint(50, 999), rng.randint(50, 500)
    a, b = rng.randint(0, 9), rng.randint(1, 9)
    low, high = a, b
    for _ in range(which - 1):
        low, high = high, (p * high + q * low) % modulus
    loop = f"a, b = {a}, {b}\nfor _ in range({which - 1}):\n    a, b = b, ({p}*b + {q}*a) % {modulus}"
    code = f"{loop}\nprint(b % {modulus})"
    return exercise(
        f"Let a(0) = {a}, a(1) = {b} and a(n) = {p}*a(n-1) + {q}*a(n-2). What is a({which}) modulo {modulus}?",
        high % modulus,
        program(code, high % modulus),
    )


def _sum(factors: tuple[int, ...] | list[int], variables: str) -> str:
    text = ""
    for factor, variable in zip(factors, variables, strict=True):
        sign = ("-" if factor < 0 else "") if not text else (" - " if factor < 0 else " + ")
        text += f"{sign}{'' if abs(factor) == 1 else abs(factor)}{variable}"
    return text


def _determinant(rows: list[list[int]]) -> int:
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
