"""Fractions, divisibility, remainders and a little number theory."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from .exercise import Exercise, exercise, generator, program, step


@generator("fractions", 1)
def two_fractions(rng: random.Random) -> Exercise:
    a, b = (Fraction(rng.randint(1, 15), rng.randint(2, 15)) for _ in range(2))
    sign = rng.choice("+-*")
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return exercise(f"What is {a} {sign} {b}? Give a fraction.", value,
                    step(f"{a} {sign} {b}", value))  # fmt: skip


@generator("fractions", 2)
def quotient_of_fractions(rng: random.Random) -> Exercise:
    a, b, c = (Fraction(rng.randint(1, 15), rng.randint(2, 15)) for _ in range(3))
    value = (a + b) / c
    return exercise(
        f"What is ({a} + {b}) / ({c})? Give a fraction.",
        value,
        step(f"{a} + {b}", a + b),
        step(f"({a + b}) / ({c})", value),
    )


@generator("fractions", 3)
def remaining_part(rng: random.Random) -> Exercise:
    first, second = rng.randint(3, 9), rng.randint(3, 9)
    rest = (1 - Fraction(1, first)) * (1 - Fraction(1, second))
    total = rest.denominator * rng.randint(3, 40)
    return exercise(
        f"Of {total} litres 1/{first} is used, then 1/{second} of the rest. How many litres are left?",
        rest * total,
        step(f"{total} * (1 - 1/{first})", total * (1 - Fraction(1, first))),
        step(f"{total} * (1 - 1/{first}) * (1 - 1/{second})", rest * total),
    )


@generator("fractions", 4)
def continued_fraction(rng: random.Random) -> Exercise:
    a, b, c, d = (rng.randint(1, 9) for _ in range(4))
    inner = c + Fraction(1, d + 1)
    middle = b + 1 / inner
    return exercise(
        f"What is {a} + 1/({b} + 1/({c} + 1/{d + 1}))? Give a fraction.",
        a + 1 / middle,
        step(f"{c} + 1/{d + 1}", inner),
        step(f"{b} + 1/({inner})", middle),
        step(f"{a} + 1/({middle})", a + 1 / middle),
    )


@generator("divisibility", 1)
def remainder(rng: random.Random) -> Exercise:
    a, b = rng.randint(1000, 99999), rng.randint(13, 199)
    return exercise(f"What is the remainder of {a} divided by {b}?", a % b, step(f"{a} % {b}", a % b))


@generator("divisibility", 2)
def greatest_common_divisor(rng: random.Random) -> Exercise:
    common = rng.randint(4, 60)
    a, b = (common * factor for factor in _coprime(rng, 2, 30))
    steps, high, low = [], max(a, b), min(a, b)
    while low:
        steps.append(step(f"{high} % {low}", high % low))
        high, low = low, high % low
    return exercise(f"What is the greatest common divisor of {a} and {b}?", common, *steps[:-1],
                    step(f"gcd({a}, {b})", common))  # fmt: skip


@generator("divisibility", 2)
def least_common_multiple(rng: random.Random) -> Exercise:
    common = rng.randint(2, 24)
    p, q = _coprime(rng, 2, 20)
    a, b = common * p, common * q
    return exercise(
        f"What is the least common multiple of {a} and {b}?",
        common * p * q,
        step(f"gcd({a}, {b})", common),
        step(f"{a} * {b} / {common}", common * p * q),
    )


@generator("divisibility", 4)
def meeting_again(rng: random.Random) -> Exercise:
    times = rng.sample(range(6, 40), 3)
    first = math.lcm(times[0], times[1])
    together = math.lcm(*times)
    return exercise(
        f"Three buses leave together and then every {times[0]}, {times[1]} and {times[2]} minutes. "
        "After how many minutes do they leave together again?",
        together,
        step(f"lcm({times[0]}, {times[1]})", first),
        step(f"lcm({first}, {times[2]})", together),
    )


@generator("modular", 3)
def power_modulo(rng: random.Random) -> Exercise:
    base, exponent, modulus = rng.randint(3, 30), rng.randint(8, 40), rng.randint(23, 199)
    value = pow(base, exponent, modulus)
    return exercise(f"What is {base}^{exponent} modulo {modulus}?", value,
                    step(f"{base}**{exponent} % {modulus}", value))  # fmt: skip


@generator("modular", 4)
def linear_congruence(rng: random.Random) -> Exercise:
    modulus = rng.choice([number for number in range(30, 200) if _is_prime(number)])
    a, b = rng.randint(2, modulus - 1), rng.randint(1, modulus - 1)
    inverse = pow(a, -1, modulus)
    value = inverse * b % modulus
    return exercise(
        f"What is the smallest non-negative x with {a}x congruent to {b} modulo {modulus}?",
        value,
        step(f"{a}**{modulus - 2} % {modulus}", inverse),
        step(f"{inverse} * {b} % {modulus}", value),
    )


@generator("modular", 5)
def chinese_remainder(rng: random.Random) -> Exercise:
    moduli = rng.sample((7, 8, 9, 11, 13, 17, 19, 23), 3)
    value = rng.randrange(math.prod(moduli))
    rest = [value % modulus for modulus in moduli]
    code = f"from sympy.ntheory.modular import crt\nprint(crt({moduli}, {rest})[0])"
    described = ", ".join(f"{r} modulo {m}" for r, m in zip(rest, moduli, strict=True))
    return exercise(f"What is the smallest non-negative integer that is {described}?", value, program(code, value))


@generator("modular", 6)
def last_digits_of_tower(rng: random.Random) -> Exercise:
    base, middle, top, modulus = rng.randint(2, 40), rng.randint(2, 20), rng.randint(5, 60), rng.randint(100, 999)
    value = pow(base, middle**top, modulus)
    return exercise(
        f"What is {base}^({middle}^{top}) modulo {modulus}?",
        value,
        program(f"print(pow({base}, {middle}**{top}, {modulus}))", value),
    )


@generator("number_theory", 3)
def count_of_divisors(rng: random.Random) -> Exercise:
    primes = sorted(rng.sample((2, 3, 5, 7, 11), rng.randint(2, 3)))
    factors = [(prime, rng.randint(1, 6 if prime < 6 else 3)) for prime in primes]
    number = math.prod(prime**power for prime, power in factors)
    count = math.prod(power + 1 for _, power in factors)
    expression = " * ".join(f"({power} + 1)" for _, power in factors)
    return exercise(f"How many positive divisors does {number} have?", count, step(expression, count))


@generator("number_theory", 4)
def sum_of_divisors(rng: random.Random) -> Exercise:
    factors = _factors(rng, 2, 3)
    number = math.prod(prime**power for prime, power in factors)
    parts = [(prime ** (power + 1) - 1) // (prime - 1) for prime, power in factors]
    steps = [
        step(f"({prime}**{power + 1} - 1) / ({prime} - 1)", part)
        for (prime, power), part in zip(factors, parts, strict=True)
    ]
    return exercise(f"What is the sum of all positive divisors of {number}?", math.prod(parts), *steps,
                    step(" * ".join(map(str, parts)), math.prod(parts)))  # fmt: skip


@generator("number_theory", 5)
def totient(rng: random.Random) -> Exercise:
    factors = _factors(rng, 2, 4)
    number = math.prod(prime**power for prime, power in factors)
    value = math.prod(prime ** (power - 1) * (prime - 1) for prime, power in factors)
    expression = " * ".join([str(number), *(f"(1 - 1/{prime})" for prime, _ in factors)])
    return exercise(f"How many integers from 1 to {number} are coprime to {number}?", value, step(expression, value))


@generator("number_theory", 6)
def divisible_by_none(rng: random.Random) -> Exercise:
    limit, (p, q, r) = rng.randint(500, 5000), rng.sample((2, 3, 5, 7, 11, 13), 3)
    singles = limit // p + limit // q + limit // r
    pairs = limit // (p * q) + limit // (p * r) + limit // (q * r)
    value = limit - singles + pairs - limit // (p * q * r)
    return exercise(
        f"How many integers from 1 to {limit} are divisible by none of {p}, {q} and {r}?",
        value,
        step(f"{limit}//{p} + {limit}//{q} + {limit}//{r}", singles),
        step(f"{limit}//({p}*{q}) + {limit}//({p}*{r}) + {limit}//({q}*{r})", pairs),
        step(f"{limit} - {singles} + {pairs} - {limit}//({p}*{q}*{r})", value),
    )


def _coprime(rng: random.Random, low: int, high: int) -> tuple[int, int]:
    while True:
        a, b = rng.sample(range(low, high + 1), 2)
        if math.gcd(a, b) == 1:
            return a, b


def _factors(rng: random.Random, low: int, high: int) -> list[tuple[int, int]]:
    """(prime, power) of a number with `low` to `high` different primes."""
    primes = sorted(rng.sample((2, 3, 5, 7, 11, 13), rng.randint(low, high)))
    return [(prime, rng.randint(1, 4 if prime < 4 else 2)) for prime in primes]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
