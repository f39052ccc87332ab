"""The calculator: exact, bounded, and readable where it refuses."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ConfigError
from agentrl.messages import ToolCall
from agentrl.tool import ToolResult, call_tool, resolve_tool
from agentrl.tools import calculator


async def calculate(expression: str, **options: int | bool) -> ToolResult:
    tool = resolve_tool("calculator", **options)
    call = ToolCall(id="call_0", name="calculator", arguments=json.dumps({"expression": expression}))
    result, _ = await call_tool({"calculator": tool}, call)
    return result


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("60 + 64", "124"),
        ("-5 + 30", "25"),
        ("(2 + 3) * 4", "20"),
        ("2 ** 10", "1024"),
        ("2 ** -2", "0.25"),
        ("7 // 2", "3"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("1 / 3", "1/3"),
        ("-2 / 6", "-1/3"),
        ("1 / 8", "0.125"),
        ("-1 / 8", "-0.125"),
        ("0.1 + 0.2", "0.3"),
        ("1.50", "1.5"),
        ("1e3 * 1.5", "1500"),
        ("1_000 + 1", "1001"),
        (" 3. ", "3"),
        ("--3", "3"),
        ("2 ** 2 ** 3", "256"),
        ("12345678901234567890 * 98765432109876543210", str(12345678901234567890 * 98765432109876543210)),
    ],
)
async def test_exact_values(expression: str, text: str) -> None:
    result = await calculate(expression)
    assert (result.text, result.error) == (text, None)


@given(st.integers(-(10**9), 10**9), st.sampled_from("+-*/"), st.integers(1, 10**9))
async def test_agrees_with_fractions(left: int, operation: str, right: int) -> None:
    a, b = Fraction(left), Fraction(right)
    expected = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operation]
    result = await calculate(f"{left} {operation} {right}")
    assert result.data == expected
    assert Fraction(result.text) == expected


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "not an arithmetic expression"),
        ("60 plus 64", "not an arithmetic expression"),
        ("1 +", "not an arithmetic expression"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("x + 1", "unknown name 'x'"),
        ("1,234 + 1", "a comma is not part of a number"),
        ("2 ^ 3", "power is **"),
        ("2 << 3", "only + - * /"),
        ("not 1", "only numbers"),
        ("1 if 1 else 2", "only numbers"),
        ("abs(-1)", "only numbers"),
        ("().__class__", "only numbers"),
        ("__import__('os').system('true')", "only numbers"),
        ("[1 for a in 1]", "only numbers"),
        ("True + 1", "'True' is not a number"),
        ("'a' * 3", "'a' is not a number"),
        ("3j", "not a number"),
        ("2 ** 0.5", "a power must be a whole number"),
        ("1\x00+1", "not an arithmetic expression"),
    ],
)
async def test_what_is_no_arithmetic_is_refused(expression: str, said: str) -> None:
    result = await calculate(expression, functions=False)
    assert result.error == "failed"
    assert said in result.text
    assert len(result.text) < 200


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("sqrt(8)/2", "sqrt(2) (~1.414213562)"),
        ("sqrt(16)", "4"),
        ("2 ** 0.5", "sqrt(2) (~1.414213562)"),
        ("27 ** (1/3)", "3"),
        ("1/sqrt(2)", "sqrt(2)/2 (~0.7071067812)"),
        ("sqrt(3 + 2*sqrt(2))", "1 + sqrt(2) (~2.414213562)"),
        ("(1 + sqrt(5))/(1 - sqrt(5))", "-3/2 - sqrt(5)/2 (~-2.618033989)"),
        ("sqrt(2)*sqrt(2)", "2"),
        ("cbrt(-8)", "-2"),
        ("2*pi", "2*pi (~6.283185307)"),
        ("abs(-3/4)", "0.75"),
        ("min(1, 2/3)", "2/3"),
        ("max(3, sqrt(10), 2)", "sqrt(10) (~3.162277660)"),
        ("factorial(20)", "2432902008176640000"),
        ("binomial(10, 3) + comb(4, 2)", "126"),
        ("perm(10, 3)", "720"),
        ("gcd(84, 126)", "42"),
        ("lcm(4, 6, 10)", "60"),
        ("mod(-7, 3)", "2"),
        ("sin(pi/6)", "0.5"),
        ("cos(radians(60))", "0.5"),
        ("degrees(atan(1))", "45"),
        ("log(8, 2)", "3"),
        ("log10(1000) + ln(e**2)", "5"),
        ("floor(-7/2) + ceil(pi)", "0"),
        ("round(2.5) + round(pi, 2)", "6.14"),
        ("sqrt(0.25)", "0.5"),
    ],
)
async def test_functions_are_exact(expression: str, text: str) -> None:
    result = await calculate(expression)
    assert (result.text, result.error) == (text, None)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("x + 1", "unknown name 'x'"),
        ("sinn(2)", "did you mean 'sin'"),
        ("sqrt", "write sqrt(...)"),
        ("sqrt(1, 2)", "sqrt takes 1 argument"),
        ("gcd(4)", "gcd takes 2 to 16 arguments"),
        ("sqrt(x=1)", "sqrt takes 1 argument"),
        ("gcd(1, 1/2)", "gcd takes whole numbers"),
        ("factorial(1/2)", "factorial takes whole numbers"),
        ("factorial(-1)", "from 0 to 300"),
        ("2(3)", "write 2*(3)"),
        ("pi()", "unknown function 'pi'"),
        ("sqrt(-4)", "not a real number"),
        ("(-8) ** (1/3)", "not a real number"),
        ("asin(2)", "not a real number"),
        ("ln(0)", "log takes positive numbers"),
        ("1/(sqrt(4) - 2)", "division by zero"),
        ("tan(pi/2)", "division by zero"),
        ("sqrt(2) ^ 2", "power is **"),
        ("sqrt.__class__", "only numbers"),
        ("sqrt(().__class__)", "only numbers"),
        ("__import__('os').system('true')", "needs its sign"),
        ("__import__('os')", "unknown function '__import__'"),
        ("sqrt(*[1])", "only numbers"),
        ("sqrt('4')", "'4' is not a number"),
        ("eval(1)", "unknown function 'eval'"),
        ("sqrt(lambda: 1)", "only numbers"),
        ("sqrt(True)", "'True' is not a number"),
    ],
)
async def test_what_functions_refuse(expression: str, said: str) -> None:
    result = await calculate(expression)
    assert result.error == "failed"
    assert said in result.text
    assert len(result.text) < 250


async def test_an_expression_that_takes_for_ever_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calculator, "SECONDS", 0.5)
    result = await calculate("(sqrt(2) + sqrt(3) + sqrt(5) + sqrt(7)) ** 400")
    assert result.error == "failed"
    assert "takes too long" in result.text
    monkeypatch.undo()
    assert (await calculate("sqrt(16)")).text == "4"


@pytest.mark.parametrize(
    "expression",
    [
        "pi ** 9 ** 9",
        "factorial(factorial(5))",
        "factorial(100000)",
        "binomial(2000, 1000) ** 9",
        "e ** (10 ** 9)",
        "(1/pi) ** (10 ** 9)",
        "sin(10 ** 500)",
        "sqrt(10 ** 600 + 1)",
        "sqrt(" * 49 + "2" + ")" * 49,
        "(1 + sqrt(2)) ** 500",
        "lcm(" + ", ".join(["9" * 20] * 13) + ")",
        "gcd(" + "1, " * 20 + "1)",
        "round(pi, 1000000)",
        "exp(" * 50 + "9" + ")" * 50,
        "9 ** 9 ** 9",
        "9 ** 999999999",
        "(-9) ** 999999999",
        "2 ** -99999999",
        "1e999999999",
        "1e-999999999",
        "1e1025",
        "(10 ** 500) * (10 ** 500)",
        "((((9 ** 99) ** 9) ** 9) ** 9)",
        "9" * 299,
        "9" * 299 + "+" * 1,
        "9" * 5_000_000,
        "(" * 150 + "1" + ")" * 149,
        "(" * 100_000,
        "-" * 298 + "1",
        "1" + "+1" * 149,
        "*".join(["9" * 20] * 14),
        "1/3" + "+1/7" * 70,
    ],
)
async def test_hostile_expressions_come_to_a_short_end(expression: str) -> None:
    result = await calculate(expression)
    assert len(result.text) <= 1300


async def test_a_limit_on_operations() -> None:
    assert (await calculate("60 + 64", max_operations=1)).text == "124"
    assert (await calculate("-(-60) + -64", max_operations=1)).text == "-4"
    result = await calculate("60 + 64 * 2", max_operations=1)
    assert result.error == "failed"
    assert result.text == "Error: only one operation a call; this has 2"
    assert (await calculate("sqrt(16)", max_operations=1)).text == "4"
    assert (await calculate("sqrt(16) + 1", max_operations=1)).error == "failed"
    with pytest.raises(ConfigError, match="max_operations=0"):
        resolve_tool("calculator", max_operations=0)


def test_schema() -> None:
    function = resolve_tool("calculator").schema()["function"]
    plain = resolve_tool("calculator", functions=False).schema()["function"]
    assert "sqrt" in function["parameters"]["properties"]["expression"]["description"]
    assert "sqrt" not in plain["parameters"]["properties"]["expression"]["description"]
    assert function["name"] == "calculator"
    assert function["parameters"]["required"] == ["expression"]
    assert function["parameters"]["properties"]["expression"]["type"] == "string"
