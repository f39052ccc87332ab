"""Families over intervals, matrices and state machines."""

from __future__ import annotations

import random

from .draft import Arguments, Draft, steps


def _spans(rng: random.Random) -> Arguments:
    starts = [rng.randint(-10, 40) for _ in range(rng.randint(0, 8))]
    return ([(start, start + rng.randint(1, 12)) for start in starts],)


def intervals(rng: random.Random, level: int) -> Draft:
    """Half-open intervals: select, move, merge, measure."""
    gap, low, shift = rng.randint(0, 3), rng.randint(2, 6), rng.randint(-9, 9)
    early = [
        (f"Drop intervals shorter than {low}", f"spans = [(a, b) for a, b in spans if b - a >= {low}]"),
        (f"Lengthen every interval by {low} at its end", f"spans = [(a, b + {low}) for a, b in spans]"),
        (f"Move every interval by {shift}", f"spans = [(a + {shift}, b + {shift}) for a, b in spans]"),
        (
            f"Cut off everything below {low}; what is empty then is dropped",
            f"spans = [(max(a, {low}), b) for a, b in spans if b > {low}]",
        ),
        (f"Drop intervals that begin at a multiple of {low}", f"spans = [(a, b) for a, b in spans if a % {low}]"),
    ]
    drawn = rng.sample(early, level - 1 if level < 4 else 3)
    distance = "that overlap or touch" if gap == 0 else f"between which at most {gap} lies (or which overlap)"
    drawn.append(
        (
            f"Merge intervals {distance} into one, until none can be merged",
            "merged = []\nfor a, b in sorted(spans):\n"
            f"    if merged and a - merged[-1][1] <= {gap}:\n"
            "        merged[-1] = (merged[-1][0], max(merged[-1][1], b))\n"
            "    else:\n        merged.append((a, b))",
        )
    )
    ends = [
        ("the merged intervals, as a list of tuples in ascending order", "merged", "list[tuple[int, int]]"),
        ("the total length of the merged intervals", "sum(b - a for a, b in merged)", "int"),
        (
            "the length of the longest merged interval, 0 if there is none",
            "max((b - a for a, b in merged), default=0)",
            "int",
        ),
        (
            "the gaps between neighbouring merged intervals, as a list of tuples in ascending order",
            "[(left[1], right[0]) for left, right in zip(merged, merged[1:])]",
            "list[tuple[int, int]]",
        ),
        (
            f"the total length of the merged intervals plus {low} times their number",
            f"sum(b - a + {low} for a, b in merged)",
            "int",
        ),
    ]
    phrase, result, returns = rng.choice(ends)
    return Draft(
        name="spans_of",
        parameters="spans: list[tuple[int, int]]",
        returns=returns,
        task="A tuple (a, b) with a < b is the interval from a up to, not including, b. "
        f"{steps([told for told, _ in drawn])}\n"
        f"Return {phrase}.",
        body="\n".join([*(line for _, line in drawn), f"return {result}"]),
        inputs=_spans,
        edges=(([],), ([(0, 5)],), ([(0, 5), (5, 8)],), ([(0, 9), (2, 3)],), ([(0, 3), (5, 9), (12, 20)],)),
    )


def _matrix(rng: random.Random) -> Arguments:
    rows, columns = rng.randint(1, 5), rng.randint(1, 5)
    return ([[rng.randint(-9, 20) for _ in range(columns)] for _ in range(rows)],)


def matrices(rng: random.Random, level: int) -> Draft:
    """A matrix through steps to a matrix, a list or a number."""
    a, m = rng.randint(2, 6), rng.randint(3, 9)
    moves = [
        ("Transpose it", "m = [list(row) for row in zip(*m)]"),
        ("Turn it by 90 degrees clockwise", "m = [list(row) for row in zip(*m[::-1])]"),
        ("Reverse every row", "m = [row[::-1] for row in m]"),
        ("Reverse the order of the rows", "m = m[::-1]"),
        (f"Multiply every element by {a}", f"m = [[v * {a} for v in row] for row in m]"),
        (f"Replace every element by its remainder on division by {m}", f"m = [[v % {m} for v in row] for row in m]"),
        (
            "Add to every element the number of its row (counted from 0)",
            "m = [[v + i for v in row] for i, row in enumerate(m)]",
        ),
        (
            f"Add to every element {a} times the number of its column (counted from 0)",
            f"m = [[v + {a} * j for j, v in enumerate(row)] for row in m]",
        ),
        ("Sort every row in ascending order", "m = [sorted(row) for row in m]"),
        ("Sort the rows by their sum, equal ones in their order", "m = sorted(m, key=sum)"),
        ("Replace every row by its running sums", "m = [[sum(row[: j + 1]) for j in range(len(row))] for row in m]"),
        ("Move the last column to the front", "m = [row[-1:] + row[:-1] for row in m]"),
    ]
    ends = [
        ("the matrix", "m", "list[list[int]]"),
        ("the list of the sums of its rows", "[sum(row) for row in m]", "list[int]"),
        ("the list of the largest elements of its columns", "[max(column) for column in zip(*m)]", "list[int]"),
        (
            "the sum of the elements whose row and column have the same number",
            "sum(m[i][i] for i in range(min(len(m), len(m[0]))))",
            "int",
        ),
        (
            "the sum of the elements at its border (each counted once)",
            "sum(v for i, row in enumerate(m) for j, v in enumerate(row)"
            " if i in (0, len(m) - 1) or j in (0, len(row) - 1))",
            "int",
        ),
        (
            f"the positions (row, column), from 0, of the elements that are divisible by {m}, row by row",
            f"[(i, j) for i, row in enumerate(m) for j, v in enumerate(row) if v % {m} == 0]",
            "list[tuple[int, int]]",
        ),
    ]
    drawn = rng.sample(moves, level)
    phrase, result, returns = rng.choice(ends)
    return Draft(
        name="matrix_value",
        parameters="m: list[list[int]]",
        returns=returns,
        task="m is a matrix, a list of rows of the same length, not empty. "
        f"{steps([told for told, _ in drawn])}\nReturn {phrase}.",
        body="\n".join([*(line for _, line in drawn), f"return {result}"]),
        inputs=_matrix,
        edges=(([[0]],), ([[1, 2, 3]],), ([[1], [2], [3]],), ([[5, 5], [5, 5]],), ([[1, 2], [3, 4]],)),
    )


def _commands(rng: random.Random) -> Arguments:
    return ("".join(rng.choice("abc") for _ in range(rng.randint(0, 20))),)


def machines(rng: random.Random, level: int) -> Draft:
    """A finite machine over the letters a, b, c: a table of moves, with counters at higher levels."""
    states = "PQRS"[: 2 + level // 2]
    table = {(state, letter): rng.choice(states) for state in states for letter in "abc"}
    rules = "; ".join(f"in {state}: " + ", ".join(f"{x} -> {table[state, x]}" for x in "abc") for state in states)
    lines = [f"moves = {table!r}", "state, score = 'P', 0", "for letter in text:"]
    told = [f"A machine is in state P at first and reads the text letter by letter; its moves are: {rules}."]
    marked, gain = rng.choice(states), rng.randint(1, 9)
    if level > 2:
        same, loss = rng.choice("abc"), rng.randint(1, 9)
        lines.append(f"    if letter == {same!r} and moves[state, letter] == state:\n        score -= {loss}")
        told.append(f"When it reads {same} and stays in its state, the score (0 at first) falls by {loss}.")
    lines.append("    state = moves[state, letter]")
    if level > 1:
        lines.append(f"    if state == {marked!r}:\n        score += {gain}")
        told.append(f"Whenever a move ends in {marked}, the score {'(0 at first) ' * (level < 3)}rises by {gain}.")
    if level > 3:
        limit = rng.randint(15, 40)
        lines.append(f"    if score > {limit}:\n        state, score = 'P', 0")
        told.append(f"When the score is more than {limit} after a move, state and score go back to P and 0.")
    if level == 1:
        phrase, result, returns = rng.choice(
            [
                ("the state at the end", "state", "str"),
                (
                    "the state at the end and the length of the text, as a tuple",
                    "(state, len(text))",
                    "tuple[str, int]",
                ),
            ]
        )
    else:
        phrase, result, returns = rng.choice(
            [
                ("the score at the end", "score", "int"),
                ("the state and the score at the end, as a tuple", "(state, score)", "tuple[str, int]"),
            ]
        )
    lines.append(f"return {result}")
    edges: tuple[Arguments, ...] = (("",), ("a",), ("b",), ("c",), ("abcabc",), ("aaaaaaaa",))
    return Draft(
        "run_machine", "text: str", returns, f"{' '.join(told)} Return {phrase}.", "\n".join(lines), _commands, edges
    )
