"""From a spec to a component: positional arguments, conversions, one-line errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from agentrl.components import construct, one_of, split_spec
from agentrl.errors import ConfigError, UnknownNameError
from agentrl.registry import Registry


class Strategy:
    def __init__(self, context: str, *, width: int, mode: Literal["a", "b"] = "a", rate: float = 1.0) -> None:
        self.received = (context, width, mode, rate)


class Plain:
    """No constructor at all."""


@dataclass
class Open:
    """A dataclass is a component too."""

    copy: int = 1


def accepts_all(**options: Any) -> dict[str, Any]:
    return options


@pytest.fixture
def things() -> Registry[Any]:
    registry: Registry[Any] = Registry("thing")
    for name, component in {"strategy": Strategy, "plain": Plain, "open": Open, "all": accepts_all}.items():
        registry.register(name, component)
    return registry


def test_positional_arguments_come_first_and_are_no_options(things: Registry[Any]) -> None:
    built = construct(things, {"name": "strategy", "width": 3, "rate": "1e-6"}, "context")
    assert built.received == ("context", 3, "a", 1e-6)
    with pytest.raises(ConfigError, match="thing 'strategy' has no option 'context'"):
        construct(things, {"name": "strategy", "width": 3, "context": "mine"}, "context")


def test_a_name_alone_is_a_spec(things: Registry[Any]) -> None:
    assert isinstance(construct(things, "plain"), Plain)
    assert construct(things, "open") == Open(1)
    assert construct(things, {"name": "all", "anything": [1]}) == {"anything": [1]}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "strategy"}, "thing 'strategy' needs the option 'width'"),
        (
            {"name": "strategy", "width": "wide"},
            "thing 'strategy': option 'width' is 'wide': input should be a valid int",
        ),
        ({"name": "strategy", "width": 1, "mode": "c"}, "option 'mode' is 'c': input should be 'a' or 'b'"),
        ({"name": "strategy", "width": 1, "widht": 1}, r"has no option 'widht'; did you mean 'width'\?"),
        ({"name": "strategy", "width": 1, 3: 4}, "has no option 3"),
        ({"name": "strategy", "width": 1, "rate": float("inf")}, "option 'rate' is inf"),
    ],
)
def test_wrong_options(things: Registry[Any], spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        construct(things, spec, "context")
    assert "\n" not in str(caught.value)


def test_a_component_without_options(things: Registry[Any]) -> None:
    with pytest.raises(ConfigError, match="thing 'plain' has no option 'size'; it takes no options"):
        construct(things, {"name": "plain", "size": 1})


def test_unknown_name(things: Registry[Any]) -> None:
    with pytest.raises(UnknownNameError, match="thing 'strateg' is unknown; did you mean 'strategy'"):
        construct(things, "strateg")


@pytest.mark.parametrize("spec", [3, None, {}, {"width": 3}, {"name": 3}, ["strategy"]])
def test_what_is_no_spec(spec: Any) -> None:
    with pytest.raises(ConfigError, match="names no component"):
        split_spec(spec)


def test_split_spec_leaves_its_argument_alone() -> None:
    spec = {"name": "strategy", "width": 3}
    assert split_spec(spec) == ("strategy", {"width": 3})
    assert spec == {"name": "strategy", "width": 3}


def test_one_of() -> None:
    assert one_of("ddof", 1, (0, 1)) == 1
    with pytest.raises(ConfigError, match="mode is 'fist'; did you mean 'first'"):
        one_of("mode", "fist", ("first", "second"))
