"""vLLM's own server around a small policy: weights by files, tokens as ids, chat, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch

from agentrl.engines import vllm_process
from agentrl.engines.base import Capabilities, FinishReason, Sampling
from agentrl.engines.openai import OpenAIEngine
from agentrl.engines.vllm import VllmEngine
from agentrl.engines.vllm_plan import make_plan
from agentrl.engines.vllm_server import NAME, VllmServer, VllmServerEngine
from agentrl.engines.weights import module_hash
from agentrl.errors import ConfigError, EngineError
from agentrl.messages import user
from agentrl.models.tiny import build_tiny
from tests.engines.small import assert_exact, assert_nucleus
from tests.engines.vllm_small import STOP, descendants, perturb, prompt_of

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[VllmServerEngine]:
    model, _ = build_tiny()
    made = VllmEngine.for_policy(model, stop_ids=[STOP], max_slots=16, max_context=256, cache_gib=0.25, server=True)
    assert isinstance(made, VllmServerEngine)
    await made.start()
    yield made
    await made.close()
    assert not descendants()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
async def test_ids_and_logprobs_are_those_of_the_model(engine: VllmServerEngine, temperature: float) -> None:
    sampling = [Sampling(max_tokens=15, temperature=temperature, seed=index) for index in range(24)]
    prompts = [prompt_of(index, 4 + 2 * index) for index in range(24)]
    calls = [engine.generate(prompt, each) for prompt, each in zip(prompts, sampling, strict=True)]
    for prompt, completion in zip(prompts, await asyncio.gather(*calls), strict=True):
        assert_exact(engine.model, prompt, completion, temperature or 1.0)
        assert completion.weights_hash == module_hash(engine.model)
        assert (completion.finish_reason is FinishReason.STOP) == (completion.ids[-1] == STOP)
    again = await engine.generate(prompts[3], sampling[3])
    assert again.ids == (await engine.generate(prompts[3], sampling[3])).ids


async def test_logprobs_are_those_of_the_nucleus(engine: VllmServerEngine) -> None:
    prompts = [prompt_of(index, 4 + 2 * index) for index in range(6)]
    calls = [engine.generate(prompt, Sampling(15, 0.8, 0.9, seed=at)) for at, prompt in enumerate(prompts)]
    pairs = zip(prompts, await asyncio.gather(*calls), strict=True)
    assert sum(assert_nucleus(engine.model, prompt, completion, 0.8, 0.9) for prompt, completion in pairs) > 40


async def test_a_publish_changes_what_is_served_and_its_hash(engine: VllmServerEngine) -> None:
    before = await engine.generate(prompt_of(1, 40), Sampling(max_tokens=10, seed=1))
    perturb(engine.model)
    published = await engine.publish(None, 4)
    after = await engine.generate(prompt_of(1, 40), Sampling(max_tokens=10, seed=1))
    assert published == module_hash(engine.model) == after.weights_hash != before.weights_hash
    assert after.policy_version == 4
    assert_exact(engine.model, prompt_of(1, 40), after)
    with pytest.raises(ConfigError, match="which the model lacks"):
        await engine.publish({"model.norm.wait": torch.ones(3)}, 5)
    with pytest.raises(ConfigError, match="do not fit"):
        await engine.publish({"model.norm.weight": torch.ones(3)}, 5)


async def test_weights_are_not_replaced_under_requests(engine: VllmServerEngine) -> None:
    task = asyncio.create_task(engine.generate(prompt_of(1), Sampling(max_tokens=200)))
    while not engine._in_flight:
        await asyncio.sleep(0)
    with pytest.raises(EngineError, match="while 1 requests are in flight"):
        await engine.publish(None, 5)
    await task


async def test_a_server_that_runs_already_is_given_weights_too(engine: VllmServerEngine) -> None:
    assert engine.server is not None
    other, _ = build_tiny(seed=1)
    address = f"{engine.server.address}/v1"
    guest = VllmEngine.for_policy(other, stop_ids=[STOP], max_context=256, server=address)
    try:
        assert await guest.publish(None, 1) == module_hash(other)
        assert_exact(other, prompt_of(1), await guest.generate(prompt_of(1), Sampling(max_tokens=9, seed=1)))
    finally:
        await guest.close()
    assert engine.server.alive
    await engine.publish(None, 6)


async def test_a_killed_server_fails_its_requests_and_starts_again_with_the_same_weights(
    engine: VllmServerEngine,
) -> None:
    assert engine.server is not None
    published = await engine.publish(None, 7)
    task = asyncio.create_task(engine.generate(prompt_of(1), Sampling(max_tokens=200, stop_ids=(1,))))
    while not engine._in_flight:
        await asyncio.sleep(0)
    before = descendants()
    os.killpg(engine.server.processes[0], signal.SIGKILL)
    with pytest.raises(EngineError):
        await task
    completion = await engine.generate(prompt_of(1), Sampling(max_tokens=9, seed=1))
    assert (completion.policy_version, completion.weights_hash) == (7, published)
    assert not any(process.alive for process in before)


async def test_closing_ends_the_whole_group(engine: VllmServerEngine) -> None:
    family = [process for process in descendants() if process.alive]
    assert len(family) >= 3
    await engine.close()
    assert not any(process.alive for process in family)


async def test_a_plain_server_serves_ids_and_chat_but_takes_no_weights(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What a user starts by hand: a folder with a tokenizer, no extension."""
    model, tokenizer = build_tiny()
    folder = tmp_path_factory.mktemp("plain") / "model"
    plan = make_plan(model, max_slots=8, max_context=256, cache_gib=0.25)
    plan.files.write(folder)
    tokenizer.save_pretrained(folder)
    own = ("worker_extension_cls", "skip_tokenizer_init")
    server = VllmServer({k: v for k, v in plan.arguments.items() if k not in own}, compiled=plan.compiled)
    try:
        await server.start(folder)
        tokens = OpenAIEngine(f"{server.address}/v1", NAME, stop_ids=[STOP], api_key_env=None)
        await tokens.start()
        assert tokens.counts_temperature
        assert tokens.capabilities == Capabilities(max_context=256, top_p=True)
        for temperature in (0.0, 0.7):
            sampling = Sampling(max_tokens=12, temperature=temperature, seed=3)
            assert_exact(model, prompt_of(2), await tokens.generate(prompt_of(2), sampling), temperature or 1.0)
        await tokens.close()
        chat = OpenAIEngine(f"{server.address}/v1", mode="chat", api_key_env=None)
        await chat.start()
        reply = await chat.reply([user("What is 1 + 2?")], [], Sampling(max_tokens=12, temperature=0.0))
        assert reply.message.role == "assistant" and 0 < reply.completion_tokens <= 12 and reply.prompt_tokens > 5
        assert reply.message.content
        await chat.close()
        guest = VllmEngine.for_policy(model, stop_ids=[STOP], max_context=256, server=f"{server.address}/v1")
        with pytest.raises(EngineError, match="agentrl_load"):
            await guest.start()
        await guest.close()
    finally:
        await server.close()
    assert not [process for process in vllm_process.tree(os.getpid())[1:] if b"api_server" in _command(process.pid)]


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


async def test_a_server_that_cannot_start_says_why() -> None:
    made = VllmEngine.for_policy(build_tiny()[0], stop_ids=[STOP], max_context=1024, cache_gib=0.0001, server=True)
    with pytest.raises(EngineError, match=r"ended while starting: ValueError: .*cache"):
        await made.start()
    await made.close()
    assert not descendants()


@pytest.mark.parametrize("options", [{"lora": "adapter"}, {"sleep": True}])
async def test_what_a_server_cannot_do_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        VllmEngine.for_policy(build_tiny()[0], stop_ids=[STOP], server=True, **options)
