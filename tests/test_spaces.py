"""Spaces of messages are true Gymnasium spaces, alone and batched."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from gymnasium.spaces import Space, Text
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    concatenate,
    create_empty_array,
    iterate,
)

from agentrl.messages import ToolCall, assistant, tool_result, user
from agentrl.spaces import ActionSpace, ObservationSpace

SPACES = [ActionSpace, ObservationSpace]


@pytest.mark.parametrize("make", SPACES)
def test_samples_are_members_and_depend_on_the_seed_alone(make: Any) -> None:
    first, second = make(), make()
    first.seed(3)
    second.seed(3)
    samples = [first.sample() for _ in range(20)]
    assert samples == [second.sample() for _ in range(20)]
    assert len(set(map(str, samples))) > 10
    assert all(sample in first for sample in samples)


def test_membership_is_a_question_of_form() -> None:
    actions, observations = ActionSpace(), ObservationSpace()
    assert assistant("x") in actions
    assert assistant("", (ToolCall(id="1", name="t"),)) in actions
    assert "text" in actions
    assert user("x") not in actions
    assert {"role": "assistant", "content": "x"} not in actions
    assert () in observations
    assert (user("x"), tool_result("1", "call_0")) in observations
    assert [user("x")] not in observations
    assert ("x",) not in observations


def test_samples_survive_json() -> None:
    broken = ToolCall(id="1", name="t", arguments="{", error="no closing brace")
    actions: list[Any] = ["text", assistant("x", (broken,))]
    observations = [(), (user("x"), tool_result("1", "call_0", "t"))]
    for space, samples in [(ActionSpace(), actions), (ObservationSpace(), observations)]:
        text = json.dumps(space.to_jsonable(samples))
        assert space.from_jsonable(json.loads(text)) == samples


@pytest.mark.parametrize("make", SPACES)
def test_spaces_compare_by_kind_and_can_be_copied(make: Any) -> None:
    space = make()
    assert space == make()
    assert space != Text(3)
    assert ActionSpace() != ObservationSpace()
    assert copy.deepcopy(space) == space
    assert pickle.loads(pickle.dumps(space)) == space


@pytest.mark.parametrize("make", SPACES)
def test_masks_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="mask"):
        make().sample(mask=1)


@pytest.mark.parametrize("make", SPACES)
def test_a_batch_is_a_tuple(make: Any) -> None:
    space: Space[Any] = make()
    batched = batch_space(space, 3)
    items = batched.sample()
    assert items in batched
    assert tuple(iterate(batched, items)) == items
    assert concatenate(space, items, create_empty_array(space, 3)) == items
    assert batch_differing_spaces([space, make()]).sample() in batch_differing_spaces([space, make()])
