"""Areas, lengths and volumes with exact values: roots and pi stay as they are."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from .exercise import Exercise, exercise, generator, step, surd

_TRIPLES = [
    (m * m - n * n, 2 * m * n, m * m + n * n)
    for m in range(2, 9)
    for n in range(1, m)
    if (m - n) % 2 and math.gcd(m, n) == 1
]


@generator("geometry", 1)
def rectangle(rng: random.Random) -> Exercise:
    a, b = rng.randint(3, 90), rng.randint(3, 90)
    if rng.random() < 0.5:
        return exercise(f"A rectangle has sides {a} cm and {b} cm. What is its area in square centimetres?", a * b,
                        step(f"{a} * {b}", a * b))  # fmt: skip
    return exercise(f"A rectangle has sides {a} cm and {b} cm. What is its perimeter in centimetres?", 2 * (a + b),
                    step(f"2 * ({a} + {b})", 2 * (a + b)))  # fmt: skip


@generator("geometry", 2)
def trapezoid(rng: random.Random) -> Exercise:
    a, b, height = rng.randint(3, 50), rng.randint(3, 50), rng.randint(3, 40)
    area = Fraction((a + b) * height, 2)
    return exercise(
        f"A trapezoid has parallel sides of {a} cm and {b} cm and a height of {height} cm. "
        "What is its area in square centimetres?",
        area,
        step(f"{a} + {b}", a + b),
        step(f"{a + b} * {height} / 2", area),
    )


@generator("geometry", 2)
def missing_side(rng: random.Random) -> Exercise:
    a, b = rng.randint(4, 80), rng.randint(4, 80)
    perimeter = 2 * (a + b)
    return exercise(
        f"A rectangle has a perimeter of {perimeter} cm and one side of {a} cm. "
        "What is its area in square centimetres?",
        a * b,
        step(f"{perimeter}/2 - {a}", b),
        step(f"{a} * {b}", a * b),
    )


@generator("geometry", 3)
def right_triangle(rng: random.Random) -> Exercise:
    a, b, c = (side * factor for factor in [rng.randint(1, 9)] for side in rng.choice(_TRIPLES))
    if rng.random() < 0.5:
        return exercise(
            f"A right triangle has legs {a} and {b}. How long is its hypotenuse?",
            c,
            step(f"{a}**2 + {b}**2", c * c),
            step(f"sqrt({c * c})", c),
        )
    return exercise(
        f"A right triangle has hypotenuse {c} and one leg {a}. What is its area?",
        Fraction(a * b, 2),
        step(f"{c}**2 - {a}**2", b * b),
        step(f"sqrt({b * b})", b),
        step(f"{a} * {b} / 2", Fraction(a * b, 2)),
    )


@generator("geometry", 4)
def distance_of_points(rng: random.Random) -> Exercise:
    x, y, u, v = (rng.randint(-15, 15) for _ in range(4))
    square = (u - x) ** 2 + (v - y) ** 2
    if not square:
        return distance_of_points(rng)
    return exercise(
        f"What is the distance between ({x}, {y}) and ({u}, {v})? Give the exact value.",
        surd(square),
        step(f"({u} - ({x}))**2 + ({v} - ({y}))**2", square),
        step(f"sqrt({square})", surd(square)),
    )


@generator("geometry", 4)
def ring(rng: random.Random) -> Exercise:
    outer = rng.randint(4, 40)
    inner = rng.randint(1, outer - 1)
    square = outer**2 - inner**2
    return exercise(
        f"Two circles around the same centre have radii {outer} and {inner}. "
        "What is the area between them? Give it as a multiple of pi.",
        f"{square}*pi",
        step(f"{outer}**2 - {inner}**2", square),
        step(f"{square}*pi", f"{square}*pi"),
    )


@generator("geometry", 4)
def cylinder(rng: random.Random) -> Exercise:
    radius, height = rng.randint(2, 25), rng.randint(2, 40)
    value = 2 * radius * (radius + height)
    return exercise(
        f"A closed cylinder has radius {radius} and height {height}. "
        "What is its whole surface area? Give it as a multiple of pi.",
        f"{value}*pi",
        step(f"2 * {radius} * ({radius} + {height})", value),
        step(f"{value}*pi", f"{value}*pi"),
    )


@generator("geometry", 5)
def heron(rng: random.Random) -> Exercise:
    while True:
        a, b, c = (rng.randint(4, 30) for _ in range(3))
        if a + b > c and a + c > b and b + c > a:
            break
    square = (a + b + c) * (-a + b + c) * (a - b + c) * (a + b - c)
    area = surd(square, Fraction(1, 4))
    return exercise(
        f"A triangle has sides {a}, {b} and {c}. What is its area? Give the exact value.",
        area,
        step(f"({a}+{b}+{c}) * ({b}+{c}-{a}) * ({a}+{c}-{b}) * ({a}+{b}-{c})", square),
        step(f"sqrt({square}) / 4", area),
    )


@generator("geometry", 5)
def polygon_by_corners(rng: random.Random) -> Exercise:
    x, y, u, v, w, z = (rng.randint(-12, 12) for _ in range(6))
    doubled = (u - x) * (z - y) - (w - x) * (v - y)
    if not doubled:
        return polygon_by_corners(rng)
    return exercise(
        f"What is the area of the triangle with corners ({x}, {y}), ({u}, {v}) and ({w}, {z})?",
        Fraction(abs(doubled), 2),
        step(f"({u}-({x}))*({z}-({y})) - ({w}-({x}))*({v}-({y}))", doubled),
        step(f"abs({doubled}) / 2", Fraction(abs(doubled), 2)),
    )


@generator("geometry", 6)
def inscribed_circle(rng: random.Random) -> Exercise:
    while True:
        a, b, c = (rng.randint(4, 25) for _ in range(3))
        if a + b > c and a + c > b and b + c > a:
            break
    top = (-a + b + c) * (a - b + c) * (a + b - c)
    square = Fraction(top, 4 * (a + b + c))
    return exercise(
        f"A triangle has sides {a}, {b} and {c}. What is the area of its inscribed circle? Give a multiple of pi.",
        _pi(square),
        step(f"({b}+{c}-{a}) * ({a}+{c}-{b}) * ({a}+{b}-{c})", top),
        step(f"{top} / (4*({a}+{b}+{c}))", square),
        step(f"{top} / (4*({a}+{b}+{c})) * pi", _pi(square)),
    )


def _pi(factor: Fraction) -> str:
    top = "" if factor.numerator == 1 else f"{factor.numerator}*"
    return f"{top}pi" if factor.denominator == 1 else f"{top}pi/{factor.denominator}"
