"""Families over integers: arithmetic in steps, and functions of the digits."""

from __future__ import annotations

import random

from .draft import Arguments, Draft, steps

_EDGES: tuple[Arguments, ...] = ((0, 0), (1, 0), (0, 1), (-7, 3), (12, -12), (99, 99))


def _two(rng: random.Random) -> Arguments:
    return rng.randint(-60, 120), rng.randint(-40, 80)


def _operation(rng: random.Random) -> tuple[str, str]:
    a, b, m = rng.randint(2, 9), rng.randint(1, 20), rng.randint(5, 17)
    low = rng.randint(-20, 10)
    return rng.choice(
        [
            (f"Multiply x by {a} and add {b}", f"x = x * {a} + b{b}".replace(f"b{b}", str(b))),
            (f"Subtract {a} times y from x", f"x = x - {a} * y"),
            (f"Add the product of x and y, divided by {m} and rounded down, to x", f"x = x + x * y // {m}"),
            (f"Replace x by its remainder on division by {m} (Python's %)", f"x = x % {m}"),
            (f"If x is greater than y, subtract {b} from x, else add {b} to x", f"x = x - {b} if x > y else x + {b}"),
            (f"Raise x to {low} if it is less, and lower it to {low + 50} if it is more", f"x = clamp({low})"),
            ("Replace x by the distance of x and y", "x = abs(x - y)"),
            (f"If x is divisible by {a}, divide it by {a}, else add y", f"x = x // {a} if x % {a} == 0 else x + y"),
            ("Swap x and y", "x, y = y, x"),
            (f"Add {a} times the greater of x and y to x", f"x = x + {a} * max(x, y)"),
        ]
    )


def arithmetic(rng: random.Random, level: int) -> Draft:
    """Two integers through `level` + 1 steps to one."""
    drawn = [_operation(rng) for _ in range(level + 1)]
    lines = [_clamped(line) for _, line in drawn]
    return Draft(
        name="compute",
        parameters="x: int, y: int",
        returns="int",
        task=f"{steps([phrase for phrase, _ in drawn])}\nReturn x.",
        body="\n".join([*lines, "return x"]),
        inputs=_two,
        edges=_EDGES,
    )


def _clamped(line: str) -> str:
    if not line.startswith("x = clamp("):
        return line
    low = int(line[len("x = clamp(") : -1])
    return f"x = min(max(x, {low}), {low + 50})"


def _number(rng: random.Random) -> Arguments:
    return (rng.choice([rng.randint(0, 99), rng.randint(100, 99_999), rng.randint(10**6, 10**9)]),)


def digits(rng: random.Random, level: int) -> Draft:
    """One not negative integer, by its digits in some base, to one integer."""
    base = rng.choice([2, 3, 5, 7, 8, 9, 10, 16]) if level > 1 else 10
    loop = f"digits = []\nrest = n\nwhile rest:\n    digits.append(rest % {base})\n    rest //= {base}\n"
    kept, keep = rng.choice(
        [
            ("", ""),
            (" that are odd", "digits = [d for d in digits if d % 2]\n"),
            (" that are even", "digits = [d for d in digits if d % 2 == 0]\n"),
            (" that are not 0", "digits = [d for d in digits if d]\n"),
            (" at odd positions (the last digit has position 0)", "digits = digits[1::2]\n"),
        ]
    )
    power, m = rng.randint(2, 3) if level > 2 else 1, rng.randint(3, 30)
    raised = f" ** {power}" if power > 1 else ""
    powered = {1: "", 2: ", each squared", 3: ", each to the third power"}[power]
    phrase, result = rng.choice(
        [
            (f"the sum of the digits{kept}{powered}", f"sum(d{raised} for d in digits)"),
            (
                f"the alternating sum of the digits{kept}{powered}, the first from the right added, the next "
                "subtracted and so on",
                f"sum(d{raised} * (-1) ** i for i, d in enumerate(digits))",
            ),
            (f"the number of different digits{kept}", "len(set(digits))"),
            (
                f"the largest digit{kept} minus the smallest{kept}, 0 if there is none",
                "max(digits) - min(digits) if digits else 0",
            ),
            (
                f"the sum of the digits{kept}{powered}, each times its place among them from the right, counted from 1",
                f"sum(d{raised} * i for i, d in enumerate(digits, 1))",
            ),
        ]
    )
    ending, tail = (
        (f" Multiply it by {m}.", f" * {m}")
        if level < 4
        else (f" Multiply it by {m}, then add n % {m}.", f" * {m} + n % {m}")
    )
    written = "" if base == 10 else f" Write n in base {base}; a digit is a number from 0 to {base - 1}."
    return Draft(
        name="digit_value",
        parameters="n: int",
        returns="int",
        task=f"n is not negative.{written} Take {phrase}.{ending} Return the result. The number 0 has no digits here.",
        body=f"{loop}{keep}return ({result}){tail}",
        inputs=_number,
        edges=((0,), (1,), (7,), (10,), (99,), (1000,)),
    )
