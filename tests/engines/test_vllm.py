"""Real vLLM around a small policy: exact numbers, weights in place and attested, failures, nothing left behind.

One engine serves the tests of this module in order, since a start takes longer than all of them; each test leaves it
serving the module's own policy.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from agentrl.engines import vllm_process
from agentrl.engines.base import Completion, FinishReason, Sampling
from agentrl.engines.vllm import VllmEngine
from agentrl.engines.weights import module_hash
from agentrl.errors import ConfigError, EngineError, EngineRefusal
from agentrl.learner.policy import Policy
from agentrl.models.tiny import build_tiny
from tests.engines.small import assert_exact, assert_nucleus, assert_same, make_model, plain_logprobs
from tests.engines.vllm_small import STOP, descendants, perturb, prompt_of

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

SLOTS = 16


async def together(engine: VllmEngine, prompts: list[list[int]], **sampling: Any) -> list[Completion]:
    options = {"max_tokens": 15, **sampling}
    calls = [engine.generate(prompt, Sampling(seed=index, **options)) for index, prompt in enumerate(prompts)]
    return list(await asyncio.gather(*calls))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[VllmEngine]:
    model, _ = build_tiny()
    made = VllmEngine.for_policy(model, stop_ids=[], max_slots=SLOTS, max_context=256, cache_gib=0.25)
    await made.start()
    yield made
    await made.close()
    assert not descendants()


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
async def test_logprobs_are_those_of_the_model_at_the_sampling_temperature(
    engine: VllmEngine, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "stop_ids", (STOP,))
    prompts = [prompt_of(index, 3 + 4 * index) for index in range(7)]
    for prompt, completion in zip(prompts, await together(engine, prompts, temperature=temperature), strict=True):
        assert_exact(engine.model, prompt, completion, temperature)
        assert completion.weights_hash == module_hash(engine.model)
        assert (completion.finish_reason is FinishReason.STOP) == (completion.ids[-1] == STOP)
        assert STOP not in completion.ids[:-1]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.7), (0.6, 0.95)])
async def test_logprobs_are_those_of_the_nucleus(engine: VllmEngine, temperature: float, top_p: float) -> None:
    prompts = [prompt_of(index, 3 + 4 * index) for index in range(7)]
    completions = await together(engine, prompts, temperature=temperature, top_p=top_p)
    pairs = zip(prompts, completions, strict=True)
    assert sum(assert_nucleus(engine.model, prompt, each, temperature, top_p) for prompt, each in pairs) > 50


async def test_greedy_among_sampled_takes_the_most_likely_and_scores_at_temperature_one(engine: VllmEngine) -> None:
    greedy, sampled = await asyncio.gather(
        engine.generate(prompt_of(1), Sampling(max_tokens=15, temperature=0.0)),
        engine.generate(prompt_of(2), Sampling(max_tokens=15, temperature=1.7, seed=1)),
    )
    assert greedy.ids == plain_logprobs(engine.model, prompt_of(1), greedy.ids).argmax(-1).tolist()
    assert_exact(engine.model, prompt_of(1), greedy)
    assert_exact(engine.model, prompt_of(2), sampled, 1.7)


async def test_a_seeded_sample_is_repeated_and_does_not_depend_on_its_neighbours(engine: VllmEngine) -> None:
    prompts = [prompt_of(index, 5 + 3 * index) for index in range(6)]
    batch = await together(engine, prompts)
    alone = [await engine.generate(prompt, Sampling(max_tokens=15, seed=index)) for index, prompt in enumerate(prompts)]
    assert_same(batch, alone)
    same = await asyncio.gather(*(engine.generate(prompts[0], Sampling(max_tokens=15)) for _ in range(4)))
    assert len({tuple(completion.ids) for completion in same}) > 1  # requests without a seed get different ones


async def test_a_stop_id_ends_a_completion_and_is_part_of_it(engine: VllmEngine) -> None:
    plain = await engine.generate(prompt_of(3), Sampling(max_tokens=30, temperature=0.0))
    stop = plain.ids[4]
    ended = await engine.generate(prompt_of(3), Sampling(max_tokens=30, temperature=0.0, stop_ids=(stop,)))
    assert ended.ids == plain.ids[: plain.ids.index(stop) + 1]
    assert ended.finish_reason is FinishReason.STOP
    assert len(ended.logprobs) == len(ended.ids)


async def test_the_context_bounds_a_completion(engine: VllmEngine) -> None:
    assert len((await engine.generate(prompt_of(4, 250), Sampling(max_tokens=50))).ids) == 6
    full = await engine.generate(prompt_of(4, 256), Sampling(max_tokens=50))
    assert (full.ids, full.finish_reason) == ([], FinishReason.LENGTH)


@pytest.mark.parametrize(("prompt", "stop"), [([], 1), ([5, 100_000], 1), ([-1], 1), ([5], 100_000)])
async def test_a_request_that_cannot_be_run_is_refused_alone(engine: VllmEngine, prompt: list[int], stop: int) -> None:
    failed, fine = await asyncio.gather(
        engine.generate(prompt, Sampling(max_tokens=3, stop_ids=(stop,))),
        engine.generate(prompt_of(5), Sampling(max_tokens=3)),
        return_exceptions=True,
    )
    assert isinstance(failed, EngineRefusal)
    assert isinstance(fine, Completion)


async def test_a_temperature_that_vllm_would_raise_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(ConfigError, match="temperature must be 0 or at least"):
        await engine.generate(prompt_of(1), Sampling(temperature=0.001))


async def test_more_requests_than_slots_wait_and_the_load_shows_it(engine: VllmEngine) -> None:
    tasks = [
        asyncio.create_task(engine.generate(prompt_of(index), Sampling(max_tokens=60, seed=index)))
        for index in range(3 * SLOTS)
    ]
    seen = []
    while not all(task.done() for task in tasks):
        load = engine.load()
        assert load is not None
        seen.append(load)
        await asyncio.sleep(0.005)
    assert max(load.running for load in seen) == SLOTS
    assert max(load.waiting for load in seen) > 0
    assert max(load.cache_used or 0.0 for load in seen) > 0
    done = [task.result() for task in tasks]
    assert all(len(completion.ids) == 60 for completion in done)
    assert (
        max(completion.queue_seconds for completion in done)
        > min(done, key=lambda one: one.queue_seconds).queue_seconds
    )
    assert all(completion.prefill_seconds > 0 and completion.decode_seconds > 0 for completion in done)


async def test_a_cancelled_request_leaves_vllm(engine: VllmEngine) -> None:
    task = asyncio.create_task(engine.generate(prompt_of(1), Sampling(max_tokens=200)))
    await decoding(engine)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine._llm.get_num_unfinished_requests() == 0
    await engine.generate(prompt_of(2), Sampling(max_tokens=2))
    load = engine.load()
    assert load is not None and load.running <= 1


async def test_a_sleeping_vllm_wakes_for_the_next_request(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls alone: on a CPU, where the option is refused, vLLM stops its scheduler and frees nothing."""
    with pytest.raises(ConfigError, match="set the option 'sleep'"):
        await engine.sleep()
    monkeypatch.setitem(engine.plan.arguments, "enable_sleep_mode", True)
    await engine.sleep()
    assert await engine._llm.is_sleeping()
    assert_exact(engine.model, prompt_of(1), await engine.generate(prompt_of(1), Sampling(max_tokens=5, seed=1)))
    assert not await engine._llm.is_sleeping()


async def decoding(engine: VllmEngine) -> None:
    """Until vLLM reports a running request."""
    async with asyncio.timeout(30):
        while (load := engine.load()) is None or not load.running:
            await asyncio.sleep(0.002)


# -- weights -----------------------------------------------------------------------------------------------------------


async def test_a_publish_changes_what_is_served_and_its_hash(engine: VllmEngine) -> None:
    prompt = prompt_of(7, 40)
    before = await engine.generate(prompt, Sampling(max_tokens=10, seed=1))
    perturb(engine.model)
    published = await engine.publish(None, 5)
    after = await engine.generate(prompt, Sampling(max_tokens=10, seed=1))
    assert published == module_hash(engine.model) == after.weights_hash != before.weights_hash
    assert (before.policy_version, after.policy_version) == (0, 5)
    assert after.ids != before.ids
    assert_exact(engine.model, prompt, after)  # so nothing of the old prefix cache was used


async def test_one_changed_number_of_any_tensor_changes_the_hash(engine: VllmEngine) -> None:
    hashes = {await engine.publish(None, 1)}
    tensors = dict(engine.model.named_parameters())
    layers = [name for name in tensors if ".layers.1." in name or ".layers." not in name]
    for name in layers:
        with torch.no_grad():
            tensors[name].view(-1)[-1] += 0.5
        hashes.add(await engine.publish(None, 1))
    assert len(hashes) == len(layers) + 1


async def test_a_mapping_is_published_and_one_that_does_not_fit_is_refused(engine: VllmEngine) -> None:
    other, _ = build_tiny(seed=1)
    assert await engine.publish(other.state_dict(), 2) == module_hash(other)
    assert_exact(other, prompt_of(1), await engine.generate(prompt_of(1), Sampling(max_tokens=9, seed=1)))
    with pytest.raises(ConfigError, match="which the model lacks"):
        await engine.publish({"model.norm.wait": torch.ones(3)}, 3)
    with pytest.raises(ConfigError, match="do not fit"):
        await engine.publish({"model.norm.weight": torch.ones(3)}, 3)
    assert (await engine.generate(prompt_of(1), Sampling(max_tokens=2))).policy_version == 2


async def test_requests_in_flight_go_on_under_new_weights_token_by_token(engine: VllmEngine) -> None:
    await engine.publish(build_tiny(seed=2)[0].state_dict(), 7)
    old, _ = build_tiny(seed=2)
    prompts = [prompt_of(index, 20) for index in range(4)]
    sampling = [Sampling(max_tokens=200, seed=index) for index in range(4)]
    tasks = [asyncio.create_task(engine.generate(prompt, each)) for prompt, each in zip(prompts, sampling, strict=True)]
    await decoding(engine)
    await asyncio.sleep(0.1)
    perturb(engine.model, seed=3)
    published = await engine.publish(None, 8)
    for prompt, completion in zip(prompts, await asyncio.gather(*tasks), strict=True):
        (switch,) = completion.switches
        assert (completion.policy_version, completion.weights_hash) == (7, module_hash(old))
        assert (switch.policy_version, switch.weights_hash) == (8, published)
        assert 0 < switch.index < len(completion.ids) == len(completion.logprobs) == 200
        table = torch.cat(
            [
                plain_logprobs(old, prompt, completion.ids)[: switch.index],
                plain_logprobs(engine.model, prompt, completion.ids)[switch.index :],
            ]
        )
        expected = table.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


async def test_weights_that_did_not_arrive_are_an_error_and_never_serve(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = descendants()
    call = engine._llm.collective_rpc

    async def lost(method: str, *args: Any, **kwargs: Any) -> Any:
        return None if method == "agentrl_load" else await call(method, *args, **kwargs)

    monkeypatch.setattr(engine._llm, "collective_rpc", lost)
    perturb(engine.model, seed=4)
    with pytest.raises(EngineError, match=r"not the published ones: it serves other numbers for 'model\.embed_tokens"):
        await engine.publish(None, 9)
    assert processes and not any(process.alive for process in processes)


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_a_killed_vllm_fails_every_pending_request_and_starts_again_with_the_same_weights(
    engine: VllmEngine,
) -> None:
    published = await engine.publish(None, 10)  # starts it again after the test before
    tasks = [
        asyncio.create_task(engine.generate(prompt_of(index), Sampling(max_tokens=200))) for index in range(2 * SLOTS)
    ]
    await decoding(engine)
    processes = descendants()
    core = min(processes, key=lambda process: process.pid)
    os.kill(core.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [EngineError] * len(tasks)
    completion = await engine.generate(prompt_of(1), Sampling(max_tokens=9, seed=1))
    assert not any(process.alive for process in processes)
    assert (completion.policy_version, completion.weights_hash) == (10, published)
    assert_exact(engine.model, prompt_of(1), completion)


async def test_closing_fails_what_is_pending_and_leaves_no_process_and_no_file(engine: VllmEngine) -> None:
    task = asyncio.create_task(engine.generate(prompt_of(1), Sampling(max_tokens=230)))
    await decoding(engine)
    folder, processes = engine._folder, descendants()
    assert folder is not None and folder.is_dir() and len(processes) >= 2
    await engine.close()
    with pytest.raises(EngineError):
        await task
    assert not folder.exists()
    assert not any(process.alive for process in processes) and not descendants()
    await engine.close()


OWNER = """
import asyncio, os, signal
from agentrl.engines.base import Sampling
from agentrl.engines.vllm import VllmEngine
from agentrl.models.tiny import build_tiny

async def main():
    engine = VllmEngine.for_policy(build_tiny()[0], stop_ids=[], max_context=64, cache_gib=0.1)
    await engine.start()
    await engine.generate([5], Sampling(max_tokens=2))
    print(*(process.pid for process in engine._processes), flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_vllm_ends_with_a_process_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "owner.py").write_text(OWNER)
    owner = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "owner.py"), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert owner.stdout is not None
    async with asyncio.timeout(300):
        line = await owner.stdout.readline()
    family = [process for pid in line.split() for process in vllm_process.tree(int(pid))[:1]]
    assert len(family) >= 2 and all(process.alive for process in family)
    owner.kill()
    await owner.wait()
    async with asyncio.timeout(60):
        while any(process.alive for process in family):
            await asyncio.sleep(0.05)


# -- LoRA, other models ------------------------------------------------------------------------------------------------


async def test_an_adapter_is_swapped_in_place_and_attested() -> None:
    from agentrl.config import LoraConfig

    shape = {"hidden_size": 128, "intermediate_size": 192, "initializer_range": 0.1, "attention_bias": True}
    policy = Policy(make_model(**shape), lora=LoraConfig(rank=4, alpha=8), precision="fp32")
    engine = VllmEngine.for_policy(policy.model, stop_ids=[STOP], cache_gib=0.25, lora="adapter")
    prompt = [token % 90 for token in prompt_of(1, 30)]
    hashes = []
    try:
        for version in range(3):
            for name, parameter in policy.trainable().items():
                with torch.no_grad():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(version)))
                assert "lora_" in name
            hashes.append(await engine.publish(None, version))
            completion = await engine.generate(prompt, Sampling(max_tokens=12, seed=1, temperature=0.8))
            assert (completion.policy_version, completion.weights_hash) == (version, hashes[-1])
            assert_exact(policy.model, prompt, completion, 0.8)
        assert len(set(hashes)) == 3
    finally:
        await engine.close()
    assert not descendants()


async def test_bfloat16_and_merged_adapters_are_attested_in_vllms_own_type() -> None:
    from agentrl.config import LoraConfig

    policy = Policy(build_tiny()[0], lora=LoraConfig(rank=4), precision="fp32")
    engine = VllmEngine.for_policy(policy.model, stop_ids=[STOP], max_context=128, cache_gib=0.25, dtype="bfloat16")
    try:
        first = await engine.publish(None, 0)
        with torch.no_grad():
            for parameter in policy.trainable().values():
                parameter.add_(0.1)
        assert await engine.publish(None, 1) != first
        prompt = prompt_of(1, 30)
        completion = await engine.generate(prompt, Sampling(max_tokens=12, seed=1))
        table = plain_logprobs(policy.model, prompt, completion.ids)
        expected = table.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=0.15, rtol=0)
    finally:
        await engine.close()


# -- refused at start --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sleep": True}, "needs a GPU"),
        ({"max_context": 5000}, "max_context must be between"),
        ({"lora": "adapter"}, "needs a policy with LoRA"),
        ({"slots": 3}, "did you mean 'max_slots'"),
        ({"cache_gib": 0}, "must be above 0"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_before_anything_starts(options: dict[str, Any], message: str) -> None:
    if "sleep" in options and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=message):
        VllmEngine.for_policy(build_tiny()[0], stop_ids=[STOP], **options)
    assert not descendants()


async def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    engine = VllmEngine.for_policy(build_tiny()[0], stop_ids=[STOP], max_context=64, cache_gib=0.1)
    task = asyncio.create_task(engine.start())
    while not descendants():
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not descendants()
    await engine.close()


async def test_a_cache_too_small_for_one_request_is_an_error_of_one_line() -> None:
    engine = VllmEngine.for_policy(build_tiny()[0], stop_ids=[STOP], max_context=1024, cache_gib=0.0001)
    with pytest.raises(EngineError, match="vLLM did not start"):
        await engine.start()
    await engine.close()
    assert not descendants()
