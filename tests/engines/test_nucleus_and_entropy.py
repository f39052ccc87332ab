"""What an engine records of a truncated distribution, and of the whole one: against a plain forward pass."""

from __future__ import annotations

import asyncio

import pytest
import torch

from agentrl.engines.base import Capabilities, Sampling
from agentrl.engines.openai import OpenAIEngine
from agentrl.engines.replicas import ReplicatedEngine
from agentrl.engines.transformers import TransformersEngine
from agentrl.errors import ConfigError
from agentrl.messages import user
from tests.engines import stub_server
from tests.engines.small import STOP, assert_nucleus, make_model, plain_logprobs

PROMPTS = [[7, 9, 11], [20, 30, 40, 50, 60], [8] * 9]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.7), (0.6, 0.95)])
async def test_logprobs_are_those_of_the_nucleus(temperature: float, top_p: float) -> None:
    model = make_model()
    engine = TransformersEngine(model, stop_ids=(STOP,))
    completions = await asyncio.gather(
        *(engine.generate(prompt, Sampling(20, temperature, top_p, seed=3)) for prompt in PROMPTS)
    )
    await engine.close()
    changed = [
        assert_nucleus(model, prompt, completion, temperature, top_p)
        for prompt, completion in zip(PROMPTS, completions, strict=True)
    ]
    assert sum(changed) > 10


async def test_entropies_are_those_of_temperature_one_whatever_is_sampled() -> None:
    model = make_model()
    engine = TransformersEngine(model, stop_ids=(STOP,), token_entropy=True)
    assert engine.capabilities.token_entropy
    samplings = [Sampling(12, 0.5, 0.8, seed=1), Sampling(12, 0.0), Sampling(12, 2.0, seed=4)]
    completions = await asyncio.gather(
        *(engine.generate(prompt, sampling) for prompt, sampling in zip(PROMPTS, samplings, strict=True))
    )
    await engine.close()
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        table = plain_logprobs(model, prompt, completion.ids)
        assert completion.entropies == pytest.approx(torch.special.entr(table.exp()).sum(-1).tolist(), abs=1e-4)


async def test_without_the_option_there_are_none() -> None:
    engine = TransformersEngine.for_policy(make_model(), stop_ids=(STOP,))
    assert not engine.capabilities.token_entropy
    assert (await engine.generate([7], Sampling(2, seed=0))).entropies is None
    await engine.close()


@pytest.mark.parametrize("top_p", [0.0, -1.0, 1.1, float("nan")])
async def test_a_nucleus_that_is_none_is_refused(top_p: float) -> None:
    engine = TransformersEngine(make_model(), stop_ids=(STOP,))
    with pytest.raises(ConfigError, match="top_p must be above 0 and at most 1"):
        await engine.generate([7], Sampling(2, top_p=top_p))
    await engine.close()


async def test_the_hash_is_known_after_the_start() -> None:
    engine = TransformersEngine(make_model(), stop_ids=(STOP,))
    assert engine.weights_hash == ""
    await engine.start()
    assert (await engine.generate([7], Sampling(2, seed=0))).weights_hash == engine.weights_hash != ""
    await engine.close()


# -- by HTTP -----------------------------------------------------------------------------------------------------------


async def test_a_server_is_asked_for_the_nucleus() -> None:
    async with stub_server.stub_server() as stub:
        engine = OpenAIEngine(stub.url, api_key_env=None)
        await engine.start()
        await engine.generate([5], Sampling(4, top_p=0.9, seed=0))
        assert stub.asked[-1].body["top_p"] == 0.9
        await engine.close()
        chat = OpenAIEngine(stub.url, mode="chat", api_key_env=None)
        await chat.start()
        await chat.reply([user("hi")], [], Sampling(4, top_p=0.9))
        assert stub.asked[-1].body["top_p"] == 0.9
        await chat.reply([user("hi")], [], Sampling(4))
        assert "top_p" not in stub.asked[-1].body  # not every server knows it
        await chat.close()


async def test_a_server_whose_logprobs_leave_the_nucleus_out_is_refused() -> None:
    async with stub_server.stub_server() as stub:
        stub.processed = False
        engine = OpenAIEngine(stub.url, api_key_env=None)
        await engine.start()
        with pytest.raises(ConfigError, match=r"top_p=0.9: .*--logprobs-mode processed_logprobs"):
            await engine.generate([5], Sampling(4, top_p=0.9, seed=0))
        await engine.close()


def test_replicas_can_what_all_of_them_can() -> None:
    parts = [TransformersEngine(make_model(), stop_ids=(STOP,), deterministic=False) for _ in range(2)]
    assert ReplicatedEngine(parts).capabilities.top_p
    parts[1].capabilities = Capabilities()
    assert not ReplicatedEngine(parts).capabilities.top_p
