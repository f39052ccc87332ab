"""The scripted engine: a program in the policy's place, with ids and log-probabilities that are true."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from agentrl.chat import ChatRenderer
from agentrl.engines.base import FinishReason, Sampling
from agentrl.engines.scripted import ScriptedEngine, ScriptedReply
from agentrl.errors import ConfigError, EngineError
from agentrl.messages import assistant, user
from agentrl.registry import engines
from tests.chat.templates import make_tokenizer


@pytest.fixture
def renderer() -> ChatRenderer:
    return ChatRenderer(make_tokenizer())


async def test_text_becomes_the_ids_of_a_turn(renderer: ChatRenderer) -> None:
    engine = ScriptedEngine(renderer, lambda prompt, _: f"got {len(prompt)}")
    prompt = renderer.opening([user("hi")])
    completion = await engine.generate(prompt, Sampling(), session="s")
    assert completion.ids == renderer.turn_ids(assistant(f"got {len(prompt)}"))
    assert completion.logprobs == [0.0] * len(completion.ids)
    assert completion.finish_reason is FinishReason.STOP
    assert engine.calls == [(prompt, Sampling(), "s")]


async def test_a_tokenizer_serves_as_well(renderer: ChatRenderer) -> None:
    engine = ScriptedEngine(renderer.tokenizer, lambda *_: "yes")
    assert (await engine.generate([1], Sampling())).ids == renderer.turn_ids(assistant("yes"))


async def test_ids_and_given_logprobs_are_taken_as_they_stand(renderer: ChatRenderer) -> None:
    replies = iter([[70, 71], ScriptedReply([70, 71, renderer.stop_ids[0], 72], [-1.0, -2.0, -3.0, -4.0])])
    engine = ScriptedEngine(renderer, lambda *_: next(replies))
    unfinished = await engine.generate([1], Sampling())
    assert (unfinished.ids, unfinished.finish_reason) == ([70, 71], FinishReason.LENGTH)
    stopped = await engine.generate([1], Sampling())
    assert (stopped.ids, stopped.logprobs) == ([70, 71, renderer.stop_ids[0]], [-1.0, -2.0, -3.0])


async def test_limits_cut_a_reply(renderer: ChatRenderer) -> None:
    engine = ScriptedEngine(renderer, lambda *_: "the tool says 1 2 3", max_context=10)
    cut = await engine.generate([1], Sampling(max_tokens=2))
    assert (len(cut.ids), len(cut.logprobs), cut.finish_reason) == (2, 2, FinishReason.LENGTH)
    assert len((await engine.generate([1] * 7, Sampling())).ids) == 3
    assert (await engine.generate([1] * 12, Sampling())).ids == []


TABLE = {"the tool": 5.0, "the answer": 3.0, "stops": 2.0}


async def test_a_table_is_drawn_with_exact_probabilities(renderer: ChatRenderer) -> None:
    engine = ScriptedEngine(renderer, lambda *_: TABLE)
    counts: Counter[str] = Counter()
    for seed in range(2000):
        completion = await engine.generate([1], Sampling(seed=seed))
        text = renderer.parse(completion.ids).text
        counts[text] += 1
        assert math.exp(sum(completion.logprobs)) == pytest.approx(TABLE[text] / 10)
        assert len(completion.logprobs) == len(completion.ids)
    for text, weight in TABLE.items():
        assert counts[text] / 2000 == pytest.approx(weight / 10, abs=0.04)  # 3.6 standard errors


async def test_a_table_knows_temperature_and_seed(renderer: ChatRenderer) -> None:
    engine = ScriptedEngine(renderer, lambda *_: TABLE)
    greedy = await engine.generate([1], Sampling(temperature=0.0, seed=7))
    assert renderer.parse(greedy.ids).text == "the tool"
    assert math.exp(sum(greedy.logprobs)) == pytest.approx(0.5)
    again = [await engine.generate([1], Sampling(seed=11)) for _ in range(2)]
    assert again[0].ids == again[1].ids
    total = 0.0
    for seed in range(60):  # the conditional of each token is tempered: over all replies that still sums to one
        completion = await engine.generate([1], Sampling(temperature=0.5, seed=seed))
        if renderer.parse(completion.ids).text == "stops":
            total = math.exp(sum(completion.logprobs))
    assert total == pytest.approx(2.0**2 / (2.0**2 + 8.0**2))


async def test_latency_passes_by_the_given_clock(renderer: ChatRenderer) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    engine = ScriptedEngine(
        renderer, lambda *_: [70] * 9, latency=lambda prompt, ids: len(prompt) + 0.5 * len(ids), sleep=sleep,
        clock=lambda: now,
    )  # fmt: skip
    completion = await engine.generate([1, 2], Sampling(max_tokens=4))
    assert completion.decode_seconds == now == 4.0


async def test_failures_and_closing(renderer: ChatRenderer) -> None:
    def fail(*_: object) -> str:
        raise EngineError("unreachable")

    with pytest.raises(EngineError, match="unreachable"):
        await ScriptedEngine(renderer, fail).generate([1], Sampling())
    engine = ScriptedEngine(renderer, lambda *_: "x", latency=lambda *_: 0.01)
    call = asyncio.create_task(engine.generate([1], Sampling()))
    await asyncio.sleep(0)
    await engine.close()
    for request in (call, engine.generate([1], Sampling())):
        with pytest.raises(EngineError, match="closed"):
            await request
    await engine.start()
    assert (await engine.generate([1], Sampling())).ids


async def test_publish_reports_what_it_was_given(renderer: ChatRenderer) -> None:
    engine = ScriptedEngine(renderer, lambda *_: "x")
    before = await engine.generate([1], Sampling())
    served = await engine.publish({"w": b"123"}, 4)
    after = await engine.generate([1], Sampling())
    assert (before.policy_version, after.policy_version) == (0, 4)
    assert before.weights_hash != served == after.weights_hash


async def test_mistakes_are_named(renderer: ChatRenderer) -> None:
    for reply in ({}, {"x": 0.0}):
        with pytest.raises(ConfigError, match="positive weight"):
            await ScriptedEngine(renderer, lambda *_, reply=reply: reply).generate([1], Sampling())
    with pytest.raises(ConfigError, match="2 ids and 1 log-probabilities"):
        await ScriptedEngine(renderer, lambda *_: ScriptedReply([1, 2], [0.0])).generate([1], Sampling())
    with pytest.raises(ConfigError, match="construct it in Python"):
        engines.get("scripted").for_policy(None, stop_ids=())
