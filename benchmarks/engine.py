"""Tokens per second of the transformers engine beside plain `generate`, in one run on the same requests.

    python benchmarks/engine.py --model FOLDER --requests 64 --tokens 100

Both sample at temperature 1 from the same prompts; request i is to have its own number of tokens, spread around
`--tokens`. `generate` decodes all of a batch until its longest is done, and only tokens that were asked for count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentrl.engines.base import Sampling
from agentrl.engines.transformers import TransformersEngine


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
    began = time.perf_counter()
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
    return time.perf_counter() - began


async def batched(model: Any, prompts: list[list[int]], lengths: list[int], slots: int, dtype: Any) -> float:
    """Seconds of the same requests through the engine."""
    engine = TransformersEngine(model, stop_ids=(), max_slots=slots, dtype=dtype)
    await engine.start()
    began = time.perf_counter()
    calls = [
        engine.generate(prompt, Sampling(max_tokens=length, seed=index))
        for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    completions = await asyncio.gather(*calls)
    seconds = time.perf_counter() - began
    if [len(completion.ids) for completion in completions] != lengths:
        raise SystemExit("the engine stopped early")
    await engine.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model in transformers form")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--group", type=int, default=8, help="requests that share one prompt")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100, help="mean number of new tokens")
    parser.add_argument("--spread", type=float, default=0.5, help="lengths lie within this share of the mean")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="measure the engine with a bfloat16 copy as well")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    prompts, lengths = workload(tokenizer, arguments.requests, arguments.group, arguments.tokens, arguments.spread)
    total = sum(lengths)
    for _ in range(arguments.repeats):
        rates = {"generate": total / plain(model, prompts, lengths)}
        rates["engine"] = total / asyncio.run(batched(model, prompts, lengths, arguments.slots, None))
        if arguments.bf16:
            rates["engine_bf16"] = total / asyncio.run(batched(model, prompts, lengths, arguments.slots, "bfloat16"))
        result = {f"{name}_tokens_per_s": round(rate, 1) for name, rate in rates.items()}
        print(json.dumps(result | {"ratio": round(rates["engine"] / rates["generate"], 2), "tokens": total}))


if __name__ == "__main__":
    main()
