"""An episode as columns: every bit comes back, in few bytes, or the episode is refused."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import StoreError
from agentrl.store.codec import (
    SHOWN,
    decode,
    decode_advantages,
    decode_array,
    encode,
    encode_advantages,
    encode_floats,
    encode_ids,
    readable,
    summarise,
)
from agentrl.trajectory import Branch, StopReason, Switch
from tests.store.episodes import INF, NAN, episode, plain

QUIET, SIGNALLING = struct.unpack("<dd", struct.pack("<QQ", 0xFFF8_0000_0000_1234, 0x7FF0_0000_0000_0001))


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_whole_numbers_of_64_bits_come_back(ids: list[int]) -> None:
    assert decode_array(encode_ids(ids)) == ids


@pytest.mark.parametrize("edge", [0, 255, 256, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1])
def test_ids_at_the_edges_of_a_width(edge: int) -> None:
    for ids in ([edge], [0, edge, edge - 1], [-edge - 1, edge], [edge] * 3000):
        assert decode_array(encode_ids(ids)) == ids


@pytest.mark.parametrize("ids", [[2**63], [-(2**63) - 1], [1, 2**64], [1.5], ["1"], [None]])
def test_an_id_that_is_none_is_refused_and_not_cut(ids: list[object]) -> None:
    broken = plain(1)
    broken.turns[0].sampled_ids = ids  # type: ignore[assignment]
    with pytest.raises(StoreError, match="the episode of task 't' cannot be written") as caught:
        encode(broken)
    assert "\n" not in str(caught.value)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.floats(width=32)))
def test_floats_come_back_bit_for_bit(values: list[float]) -> None:
    assert bits(decode_array(encode_floats(values))) == bits(values)


def test_odd_floats_come_back_bit_for_bit() -> None:
    odd = [NAN, QUIET, SIGNALLING, INF, -INF, 0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, 0.1, 1e-45]
    for values in (odd, odd * 500, [-0.0], [QUIET], [0.1], [0.5, -0.0]):
        assert bits(decode_array(encode_floats(values))) == bits(values)


def test_numbers_take_the_fewest_bytes_that_hold_them() -> None:
    assert len(encode_ids([7] * 10)) == 1 + 10
    assert len(encode_ids([49_151] * 10)) == 1 + 20
    assert len(encode_ids([151_000] * 10)) == 1 + 30
    assert len(encode_floats([-0.5] * 10)) == 1 + 40
    assert len(encode_floats([-0.1] * 10)) == 1 + 80
    assert len(encode_ids([49_151] * 10_000)) < 200
    assert encode_ids([]) == encode_floats([]) == b""


@settings(max_examples=40)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True)),
    st.lists(st.integers(0, 2**40)),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(StopReason),
)
def test_an_episode_comes_back_bit_for_bit(floats: list[float], ids: list[int], text: str, reason: StopReason) -> None:
    wrote = episode(text=text)
    wrote.stop_reason, wrote.error, wrote.branch = reason, text, Branch(1, 1)
    wrote.metrics = {f"{text}{index}": value for index, value in enumerate(floats)}
    wrote.info = {"level": 3, "gold": [text, NAN, -0.0, {"deep": [None, True, 2**70]}]}
    wrote.turns[0].logprobs, wrote.turns[0].sampled_ids, wrote.turns[0].new_ids = floats, ids, ids[::-1]
    wrote.turns.append(
        replace(wrote.turns[0], prefix_turn=0, reward=-INF, switches=[Switch(1, 2, text)], sampled_ids=[])
    )
    read = decode(encode(wrote), "here")
    assert repr(read) == repr(wrote)  # equality would be false for not-a-number
    assert [bits(turn.logprobs) for turn in read.turns] == [bits(turn.logprobs) for turn in wrote.turns]


def test_nothing_is_stored_twice() -> None:
    long = episode()
    turn = long.turns[0]
    turn.sampled_ids, turn.logprobs = list(range(1000, 1400)), [-0.25] * 400
    data = encode(long)
    text = zlib.decompress(data.record)
    assert b"1399" not in text and b"-0.25" not in text and b"sampled_ids" not in text
    assert text.count(b"calculator") == 2  # the call as the policy wrote it, and as it was executed


def test_an_episode_without_turns_comes_back() -> None:
    aborted = plain(0, stop_reason=StopReason.ENV_ERROR, error="raised")
    assert decode(encode(aborted), "here") == aborted


@pytest.mark.parametrize("change", ["no text", "no turns", "cut", "type"])
def test_a_damaged_episode_says_where(change: str) -> None:
    data = encode(plain(2))
    turn = data.turns[0]
    broken = {
        "no text": replace(data, record=b""),
        "no turns": replace(data, turns=data.turns[:1]),
        "cut": replace(data, turns=(replace(turn, logprobs=turn.logprobs[:-1]), data.turns[1])),
        "type": replace(data, turns=(replace(turn, sampled=b"\x00\x01"), data.turns[1])),
    }[change]
    with pytest.raises(StoreError, match="the record of episode phase step is damaged") as caught:
        decode(broken, "phase step")
    assert "\n" not in str(caught.value)


def test_advantages_are_float32() -> None:
    data = encode(plain(2))
    assert decode_advantages(data) is None
    given = [[0.1, -1.5], [NAN, INF]]
    paid = replace(
        data,
        turns=tuple(
            replace(turn, advantages=encode_advantages(row)) for turn, row in zip(data.turns, given, strict=True)
        ),
    )
    found = decode_advantages(paid)
    assert found is not None
    assert found[0] == [pytest.approx(0.1, rel=1e-7), -1.5]
    assert math.isnan(found[1][0]) and found[1][1] == INF


def test_a_summary_counts_what_the_episode_holds() -> None:
    made = plain(3, reward=2.0, info={"level": 4, "answer": "42"}, error="e\x00\ud800f", seconds=NAN)
    columns = summarise(made)
    assert columns["prompt_tokens"] == sum(len(made.context_ids(index)) for index in range(3)) == 1 + 5 + 10
    assert (columns["turns"], columns["tokens"], columns["reward"], columns["seconds"]) == (3, 6, 2.0, None)
    assert (columns["level"], columns["answer"], columns["error"]) == (4, "42", "e\ufffd\ufffdf")


def test_a_summary_takes_an_endpoints_count_where_there_are_no_tokens() -> None:
    counted = plain(0, info={"usage": {"prompt_tokens": 70, "completion_tokens": 9}, "answer": "x" * 5000})
    columns = summarise(counted)
    assert (columns["prompt_tokens"], columns["tokens"], len(columns["answer"])) == (70, 9, SHOWN)
    for level in (True, 2**63, 1.0, [1]):
        assert summarise(plain(0, info={"level": level}))["level"] is None
    odd = summarise(plain(0, info={"usage": "none", "level": "hard", "answer": 3}))
    assert (odd["prompt_tokens"], odd["tokens"], odd["level"], odd["answer"]) == (0, 0, None, None)


def test_readable_text_keeps_everything_else() -> None:
    assert readable("\x1b[2J é \U0001f600 \u202e") == "\x1b[2J é \U0001f600 \u202e"
    assert readable("a\x00b\udc00c") == "a\ufffdb\ufffdc"
