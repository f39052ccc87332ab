"""Evaluate a model behind any OpenAI-compatible endpoint on an environment with tools.

    python examples/evaluate_endpoint.py http://127.0.0.1:8000/v1 --episodes 50
    OPENAI_API_KEY=... python examples/evaluate_endpoint.py https://HOST/v1 --model NAME --env agentrl/SQL-v0

The endpoint gets messages and tool schemas and gives messages back; no token ids are needed, and nothing is trained.
"""

from __future__ import annotations

import argparse
import asyncio

import agentrl
from agentrl.engines.openai import OpenAIEngine
from agentrl.evaluation.intervals import wilson
from agentrl.rollout import GroupRequest, RolloutContext, RolloutLimits
from agentrl.rollouts.independent import IndependentChains


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", help="ends where /chat/completions begins, as a rule in /v1")
    parser.add_argument("--model", help="may be left out where the endpoint serves one model")
    parser.add_argument("--env", default="agentrl/Arithmetic-v0")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--concurrency", type=int, default=16)
    arguments = parser.parse_args()

    engine = OpenAIEngine(arguments.base_url, arguments.model, mode="chat", concurrency=arguments.concurrency)
    tasks = agentrl.make(arguments.env).tasks("test")
    limits = RolloutLimits(max_turns=8, max_turn_tokens=1024, temperature=1.0, concurrency=arguments.concurrency)
    rollout = IndependentChains(RolloutContext(engine, None, lambda: agentrl.make(arguments.env), limits))
    requests = [GroupRequest(f"{n}", tasks[n].id, 1, seed=n) for n in range(min(arguments.episodes, len(tasks)))]
    await engine.start()
    correct = judged = 0
    try:
        async for group in rollout.run(requests):
            for episode in group.members:
                judged += 1
                correct += episode.metrics.get("correct") == 1.0
            print(f"\r{judged} of {len(requests)} episodes, {correct} correct", end="", flush=True)
    finally:
        await engine.close()
    share = wilson(correct, judged)
    print(f"\naccuracy {share.value:.1%} [{share.low:.1%}, {share.high:.1%}], {len(requests) - judged} aborted")
    print("\n".join(rollout.account().lines()))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except agentrl.AgentRLError as error:
        raise SystemExit(f"error: {error}") from None
