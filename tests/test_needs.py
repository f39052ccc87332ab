"""Needs: one canonical text for a quantity and its options, numbers and texts."""

from __future__ import annotations

import pytest

from agentrl.errors import ConfigError
from agentrl.needs import need, split, union


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "q"),
        ({"kappa": 0.02}, "q(kappa=0.02)"),
        ({"b": 2.0, "a": 1.0}, "q(a=1, b=2)"),
        ({"closing": "<answer>"}, 'q(closing="<answer>")'),
        ({"closing": ""}, 'q(closing="")'),
        ({"closing": 'a "b", (c) = d\\\n', "k": 3.0}, 'q(closing="a \\"b\\", (c) = d\\\\\\n", k=3)'),
        ({"closing": "ä</think>"}, 'q(closing="\\u00e4</think>")'),
    ],
)
def test_there_and_back(options: dict[str, float | str], text: str) -> None:
    assert need("q", **options) == text
    assert split(text) == ("q", options)


@pytest.mark.parametrize("text", ["", "Q", "q(", "q)", "q(a)", 'q(a="b)', "q(=1)", "q(a=1 b=2)x", "q(a=(1))"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is no quantity"):
        split(text)


def test_a_value_that_is_neither_number_nor_text() -> None:
    with pytest.raises(ConfigError, match="option 'a' is 'one', which is no number"):
        split("q(a=one)")


def test_union() -> None:
    assert union([{"a"}, (), {"a", "b"}]) == {"a", "b"}
