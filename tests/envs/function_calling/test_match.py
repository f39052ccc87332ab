"""The rules of the match, one by one: the published checker gives the same verdicts (and raises on 10**400)."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl.envs.function_calling.functions import Function, read_functions
from agentrl.envs.function_calling.match import calls_match


def function(name: str = "f", required: tuple[str, ...] = (), **types: str) -> Function:
    """`array:integer` is a list of integers."""

    def schema(kind: str) -> dict[str, Any]:
        outer, _, inner = kind.partition(":")
        return {"type": outer, "items": schema(inner)} if inner else {"type": outer}

    properties = {key: schema(kind) for key, kind in types.items()}
    parameters = {"type": "dict", "properties": properties, "required": list(required)}
    (made,) = read_functions({"name": name, "parameters": parameters}, "here")
    return made


def matches(kind: str, options: list[Any], value: Any) -> bool:
    return calls_match([function(x=kind)], [{"f": {"x": options}}], [("f", {"x": value})])


@pytest.mark.parametrize(
    ("kind", "options", "value", "right"),
    [
        ("string", ["New York, NY"], "new-york NY.", True),
        ("string", ["say 'hi'"], 'Say "hi"', True),
        ("string", ["a:b"], "a b", False),
        ("string", ["1"], 1, False),
        ("string", ["", "x"], "", True),
        ("any", ["5"], "5", True),
        ("any", [5], 5, True),
        ("any", [5], "5", False),
        ("integer", [1], 1.0, False),
        ("integer", [1], True, False),
        ("integer", ["count"], "count", True),
        ("integer", ["count"], "Count", False),
        ("float", [5.0], 5, True),
        ("float", [0.1], 0.1000001, False),
        ("float", [1.0], 10**400, False),
        ("boolean", [True], True, True),
        ("boolean", [True], "true", False),
        ("string", [None, "x"], None, True),
        ("array:integer", [[1, 2]], [1, 2], True),
        ("array:integer", [[1, 2]], [2, 1], False),
        ("array:float", [[1.0, 2.0]], [1, 2], False),
        ("array:string", [["A-b", "c"]], ["ab", "C"], True),
        ("array:string", [["x"], ""], [], True),
        ("array:string", ["names"], "names", True),
        ("tuple:float", [[1.5, 2.5]], [1.5, 2.5], True),
        ("array:array", [[[1, 2], [3]]], [[1, 2], [3]], True),
        ("dict", [{"a": ["x, y"], "b": [1, ""]}], {"a": "XY"}, True),
        ("dict", [{"a": ["x"], "b": [1]}], {"a": "x"}, False),
        ("dict", [{"a": ["x"]}], {"a": "x", "b": 1}, False),
        ("dict", [{"a": [["X"]]}], {"a": ["x"]}, False),
        ("dict", [""], {}, False),
        ("array:dict", [[{"a": [1]}, {"a": [2]}]], [{"a": 1}, {"a": 2}], True),
        ("array:dict", [[{"a": [1]}, {"a": [2]}]], [{"a": 2}, {"a": 1}], False),
        ("array:dict", [""], [], True),
        ("array:dict", [[{"a": [1]}]], ["a"], False),
        ("string", [], "x", False),
    ],
)
def test_values(kind: str, options: list[Any], value: Any, right: bool) -> None:
    assert matches(kind, options, value) is right


def test_what_is_required_must_be_there_and_what_may_be_left_out_need_not() -> None:
    offered = [function(required=("a",), a="integer", b="integer", c="integer")]
    answers = [{"f": {"a": [1], "b": [2, ""], "d": ["", 1]}}]
    right = [{"a": 1}, {"a": 1, "b": 2}]
    wrong = [{}, {"b": 2}, {"a": 1, "b": 3}, {"a": 1, "c": 1}, {"a": 1, "d": 1}, {"a": 1, "e": 1}]
    assert [calls_match(offered, answers, [("f", given)]) for given in right] == [True] * 2
    assert [calls_match(offered, answers, [("f", given)]) for given in wrong] == [False] * 6
    assert not calls_match(offered, [{"f": {"a": [1], "b": [2]}}], [("f", {"a": 1})])


def test_the_name_is_the_offered_one() -> None:
    offered = [function("math.add", a="integer"), function("add", a="integer")]
    answers = [{"math.add": {"a": [1]}}]
    names = ("math_add", "math.add", "add", "Math_add")
    assert [calls_match(offered, answers, [(name, {"a": 1})]) for name in names] == [True, False, False, False]


def test_parallel_calls_come_in_any_order_each_answer_met_by_its_own() -> None:
    offered = [function(a="integer"), function("g")]
    answers = [{"f": {"a": [1]}}, {"f": {"a": [2]}}, {"g": {}}]
    one, two, three = ("f", {"a": 1}), ("f", {"a": 2}), ("g", dict[str, Any]())
    assert calls_match(offered, answers, [three, two, one])
    for calls in ([one, two], [one, one, three], [one, two, three, three], []):
        assert not calls_match(offered, answers, calls)


def test_an_answer_takes_the_first_call_that_meets_it() -> None:
    """Published: no other pairing is looked for."""
    answers = [{"f": {"a": [1, 2]}}, {"f": {"a": [1]}}]
    assert calls_match([function(a="integer")], answers, [("f", {"a": 2}), ("f", {"a": 1})])
    assert not calls_match([function(a="integer")], answers, [("f", {"a": 1}), ("f", {"a": 2})])
