"""Lockstep: no bit of the results, and no call of the model, depends on how long the tools take."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from agentrl.engines.base import Completion, Sampling
from agentrl.engines.transformers import TransformersEngine
from tests.engines.small import STOP, make_model


class Recorder:
    """The shape of every input that the model was called with."""

    def __init__(self, model: Any) -> None:
        self.shapes: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        self.shapes.append((*kwargs["input_ids"].shape, kwargs["attention_mask"].shape[-1]))


async def worker(engine: TransformersEngine, index: int, latency: random.Random, out: list[Completion]) -> None:
    """Plays three episodes of up to three turns, with a tool of random latency after each."""
    async with engine.client():
        for part in range(3):
            session = f"w{index:02d}-{part}"
            context = [(7 * index + 3 * part + place) % 90 + 6 for place in range(10 + index)]
            for turn in range(1 + (index + part) % 3):
                await asyncio.sleep(latency.choice([0, 0, 0.001, 0.01]))
                sampling = Sampling(3 + (5 * index + turn) % 9, seed=100 * index + 10 * part + turn)
                completion = await engine.generate(context, sampling, session=session)
                out.append(completion)
                context = [*context, *completion.ids, 8, 9, 10 + turn]
            await engine.end_session(session)


async def play(seed: int, slots: int) -> tuple[list[list[Completion]], list[tuple[int, ...]]]:
    model = make_model()
    recorder = Recorder(model)
    engine = TransformersEngine(model, stop_ids=(STOP,), max_slots=slots)
    latency = random.Random(seed)
    outs: list[list[Completion]] = [[] for _ in range(7)]
    await asyncio.gather(*(worker(engine, index, latency, out) for index, out in enumerate(outs)))
    assert engine.decoder.rows == []
    await engine.close()
    return outs, recorder.shapes


@pytest.mark.parametrize("slots", [3, 16])
async def test_any_latencies_give_the_same_bits(slots: int) -> None:
    (first, shapes), (second, again) = await play(1, slots), await play(2, slots)
    assert shapes == again
    for mine, yours in zip(first, second, strict=True):
        assert [completion.ids for completion in mine] == [completion.ids for completion in yours]
        assert [completion.logprobs for completion in mine] == [completion.logprobs for completion in yours]


async def test_nothing_is_decoded_while_a_client_is_busy() -> None:
    model = make_model()
    recorder = Recorder(model)
    engine = TransformersEngine(model, stop_ids=())
    free = asyncio.Event()

    async def quick() -> None:
        async with engine.client():
            await engine.generate([6, 7, 8], Sampling(2, seed=0))
            await free.wait()

    async def long() -> Completion:
        async with engine.client():
            return await engine.generate([9, 10, 11], Sampling(20, seed=0))

    tasks = [asyncio.create_task(quick()), asyncio.create_task(long())]
    while len(recorder.shapes) < 2:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert [shape[0] for shape in recorder.shapes] == [2, 2]  # one prefill, one decode, then it waits
    free.set()
    await asyncio.gather(*tasks)
    assert [shape[0] for shape in recorder.shapes[2:]] == [1] * 18
    await engine.close()


async def test_without_lockstep_the_others_go_on() -> None:
    engine = TransformersEngine(make_model(), stop_ids=(), deterministic=False)
    async with engine.client():  # announced, and busy all the time
        task = asyncio.create_task(engine.generate([6, 7, 8], Sampling(5, seed=0)))
        assert len((await task).ids) == 5
    await engine.close()


async def test_a_client_that_leaves_or_is_cancelled_holds_nobody_up() -> None:
    engine = TransformersEngine(make_model(), stop_ids=())

    async def doomed() -> None:
        async with engine.client():
            await asyncio.sleep(3600)

    busy = asyncio.create_task(doomed())
    await asyncio.sleep(0)

    async def other() -> Completion:
        async with engine.client():
            return await engine.generate([6, 7], Sampling(5, seed=0))

    call = asyncio.create_task(other())
    await asyncio.sleep(0.02)
    assert not call.done()
    busy.cancel()
    assert len((await call).ids) == 5
    await engine.close()


async def test_requests_of_a_clients_own_tasks_count_for_it() -> None:
    engine = TransformersEngine(make_model(), stop_ids=())
    async with engine.client():
        call = asyncio.wait_for(engine.generate([6, 7], Sampling(5, seed=0)), 30)
        assert len((await call).ids) == 5
        both = await asyncio.gather(*(engine.generate([6, 7], Sampling(5, seed=seed)) for seed in range(2)))
        assert all(len(completion.ids) == 5 for completion in both)
    await engine.close()
