"""Tokens per second of the transformers engine beside plain `generate`, in one run on the same requests.

    python benchmarks/engine.py --model FOLDER --requests 64 --tokens 100 --library

All sample at temperature 1 from the same prompts; request i is to have its own number of tokens, spread around
`--tokens`. `generate` decodes all of a batch until its longest is done, and only tokens that were asked for count.
`--library` adds the library's own continuous batching (its manager, warmed up, with log-probabilities), and how far
the log-probabilities of both are from those of one plain forward pass.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from agentrl.engines.base import Sampling
from agentrl.engines.transformers import TransformersEngine

PAGE = 32
"""Tokens of a page of the library's cache."""
CLOCK = time.perf_counter


def workload(
    tokenizer: Any, requests: int, group: int, tokens: int, spread: float
) -> tuple[list[list[int]], list[int]]:
    """Prompts in groups of `group` equal ones, and how many tokens each request is to have."""
    draw = random.Random(0)
    system = "You are careful and you answer in one short sentence after thinking about the question."
    prompts = []
    for index in range(requests):
        question = random.Random(index // group)
        numbers = f"What is {question.randrange(100)} + {question.randrange(100)} * {question.randrange(100)}?"
        prompts.append(tokenizer.encode(f"{system}\n{numbers}\n", add_special_tokens=False))
    lengths = [max(1, round(tokens * draw.uniform(1 - spread, 1 + spread))) for _ in range(requests)]
    return prompts, lengths


def plain(model: Any, prompts: list[list[int]], lengths: list[int]) -> float:
    """Seconds of one call of `generate`, prompts padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    began = CLOCK()
    model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max(lengths),
        eos_token_id=None,
        pad_token_id=0,
    )
    return CLOCK() - began


Sampled = list[tuple[list[int], list[float]]]
"""Ids and log-probabilities of each request."""


def library(model: Any, prompts: list[list[int]], lengths: list[int], slots: int) -> tuple[float, Sampled]:
    """Seconds of the same requests through the library's continuous batching, and what it sampled."""
    longest = max(map(len, prompts)) + max(lengths)
    pages = -(-longest // PAGE) * min(slots, len(prompts))
    settings = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=pages + 1,
        max_batch_tokens=4096,
        max_requests_per_batch=slots,
        return_logprobs=True,
        seed=0,
    )
    sampling = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(generation_config=sampling, continuous_batching_config=settings)
    manager.start()
    try:
        _serve(manager, prompts[:1], [2])
        began = CLOCK()
        results = _serve(manager, prompts, lengths)
        seconds = CLOCK() - began
    finally:
        manager.stop(block=True)
    return seconds, results


def _serve(manager: Any, prompts: list[list[int]], lengths: list[int]) -> Sampled:
    names = [
        manager.add_request(prompt, max_new_tokens=length, eos_token_id=-1)
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    done: dict[str, Any] = {}
    while len(done) < len(names):
        result = manager.get_result(timeout=1)
        if result is not None and result.is_finished():
            done[result.request_id] = result
        elif result is None and not manager.is_running():
            raise SystemExit("the library's generation thread ended")
    if [len(done[name].generated_tokens) for name in names] != lengths:
        raise SystemExit("the library stopped early")
    return [(done[name].generated_tokens, done[name].logprobs) for name in names]


def error(model: Any, prompts: list[list[int]], sampled: Sampled) -> float:
    """Worst difference of log-probabilities from those of a plain forward pass, nats."""
    worst = 0.0
    for prompt, (ids, logprobs) in zip(prompts, sampled, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids], device=model.device)).logits[0, len(prompt) - 1 : -1].float()
        exact = torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids, device=model.device)[:, None])[:, 0]
        worst = max(worst, float((exact.cpu() - torch.tensor(logprobs)).abs().max()))
    return worst


async def batched(
    model: Any, prompts: list[list[int]], lengths: list[int], slots: int, dtype: Any
) -> tuple[float, Sampled]:
    """Seconds of the same requests through the engine, and what it sampled."""
    engine = TransformersEngine(model, stop_ids=(), max_slots=slots, dtype=dtype)
    await engine.start()
    began = CLOCK()
    calls = [
        engine.generate(prompt, Sampling(max_tokens=length, seed=index))
        for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    completions = await asyncio.gather(*calls)
    seconds = CLOCK() - began
    if [len(completion.ids) for completion in completions] != lengths:
        raise SystemExit("the engine stopped early")
    await engine.close()
    return seconds, [(completion.ids, completion.logprobs) for completion in completions]


def main() -> None:
    global CLOCK
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model in transformers form")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--group", type=int, default=8, help="requests that share one prompt")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100, help="mean number of new tokens")
    parser.add_argument("--spread", type=float, default=0.5, help="lengths lie within this share of the mean")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--library", action="store_true", help="measure the library's continuous batching as well")
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds: for a machine that is shared")
    parser.add_argument("--bf16", action="store_true", help="measure the engine with a bfloat16 copy as well")
    arguments = parser.parse_args()
    CLOCK = time.process_time if arguments.cpu_time else time.perf_counter
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    prompts, lengths = workload(tokenizer, arguments.requests, arguments.group, arguments.tokens, arguments.spread)
    total = sum(lengths)
    errors: dict[str, float] = {}
    for _ in range(arguments.repeats):
        rates = {"generate": total / plain(model, prompts, lengths)}
        seconds, sampled = asyncio.run(batched(model, prompts, lengths, arguments.slots, None))
        rates["engine"] = total / seconds
        if arguments.bf16:
            rates["engine_bf16"] = total / asyncio.run(batched(model, prompts, lengths, arguments.slots, "bfloat16"))[0]
        if arguments.library:
            errors["engine_error_nats"] = error(model, prompts, sampled)
            seconds, sampled = library(model, prompts, lengths, arguments.slots)
            rates["library"] = total / seconds
            errors["library_error_nats"] = error(model, prompts, sampled)
        result = {f"{name}_tokens_per_s": round(rate, 1) for name, rate in rates.items()} | errors
        print(json.dumps(result | {"ratio": round(rates["engine"] / rates["generate"], 2), "tokens": total}))


if __name__ == "__main__":
    main()
