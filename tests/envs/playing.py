"""What the tests of every environment share: playing an episode to its end."""

from __future__ import annotations

from typing import Any

from agentrl.env import Env


async def play(env: Env, task_id: str, actions: list[Any] | None = None) -> tuple[float, dict[str, float]]:
    """Total reward and metrics of the given actions, else of the oracle's."""
    await env.areset(seed=0, options={"task": task_id})
    total = 0.0
    script = iter(actions or ())
    while True:
        step = await env.astep(next(script) if actions else env.oracle_action())
        total += step.reward
        if step.terminated or step.truncated:
            return total, step.info["metrics"]
