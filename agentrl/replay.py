"""Re-stepping a recorded episode: the same messages into the environment must bring the same answers out.

Invariant: nothing is generated. Only what the record holds (task, seed, the policy's messages) goes in, and everything
that the environment gave (observations, rewards, the kinds of tool errors, the end) is compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.env import Env
from agentrl.messages import Message
from agentrl.text import one_line
from agentrl.trajectory import StopReason, Trajectory, Turn

REWARD_TOLERANCE = 1e-9
"""Rewards are sums of few floats; a record keeps every bit of them."""


async def first_difference(env: Env, recorded: Trajectory) -> str | None:
    """Step `env` through a finished episode; the first difference in one line, or None if there is none.

    The environment's errors pass through. An episode that the manager ended (turn, token or time limit) is finished in
    the same way after its last recorded turn.
    """
    opening, _ = await env.areset(seed=recorded.seed, options={"task": recorded.task_id})
    if found := _messages("opening", recorded.opening, opening):
        return found
    for number, turn in enumerate(recorded.turns, 1):
        observation, reward, terminated, truncated, info = await env.astep(turn.message)
        last, ended = number == len(recorded.turns), terminated or truncated
        if ended and not last:
            return f"turn {number}: the episode ends here, the recorded one has {len(recorded.turns)} turns"
        if last and not ended:
            verdict = await env.afinish(recorded.stop_reason)
            reward += verdict.reward
            if recorded.stop_reason is StopReason.TERMINATED:
                return f"turn {number}: the recorded episode terminates here, this one goes on"
        if found := _turn(number, turn, observation, float(reward), info.get("tool_calls", ())):
            return found
    return None


def _turn(
    number: int, turn: Turn, observation: Sequence[Message], reward: float, calls: Sequence[object]
) -> str | None:
    if found := _messages(f"turn {number}", turn.observation, observation):
        return found
    if abs(reward - turn.reward) > REWARD_TOLERANCE:
        return f"turn {number}: reward {reward:g}, recorded {turn.reward:g}"
    kinds, recorded = [getattr(call, "error", None) for call in calls], [call.error for call in turn.tool_calls]
    return None if kinds == recorded else f"turn {number}: tool errors {kinds}, recorded {recorded}"


def _messages(where: str, recorded: Sequence[Message], given: Sequence[Message]) -> str | None:
    if len(recorded) != len(given):
        return f"{where}: {len(given)} messages, recorded {len(recorded)}"
    for number, (old, new) in enumerate(zip(recorded, given, strict=True), 1):
        if old.to_wire() != new.to_wire():
            return f"{where}, message {number}: {one_line(new.text, 80)!r}, recorded {one_line(old.text, 80)!r}"
    return None
