"""Episodes of an environment's own oracle, recorded as if a policy had sampled them.

They are the demonstrations of a warm start; an evaluation's ceiling is `agentrl.evaluation.players.oracle`. Invariant:
an oracle's episode has the same tokens, turn by turn, as a policy's that says the same: it goes through the same
renderer and environment.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agentrl.chat import ChatRenderer
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.trajectory import OWN_INFO, StopReason, Trajectory, Turn


async def oracle_trajectory(env: Env, renderer: ChatRenderer | None, task_id: str, seed: int) -> Trajectory:
    """Play one task with `env.oracle_action()`.

    With a renderer the turns carry token ids (log-probabilities 0.0: a deterministic policy); without one, text only.
    Raises `ConfigError` if the environment has no oracle.
    """
    time = asyncio.get_running_loop().time
    began = time()
    opening, info = await env.areset(seed=seed, options={"task": task_id})
    trajectory = Trajectory(task_id, opening=list(opening), seed=seed, info=_record(info))
    if "tools" in info:
        trajectory.info["tools"] = info["tools"]
        renderer = renderer and renderer.for_tools(info["tools"])
    context = renderer.opening(trajectory.opening) if renderer else []
    finished = False
    while not finished:
        try:
            message = env.oracle_action()
        except NotImplementedError:
            raise ConfigError(f"environment {type(env).__name__} has no oracle (oracle_action)") from None
        observation, reward, terminated, truncated, info = await env.astep(message)
        sampled = renderer.turn_ids(message) if renderer else []
        prefix, new_ids = trajectory.locate(context)
        trajectory.turns.append(
            Turn(
                new_ids=new_ids,
                prefix_turn=prefix,
                sampled_ids=sampled,
                logprobs=[0.0] * len(sampled),
                message=message,
                observation=list(observation),
                reward=float(reward),
                tool_calls=list(info.get("tool_calls", ())),
                tool_error=any(call.error is not None for call in info.get("tool_calls", ())),
            )
        )
        finished = terminated or truncated
        if renderer and not finished:
            said = trajectory.messages[: len(trajectory.messages) - len(observation)]
            context = renderer.next_context(context, sampled, said, observation)
    trajectory.metrics = dict(info.get("metrics", {}))
    ending = StopReason.TERMINATED if terminated else StopReason.MAX_TURNS
    trajectory.stop_reason = StopReason(info.get("stop_reason") or ending)
    if isinstance(answer := info.get("answer"), str):
        trajectory.info["answer"] = answer
    trajectory.seconds = time() - began
    return trajectory


def _record(info: dict[str, Any]) -> dict[str, Any]:
    """The environment's own record of the task."""
    return {key: value for key, value in info.get("task", {}).items() if key not in OWN_INFO}
