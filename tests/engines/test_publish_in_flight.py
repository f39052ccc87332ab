"""Weights that are replaced in mid-flight: every token has the log-probability of the weights that sampled it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch

from agentrl.engines.base import Completion, EngineLoad, Sampling
from agentrl.engines.transformers import TransformersEngine
from agentrl.engines.weights import module_hash
from agentrl.errors import ConfigError, EngineError
from tests.engines.small import STOP, make_model, plain_logprobs

PROMPTS = [[6 + (7 * index + place) % 80 for place in range(8 + 3 * index)] for index in range(5)]


def make_engine(**options: Any) -> TransformersEngine:
    """A float32 copy of a float64 module: served weights of their own, and numbers that can be checked closely."""
    defaults = {"stop_ids": (), "dtype": "float32", "deterministic": False}
    return TransformersEngine(make_model().double(), **{**defaults, **options})


def copy_of(state: dict[str, torch.Tensor]) -> Any:
    model = make_model()
    model.load_state_dict(state)
    return model


def other_weights(seed: int) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in make_model(seed).state_dict().items()}


class Gate:
    """Lets the model make `free` calls and holds the next one in the worker thread until `open` is called."""

    def __init__(self, engine: TransformersEngine, free: int) -> None:
        self.calls, self.free = 0, free
        self.reached, self._go = threading.Event(), threading.Event()
        engine.decoder.model.register_forward_pre_hook(self.pass_through)

    def pass_through(self, *_: Any) -> None:
        self.calls += 1
        if self.calls > self.free and not self._go.is_set():
            self.reached.set()
            assert self._go.wait(30)

    def open(self) -> None:
        self._go.set()


async def interrupted(
    engine: TransformersEngine, after: int, act: Callable[[], Awaitable[Any]], tokens: int = 20, **sampling: Any
) -> list[Completion]:
    """All prompts at once; `act` begins while the model computes its call number `after` + 1 of this engine."""
    gate = Gate(engine, after)
    calls = [
        asyncio.create_task(engine.generate(prompt, Sampling(tokens, seed=index, **sampling), session=f"s{index}"))
        for index, prompt in enumerate(PROMPTS)
    ]
    await asyncio.to_thread(gate.reached.wait)
    acting = asyncio.ensure_future(act())
    await asyncio.sleep(0.01)
    gate.open()
    await acting
    return list(await asyncio.gather(*calls))


def assert_sampled_by(completion: Completion, prompt: list[int], models: list[Any], temperature: float = 1.0) -> None:
    """Each span of the completion has the log-probabilities, and the hash, of the model that sampled it."""
    starts = [0, *(switch.index for switch in completion.switches), len(completion.ids)]
    hashes = [completion.weights_hash, *(switch.weights_hash for switch in completion.switches)]
    assert hashes == [module_hash(model) for model in models]
    given = torch.tensor(completion.logprobs)
    for model, begin, end in zip(models, starts[:-1], starts[1:], strict=True):
        assert begin < end
        table = plain_logprobs(model, prompt, completion.ids, temperature)
        expected = table.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        torch.testing.assert_close(given[begin:end], expected[begin:end], atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_requests_go_on_under_the_new_weights_from_a_token_on(temperature: float) -> None:
    engine = make_engine()
    old, new = copy_of(make_model().state_dict()), copy_of(make_model(1).state_dict())
    completions = await interrupted(engine, 6, lambda: engine.publish(other_weights(1), 1), temperature=temperature)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert [len(completion.ids), completion.policy_version] == [20, 0]
        (switch,) = completion.switches
        assert switch.policy_version == 1
        assert 0 < switch.index < 20
        assert_sampled_by(completion, prompt, [old, new], temperature)
    after = await engine.generate(PROMPTS[0], Sampling(5, seed=0))
    assert (after.policy_version, after.switches) == (1, ())
    assert_sampled_by(after, PROMPTS[0], [new])
    await engine.close()


async def test_what_was_sampled_before_is_what_would_have_been_without() -> None:
    engine = make_engine()
    undisturbed = await asyncio.gather(
        *(engine.generate(prompt, Sampling(20, seed=index)) for index, prompt in enumerate(PROMPTS))
    )
    disturbed = await interrupted(make_engine(), 5, lambda: asyncio.sleep(0))
    assert [completion.ids for completion in disturbed] == [completion.ids for completion in undisturbed]
    other = make_engine()
    switched = await interrupted(other, 5, lambda: other.publish(other_weights(1), 1))
    for one, two in zip(undisturbed, switched, strict=True):
        (switch,) = two.switches
        assert one.ids[: switch.index] == two.ids[: switch.index]
        assert one.ids != two.ids
    for used in (engine, other):
        await used.close()


async def test_the_modules_own_new_weights_and_two_publications() -> None:
    """The learner moved its module: served is the copy, until it is published; twice before a token is once."""
    engine = make_engine()
    first = copy_of(engine.model.state_dict())

    async def act() -> None:
        with torch.no_grad():
            engine.model.model.layers[0].self_attn.v_proj.weight += 0.3
        await asyncio.gather(engine.publish(other_weights(1), 1), engine.publish(other_weights(2), 2))

    completions = await interrupted(engine, 4, act)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert [switch.policy_version for switch in completion.switches] == [2]
        assert_sampled_by(completion, prompt, [first, copy_of(other_weights(2))])
    await engine.close()


async def test_kept_sessions_lose_their_cache_and_prefixes_are_computed_anew() -> None:
    engine = make_engine()
    for index in range(3):
        await engine.generate(PROMPTS[index], Sampling(4, seed=0), session=f"idle{index}")
    assert len(engine.decoder.rows) == 3
    before = engine.decoder.prefilled_tokens
    completions = await interrupted(engine, 4, lambda: engine.publish(other_weights(1), 1))
    assert {row.session for row in engine.decoder.rows} == {f"s{index}" for index in range(len(PROMPTS))}
    again = [len(prompt) + done.switches[0].index for prompt, done in zip(PROMPTS, completions, strict=True)]
    once = sum(len(prompt) for prompt in PROMPTS)
    assert engine.decoder.prefilled_tokens - before == once + sum(again)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert_sampled_by(completion, prompt, [copy_of(make_model().state_dict()), copy_of(other_weights(1))])
    await engine.close()


async def test_waiting_requests_begin_under_the_new_weights_and_cancelled_ones_do_not_come_back() -> None:
    engine = make_engine(max_slots=2)
    gate = Gate(engine, 3)
    calls = [
        asyncio.create_task(engine.generate(prompt, Sampling(15, seed=index))) for index, prompt in enumerate(PROMPTS)
    ]
    await asyncio.to_thread(gate.reached.wait)
    assert engine.load() == EngineLoad(running=2, waiting=3)
    calls[0].cancel()
    publishing = asyncio.create_task(engine.publish(other_weights(1), 1))
    await asyncio.sleep(0.01)
    gate.open()
    served = await publishing
    done = await asyncio.gather(*calls[1:])
    assert calls[0].cancelled()
    assert [completion.policy_version for completion in done] == [0, 1, 1, 1]
    assert [len(completion.switches) for completion in done] == [1, 0, 0, 0]
    assert {completion.weights_hash for completion in done[1:]} == {served}
    assert engine.load() == EngineLoad(running=0, waiting=0)
    assert engine.decoder.rows == []
    assert engine.decoder.suspended == []
    await engine.close()


async def test_stop_ids_limits_and_closing_hold_across_a_switch() -> None:
    engine = make_engine(stop_ids=(STOP,))
    completions = await interrupted(engine, 3, lambda: engine.publish(other_weights(1), 1), tokens=40)
    for completion in completions:
        assert len(completion.ids) == 40 or completion.ids[-1] == STOP
        assert STOP not in completion.ids[:-1]
        assert completion.decode_seconds > 0
    call = asyncio.create_task(engine.generate(PROMPTS[0], Sampling(200, seed=0, stop_ids=(1,))))
    await asyncio.sleep(0.05)
    publishing = asyncio.create_task(engine.publish(None, 2))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await call
    await asyncio.gather(publishing, return_exceptions=True)


async def test_weights_that_do_not_fit_change_nothing_and_the_requests_go_on() -> None:
    engine = make_engine()
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}

    async def act() -> None:
        wrong = other_weights(1) | {"nothing.weight": torch.zeros(1)}
        with pytest.raises(ConfigError, match="the model lacks"):
            await engine.publish(wrong, 1)
        with pytest.raises(ConfigError, match=r"'model.norm.weight' has shape \(7,\), not \(32,\)"):
            await engine.publish(other_weights(1) | {"model.norm.weight": torch.zeros(7)}, 1)

    for prompt, completion in zip(PROMPTS, await interrupted(engine, 4, act), strict=True):
        assert_sampled_by(completion, prompt, [copy_of(before)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.model.state_dict().items())
    await engine.close()


def test_the_capability_is_told_truthfully() -> None:
    assert make_engine().capabilities.publish_in_flight
    assert not make_engine(deterministic=True).capabilities.publish_in_flight  # when it happens depends on the clock
    shared = TransformersEngine(make_model(), stop_ids=(), deterministic=False)
    assert not shared.capabilities.publish_in_flight  # its weights would change before anybody publishes
    same = TransformersEngine(make_model(), stop_ids=(), deterministic=False, dtype="float32")
    assert not same.capabilities.publish_in_flight
    with pytest.raises(ConfigError, match="publish_in_flight"):
        shared.require(publish_in_flight=True)


async def test_lockstep_waits_are_queueing_and_not_decoding() -> None:
    engine = TransformersEngine(make_model(), stop_ids=())
    stalled, free = asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        async with engine.client():
            await engine.generate([6, 7, 8], Sampling(2, seed=0))
            stalled.set()
            await free.wait()

    async def played() -> Completion:
        async with engine.client():
            return await engine.generate([9, 10, 11], Sampling(4, seed=0))

    began = time.perf_counter()
    tasks = asyncio.create_task(busy()), asyncio.create_task(played())
    await stalled.wait()
    await asyncio.sleep(0.3)
    free.set()
    await tasks[0]
    completion = await tasks[1]
    assert completion.queue_seconds > 0.25
    told = completion.queue_seconds + completion.prefill_seconds + completion.decode_seconds
    assert told <= time.perf_counter() - began
    await engine.close()
