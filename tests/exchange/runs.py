"""A small run with everything a store can hold, odd values included."""

from __future__ import annotations

import math

from agentrl.messages import ToolCall, assistant, tool_result, user
from agentrl.store import RunStore, TaskRecord
from agentrl.trajectory import Branch, StopReason, Switch, ToolCallRecord, Trajectory, Turn

ENV = "agentrl/Arithmetic-v0"
HOSTILE = 'a "quote" </script> \x00 \x1b[31m \u202e'


def trajectory(task: str, right: bool | None, member: int = 0, text: str = "84") -> Trajectory:
    """A failing call, a call, an answer."""
    bad, good = (
        ToolCall(id="c0", name="calculator", arguments='{"a": '),
        ToolCall(id="c1", name="calculator", arguments='{"expression": "42 * 2"}'),
    )
    first = Turn(
        new_ids=[1, 2, 3],
        prefix_turn=None,
        sampled_ids=[4, 2**31 + 5],
        logprobs=[-0.1, -0.0],
        message=assistant(text, (bad, good)),
        observation=[tool_result("no", "c0", "calculator"), tool_result("84", "c1", "calculator")],
        reward=0.25,
        tool_calls=[
            ToolCallRecord("calculator", bad.arguments, "no", "invalid_arguments", 0.5, 0.25),
            ToolCallRecord("calculator", good.arguments, "84", None, 0.125),
        ],
        switches=[Switch(1, 3, "abc")],
        timings={"decode": 1.5},
    )
    last = Turn([7], 0, [8, 9, 10], [-0.5, -math.inf, 5e-324], assistant("84"), reward=0.75)
    ending = StopReason.ENV_ERROR if right is None else StopReason.TERMINATED
    return Trajectory(
        task,
        ENV,
        member=member,
        seed=2**70,
        opening=[user("What is 42 * 2?")],
        turns=[first, last],
        stop_reason=ending,
        error="it broke" if right is None else None,
        metrics={} if right is None else {"correct": float(right), "odd": math.nan},
        seconds=2.0,
        branch=Branch(0, 1) if member else None,
        info={"level": 2, "answer": "84", "odd": [math.nan, -0.0, math.inf, 2**70]},
    )


def fill(store: RunStore, name: str = "trial") -> int:
    """Two phases, three tasks, two members, advantages, judgements."""
    run = store.begin_run(name, "steps: 2\n", meta={"model": "tiny", "seed": 1})
    store.add_tasks(
        run, ENV, [TaskRecord(f"test:{index}", "test", 2, [user("What is 42 * 2?")], "84") for index in (0, 1)]
    )
    for index in range(3):
        for member in range(2):
            right = None if (index, member) == (2, 1) else (index + member) % 2 == 0
            made = trajectory(f"test:{index}", right, member)
            store.add_episode(run, "eval/base", 0, f"{index:05d}", member, made)
    store.add_episode(run, "train", 1, "g", 0, trajectory("train:5", True, text=HOSTILE))
    store.set_advantages(run, "train", 1, "g", 0, [[0.5, -0.25], [1.0, 0.0, 2.0]])
    store.log(run, "train", 1, {"loss": 0.1 + 0.2, "bad": math.nan, "up": math.inf})
    store.log(run, "eval/base", 0, {"accuracy": 0.5})
    store.add_judgement(run, "eval/base", 0, "00000", 0, "judge", 0, True, "yes, it follows")
    store.add_judgement(run, "eval/base", 0, "00000", 0, "judge", 1, None, "hm")
    store.update_run(run, status="finished")
    return run
