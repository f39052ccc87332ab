"""The scripted engine: a program in the policy's place, with ids and log-probabilities that are true."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from agentrl.chat import ChatRenderer
from agentrl.engines.base import Completion, EngineLoad, FinishReason, Sampling
from agentrl.engines.latency import Batch, Constant, Latency, LogNormal, PerToken
from agentrl.engines.scripted import ScriptedEngine, ScriptedReply
from agentrl.engines.weights import weights_hash
from agentrl.errors import ConfigError, EngineError
from agentrl.messages import assistant, user
from agentrl.registry import engines
from agentrl.trajectory import Switch
from agentrl.virtual_time import run_virtual
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


def test_latency_is_reported_by_stage(renderer: ChatRenderer) -> None:
    async def scenario() -> list[Completion]:
        engine = ScriptedEngine(renderer, lambda *_: [70] * 9, latency=Batch(PerToken(10, 2), slots=1))
        calls = [asyncio.create_task(engine.generate([1] * 5, Sampling(max_tokens=4))) for _ in range(2)]
        await asyncio.sleep(1)
        assert engine.load() == EngineLoad(running=1, waiting=1)
        completions = await asyncio.gather(*calls)
        assert engine.load() == EngineLoad(running=0, waiting=0)
        return list(completions)

    completions, took = run_virtual(scenario())
    times = [(each.queue_seconds, each.prefill_seconds, each.decode_seconds) for each in completions]
    assert times == [(0.0, 0.5, 2.0), (2.5, 0.5, 2.0)]
    assert took == 5.0


def test_a_function_gives_the_latency(renderer: ChatRenderer) -> None:
    engine = ScriptedEngine(renderer, lambda *_: [70] * 9, latency=lambda prompt, ids: len(prompt) + 0.5 * len(ids))
    completion, took = run_virtual(engine.generate([1, 2], Sampling(max_tokens=4)))
    assert completion.decode_seconds == took == 4.0


def test_weights_published_in_mid_completion_take_over_at_the_token_of_that_moment(renderer: ChatRenderer) -> None:
    async def scenario() -> list[Completion]:
        engine = ScriptedEngine(renderer, lambda *_: [70] * 8, latency=Batch(PerToken(2, 4), slots=2))
        calls = [asyncio.create_task(engine.generate([1] * size, Sampling())) for size in (2, 4, 2)]
        for version, at in ((1, 1.6), (2, 1.7), (3, 2.5)):
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            await engine.publish({"w": bytes([version])}, version)
        return list(await asyncio.gather(*calls))

    (first, second, third), _ = run_virtual(scenario())
    hashes = [weights_hash({}), *(weights_hash({"w": bytes([version])}) for version in (1, 2, 3))]
    # The first one reads until 1 s and samples a token every 0.25 s: two by 1.6 and 1.7, six by 2.5.
    assert (first.policy_version, first.weights_hash) == (0, hashes[0])
    assert first.switches == (Switch(2, 2, hashes[2]), Switch(6, 3, hashes[3]))
    # The second one reads until 2 s: what was published before then samples its first token.
    assert (second.policy_version, second.weights_hash) == (2, hashes[2])
    assert second.switches == (Switch(2, 3, hashes[3]),)
    assert (third.policy_version, third.switches) == (3, ())  # it queued until 3 s


def test_weights_in_flight_may_be_refused(renderer: ChatRenderer) -> None:
    async def scenario() -> None:
        engine = ScriptedEngine(renderer, lambda *_: "x", latency=Constant(1.0), publish_in_flight=False)
        engine.require(publish=True)
        call = asyncio.create_task(engine.generate([1], Sampling()))
        await asyncio.sleep(0.5)
        with pytest.raises(EngineError, match="while 1 requests are in flight"):
            await engine.publish({}, 1)
        await call
        assert await engine.publish({}, 1)

    run_virtual(scenario())


def test_cancelled_calls_leave_nothing(renderer: ChatRenderer) -> None:
    async def scenario() -> None:
        engine = ScriptedEngine(renderer, lambda *_: "x", latency=Batch(Constant(5.0), slots=1))
        calls = [asyncio.create_task(engine.generate([1], Sampling())) for _ in range(3)]
        await asyncio.sleep(1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert engine.load() == EngineLoad(0, 0)
        await asyncio.sleep(0.1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(scenario())


def test_answers_do_not_depend_on_the_timing(renderer: ChatRenderer) -> None:
    async def scenario(latency: Latency | Batch | None) -> list[tuple[list[int], list[float]]]:
        engine = ScriptedEngine(renderer, lambda *_: TABLE, latency=latency)
        calls = (engine.generate([1, seed], Sampling(seed=seed)) for seed in range(40))
        return [(each.ids, each.logprobs) for each in await asyncio.gather(*calls)]

    latencies = (None, LogNormal(1.0, 1.5), Batch(LogNormal(1.0, 1.5, seed=1), slots=3), Batch(Constant(1), capacity=2))
    answers = [run_virtual(scenario(latency))[0] for latency in latencies]
    assert answers[1:] == answers[:1] * 3


async def test_failures_and_closing(renderer: ChatRenderer) -> None:
    def fail(*_: object) -> str:
        raise EngineError("unreachable")

    with pytest.raises(EngineError, match="unreachable"):
        await ScriptedEngine(renderer, fail).generate([1], Sampling())
    engine = ScriptedEngine(renderer, lambda *_: "x", latency=Constant(0.01))
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
