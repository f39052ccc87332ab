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


async def calculate(expression: str, **options: int) -> ToolResult:
    calculator = resolve_tool("calculator", **options)
    call = ToolCall(id="call_0", name="calculator", arguments=json.dumps({"expression": expression}))
    result, _ = await call_tool({"calculator": calculator}, call)
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
    result = await calculate(expression)
    assert result.error == "failed"
    assert said in result.text
    assert len(result.text) < 200


@pytest.mark.parametrize(
    "expression",
    [
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
    with pytest.raises(ConfigError, match="max_operations=0"):
        resolve_tool("calculator", max_operations=0)


def test_schema() -> None:
    function = resolve_tool("calculator").schema()["function"]
    assert function["name"] == "calculator"
    assert function["parameters"]["required"] == ["expression"]
    assert function["parameters"]["properties"]["expression"]["type"] == "string"
