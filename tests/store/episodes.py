"""Episodes for the tests of the store."""

from __future__ import annotations

import math

from agentrl.messages import ToolCall, assistant, tool_result, user
from agentrl.trajectory import ToolCallRecord, Trajectory, Turn

NAN, INF = math.nan, math.inf


def episode(task: str = "t", correct: float | None = 1.0, text: str = "x", logprob: float = -0.1) -> Trajectory:
    """An episode of one turn in which every column of a store has something to say."""
    call = ToolCall(id="c", name="calculator", arguments='{"a": ')
    turn = Turn(
        new_ids=[1, 2],
        prefix_turn=None,
        sampled_ids=[3, 4, 5],
        logprobs=[logprob, -0.0, 5e-324],
        message=assistant(text, (call,)),
        observation=[tool_result(text, "c"), user("\x1b[31m\u202e")],
        reward=0.25,
        tool_calls=[ToolCallRecord("calculator", '{"a": ', "no", "invalid_arguments", 0.1, 0.2)],
        timings={"generate": 1.5},
    )
    metrics = {} if correct is None else {"correct": correct}
    return Trajectory(task, "env", seed=3, opening=[user("q")], turns=[turn], metrics=metrics, seconds=2.0)


def plain(turns: int = 2, reward: float = 0.0, **values: object) -> Trajectory:
    """An episode of `turns` turns that pays `reward` in the first."""
    made = [
        Turn([1] * (index + 1), index - 1 if index else None, [2, 3], [-0.5, -1.0], assistant(f"turn {index}"))
        for index in range(turns)
    ]
    if made:
        made[0].reward = reward
    return Trajectory(**{"task_id": "t", "env_id": "env", "turns": made, **values})  # type: ignore[arg-type]
