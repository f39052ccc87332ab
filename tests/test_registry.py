"""Named components: found by name, loaded when asked for, an unknown name offers the nearest."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from agentrl import registry
from agentrl.errors import ConfigError, UnknownNameError
from agentrl.registry import Registry, nearest


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """A registry for which an installed package announces three components."""
    points = {
        "present": "agentrl.seeding:draw",
        "absent": "agentrl.no_such_module:Thing",
        "unfinished": "agentrl.seeding:no_such_name",
    }

    def entry_points(group: str) -> list[EntryPoint]:
        assert group == "agentrl.widgets"
        return [EntryPoint(name, value, group) for name, value in points.items()]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return Registry("widget")


def test_registered_by_decorator_and_directly() -> None:
    widgets: Registry[Any] = Registry("widget")

    @widgets.register("one")
    class One:
        pass

    widgets.register("two", len)
    assert widgets.get("one") is One
    assert widgets.get("two") is len
    assert widgets.names() == ["one", "two"]
    assert "one" in widgets
    assert "three" not in widgets
    assert widgets.origin("one").endswith("One")


def test_a_taken_name_is_refused_but_a_reloaded_module_is_not() -> None:
    widgets: Registry[Any] = Registry("widget")
    widgets.register("len", len)
    with pytest.raises(ConfigError, match="'len' is already registered by builtins:len"):
        widgets.register("len", sorted)

    def made() -> type:
        class Same:
            pass

        return Same

    first, second = made(), made()
    widgets.register("same", first)
    widgets.register("same", second)
    assert widgets.get("same") is second


def test_announced_components_load_on_demand(announced: Registry[Any]) -> None:
    from agentrl.seeding import draw

    assert announced.names() == ["absent", "present", "unfinished"]
    assert announced.origin("absent") == "agentrl.no_such_module:Thing"  # listing imports nothing
    assert announced.get("present") is draw
    assert announced.get("present") is draw


@pytest.mark.parametrize("name", ["absent", "unfinished"])
def test_a_broken_announcement_says_where_it_points(announced: Registry[Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"widget '{name}' \(agentrl\..*\) cannot be imported"):
        announced.get(name)


def test_what_this_process_registers_wins_over_an_announcement(announced: Registry[Any]) -> None:
    announced.register("present", len)
    assert announced.get("present") is len


def test_an_unknown_name_offers_the_nearest(announced: Registry[Any]) -> None:
    with pytest.raises(UnknownNameError, match="widget 'presend' is unknown; did you mean 'present'"):
        announced.get("presend")
    with pytest.raises(UnknownNameError, match="valid: absent, present, unfinished"):
        announced.get("qqq")


def test_nearest_in_words() -> None:
    assert nearest("x", []) == "none is registered"
    assert nearest("zzz", ["b", "a"]) == "valid: a, b"
    assert nearest("zzz", [f"n{index:02d}" for index in range(20)]).endswith("n11 ...")
    assert nearest("grop", ["grpo", "turn_loo"]) == "did you mean 'grpo'?"
    assert nearest("grop", ["grpo", "rloo"]) == "did you mean 'grpo' or 'rloo'?"


def test_the_bundled_names_are_announced() -> None:
    assert "calculator" in registry.tools
    assert "independent" in registry.rollouts
    assert "transformers" in registry.engines
