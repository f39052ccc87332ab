"""Derivatives and integrals of polynomials."""

from __future__ import annotations

import random
from fractions import Fraction

from .exercise import Exercise, Step, exercise, generator, nonzero, polynomial, step


@generator("calculus", 3)
def slope(rng: random.Random) -> Exercise:
    coefficients, x = _cubic(rng), nonzero(rng, 6)
    a, b, c, _ = coefficients
    first, second = 3 * a * x * x, 2 * b * x
    value = first + second + c
    return exercise(
        f"Let f(x) = {polynomial(coefficients)}. What is f'({x})?",
        value,
        step(f"3*({a})*({x})**2", first),
        step(f"2*({b})*({x})", second),
        step(f"{first} + ({second}) + ({c})", value),
    )


@generator("calculus", 4)
def derivative(rng: random.Random) -> Exercise:
    coefficients = [nonzero(rng, 12), *(rng.randint(-12, 12) for _ in range(rng.randint(3, 5)))]
    degree = len(coefficients) - 1
    factors = [(degree - index) * coefficient for index, coefficient in enumerate(coefficients[:-1])]
    steps = [
        step(f"{degree - index} * ({coefficient})", factor)
        for index, (coefficient, factor) in enumerate(zip(coefficients, factors, strict=False))
        if coefficient
    ]
    return exercise(
        f"What is the derivative of {polynomial(coefficients)} with respect to x?", polynomial(factors), *steps
    )


@generator("calculus", 5)
def definite_integral(rng: random.Random) -> Exercise:
    coefficients, low = _cubic(rng), rng.randint(-4, 3)
    high = low + rng.randint(1, 5)
    value = _primitive(coefficients, high) - _primitive(coefficients, low)
    return exercise(
        f"What is the integral of {polynomial(coefficients)} from x = {low} to x = {high}?",
        value,
        _at(coefficients, high),
        _at(coefficients, low),
        step(f"({_primitive(coefficients, high)}) - ({_primitive(coefficients, low)})", value),
    )


@generator("calculus", 6)
def area_between(rng: random.Random) -> Exercise:
    first, second = rng.sample(range(-8, 9), 2)
    slope_of_line, offset = nonzero(rng, 5), rng.randint(-9, 9)
    factor = rng.randint(1, 4)
    low, high = min(first, second), max(first, second)
    # the parabola minus the line is factor * (x - low) * (x - high)
    parabola = (factor, slope_of_line - factor * (low + high), offset + factor * low * high)
    area = Fraction(factor * (high - low) ** 3, 6)
    return exercise(
        f"What is the area enclosed by y = {polynomial(parabola)} and y = {polynomial((slope_of_line, offset))}?",
        area,
        step(
            f"({parabola[1]} - ({slope_of_line}))**2 - 4*{factor}*({parabola[2]} - ({offset}))",
            (factor * (high - low)) ** 2,
        ),
        step(f"sqrt({(factor * (high - low)) ** 2}) / {factor}", high - low),
        step(f"{factor} * {high - low}**3 / 6", area),
    )


@generator("calculus", 6)
def extreme_value(rng: random.Random) -> Exercise:
    first, second = rng.sample(range(-6, 7), 2)
    if (first + second) % 2:
        return extreme_value(rng)
    low, high = min(first, second), max(first, second)
    shift = rng.randint(-20, 20)
    # f' = 6 (x - low)(x - high), so that the local maximum is at the smaller one
    coefficients = [2, -3 * (low + high), 6 * low * high, shift]
    value = sum(coefficient * low**power for coefficient, power in zip(coefficients, (3, 2, 1, 0), strict=True))
    b, c = coefficients[1], coefficients[2]
    discriminant = 4 * b * b - 24 * c
    return exercise(
        f"What is the local maximum value of f(x) = {polynomial(coefficients)}?",
        value,
        step(f"(2*({b}))**2 - 4*6*({c})", discriminant),
        step(f"(-2*({b}) - sqrt({discriminant})) / 12", low),
        step(f"2*({low})**3 + ({b})*({low})**2 + ({c})*({low}) + ({shift})", value),
    )


def _cubic(rng: random.Random) -> list[int]:
    return [nonzero(rng, 6), nonzero(rng, 9), rng.randint(-12, 12), rng.randint(-12, 12)]


def _primitive(coefficients: list[int], x: int) -> Fraction:
    degree = len(coefficients)
    return sum(
        (
            Fraction(coefficient * x ** (degree - index), degree - index)
            for index, coefficient in enumerate(coefficients)
        ),
        Fraction(0),
    )


def _at(coefficients: list[int], x: int) -> Step:
    degree = len(coefficients)
    terms = [
        f"({coefficient})/{degree - index}*({x})**{degree - index}" for index, coefficient in enumerate(coefficients)
    ]
    return step(" + ".join(terms), _primitive(coefficients, x))
