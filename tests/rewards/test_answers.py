"""Answers: what counts as the same, what counts as a number, and that hostile texts cost nothing."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.rewards import exact_match, extract_answer, numeric_match, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("124", 124),
        ("-3", -3),
        ("+3", 3),
        ("\u22123", -3),
        ("1,234", 1234),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("3.50", Fraction(7, 2)),
        (".5", Fraction(1, 2)),
        ("0.1", Fraction(1, 10)),
        ("1/3", Fraction(1, 3)),
        ("-7 / 2", Fraction(-7, 2)),
        ("1e3", 1000),
        ("2.5E-1", Fraction(1, 4)),
        ("50%", Fraction(1, 2)),
        ("$1,200", 1200),
        ("$12$", 12),
        ("\\(12\\)", 12),
        (" 12. ", 12),
    ],
)
def test_numbers(text: str, value: Any) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        ".",
        "twelve",
        "12 apples",
        "1,23",
        "12,34,567",
        "1 1/2",
        "1/0",
        "0x10",
        "1e",
        "--3",
        "nan",
        "inf",
        "1_000",
        "\uff11\uff12",
        "1/2/3",
        "1.2.3",
        "%",
        "1e9999",
        "1e999999999",
        "1e-999999999",
        "9" * 5000,
        "9" * 10_000_000,
        "1e" + "9" * 3000,
    ],
)
def test_not_numbers(text: str) -> None:
    assert parse_number(text) is None


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_reads_back(value: Fraction) -> None:
    assert parse_number(str(value)) == value


@given(st.integers())
def test_an_integer_reads_back_with_and_without_commas(value: int) -> None:
    assert parse_number(str(value)) == parse_number(f"{value:,}") == value


def test_numeric_match_is_exact() -> None:
    assert numeric_match("0.1", "1/10")
    assert numeric_match("0.30", Fraction(3, 10))
    assert not numeric_match("0.1000000000000000055", "0.1")
    assert not numeric_match("0.333", "1/3")
    assert numeric_match("0.333", "1/3", tolerance=Fraction(1, 1000))
    assert not numeric_match("0.332", "1/3", tolerance=Fraction(1, 1000))
    assert numeric_match("12", 12)
    assert not numeric_match("", 12)


def test_a_gold_that_is_no_number_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="gold='a dozen'"):
        numeric_match("12", "a dozen")


def test_exact_match() -> None:
    assert exact_match("  New\n York ", "new york")
    assert not exact_match("New York", "new york", ignore_case=False)
    assert not exact_match("new  york", "new york", ignore_space=False)
    assert exact_match("STRASSE", "straße")
    assert not exact_match("", "")
    assert not exact_match("  ", " ")
    assert not exact_match("a" * 10_000_000, "a" * 10_000_000)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 124.", "124"),
        ("Answer: 1,234", "1,234"),
        ("the final answer is: **-3**", "-3"),
        ("The answer is 60 + 64 = 124.", "124"),
        ("answer: Paris.", "Paris"),
        ("The answer is 3.5 apples", "3.5"),
        ("The answer is $1/3$", "$1/3"),
        ("First 12, then 13", "13"),
        ("it is 10-3", "3"),
        ("so \\boxed{\\frac{1}{2}} and the answer is 7", "\\frac{1}{2}"),
        ("\\boxed{1} no, \\boxed{ 2 }", "2"),
        ("answer is 1\nanswer is 2", "2"),
        ("\\boxed{unfinished, answer: 4", "4"),
        ("", None),
        ("nothing", None),
        ("v2x", None),
    ],
)
def test_extraction_prefers_box_then_statement_then_last_number(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


HOSTILE = [
    "9" * 10_000_000,
    "1," + "111," * 2_000_000,
    "1/" * 1_000_000,
    "1e" * 1_000_000,
    "\\boxed{" * 1_000_000,
    "\\boxed{" + "{" * 1_000_000,
    "answer " * 1_000_000,
    "answer is " + " " * 5_000_000,
    "answer is 1e999999999",
    "-" * 5_000_000,
    "1" * 40_000 + "." + "1" * 40_000 + "x",
    "\x00" * 5_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:12] for text in HOSTILE])
def test_hostile_texts_come_to_an_end_and_are_wrong(text: str) -> None:
    extracted = extract_answer(text)
    assert extracted is None or not numeric_match(extracted, 124)
    assert not numeric_match(text, 124)
    assert not exact_match(text, "124")


@given(st.text(alphabet="0123456789.,/eE+-%$\\boxed{} answeri=s:\n", max_size=200))
def test_extraction_never_raises(text: str) -> None:
    extracted = extract_answer(text)
    if extracted is not None:
        parse_number(extracted)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 2, 3.", "2, 3"),
        ("The answer is 3*pi.", "3*pi"),
        ("Answer: 12 cm", "12 cm"),
        ("The answer is 5 or 6", "5 or 6"),
        ("The answer is 5 or maybe 6", "5 or maybe 6"),
        ("The answer is x = 2/3.", "2/3"),
        ("The answer is 12 because it must be even.", "12"),
        ("so \\boxed{2, 3} it is", "2, 3"),
        ("we get 7", "7"),
    ],
)
def test_a_stated_answer_can_be_taken_whole(text: str, answer: str) -> None:
    assert extract_answer(text, whole=True) == answer
