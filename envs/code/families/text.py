"""Families over text: transformation in steps, and parsing of small formats."""

from __future__ import annotations

import random

from .draft import Arguments, Draft, sentence, steps

_EDGES: tuple[Arguments, ...] = (("",), ("a",), ("   ",), ("Aa Bb",), ("x1y22z!",))

_WORDS = "separated by white space, joined again by single blanks"


def _text(rng: random.Random) -> Arguments:
    return (sentence(rng),)


def _letters(rng: random.Random) -> tuple[str, str]:
    k, letter, other = rng.randint(1, 9), rng.choice("aeioustrn"), rng.choice("*#_-+")
    shift = (
        "''.join(chr((ord(c) - 97 + {k}) % 26 + 97) if 'a' <= c <= 'z' else c for c in text)"  # lower-case ASCII only
    )
    return rng.choice(
        [
            ("Turn upper case into lower case and the other way round", "text.swapcase()"),
            ("Turn the text into upper case", "text.upper()"),
            (f"Replace every {letter!r} by {other!r}", f"text.replace({letter!r}, {other!r})"),
            (f"Remove every {letter!r}, in either case", f"''.join(c for c in text if c.lower() != {letter!r})"),
            (
                f"Move every lower-case letter a to z {k} places on in the alphabet, past z beginning with a again",
                shift.format(k=k),
            ),
            (f"Write every {letter!r} twice", f"text.replace({letter!r}, {letter * 2!r})"),
            ("Remove all digits", "''.join(c for c in text if not c.isdigit())"),
            (
                f"Replace every vowel (a, e, i, o, u, lower case) by {other!r}",
                f"''.join({other!r} if c in 'aeiou' else c for c in text)",
            ),
        ]
    )


def _whole(rng: random.Random) -> tuple[str, str]:
    k = rng.randint(2, 5)
    return rng.choice(
        [
            ("Reverse the text", "text[::-1]"),
            (
                f"Keep every {('second', 'third', 'fourth', 'fifth')[k - 2]} character, beginning with the first",
                f"text[::{k}]",
            ),
            (f"Move the first {k} characters to the end", f"text[{k}:] + text[:{k}]"),
            (
                "Remove every character that equals the one before it",
                "''.join(c for i, c in enumerate(text) if not i or text[i - 1] != c)",
            ),
            (f"Cut off what is beyond {k * 4} characters", f"text[:{k * 4}]"),
            (
                "Reverse each word; words are separated by single blanks",
                "' '.join(word[::-1] for word in text.split(' '))",
            ),
            (
                f"Reverse the order of the words ({_WORDS})",
                "' '.join(text.split()[::-1])",
            ),
            (
                f"Sort the words ({_WORDS}) in Python's order of strings",
                "' '.join(sorted(text.split()))",
            ),
            (
                f"Keep only the words ({_WORDS}) of at least {k} characters",
                f"' '.join(word for word in text.split() if len(word) >= {k})",
            ),
        ]
    )


def _end(rng: random.Random) -> tuple[str, str, str]:
    mark = rng.choice("<>|/=")
    return rng.choice(
        [
            ("the text", "text", "str"),
            ("the text", "text", "str"),
            (f"the text with {mark!r} before and after it", f"{mark!r} + text + {mark!r}", "str"),
            ("the list of its words, separated by white space", "text.split()", "list[str]"),
            ("the text and its length, as a tuple", "(text, len(text))", "tuple[str, int]"),
        ]
    )


def transform(rng: random.Random, level: int) -> Draft:
    """A text through `level` steps."""
    drawn = [rng.choice([_letters, _whole])(rng) for _ in range(level)]
    phrase, result, returns = _end(rng)
    return Draft(
        name="transform",
        parameters="text: str",
        returns=returns,
        task=f"{steps([phrase for phrase, _ in drawn])}\nReturn {phrase}.",
        body="\n".join([*(f"text = {line}" for _, line in drawn), f"return {result}"]),
        inputs=_text,
        edges=_EDGES,
    )


_SEPARATORS = ((";", "="), (",", ":"), ("|", "="), ("&", "="), ("/", "-"))


def parsing(rng: random.Random, level: int) -> Draft:
    """Records `name=number` in one string, with separators of its own, to a dict or a total."""
    between, within = rng.choice(_SEPARATORS)
    bad, factor = rng.choice([("drop", "Ignore"), ("zero", "Take 0 as the number of")]), rng.randint(2, 9)
    lines = ["found = {}", f"for piece in text.split({between!r}):"]
    told = [f"The text holds records separated by {between!r}; a record is a name, {within!r} and a number in digits."]
    lines.append(f"    name, _, number = piece.partition({within!r})")
    if level > 1:
        lines.append("    name, number = name.strip(), number.strip()")
        told.append("Blanks around names and numbers do not count.")
    told.append(f"{bad[1]} records whose number is missing or has other characters than digits.")
    told.append("Ignore records with an empty name.")
    lines.append("    if not name:\n        continue")
    if bad[0] == "drop":
        lines.append("    if not number.isdigit():\n        continue\n    value = int(number)")
    else:
        lines.append("    value = int(number) if number.isdigit() else 0")
    if level > 2:
        suffix = rng.choice("kmx")
        lines.append(f"    if name.endswith({suffix!r}):\n        name, value = name[:-1], value * {factor}")
        told.append(f"A name that ends with {suffix!r} loses that letter, and its number is multiplied by {factor}.")
    repeated, line = rng.choice(
        [
            ("the last one counts", "    found[name] = value"),
            ("the first one counts", "    found.setdefault(name, value)"),
            ("their numbers are added", "    found[name] = found.get(name, 0) + value"),
            ("the largest one counts", "    found[name] = max(found.get(name, 0), value)"),
        ]
    )
    lines.append(line)
    told.append(f"If a name comes several times, {repeated}.")
    phrase, result, returns = rng.choice(
        [
            ("a dict from names to numbers", "found", "dict[str, int]"),
            ("the list of (name, number) tuples, sorted by name", "sorted(found.items())", "list[tuple[str, int]]"),
            ("the sum of the numbers of all names", "sum(found.values())", "int"),
            (
                "the names in order of number, the smallest first, equal ones by name",
                "sorted(found, key=lambda name: (found[name], name))",
                "list[str]",
            ),
        ][: 2 + 2 * (level > 1)]
    )
    if level > 3:
        least = rng.randint(5, 15)
        lines.append(f"found = {{name: value for name, value in found.items() if value >= {least}}}")
        told.append(f"At the end drop names whose number is less than {least}.")
    lines.append(f"return {result}")
    told.append(f"Return {phrase}.")

    def records(drawn: random.Random) -> Arguments:
        names = ("a", "b", "bk", "am", "cx", "ab", "c", "")
        pieces = []
        for _ in range(drawn.randint(0, 7)):
            number = drawn.choice([str(drawn.randint(0, 40)), str(drawn.randint(0, 40)), "", "x1", "-2"])
            pad = " " if drawn.random() < 0.3 else ""
            pieces.append(drawn.choice(names) + pad + (within if drawn.random() < 0.9 else "") + pad + number)
        return (between.join(pieces),)

    edges: tuple[Arguments, ...] = (("",), (within,), (f"a{within}1",), (f"a{within}1{between}a{within}2",))
    edges += ((f"b{within}{between}{between}ck{within}7",), (f"a{within}1{within}2",))
    return Draft("parse", "text: str", returns, " ".join(told), "\n".join(lines), records, edges)
