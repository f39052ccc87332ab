"""Whether two mathematical answers are the same, down to single expressions, which a `leaf` decides.

The rules, in order; the first that applies decides:

1. The same text, after `normal`, is the same answer. Plain words are the same only as words, whatever their case.
2. `x = 5` against `5`: the name counts only where both give one.
3. Lists (`1, 2`, `1 or 2`, `a \\pm b`) and sets hold the same entries in any order; a tuple, interval, ratio or matrix
   the same entries in their order, between the same brackets.
4. Numbers are compared as exact rationals. A decimal of `SIGNIFICANT` digits or more stands for a fraction that it
   rounds; `0.33` is not a third.
5. Units that both give must agree after conversion (100 cm is 1 m, 10 cm is not 10 m). A unit that only one gives is
   taken as said in the question. `50%` is a half, and 50 where the other side is a number above one without a sign.
6. What is left are expressions: `leaf` says.

Invariant: without what `leaf` does, time is bounded by the length of the texts.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from agentrl.rewards import mathtext
from agentrl.rewards.quantities import Quantity, percentage, quantity

Leaf = Callable[[str, str], bool]
"""(answer, gold) of two expressions that no rule decides: whether they are equal."""

SIGNIFICANT = 6
"""Digits from which on a decimal may stand for a number that it cannot write exactly."""
MAX_ENTRIES = 64
"""Entries of a list; a longer one equals only itself."""


def same(answer: str, gold: str, leaf: Leaf) -> bool:
    """Whether `answer` says what `gold` says, by the rules of this module."""
    return _same(mathtext.normal(answer), mathtext.normal(gold), leaf)


def _same(answer: str, gold: str, leaf: Leaf) -> bool:
    if not answer or not gold:
        return False
    if answer.replace(" ", "") == gold.replace(" ", "") or mathtext.same_but_for_case(answer, gold):
        return True
    spoken, wanted = mathtext.words(answer), mathtext.words(gold)
    if spoken is not None and wanted is not None:
        return spoken == wanted
    if wanted is not None and not _may_be_conjunction(gold):
        return False  # a word is no product of its letters
    named, meant = mathtext.assignment(answer), mathtext.assignment(gold)
    if named and meant:
        return named[0].strip("\\") == meant[0].strip("\\") and _same(named[1], meant[1], leaf)
    if named and "=" not in gold:
        return _same(named[1], gold, leaf)
    if meant and "=" not in answer:
        return _same(answer, meant[1], leaf)
    decided = _numbers(answer, gold)
    for rule in (_percentages, _measures, _structures, _quantities):
        if decided is None:
            decided = rule(answer, gold, leaf)
    if decided is None:
        decided = leaf(mathtext.without_thousands(answer), mathtext.without_thousands(gold))
    return decided


def _may_be_conjunction(text: str) -> bool:
    return any(word in text.split() for word in ("or", "and"))


def _numbers(answer: str, gold: str) -> bool | None:
    left, right = mathtext.number(answer), mathtext.number(gold)
    if left is None or right is None:
        return None
    if left.value == right.value:
        return True
    return _rounds(left, right) or _rounds(right, left)


def _rounds(decimal: mathtext.Number, exact: mathtext.Number) -> bool:
    """Whether a long decimal is the other, rounded or cut; a number with an end must be written to its end."""
    if decimal.digits is None or exact.digits is not None or decimal.digits < SIGNIFICANT:
        return False
    rest = exact.value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    short = (exact.value - decimal.value) * (1 if exact.value > 0 else -1)
    return rest != 1 and (abs(short) <= decimal.step / 2 or 0 <= short < decimal.step)


def _percentages(answer: str, gold: str, leaf: Leaf) -> bool | None:
    said, wanted = percentage(answer), percentage(gold)
    if said is None and wanted is None:
        return None
    if said is not None and wanted is not None:
        return _same(said, wanted, leaf)
    per_hundred = said if said is not None else wanted
    plain = gold if said is not None else answer
    assert per_hundred is not None
    left, right = mathtext.number(per_hundred), mathtext.number(plain)
    if left is None or right is None:
        return None
    if abs(right.value) > 1 and left.value == right.value:
        return True
    return left.value == right.value * 100


def _measures(answer: str, gold: str, leaf: Leaf) -> bool | None:
    """Quantities of plain numbers, before a comma of thousands in them is taken for a list."""
    plain = [_is_measure(text) for text in (answer, gold)]
    return _quantities(answer, gold, leaf) if all(plain) else None


def _is_measure(text: str) -> bool:
    found = quantity(text)
    return mathtext.number(found.value if found is not None else text) is not None


def _structures(answer: str, gold: str, leaf: Leaf) -> bool | None:
    found, wanted = (mathtext.parts(mathtext.alternatives(text)) for text in (answer, gold))
    if found is None and wanted is None:
        return None
    if found is None or wanted is None:
        return _unequal_structures(answer, gold, found, wanted, leaf)
    unordered = {"list", "set"}
    if (found.kind != wanted.kind) and not {found.kind, wanted.kind} <= unordered:
        return _unequal_structures(answer, gold, found, wanted, leaf)
    if max(len(found.entries), len(wanted.entries)) > MAX_ENTRIES:
        return False
    if found.kind in unordered:
        return _same_entries(list(found.entries), list(wanted.entries), leaf)
    if len(found.entries) != len(wanted.entries):
        return False
    return all(_same(left, right, leaf) for left, right in zip(found.entries, wanted.entries, strict=True))


def _unequal_structures(
    answer: str, gold: str, found: mathtext.Parts | None, wanted: mathtext.Parts | None, leaf: Leaf
) -> bool | None:
    """Parts of two kinds, or on one side only; None where an expression may still say the same (`x < 3`)."""
    if found is not None and wanted is not None:
        return False
    one = found or wanted
    assert one is not None
    if one.kind == "set" and len(one.entries) == 1:  # not its element, but people write it so
        return _same(one.entries[0], gold, leaf) if one is found else _same(answer, one.entries[0], leaf)
    return False if one.kind == "list" else None


def _same_entries(left: list[str], right: list[str], leaf: Leaf) -> bool:
    """Whether two lists hold the same in some order; what is equal is taken to be equal to the same things."""
    remaining = list(right)
    for entry in left:
        matched = next((other for other in remaining if _same(entry, other, leaf)), None)
        if matched is None:
            return False
        remaining.remove(matched)
    return not remaining


def _quantities(answer: str, gold: str, leaf: Leaf) -> bool | None:
    said, wanted = quantity(answer), quantity(gold)
    if said is None and wanted is None:
        return None
    if said is not None and wanted is not None:
        return _same_quantity(said, wanted, leaf)
    one = said or wanted
    assert one is not None
    value = _radians(one.value) if one.dimension == "angle^1" and "pi" in (gold if said else answer) else one.value
    return _same(value, gold, leaf) if said is not None else _same(answer, value, leaf)


def _radians(degrees: str) -> str:
    return f"\\frac{{{degrees}}}{{180}} \\cdot \\pi"


def _same_quantity(said: Quantity, wanted: Quantity, leaf: Leaf) -> bool:
    if said.dimension != wanted.dimension:
        return False
    if said.dimension is None:
        return bool(set(said.unit.lower().split()) & set(wanted.unit.lower().split())) and _same(
            said.value, wanted.value, leaf
        )
    if said.factor == wanted.factor:
        return _same(said.value, wanted.value, leaf)
    left, right = mathtext.number(said.value), mathtext.number(wanted.value)
    if left is not None and right is not None:
        return left.value * said.factor == right.value * wanted.factor
    return leaf(_times(said.value, said.factor), _times(wanted.value, wanted.factor))


def _times(value: str, factor: Fraction) -> str:
    return f"\\frac{{{factor.numerator}}}{{{factor.denominator}}} \\cdot ({value})"
