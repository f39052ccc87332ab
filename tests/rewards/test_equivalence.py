"""Equivalence of answers: a table of what is equal and what is not, hostile texts, and failures that are told."""

from __future__ import annotations

import pytest

from agentrl.rewards import equivalence
from agentrl.rewards.equivalence import Ground, boxed, equivalent

EQUAL = {
    "plain numbers": [
        ("5", "5"),
        ("5.0", "5"),
        ("-3", "\u22123"),
        ("1,234", "1234"),
        ("1{,}234", "1234"),
        ("1\\,234", "1234"),
        ("1e3", "1000"),
        ("1.5 \\times 10^3", "1500"),
        ("1.5x10^{3}", "1500"),
        ("2.5e-2", "1/40"),
        (".5", "0.5"),
        ("$5$", "5"),
        ("\\(5\\)", "5"),
        ("5.", "5"),
        ("**5**", "5"),
        ("1 234 567", "1,234,567"),
        ("+7", "7"),
    ],
    "fractions": [
        ("1/2", "0.5"),
        ("\\frac{1}{2}", "1/2"),
        ("\\dfrac12", "\\frac{1}{2}"),
        ("2/4", "\\tfrac{1}{2}"),
        ("-\\frac{1}{2}", "\\frac{-1}{2}"),
        ("\\frac{1}{-2}", "-1/2"),
        ("1\\frac{1}{2}", "3/2"),
        ("1 1/2", "1.5"),
        ("-2\\frac{1}{4}", "-9/4"),
        ("0.333333", "1/3"),
        ("0.6666667", "\\frac{2}{3}"),
        ("1/3", "0.33333333"),
        ("\u00bd", "0.5"),
    ],
    "repeating decimals": [
        ("0.\\overline{3}", "\\frac{1}{3}"),
        ("0.1\\overline{6}", "1/6"),
        ("0.(27)", "3/11"),
        ("1.\\bar{3}", "4/3"),
        ("0.\\overline{9}", "1"),
    ],
    "percentages": [
        ("50%", "0.5"),
        ("50\\%", "50%"),
        ("50", "50\\%"),
        ("50%", "50"),
        ("12.5\\%", "1/8"),
        ("25 percent", "25\\%"),
    ],
    "units": [
        ("$1,234.50", "1234.5"),
        ("1,234 cm", "1234 cm"),
        ("90^\\circ", "\\frac{\\pi}{2}"),
        ("1/2 cup", "0.5 cups"),
        ("10 cm", "10 cm"),
        ("10\\text{ cm}", "10 cm"),
        ("10\\,\\mathrm{cm}", "10\\text{ centimeters}"),
        ("10", "10 cm"),
        ("10 cm", "10"),
        ("100 cm", "1 m"),
        ("1.5 hours", "90 minutes"),
        ("12\\text{ square inches}", "12\\text{ in}^2"),
        ("30^\\circ", "30"),
        ("30 degrees", "30^{\\circ}"),
        ("30\u00b0", "30^\\circ"),
        ("\\$5.00", "5"),
        ("$5", "\\$5"),
        ("12 apples", "12"),
        ("12 apples", "12\\text{ apples}"),
        ("36 km/h", "10 m/s"),
        ("5\\sqrt{3}\\text{ cm}", "5\\sqrt3"),
        ("3 dollars", "\\$3"),
        ("60 miles per hour", "60\\text{ mi/h}"),
    ],
    "words": [
        ("3:30 PM", "3:30 pm"),
        ("A", "(A)"),
        ("Yes", "yes"),
        ("\\text{yes}", "Yes"),
        ("yes.", "yes"),
        ("Tuesday", "\\text{tuesday}"),
        ("no solution", "No solution"),
        ("(B)", "(B)"),
        ("\\text{even}", "even"),
    ],
    "roots, powers, constants": [
        ("6√546", "6*sqrt(546)"),
        ("sqrt{2}", "\\sqrt2"),
        ("e^{i\\pi}", "-1"),
        ("i", "\\sqrt{-1}"),
        ("2+3i", "3i+2"),
        ("0.1+0.2", "0.3"),
        ("7.33038", "7*pi/3"),
        ("\\lfloor 2.5 \\rfloor", "2"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("2\\sqrt2", "2\\sqrt{2}"),
        ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"),
        ("sqrt(2)/2", "\\frac{\\sqrt2}{2}"),
        ("2*pi", "2\\pi"),
        ("4\u03c0", "4\\pi"),
        ("3.14159265", "\\pi"),
        ("2^10", "1024"),
        ("2**10", "1024"),
        ("\\sqrt[3]{8}", "2"),
        ("5!", "120"),
        ("\\binom{5}{2}", "10"),
        ("\\log_2 8", "3"),
        ("10^{-3}", "0.001"),
        ("\\sin(\\frac{\\pi}{6})", "1/2"),
        ("2^{3^2}", "512"),
        ("\\frac{10^3}{10^2}", "10"),
    ],
    "expressions": [
        ("\\sin x", "sin x"),
        ("28*x**3 + 4", "28x³+4"),
        ("4x^2-9", "(2x-3)(2x+3)"),
        ("n(n+1)/2", "\\frac{n^2+n}{2}"),
        ("2x+3", "3+2x"),
        ("(x+1)^2", "x^2+2x+1"),
        ("2*x**2", "2x^2"),
        ("x(x-1)", "x^2 - x"),
        ("x^10", "x^{10}"),
        ("\\frac{x}{2}+\\frac{x}{2}", "x"),
        ("sin(x)^2+cos(x)^2", "1"),
        ("\\left(x+1\\right)", "x+1"),
        ("xy", "yx"),
        ("\\frac{x^2-1}{x-1}", "x+1"),
    ],
    "equations": [
        ("x = 5", "5"),
        ("5", "x=5"),
        ("x=5", "x = 5"),
        ("y = 2x+1", "2x + 1"),
        ("y = 2x + 1", "y = 1 + 2x"),
        ("2x+3y=6", "3y + 2x = 6"),
        ("f(x) = x^2", "x^2"),
        ("x=1, y=2", "y=2, x=1"),
    ],
    "several answers": [
        ("1, 2", "2, 1"),
        ("1 or 2", "2,1"),
        ("x=1 or x=2", "1, 2"),
        ("1\\text{ or }2", "1,2"),
        ("1 and 2", "1, 2"),
        ("\\pm 2", "2, -2"),
        ("3 \\pm \\sqrt{2}", "3+\\sqrt{2}, 3-\\sqrt{2}"),
        ("\\{1, 2\\}", "\\{2, 1\\}"),
        ("1,2", "\\{1,2\\}"),
        ("1/2, 0.25", "\\frac14, \\frac12"),
        ("1,000 and 2,000", "1000, 2000"),
        ("\\{3\\}", "3"),
        ("100, 200", "100,200"),
    ],
    "tuples, intervals, matrices": [
        ("x \\geq 2", "[2,\\infty)"),
        ("[2,\\infty)", "x \\ge 2"),
        ("(1,2)", "(1, 2)"),
        ("(0.5, 2)", "(\\frac12, 2)"),
        ("[0, \\infty)", "[0,\u221e)"),
        ("x \\in [1,2)", "[1, 2)"),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix}1 & 2 \\\\ 3 & 4\\end{bmatrix}"),
        ("[[1,2],[3,4]]", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"),
        ("\\left(1, \\sqrt{4}\\right)", "(1,2)"),
        ("(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty,2)\\cup(3,\\infty)"),
        ("3:4", "3 : 4"),
        ("\\emptyset", "\\emptyset"),
        ("x < 3", "3 > x"),
    ],
    "boxes": [
        ("\\boxed{5}", "5"),
        ("so \\boxed{\\frac{1}{2}}.", "0.5"),
        ("\\boxed{5} ... \\boxed{5.0}", "5"),
        ("5", "\\boxed{5}"),
    ],
}

DIFFERENT = {
    "numbers": [
        ("10^{100}", "10^{100}+1"),
        ("\\sqrt{2}", "1.414"),
        ("7.3304", "7*pi/3"),
        ("1,234", "1,235"),
        ("\\sqrt{10^{40}+1}", "10^{20}"),
        ("5", "6"),
        ("0.33", "1/3"),
        ("0.3333", "1/3"),
        ("0.66666", "2/3"),
        ("0.0000001", "0"),
        ("1e3", "100"),
        ("1e-3", "1000"),
        ("1000000.4", "1000000"),
        ("-5", "5"),
        ("0.5000001", "1/2"),
        ("1,23", "123"),
        ("0.\\overline{3}", "0.3"),
        ("3.14", "\\pi"),
        ("\\frac{1}{2}", "\\frac{2}{1}"),
        ("1\\frac{1}{2}", "1/2"),
        ("0.333334", "1/3"),
        ("11_2", "11_3"),
        ("11_2", "3"),
        ("10^{-8}", "0"),
        ("1/0", "0"),
        ("0.99999999", "1"),
    ],
    "units": [
        ("$1,234.50", "1234"),
        ("180^\\circ", "\\frac{\\pi}{2}"),
        ("10 cm", "10 m"),
        ("10\\text{ cm}", "10\\text{ m}"),
        ("10 cm", "10 cm^2"),
        ("12 apples", "12 oranges"),
        ("5 kg", "5 s"),
        ("100 cm", "10 m"),
        ("9 cm", "10"),
        ("30^\\circ", "\\frac{\\pi}{5}"),
        ("1 hour", "100 minutes"),
    ],
    "percentages": [("50%", "0.05"), ("5%", "0.5"), ("0.5%", "0.5"), ("50%", "51%")],
    "words": [
        ("no", "yes"),
        ("no", "on"),
        ("act", "cat"),
        ("a c t", "cat"),
        ("\\text{odd}", "even"),
        ("none", "one"),
        ("5", "five"),
        ("t*a*c", "cat"),
        ("A", "B"),
        ("x", "y"),
    ],
    "expressions": [
        ("sin x", "x"),
        ("i", "1"),
        ("x^2", "y^2"),
        ("2x+3", "2x-3"),
        ("x^10", "x"),
        ("\\sqrt{2}", "2"),
        ("sin(x)", "cos(x)"),
        ("2^{10}", "2^{11}"),
        ("x+1", "\\frac{x^2+1}{x+1}"),
    ],
    "equations": [("x = 5", "y = 5"), ("x = 5", "6"), ("2x+3y=6", "2x+3y=7"), ("x=1, y=2", "x=2, y=1")],
    "several answers": [
        ("1", "1, 2"),
        ("1, 2, 3", "1, 2"),
        ("1, 1, 2", "1, 2, 2"),
        ("1 or 3", "1 or 2"),
        ("\\{1\\}", "\\{1,2\\}"),
        ("2", "\\pm 2"),
    ],
    "tuples and intervals": [
        ("(2,1)", "(1,2)"),
        ("(1,2)", "[1,2]"),
        ("(1,2]", "[1,2)"),
        ("(1,2)", "\\{1,2\\}"),
        ("(1,2,3)", "(1,2)"),
        ("4:3", "3:4"),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"),
        ("x < 3", "x \\le 3"),
        ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ],
    "boxes": [
        ("\\boxed{5} or \\boxed{6}", "5"),
        ("\\boxed{6} and \\boxed{5}", "5"),
        ("5 \\boxed{6}", "5"),
        ("\\boxed{}", "5"),
    ],
    "nothing": [
        ("", "5"),
        ("   ", "5"),
        ("$$", "5"),
        ("?", "5"),
        ("\\", "5"),
        ("{", "5"),
        ("}{", "5"),
        ("\x00", "5"),
        ("\ud800", "5"),
    ],
}


def cases(table: dict[str, list[tuple[str, str]]]) -> list[object]:
    return [pytest.param(*pair, id=f"{name}-{pair[0][:24]!a}") for name, pairs in table.items() for pair in pairs]


@pytest.mark.parametrize(("answer", "gold"), cases(EQUAL))
async def test_equal(answer: str, gold: str) -> None:
    finding = await equivalent(answer, gold, timeout=60)
    assert finding, finding
    assert not finding.failed


@pytest.mark.parametrize(("answer", "gold"), cases(DIFFERENT))
async def test_different(answer: str, gold: str) -> None:
    finding = await equivalent(answer, gold, timeout=60)
    assert not finding, finding
    assert not finding.failed, finding


HOSTILE = [
    "9^{9^{9^9}}",
    "9^9^9^9",
    "9**9**9**9",
    "1000000000!",
    "((5!)!)!",
    "5!!!!",
    "(" * 2000 + "1" + ")" * 2000,
    "\\sqrt{" * 2000 + "2" + "}" * 2000,
    "{" * 100_000,
    "9" * 5_000,
    "x^{99999999}",
    "1e99999999",
    "\\frac{1}{" * 500 + "2",
    "1," * 1000,
    "\\boxed{" * 3000,
    "\\boxed{1}" * 3000 + "\\boxed{2}",
    "\\left" * 800,
    "$" * 3000,
    "\\text{" * 800,
    "0.\\overline{" + "3" * 3000 + "}",
    "1 and " * 600,
    "a" * 4000,
    "\\begin{pmatrix}" + "1&" * 1500,
    "\\pm" * 1000 + "1",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer[:20].encode("unicode_escape").decode())
async def test_hostile_answers_are_wrong_without_a_failure(answer: str) -> None:
    finding = await equivalent(answer, "2\\sqrt{2}", timeout=20)
    assert not finding
    assert not finding.failed, finding


@pytest.mark.parametrize(
    ("answer", "ground"),
    [
        ("9^{9^{9^9}}", Ground.REFUSED),
        ("1000000000!", Ground.REFUSED),
        ("(" * 2000 + "1" + ")" * 2000, Ground.REFUSED),
        ("9" * 5000, Ground.REFUSED),
        ("", Ground.EMPTY),
        ("\\boxed{5} \\boxed{6}", Ground.AMBIGUOUS),
        ("5.0", Ground.TEXT),
        ("\\sqrt{25}", Ground.SYMBOLIC),
    ],
)
async def test_the_ground_is_told(answer: str, ground: Ground) -> None:
    assert (await equivalent(answer, "5", timeout=60)).ground is ground


async def test_what_gets_past_the_screen_is_killed_and_told() -> None:
    finding = await equivalent("(x+y+z)^{900}", "x + 2\\sqrt{2}", timeout=1.0)
    assert finding.failed
    assert finding.ground is Ground.TIMEOUT
    assert "within 1 seconds" in finding.detail
    assert await equivalent("\\sqrt{8}", "2\\sqrt{2}", timeout=60), "the next answer gets a fresh worker"


async def test_a_gold_answer_that_is_refused_is_the_verifiers_failure() -> None:
    finding = await equivalent("5", "9^{9^{9^9}}")
    assert finding.failed
    assert "gold" in finding.detail
    assert await equivalent("9^{9^{9^9}}", "9^{9^{9^9}}"), "the same text is the same answer"


async def test_crashes_of_the_verifier_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equivalence, "_ALGEBRA", "agentrl.rewards.symbolic:no_such_function")
    finding = await equivalent("\\sqrt{8}", "2\\sqrt{2}")
    assert finding.failed
    assert finding.ground is Ground.CRASH
    assert "no_such_function" in finding.detail


def test_boxes_are_found_with_their_braces() -> None:
    assert boxed("a \\boxed{\\frac{1}{2}} b \\boxed{ 3 } \\boxed{4") == ["\\frac{1}{2}", "3"]
    assert boxed("nothing") == []
