"""The in-process engine: exact numbers, sessions, capacity, failures, publishing."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

import agentrl.learner.attention  # noqa: F401  (registers the attention that models of a run are loaded with)
from agentrl.engines import decoder
from agentrl.engines.base import Completion, FinishReason, Sampling
from agentrl.engines.transformers import TransformersEngine
from agentrl.errors import ConfigError, EngineError
from agentrl.registry import engines
from tests.engines.small import STOP, VOCABULARY, assert_exact, assert_same, make_model, plain_logprobs


def prompt_of(seed: int, length: int = 12) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(6, VOCABULARY) for _ in range(length)]


@asynccontextmanager
async def running(model: Any = None, **options: Any) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(model or make_model(), stop_ids=(STOP,), **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def together(engine: TransformersEngine, prompts: list[list[int]], **sampling: Any) -> list[Completion]:
    options = {"max_tokens": 15, **sampling}
    calls = [engine.generate(prompt, Sampling(seed=index, **options)) for index, prompt in enumerate(prompts)]
    return list(await asyncio.gather(*calls))


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "agentrl"])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
async def test_logprobs_are_those_of_a_plain_forward_pass(attention: str, temperature: float) -> None:
    model = make_model(attn_implementation=attention)
    prompts = [prompt_of(index, 3 + 4 * index) for index in range(7)]
    async with running(model) as engine:
        completions = await together(engine, prompts, temperature=temperature)
    for prompt, completion in zip(prompts, completions, strict=True):
        assert_exact(model, prompt, completion, temperature)
        assert completion.weights_hash
        assert (completion.finish_reason is FinishReason.STOP) == (completion.ids[-1] == STOP)
        assert STOP not in completion.ids[:-1]


async def test_greedy_takes_the_most_likely_and_scores_at_temperature_one() -> None:
    model = make_model()
    async with running(model) as engine:
        (completion,) = await together(engine, [prompt_of(1)], temperature=0.0)
    table = plain_logprobs(model, prompt_of(1), completion.ids)
    assert completion.ids == table.argmax(-1).tolist()
    assert_exact(model, prompt_of(1), completion)


async def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    prompts = [prompt_of(index, 5 + 3 * index) for index in range(6)]
    async with running() as engine:
        batch = await together(engine, prompts)
    alone = []
    async with running() as engine:
        for index, prompt in enumerate(prompts):
            alone.append(await engine.generate(prompt, Sampling(max_tokens=15, seed=index)))
    assert_same(batch, alone)


async def test_equal_seeds_and_prompts_give_equal_samples_and_no_seed_gives_others() -> None:
    async with running() as engine:
        same = await asyncio.gather(*(engine.generate(prompt_of(0), Sampling(15, seed=3)) for _ in range(2)))
        free = await asyncio.gather(*(engine.generate(prompt_of(0), Sampling(15)) for _ in range(4)))
    assert same[0].ids == same[1].ids
    assert len({tuple(completion.ids) for completion in free}) == 4


async def test_stop_ids_of_the_request_come_first() -> None:
    async with running() as engine:
        free = await engine.generate(prompt_of(0), Sampling(15, seed=1, stop_ids=(VOCABULARY - 1,)))
        stop = free.ids[4]
        cut = await engine.generate(prompt_of(0), Sampling(15, seed=1, stop_ids=(stop,)))
    assert cut.ids == free.ids[: free.ids.index(stop) + 1]
    assert cut.finish_reason is FinishReason.STOP


# -- sessions and slots ------------------------------------------------------------------------------------------------


async def episode(engine: TransformersEngine, name: str | None, seed: int, turns: int = 3) -> list[Completion]:
    context, completions = prompt_of(seed, 30), []
    for turn in range(turns):
        completion = await engine.generate(context, Sampling(8, seed=10 * seed + turn), session=name)
        assert_exact(engine.model, context, completion)
        context = [*context, *completion.ids, *prompt_of(100 + turn, 4)]
        completions.append(completion)
    return completions


async def test_a_kept_session_gives_what_a_fresh_prefill_gives_for_less() -> None:
    async with running() as engine:
        kept = await episode(engine, "a", 1)
        cheap = engine.decoder.prefilled_tokens
    async with running() as engine:
        fresh = await episode(engine, None, 1)
        full = engine.decoder.prefilled_tokens
    assert_same(kept, fresh)
    assert cheap == 30 + 2 * (1 + 4)  # the last sampled token of each turn was never fed
    assert full > 90


async def test_a_rewritten_context_is_computed_anew_from_where_it_differs() -> None:
    model = make_model()
    prompt = prompt_of(0, 40)
    rewritten = [*prompt[:25], *prompt_of(9, 10)]
    async with running(model) as engine:
        await engine.generate(prompt, Sampling(8, seed=0), session="a")
        before = engine.decoder.prefilled_tokens
        completion = await engine.generate(rewritten, Sampling(8, seed=0), session="a")
        assert engine.decoder.prefilled_tokens - before == 10
        shorter = await engine.generate(rewritten[:20], Sampling(8, seed=0), session="a")
    assert_exact(model, rewritten, completion)
    assert_exact(model, rewritten[:20], shorter)


async def test_a_shared_prefix_is_computed_once() -> None:
    model = make_model()
    system = prompt_of(0, 40)
    questions = [system + prompt_of(1 + index // 4, 20) for index in range(12)]  # three groups of four
    async with running(model) as engine:
        completions = await together(engine, questions)
        assert engine.decoder.prefilled_tokens == 40 + 3 * 20 + 9
    for prompt, completion in zip(questions, completions, strict=True):
        assert_exact(model, prompt, completion)


async def test_more_requests_than_slots_and_a_prefill_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "PREFILL_TOKENS", 40)
    model = make_model()
    async with running(model, max_slots=5) as engine:
        await asyncio.gather(*(episode(engine, f"s{index:02d}", index) for index in range(13)))
        assert len(engine.decoder.rows) <= 5
        assert engine.decoder.active == 0
        for index in range(13):
            await engine.end_session(f"s{index:02d}")
        assert engine.decoder.rows == []
        assert engine.decoder.store.ids.size == 0  # the memory was given back


async def test_the_session_that_was_idle_longest_makes_room() -> None:
    async with running(max_slots=2) as engine:
        for name in "abac":
            await engine.generate(prompt_of(ord(name), 20), Sampling(2, seed=0), session=name)
        assert {row.session for row in engine.decoder.rows} == {"a", "c"}


async def test_two_requests_of_one_session_at_once() -> None:
    model = make_model()
    async with running(model) as engine:
        prompt = prompt_of(0, 30)
        completions = await asyncio.gather(
            *(engine.generate(prompt, Sampling(8, seed=seed), session="a") for seed in range(3))
        )
    for completion in completions:
        assert_exact(model, prompt, completion)


async def test_the_context_limit_ends_a_completion() -> None:
    async with running(max_context=20) as engine:
        assert engine.capabilities.max_context == 20
        cut = await engine.generate(prompt_of(0, 15), Sampling(50, seed=0, stop_ids=(VOCABULARY - 1,)))
        full = await engine.generate(prompt_of(0, 20), Sampling(50, seed=0))
    assert (len(cut.ids), cut.finish_reason) == (5, FinishReason.LENGTH)
    assert (full.ids, full.logprobs, full.finish_reason) == ([], [], FinishReason.LENGTH)


# -- callers and failures ----------------------------------------------------------------------------------------------


class Gate:
    """Holds the model's calls in the worker thread until it is opened; counts them and can make one fail."""

    def __init__(self, model: Any) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.calls, self.threads = 0, set[str]()
        self.failure: Exception | None = None
        model.register_forward_pre_hook(self.pass_through)

    def pass_through(self, *_: Any) -> None:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.open.wait(30)
        if self.failure is not None:
            raise self.failure


async def test_cancelling_a_caller_frees_its_slot_and_leaves_the_others() -> None:
    model = make_model()
    gate = Gate(model)
    async with running(model, max_slots=2) as engine:
        doomed = asyncio.create_task(engine.generate(prompt_of(0), Sampling(200, seed=0), session="a"))
        other = asyncio.create_task(engine.generate(prompt_of(1), Sampling(15, seed=1)))
        pending = asyncio.create_task(engine.generate(prompt_of(2), Sampling(200, seed=2)))
        await asyncio.to_thread(gate.entered.wait)
        doomed.cancel()
        pending.cancel()
        gate.open.set()
        completion = await other
        assert doomed.cancelled()
        assert pending.cancelled()
        assert engine.decoder.rows == []
        after = await engine.generate(prompt_of(3), Sampling(15, seed=3))
    assert gate.threads == {"agentrl-engine_0"}  # never on the event loop
    assert_exact(model, prompt_of(1), completion)
    assert_exact(model, prompt_of(3), after)


async def test_a_failure_of_the_model_reaches_every_caller_and_the_engine_recovers() -> None:
    model = make_model()
    gate = Gate(model)
    gate.open.set()
    async with running(model, max_slots=2) as engine:
        gate.failure = RuntimeError("out of memory")
        calls = [engine.generate(prompt_of(index), Sampling(5, seed=index)) for index in range(4)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, EngineError) for outcome in outcomes)
        assert "out of memory" in str(outcomes[0])
        gate.failure = None
        assert_exact(model, prompt_of(0), await engine.generate(prompt_of(0), Sampling(5, seed=0)))


async def test_weights_that_are_not_finite_are_an_engine_error() -> None:
    model = make_model()
    model.lm_head.weight.data[3] = float("nan")
    async with running(model) as engine:
        with pytest.raises(EngineError, match="not finite"):
            await engine.generate(prompt_of(0), Sampling(5, seed=0))


async def test_closing_fails_what_is_in_flight_and_a_closed_engine_starts_again() -> None:
    model = make_model()
    gate = Gate(model)
    engine = TransformersEngine(model, stop_ids=(STOP,))
    call = asyncio.create_task(engine.generate(prompt_of(0), Sampling(200, seed=0)))
    while not gate.entered.is_set():
        await asyncio.sleep(0.001)
    closing = asyncio.create_task(engine.close())
    with pytest.raises(EngineError, match="closed"):
        await call
    gate.open.set()
    await closing
    await engine.close()
    assert_exact(model, prompt_of(0), await engine.generate(prompt_of(0), Sampling(5, seed=0)))
    await engine.close()


async def test_a_bad_request_fails_alone() -> None:
    async with running() as engine:
        good = asyncio.create_task(engine.generate(prompt_of(0), Sampling(5, seed=0)))
        for prompt, reason in (([], "empty"), ([VOCABULARY], "vocabulary"), ([-1], "vocabulary")):
            with pytest.raises(EngineError, match=reason):
                await engine.generate(prompt, Sampling(5))
        with pytest.raises(ConfigError, match="temperature"):
            await engine.generate([1], Sampling(5, temperature=-1.0))
        assert (await good).ids


def test_one_engine_serves_several_event_loops() -> None:
    model = make_model()
    engine = TransformersEngine(model, stop_ids=(STOP,))

    async def run(prompt: list[int]) -> Completion:
        return await engine.generate(prompt, Sampling(10, seed=0), session="a")

    first = asyncio.run(run(prompt_of(0)))
    second = asyncio.run(run([*prompt_of(0), *first.ids, 7, 8]))
    assert_exact(model, [*prompt_of(0), *first.ids, 7, 8], second)
    asyncio.run(engine.close())


# -- weights -----------------------------------------------------------------------------------------------------------


async def test_publishing_shared_weights_changes_version_hash_and_samples() -> None:
    model = make_model()
    async with running(model) as engine:
        before = await engine.generate(prompt_of(0), Sampling(10, seed=0), session="a")
        assert await engine.publish(None, 1) == before.weights_hash
        with torch.no_grad():
            model.model.layers[0].self_attn.v_proj.weight += 0.3
        served = await engine.publish(None, 2)
        after = await engine.generate(prompt_of(0), Sampling(10, seed=0), session="a")
    assert (before.policy_version, after.policy_version) == (0, 2)
    assert before.weights_hash != served == after.weights_hash
    assert before.ids != after.ids
    assert_exact(model, prompt_of(0), after)  # nothing of the old weights was left in the session's cache


async def test_publishing_a_mapping() -> None:
    other = make_model(seed=1)
    async with running() as engine:
        served = await engine.publish(other.state_dict(), 1)
        completion = await engine.generate(prompt_of(0), Sampling(10, seed=0))
        assert_exact(other, prompt_of(0), completion)
        with pytest.raises(ConfigError, match=r"'nothing.weight', which the model lacks"):
            await engine.publish({"nothing.weight": torch.zeros(1)}, 2)
        with pytest.raises(ConfigError, match="do not fit"):
            await engine.publish({"model.norm.weight": torch.zeros(7)}, 2)
    async with running(other) as engine:
        assert await engine.publish(None, 1) == served


async def test_weights_are_not_published_while_requests_are_in_flight() -> None:
    model = make_model()
    gate = Gate(model)
    async with running(model) as engine:
        call = asyncio.create_task(engine.generate(prompt_of(0), Sampling(10, seed=0)))
        await asyncio.to_thread(gate.entered.wait)
        with pytest.raises(EngineError, match="while 1 requests are in flight"):
            await engine.publish(None, 1)
        call.cancel()
        gate.open.set()
        await engine.publish(None, 1)  # an abandoned request is no obstacle


async def test_a_copy_in_bfloat16_is_served_until_the_next_publish() -> None:
    model = make_model()
    async with running(model, dtype="bfloat16") as engine:
        before = await engine.generate(prompt_of(0), Sampling(10, seed=0))
        table = plain_logprobs(model, prompt_of(0), before.ids)
        expected = table.gather(-1, torch.tensor(before.ids)[:, None])[:, 0]
        difference = (torch.tensor(before.logprobs) - expected).abs().max()
        assert 0 < difference < 0.3  # near the module's numbers, but in the coarse steps of eight bits
        with torch.no_grad():
            model.lm_head.weight[STOP] += 10 * model.lm_head.weight.abs().max()
        assert (await engine.generate(prompt_of(0), Sampling(10, seed=0))).ids == before.ids
        assert await engine.publish(None, 1) != before.weights_hash
        assert (await engine.generate(prompt_of(0), Sampling(10, seed=0))).logprobs != before.logprobs
        assert model.dtype is torch.float32
        assert engine.decoder.model.model.rotary_emb.inv_freq.dtype is torch.float32


async def test_the_modules_mode_is_left_as_it_was() -> None:
    model = make_model(attention_dropout=0.5).train()
    async with running(model) as engine:
        completion = await engine.generate(prompt_of(0), Sampling(10, seed=0))
    assert model.training
    assert_exact(model.eval(), prompt_of(0), completion)


# -- configuration -----------------------------------------------------------------------------------------------------


def test_models_that_the_engine_would_run_wrongly_are_refused() -> None:
    with pytest.raises(ConfigError, match="attention 'eager'"):
        TransformersEngine(make_model(attn_implementation="eager"), stop_ids=())
    sliding = make_model()
    sliding.config.sliding_window = 32
    with pytest.raises(ConfigError, match="set max_context to 32 or less"):
        TransformersEngine(sliding, stop_ids=())
    TransformersEngine(sliding, stop_ids=(), max_context=32)
    with pytest.raises(ConfigError, match="between 2 and the model's 256"):
        TransformersEngine(make_model(), stop_ids=(), max_context=300)
    with pytest.raises(ConfigError, match="max_slots"):
        TransformersEngine(make_model(), stop_ids=(), max_slots=0)


def test_options_of_a_configuration_are_checked() -> None:
    engine_class = engines.get("transformers")
    assert engine_class is TransformersEngine
    engine = engine_class.for_policy(make_model(), stop_ids=(1,), max_slots=3, dtype="bfloat16")
    assert engine.decoder.max_slots == 3
    with pytest.raises(ConfigError, match="did you mean 'max_slots'"):
        engine_class.for_policy(make_model(), stop_ids=(1,), max_slot=3)
    with pytest.raises(ConfigError, match="dtype"):
        engine_class.for_policy(make_model(), stop_ids=(1,), dtype="int8")
    engine.require(publish=True, logprobs=True, seeded=True)
