"""Turn, Trajectory, rows: the record is exact, and each sampled token is trained once."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentrl.advantages.base import Credit, TurnTable
from agentrl.messages import Message, Role, TextPart, ToolCall, assistant, user
from agentrl.trajectory import Branch, Group, Row, StopReason, Switch, ToolCallRecord, Trajectory, Turn

# -- what an engine sees: contexts and samples -------------------------------------------------------------------------


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    """(context, sampled) of each turn. Each context continues an earlier turn (a chain, a tree), or is new (a fork)."""
    tokens = st.lists(st.integers(0, 3), max_size=4)  # few ids, so that prefixes also meet by accident
    seen: list[tuple[list[int], list[int]]] = []
    for _ in range(draw(st.integers(1, 7))):
        origin = draw(st.integers(-1, len(seen) - 1))
        prefix = [] if origin < 0 else seen[origin][0] + seen[origin][1]
        seen.append((prefix + draw(tokens), draw(tokens)))
    return seen


def recorded(seen: list[tuple[list[int], list[int]]]) -> Trajectory:
    """The trajectory as a rollout records it; log-probabilities name their turn and place."""
    trajectory = Trajectory("train:0")
    for index, (context, sampled) in enumerate(seen):
        prefix, new_ids = trajectory.locate(context)
        logprobs = [-(100.0 * (index + 1) + place) for place in range(len(sampled))]
        trajectory.turns.append(Turn(new_ids, prefix, sampled, logprobs, assistant("")))
    return trajectory


@given(conversations())
def test_context_and_sampled_ids_are_what_the_engine_had(seen: list[tuple[list[int], list[int]]]) -> None:
    trajectory = recorded(seen)
    for index, (context, sampled) in enumerate(seen):
        assert trajectory.context_ids(index) == context
        assert trajectory.full_ids(index) == context + sampled


@given(conversations())
def test_each_sampled_token_is_trained_once_in_its_own_context(seen: list[tuple[list[int], list[int]]]) -> None:
    trajectory = recorded(seen)
    trained: list[tuple[int, int, float]] = []
    for row in trajectory.rows():
        assert len(row.ids) == len(row.turn_ids) == len(row.logprobs)
        for place, turn in enumerate(row.turn_ids):
            if not turn:
                assert row.logprobs[place] == 0.0
                continue
            context, _ = seen[turn - 1]
            within = int(-row.logprobs[place] - 100 * turn)
            assert row.ids[:place] == context + seen[turn - 1][1][:within]  # what it attends to is what it was given
            trained.append((turn, within, row.ids[place]))
    expected = [
        (index + 1, place, token) for index, (_, sampled) in enumerate(seen) for place, token in enumerate(sampled)
    ]
    assert sorted(trained) == expected


@given(conversations())
def test_a_row_for_each_leaf_and_no_more(seen: list[tuple[list[int], list[int]]]) -> None:
    trajectory = recorded(seen)
    continued = {turn.prefix_turn for turn in trajectory.turns}
    leaves = [index for index in range(len(seen)) if index not in continued]
    assert [row.ids for row in trajectory.rows()] == [trajectory.full_ids(leaf) for leaf in leaves]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 9), max_size=4)), min_size=1)
)
def test_a_conversation_that_only_grows_is_one_row(pieces: list[tuple[list[int], list[int]]]) -> None:
    seen: list[tuple[list[int], list[int]]] = []
    for new, sampled in pieces:
        seen.append(((seen[-1][0] + seen[-1][1] if seen else []) + new, sampled))
    trajectory = recorded(seen)
    (row,) = trajectory.rows()
    assert row.ids == [token for new, sampled in pieces for token in new + sampled]
    assert trajectory.num_forks == 0
    assert trajectory.num_policy_tokens == sum(bool(turn) for turn in row.turn_ids)


def test_a_fork_by_hand() -> None:
    """The second turn's history lost a token: a row of its own, counted."""
    trajectory = recorded([([1, 2], [3, 4]), ([1, 3, 4, 5], [6])])
    assert trajectory.rows() == [
        Row([1, 2, 3, 4], [0, 0, 1, 1], [0.0, 0.0, -100.0, -101.0]),
        Row([1, 3, 4, 5, 6], [0, 0, 0, 0, 2], [0.0, 0.0, 0.0, 0.0, -200.0]),
    ]
    assert trajectory.num_forks == 1


def test_a_tree_by_hand() -> None:
    """Two turns continue the first: it stands in both rows and is trained in the first."""
    trajectory = recorded([([1], [2]), ([1, 2, 3], [4]), ([1, 2, 5], [6])])
    assert [turn.prefix_turn for turn in trajectory.turns] == [None, 0, 0]
    assert [(row.ids, row.turn_ids) for row in trajectory.rows()] == [
        ([1, 2, 3, 4], [0, 1, 0, 2]),
        ([1, 2, 5, 6], [0, 0, 0, 3]),
    ]
    assert trajectory.rows()[1].logprobs == [0.0, 0.0, 0.0, -300.0]


def test_the_latest_prefix_is_chosen() -> None:
    """An empty turn has the ids of its predecessor: the chain goes through both, so that one row is enough."""
    trajectory = recorded([([1], [2]), ([1, 2], []), ([1, 2, 3], [4])])
    assert [turn.prefix_turn for turn in trajectory.turns] == [None, 0, 1]
    assert [row.turn_ids for row in trajectory.rows()] == [[0, 1, 0, 3]]


def test_t1_acceptance_a() -> None:
    """Turns of length 2 and 1, observation of 2: A_turn = [.3, -.7] lies on tokens as [.3, .3, 0, 0, -.7]."""
    trajectory = recorded([([9], [1, 2]), ([9, 1, 2, 7, 8], [3])])
    (row,) = trajectory.rows()
    assert row.turn_ids[1:] == [1, 1, 0, 0, 2]
    credit = Credit.zeros([TurnTable.of(trajectory)])
    credit.turns[0][:] = [0.3, -0.7]
    tokens = credit.token_advantages()[0]
    spread = iter(tokens.tolist())
    assert [next(spread) if turn else 0.0 for turn in row.turn_ids[1:]] == pytest.approx([0.3, 0.3, 0, 0, -0.7])


# -- the record on disk ------------------------------------------------------------------------------------------------

texts = st.text(max_size=8)
numbers = st.floats(allow_nan=True, allow_infinity=True)
ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(ToolCall, id=texts, name=texts, arguments=texts, error=st.none() | texts)
messages = st.builds(
    Message,
    role=st.sampled_from(Role),
    content=texts | st.lists(st.builds(TextPart, text=texts), max_size=2).map(tuple),
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    tool_call_id=st.none() | texts,
    name=st.none() | texts,
)
records = st.builds(
    ToolCallRecord,
    name=texts,
    arguments=texts,
    result=texts,
    error=st.none() | texts,
    seconds=numbers,
    queued_seconds=numbers,
)
turns = st.builds(
    Turn,
    new_ids=ids,
    prefix_turn=st.none() | st.integers(0, 5),
    sampled_ids=ids,
    logprobs=st.lists(numbers, max_size=5),
    message=messages,
    observation=st.lists(messages, max_size=2),
    reward=numbers,
    tool_calls=st.lists(records, max_size=2),
    policy_version=st.integers(0, 2**40),
    weights_hash=texts,
    tool_error=st.booleans(),
    parse_error=st.booleans(),
    truncated=st.booleans(),
    switches=st.lists(st.builds(Switch, st.integers(0, 5), st.integers(0, 2**40), texts), max_size=2),
    state_key=st.none() | texts,
    parent=st.none() | texts,
    timings=st.dictionaries(texts, numbers, max_size=2),
)
trajectories = st.builds(
    Trajectory,
    task_id=texts,
    env_id=texts,
    member=st.integers(0, 64),
    seed=st.integers(0, 2**63 - 1),
    opening=st.lists(messages, max_size=2),
    turns=st.lists(turns, max_size=3),
    stop_reason=st.sampled_from(StopReason),
    error=st.none() | texts,
    metrics=st.dictionaries(texts, numbers, max_size=2),
    seconds=numbers,
    timings=st.dictionaries(texts, numbers, max_size=2),
    branch=st.none() | st.builds(Branch, st.integers(0, 64), st.integers(1, 8)),
    info=st.dictionaries(texts, json_values, max_size=2),
)


def bits(value: Any) -> Any:
    """`value` with its floats as bytes, so that -0.0 is not 0.0 and not-a-number equals itself."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    if isinstance(value, (Branch, Switch, Trajectory, Turn, ToolCallRecord)):
        return {name: bits(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: bits(inner) for key, inner in value.items()}
    return [bits(inner) for inner in value] if isinstance(value, list) else (type(value), value)


@given(trajectories)
@example(Trajectory("t", info={"a": [math.nan, {"b": -math.inf}], "token_entropy": [math.nan, None]}))
def test_a_record_comes_back_bit_for_bit(trajectory: Trajectory) -> None:
    text = trajectory.to_json()
    again = Trajectory.from_json(text)
    assert bits(again) == bits(trajectory)
    assert again.to_json() == text
    assert bits(Trajectory.from_json(text.encode())) == bits(trajectory)


def test_bits_sees_what_equality_does_not() -> None:
    assert bits(-0.0) != bits(0.0)
    assert bits(math.nan) == bits(math.nan)
    assert bits([1]) != bits([1.0])
    assert bits(0.1) != bits(math.nextafter(0.1, 1))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"task_id": "a", "turns": [{}]}', '{"task_id": "a", "seed": "x"}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Trajectory.from_json(text)


# -- views -------------------------------------------------------------------------------------------------------------


def test_reward_messages_and_counts() -> None:
    first = Turn([1], None, [2, 3], [-1.0, -1.0], assistant("a"), [user("o")], reward=0.25)
    second = Turn([4], 0, [5], [-1.0], assistant("b"), reward=1.0)
    trajectory = Trajectory("t", opening=[user("q")], turns=[first, second])
    assert trajectory.reward == 1.25
    assert trajectory.num_policy_tokens == 3
    assert [message.text for message in trajectory.messages] == ["q", "a", "o", "b"]


def test_the_documented_stop_reasons_are_those_that_there_are() -> None:
    page = (Path(__file__).parents[1] / "docs" / "rollouts.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert {str(reason): reason.meaning for reason in StopReason}.items() <= table.items()


def test_aborted_episodes_are_no_members() -> None:
    aborted = {reason for reason in StopReason if reason.aborted}
    assert {str(reason) for reason in aborted} == {
        *("timeout", "env_error", "engine_error", "cancelled", "no_signal", "stale")
    }
    assert len({reason.meaning for reason in StopReason}) == len(StopReason)
    group = Group("g", [Trajectory("t", member=place, stop_reason=why) for place, why in enumerate(StopReason)])
    assert {StopReason(member.stop_reason) for member in group.members} == set(StopReason) - aborted


def test_no_turns_no_rows() -> None:
    assert Trajectory("t").rows() == []
    assert Trajectory("t").reward == 0
