"""Replicas behind one face: sticky sessions, failover, trial, publication to all."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentrl.chat import ChatRenderer
from agentrl.engines.base import Capabilities, Completion, Engine, EngineLoad, Reply, Sampling
from agentrl.engines.latency import Batch, LogNormal, PerToken
from agentrl.engines.replicas import ReplicatedEngine
from agentrl.engines.scripted import ScriptedEngine
from agentrl.errors import ConfigError, EngineError, EngineRefusal
from agentrl.virtual_time import run_virtual
from tests.chat.templates import make_tokenizer

RENDERER = ChatRenderer(make_tokenizer())


class Mortal(ScriptedEngine):
    """A scripted engine that dies, comes back, and may lie about what it serves."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(RENDERER, lambda prompt, _: [prompt[0], RENDERER.stop_ids[0]], **options)
        self.name = name
        self.dead = False
        self.refuses = False
        self.lie: str | None = None
        self.starts = 0
        self.clients = 0
        self.ended: list[str] = []

    async def start(self) -> None:
        self.starts += 1
        self._check()
        await super().start()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        self._check()
        if self.refuses:
            raise EngineRefusal("too long")
        completion = await super().generate(prompt_ids, sampling, session=session)
        self._check()
        return completion

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        self._check()
        return self.lie or await super().publish(weights, version)

    async def end_session(self, session: str) -> None:
        self._check()
        self.ended.append(session)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        self.clients += 1
        yield
        self.clients -= 1

    def _check(self) -> None:
        if self.dead:
            raise EngineError(f"{self.name} is dead")

    @property
    def sessions(self) -> list[str | None]:
        return [session for _, _, session in self.calls]


def build(count: int, **options: Any) -> tuple[ReplicatedEngine, list[Mortal]]:
    parts = [Mortal("abcdef"[place], **options) for place in range(count)]
    return ReplicatedEngine(parts, names=[part.name for part in parts]), parts


async def ask(engine: Engine, session: str | None = None, token: int = 7) -> Completion:
    completion = await engine.generate([token, 1], Sampling(), session=session)
    assert completion.ids[0] == token
    return completion


# -- routing -----------------------------------------------------------------------------------------------------------


async def test_a_session_stays_where_its_prefix_is_cached() -> None:
    engine, (a, b) = build(2)
    for session in ("s", "t", "s", "u", "t", "s"):
        await ask(engine, session)
    assert (a.sessions, b.sessions) == (["s", "s", "u", "s"], ["t", "t"])
    await engine.end_session("s")
    await engine.end_session("u")
    await engine.end_session("never seen")
    assert (a.ended, b.ended) == (["s", "u"], [])
    for session in ("v", "w"):
        await ask(engine, session)  # a has none left, then one like b
    assert a.sessions[-2:] == ["v", "w"]


def test_requests_without_a_session_go_where_least_runs() -> None:
    async def scenario() -> list[int]:
        engine, parts = build(3, latency=PerToken(1e9, 1))
        await asyncio.gather(*(ask(engine) for _ in range(7)))
        return [len(part.calls) for part in parts]

    assert run_virtual(scenario())[0] == [3, 2, 2]


def test_load_is_the_sum() -> None:
    async def scenario() -> list[EngineLoad | None]:
        engine, parts = build(2)
        for part in parts:
            part.batch = Batch(PerToken(1e9, 1), slots=2)
        calls = [asyncio.create_task(ask(engine)) for _ in range(7)]
        await asyncio.sleep(0.5)
        loads = [engine.load()]
        await asyncio.gather(*calls)
        return [*loads, engine.load()]

    assert run_virtual(scenario())[0] == [EngineLoad(4, 3), EngineLoad(0, 0)]


async def test_replicas_that_cannot_tell_their_load_count_what_runs() -> None:
    engine, (a, b) = build(2)
    a.load = lambda: None  # type: ignore[assignment,method-assign,return-value]
    assert engine.load() == EngineLoad(0, 0)
    b.load = lambda: EngineLoad(2, 1, 0.75)  # type: ignore[method-assign]
    assert engine.load() == EngineLoad(2, 1, 0.75)
    b.load = a.load  # type: ignore[method-assign]
    assert engine.load() is None


async def test_clients_are_clients_of_all() -> None:
    engine, parts = build(3)
    async with engine.client():
        assert [part.clients for part in parts] == [1, 1, 1]
    assert [part.clients for part in parts] == [0, 0, 0]


def test_capabilities_are_what_all_can_do() -> None:
    engine, parts = build(2, max_context=100)
    assert engine.capabilities == parts[0].capabilities
    other = Mortal("c", max_context=50, publish_in_flight=False)
    assert ReplicatedEngine([parts[0], other]).capabilities == Capabilities(publish=True, max_context=50)
    assert ReplicatedEngine([Mortal("d"), other]).capabilities.max_context == 50
    chatting = Mortal("e")
    chatting.capabilities = Capabilities(tokens=False)
    lockstep = Mortal("f")
    lockstep.deterministic = True  # type: ignore[attr-defined]
    stops = Mortal("g")
    stops.stop_ids = (1, 2)
    for engines, message in (
        ([], "at least one"),
        ([other, other], "each of them once"),
        ([other, chatting], "some take token ids and some take messages"),
        ([other, lockstep], "deterministic=False"),
        ([other, stops], "stop_ids differ"),
    ):
        with pytest.raises(ConfigError, match=message):
            ReplicatedEngine(engines)  # type: ignore[arg-type]


async def test_replies_go_the_same_way() -> None:
    class Chatting(Mortal):
        async def reply(
            self, messages: Any, tools: Any, sampling: Sampling, *, session: str | None = None
        ) -> Reply:  # fmt: skip
            self._check()
            return Reply(messages[0], (await self.generate([7], sampling)).finish_reason)

    from agentrl.messages import user

    parts = [Chatting("a"), Chatting("b")]
    parts[0].dead = True
    assert (await ReplicatedEngine(parts).reply([user("x")], [], Sampling())).message == user("x")


# -- failover ----------------------------------------------------------------------------------------------------------


def test_sessions_move_when_a_replica_dies_and_it_comes_back_by_answering() -> None:
    async def scenario() -> None:
        engine, (a, b) = build(2)
        await ask(engine, "s")
        a.dead = True
        await ask(engine, "s")
        await ask(engine, "s")
        assert (len(a.calls), b.sessions) == (1, ["s", "s"])
        await ask(engine, "t")  # not yet due for trial
        assert b.sessions[-1] == "t"
        await asyncio.sleep(1)
        await ask(engine, "u")  # tried on a, answered by b
        assert (a.starts, b.sessions[-1]) == (1, "u")
        a.dead = False
        await asyncio.sleep(1)
        await ask(engine, "v")  # the pause has doubled
        assert b.sessions[-1] == "v"
        await asyncio.sleep(1)
        await ask(engine, "w")
        await ask(engine, "s")
        assert (a.sessions[-1], b.sessions[-1]) == ("w", "s")  # back, and s stays where it moved
        await engine.end_session("s")
        assert a.ended == b.ended == ["s"]

    run_virtual(scenario())


def test_a_replica_on_trial_gets_one_request() -> None:
    async def scenario() -> None:
        engine, (a, b) = build(2, latency=PerToken(1e9, 1))
        a.dead = True
        await ask(engine, "s")
        a.dead = False
        await asyncio.sleep(2)
        await asyncio.gather(*(ask(engine, f"t{index}") for index in range(5)))
        assert (len(a.calls), len(b.calls)) == (1, 5)
        await asyncio.gather(*(ask(engine, f"u{index}") for index in range(4)))
        assert len(a.calls) == 5  # up again, and with fewer sessions

    run_virtual(scenario())


def test_many_requests_that_fail_together_count_as_one_failure() -> None:
    async def scenario() -> None:
        engine, (a, _) = build(2, latency=PerToken(1e9, 1))
        calls = [asyncio.create_task(ask(engine)) for _ in range(40)]
        await asyncio.sleep(1)
        a.dead = True
        await asyncio.gather(*calls)
        a.dead = False
        await asyncio.sleep(1.1)
        await ask(engine)
        await ask(engine)
        assert a.starts == 1 and len(a.calls) == 22

    run_virtual(scenario())


def test_each_replica_is_asked_at_most_once_and_the_end_is_an_error() -> None:
    async def scenario() -> None:
        engine, parts = build(3)
        for part in parts:
            part.dead = True
        with pytest.raises(EngineError, match="no replica is left: a: a is dead; b: b is dead; c: c is dead"):
            await ask(engine, "s")
        with pytest.raises(EngineError, match="no replica is left"):
            await ask(engine, "s")
        for part in parts:
            part.dead = False
        await asyncio.sleep(1)
        assert all(result.ids for result in await asyncio.gather(*(ask(engine) for _ in range(5))))

    run_virtual(scenario())


async def test_a_refusal_is_not_the_replicas_fault() -> None:
    engine, (a, b) = build(2)
    a.refuses = True
    with pytest.raises(EngineRefusal, match="too long"):
        await ask(engine, "s")
    assert b.calls == []
    a.refuses = False
    await ask(engine, "s")
    assert a.sessions == ["s"]


def test_a_replica_that_hangs_fails_by_the_bound() -> None:
    async def scenario() -> None:
        hanging, quick = Mortal("a", latency=lambda *_: 1e6), Mortal("b")
        engine = ReplicatedEngine([hanging, quick], timeout_seconds=5)
        await ask(engine, "s")
        assert asyncio.get_running_loop().time() == 5
        assert hanging.load() == EngineLoad(0, 0)
        hanging.batch = None
        quick.dead = True
        with pytest.raises(EngineError, match="replica 0: no answer within 5 s; replica 1: b is dead"):
            await ask(engine, "s")
        await asyncio.sleep(1)
        await ask(engine, "s")

    run_virtual(scenario())


def test_cancelling_a_request_blames_nobody() -> None:
    async def scenario() -> None:
        engine, (a, _) = build(2, latency=PerToken(1e9, 1))
        call = asyncio.create_task(ask(engine, "s"))
        await asyncio.sleep(0.5)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert engine.load() == EngineLoad(0, 0)
        await ask(engine, "s")
        assert len(a.calls) == 2

    run_virtual(scenario())


def test_a_replica_that_comes_back_as_another_stays_down() -> None:
    async def scenario() -> None:
        engine, (a, b) = build(2)
        a.dead = True
        await ask(engine, "s")
        a.dead = False

        async def start() -> None:
            raise ConfigError("model 'm' is not served")

        a.start = start  # type: ignore[method-assign]
        await asyncio.sleep(2)
        await ask(engine, "t")
        assert (a.calls, b.sessions) == ([], ["s", "t"])
        b.dead = True
        with pytest.raises(EngineError, match="a: model 'm' is not served; b: b is dead"):
            await ask(engine)

    run_virtual(scenario())


async def test_starting_and_closing() -> None:
    engine, (a, b) = build(2)
    a.dead = True
    await engine.start()
    await ask(engine, "s")
    assert b.sessions == ["s"]
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await ask(engine, "s")
    b.dead = True
    with pytest.raises(EngineError, match="no replica is left"):
        await engine.start()
    a.dead = False
    await engine.start()
    await ask(engine, "s")


def test_closing_fails_what_is_pending() -> None:
    async def scenario() -> list[Any]:
        engine, _ = build(2, latency=PerToken(1e9, 1))
        calls = [asyncio.create_task(ask(engine)) for _ in range(4)]
        await asyncio.sleep(1)
        await engine.close()
        return list(await asyncio.gather(*calls, return_exceptions=True))

    results, took = run_virtual(scenario())
    assert [type(result) for result in results] == [EngineError] * 4
    assert took == 1


# -- publication -------------------------------------------------------------------------------------------------------


async def test_weights_go_to_all_and_equal_hashes_come_back() -> None:
    engine, parts = build(3)
    served = await engine.publish({"w": b"1"}, 1)
    completions = [await ask(engine, f"s{index}") for index in range(3)]
    assert {(each.policy_version, each.weights_hash) for each in completions} == {(1, served)}
    assert [len(part.calls) for part in parts] == [1, 1, 1]


async def test_a_difference_names_the_replicas_and_stops_all() -> None:
    engine, (_, b, _) = build(3)
    b.lie = "f" * 64
    with pytest.raises(EngineError, match=r"different weights as version 1: a \w{12}, b ffffffffffff, c \w{12}$"):
        await engine.publish({"w": b"1"}, 1)
    with pytest.raises(EngineError, match="no replica is left"):
        await ask(engine)
    b.lie = None
    await engine.publish({"w": b"1"}, 1)
    await ask(engine)


def test_a_replica_that_missed_a_publication_waits_for_the_next() -> None:
    async def scenario() -> None:
        engine, (a, b) = build(2)
        await engine.publish({"w": b"1"}, 1)
        a.dead = True
        second = await engine.publish({"w": b"2"}, 2)
        a.dead = False
        await asyncio.sleep(100)
        for index in range(4):
            assert (await ask(engine, f"s{index}")).weights_hash == second
        assert a.calls == []
        b.dead = True
        with pytest.raises(EngineError, match="a: version 2 was not published: a is dead; b: b is dead"):
            await ask(engine)
        third = await engine.publish({"w": b"3"}, 3)  # b misses this one
        b.dead = False
        assert (await ask(engine, "t")).weights_hash == third
        assert a.sessions == ["t"]

    run_virtual(scenario())


def test_a_replica_that_comes_back_with_other_weights_does_not_serve() -> None:
    async def scenario() -> None:
        engine, (a, b) = build(2)
        served = await engine.publish({"w": b"1"}, 1)
        await Mortal.publish(a, {"w": b"initial"}, 0)  # restarted behind our back
        assert (await ask(engine, "s")).weights_hash == served
        assert (len(a.calls), len(b.calls)) == (1, 1)
        await asyncio.sleep(100)
        await ask(engine, "s")
        assert len(a.calls) == 1
        await engine.publish({"w": b"2"}, 2)
        await engine.end_session("s")
        await ask(engine, "t")
        assert len(a.calls) == 2

    run_virtual(scenario())


def test_weights_may_be_published_while_requests_are_in_flight() -> None:
    async def scenario() -> None:
        engine, parts = build(2, latency=PerToken(1e9, 1))
        await engine.publish({"w": b"0"}, 1)
        calls = [asyncio.create_task(ask(engine)) for _ in range(6)]
        await asyncio.sleep(1.5)
        await engine.publish({"w": b"1"}, 2)
        completions = await asyncio.gather(*calls)
        assert [[switch.index for switch in each.switches] for each in completions] == [[1]] * 6
        assert all(part.calls for part in parts)

    run_virtual(scenario())


def test_weights_in_flight_are_refused_before_anything_happens() -> None:
    async def scenario() -> None:
        engine, _ = build(2, latency=PerToken(1e9, 1), publish_in_flight=False)
        call = asyncio.create_task(ask(engine, "s"))
        await asyncio.sleep(1)
        with pytest.raises(EngineError, match="while 1 requests are in flight"):
            await engine.publish({"w": b"1"}, 1)
        await call
        await ask(engine, "s")
        await engine.publish({"w": b"1"}, 1)

    run_virtual(scenario())


async def test_a_mistake_in_the_weights_is_told_as_it_is() -> None:
    engine, (_, b) = build(2)

    async def wrong(weights: Any, version: int) -> str:
        raise ConfigError("the model has no weight 'w'")

    b.publish = wrong  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="no weight"):
        await engine.publish({"w": b"1"}, 1)


# -- chaos -------------------------------------------------------------------------------------------------------------


def scenario(seed: int) -> Callable[[], Any]:
    """Replicas that die, come back, restart with old weights and lie, under requests, cancellations, publications."""

    async def play() -> Counter[str]:
        draw = random.Random(seed)
        engine, parts = build(draw.randrange(1, 5), latency=LogNormal(0.5, 1.0, seed=seed))
        await engine.start()
        outcomes: Counter[str] = Counter()
        published = [(await engine.publish({"w": b"0"}, 1))]

        async def request(index: int) -> None:
            await asyncio.sleep(draw.uniform(0, 30))
            since = len(published)
            call = asyncio.create_task(engine.generate([100 + index, 1], Sampling(), session=f"s{index % 9}"))
            if draw.random() < 0.1:
                await asyncio.sleep(draw.uniform(0, 1))
                call.cancel()
            try:
                completion = await call
            except EngineError:
                outcomes["failed"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            else:
                outcomes["answered"] += 1
                assert completion.ids == [100 + index, RENDERER.stop_ids[0]]
                hashes = {completion.weights_hash, *(switch.weights_hash for switch in completion.switches)}
                assert hashes <= set(published[since - 1 :])
            if draw.random() < 0.2:
                await engine.end_session(f"s{index % 9}")

        async def fate(part: Mortal) -> None:
            for _ in range(6):
                await asyncio.sleep(draw.uniform(0, 6))
                part.dead = draw.random() < 0.5
                if draw.random() < 0.1:
                    await ScriptedEngine.publish(part, {"w": b"initial"}, 0)

        async def train() -> None:
            for version in range(2, 6):
                await asyncio.sleep(draw.uniform(0, 8))
                liar = draw.choice(parts)
                liar.lie = "f" * 64 if draw.random() < 0.1 else None
                try:
                    published.append(await engine.publish({"w": bytes([version])}, version))
                except EngineError:
                    outcomes["unpublished"] += 1
                liar.lie = None

        await asyncio.gather(*(request(index) for index in range(60)), *map(fate, parts), train())
        for part in parts:  # no replica was asked twice for the same request
            assert max(Counter(prompt[0] for prompt, _, _ in part.calls).values(), default=0) <= 1
            assert part.load() == EngineLoad(0, 0)
        assert sum(replica.running for replica in engine._replicas) == 0
        await engine.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return outcomes

    return play


def test_every_request_of_300_scenarios_is_answered_once_or_fails() -> None:
    total: Counter[str] = Counter()
    for seed in range(300):
        outcomes, _ = run_virtual(scenario(seed)())
        assert outcomes["answered"] + outcomes["failed"] + outcomes["cancelled"] == 60
        total += outcomes
    assert total["answered"] > 5000 and total["failed"] > 500 and total["cancelled"] > 300 and total["unpublished"] > 50
