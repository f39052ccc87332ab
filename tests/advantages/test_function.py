"""A plain function as an estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agentrl import advantages, registry
from agentrl.advantages import TurnTable, advantage, attribute
from agentrl.errors import ConfigError

if TYPE_CHECKING:
    from collections import OrderedDict

GROUP = [
    TurnTable(rewards=np.array([0.0, 1.0]), lengths=np.array([2, 1])),
    TurnTable(rewards=np.array([0.5]), lengths=np.array([1])),
]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry.advantages, "_registered", dict(registry.advantages._registered))
    yield


def run(spec: str | dict[str, object]) -> advantages.Credit:
    transforms = advantages.build([spec])
    advantages.check_order(transforms, group_size=2)
    return attribute(transforms, [GROUP])[0]


def test_one_number_a_trajectory() -> None:
    @advantage("centred")
    def centred(group: list[TurnTable]) -> list[float]:
        mean = sum(table.total for table in group) / len(group)
        return [table.total - mean for table in group]

    assert run("centred").trajectory.tolist() == [0.25, -0.25]
    assert centred(GROUP) == [0.25, -0.25]  # the decorator leaves the function as it was


def test_one_array_a_trajectory() -> None:
    @advantage("per_turn")
    def per_turn(group: list[TurnTable]) -> list[np.ndarray]:
        return [2 * table.rewards for table in group]

    credit = run("per_turn")
    assert [turn.tolist() for turn in credit.turns] == [[0.0, 2.0], [1.0]]
    assert credit.token_advantages()[0].tolist() == [0.0, 0.0, 2.0]


def test_options_follow_the_group_in_the_signature() -> None:
    @advantage("scaled")
    def scaled(group: list[TurnTable], *, factor: float = 1.0) -> list[float]:
        return [factor * table.total for table in group]

    assert run({"name": "scaled", "factor": "2e0"}).trajectory.tolist() == [2.0, 1.0]
    with pytest.raises(ConfigError, match="has no option 'factr'; did you mean 'factor'"):
        advantages.build([{"name": "scaled", "factr": 2}])
    with pytest.raises(ConfigError, match="has no option 'group'"):
        advantages.build([{"name": "scaled", "group": []}])


def test_annotations_for_type_checkers_only_do_not_hinder() -> None:
    @advantage("checked")
    def checked(group: OrderedDict[str, TurnTable], *, factor: float = 1.0) -> list[float]:
        return [factor] * len(group)

    assert run({"name": "checked", "factor": 3.0}).trajectory.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ([1.0], "returned 1 values for a group of 2"),
        ([np.zeros(2), np.zeros(2)], r"shape \(2,\) for a trajectory of 1 turns"),
        ([np.zeros(2), 1.0], r"shape \(\) for a trajectory of 1 turns"),
        ([float("nan"), 0.0], "not finite"),
        (["a", "b"], "no number and no array"),
    ],
)
def test_wrong_results_are_one_line(result: list[object], words: str) -> None:
    advantage("wrong")(lambda group: result)  # type: ignore[return-value]
    with pytest.raises(ConfigError, match=words) as caught:
        run("wrong")
    assert str(caught.value).startswith("advantage 'wrong' returned")
    assert "\n" not in str(caught.value)


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="'grpo' is already registered"):
        advantage("grpo")(lambda group: [0.0] * len(group))


def test_a_class_that_is_no_transform_is_refused() -> None:
    class Odd:
        pass

    registry.advantages.register("odd", Odd)
    with pytest.raises(ConfigError, match="'odd' is of class Odd, not an agentrl Transform"):
        advantages.build(["odd"])
