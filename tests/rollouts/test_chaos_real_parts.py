"""Chaos with real parts: the transformers engine whose model fails, tools that hang, programs that never end."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl.chat import ChatRenderer
from agentrl.engines.scripted import ScriptedEngine
from agentrl.engines.transformers import TransformersEngine
from agentrl.env import ensure_env, make
from agentrl.messages import ToolCall, assistant, user
from agentrl.models.tiny import build_tiny
from agentrl.rollout import RolloutContext, RolloutLimits
from agentrl.rollouts.manager import Manager
from agentrl.task import Episode, GeneratedTasks, Task, TaskSet, Verdict
from agentrl.tool_env import ToolEnv
from agentrl.trajectory import Group, StopReason, Turn
from tests.rollouts.fakes import requests
from tests.rollouts.faults import Faults, FaultyTool
from tests.rollouts.test_chaos import PATIENCE, Ledger, children, nothing_left

__all__ = ["nothing_left"]
leaves_nothing = pytest.mark.usefixtures("nothing_left")


async def play(context: RolloutContext, number: int, size: int, **options: Any) -> list[Group]:
    return [group async for group in Manager(context, **options).run(requests(number, size))]


@pytest.fixture(scope="module")
def tiny() -> Iterator[tuple[Any, ChatRenderer]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, tokenizer = build_tiny()
    yield model, ChatRenderer(tokenizer, ensure_env(make("agentrl/Arithmetic-v0")).tool_schemas(), tool_prompt="none")
    torch.set_num_threads(threads)


@leaves_nothing
async def test_the_real_engine_whose_model_raises_in_mid_decode_gives_the_same_episodes_after_all(
    tiny: tuple[Any, ChatRenderer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, renderer = tiny
    forward, calls, bad = model.forward, 0, {7, 8, 30}

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in bad:
            raise RuntimeError("device lost")
        return forward(*args, **kwargs)

    async def run() -> tuple[list[Turn], Ledger]:
        ledger = Ledger()
        engine = TransformersEngine(model, stop_ids=renderer.stop_ids)
        limits = RolloutLimits(max_turns=2, max_turn_tokens=12, concurrency=6, engine_retries=3)
        environment = lambda: ensure_env(make("agentrl/Arithmetic-v0"))  # noqa: E731
        context = RolloutContext(engine, renderer, environment, limits, ledger)
        await engine.start()
        try:
            groups = await play(context, 4, 3, sleep=lambda seconds: asyncio.sleep(0))
        finally:
            await engine.close()
        ledger.check(groups, 4, 3)
        groups.sort(key=lambda group: group.group_id)
        return [turn for group in groups for each in group.trajectories for turn in each.turns], ledger

    expected, _ = await run()
    monkeypatch.setattr(model, "forward", failing)
    played, ledger = await run()
    assert calls > max(bad)
    assert not any(reason.aborted for reason in ledger.reasons)
    assert [turn.sampled_ids for turn in played] == [turn.sampled_ids for turn in expected]
    assert [turn.observation for turn in played] == [turn.observation for turn in expected]
    for turn, other in zip(played, expected, strict=True):  # a lost cache is computed again, in other batches
        assert turn.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@leaves_nothing
async def test_tools_that_hang_and_swallow_cancellation_are_observations(tiny: tuple[Any, ChatRenderer]) -> None:
    faults, ledger = Faults({"call.hang": 0.1, "call.stubborn": 0.1, "call.raise": 0.1}, seed=5), Ledger()
    renderer = tiny[1]
    call = renderer.turn_ids(assistant("", (ToolCall(id="call_0", name="faulty", arguments='{"text": "x"}'),)))
    answer = renderer.turn_ids(assistant("Done."))

    def policy(prompt: list[int], sampling: Any) -> list[int]:
        return answer if prompt.count(call[0]) >= 4 else call

    class Workshop(ToolEnv):
        tools = (FaultyTool(faults),)

        def tasks(self, split: str) -> TaskSet:
            return GeneratedTasks(split, 1000, lambda index: Task(f"{split}:{index}", split, (user("Go."),)))

        def judge(self, episode: Episode) -> Verdict:
            return Verdict(1.0, {"correct": 1.0})

    limits = RolloutLimits(max_turns=6, max_context=100_000, concurrency=32, step_seconds=5.0)
    context = RolloutContext(ScriptedEngine(renderer, policy), renderer, Workshop, limits, ledger)
    groups = await play(context, 16, 4)
    ledger.check(groups, 16, 4)
    assert set(ledger.reasons) == {StopReason.TERMINATED}
    records = [
        record for group in groups for each in group.trajectories for turn in each.turns for record in turn.tool_calls
    ]
    errors = Counter(record.error for record in records)
    assert errors["timeout"] == faults.done["call.hang"] + faults.done["call.stubborn"] > 0
    assert errors["failed"] == faults.done["call.raise"] > 0
    faults.release()
    for _ in range(500):
        if asyncio.all_tasks() == {asyncio.current_task()}:
            break
        await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("way", ["deadline", "cancel"])
async def test_programs_that_never_end_are_killed_with_their_episode(tiny: tuple[Any, ChatRenderer], way: str) -> None:
    ledger, renderer = Ledger(), tiny[1]
    code = json.dumps({"code": "import os\nwhile True:\n    pass"})
    call = renderer.turn_ids(assistant("", (ToolCall(id="call_0", name="python", arguments=code),)))
    limits = RolloutLimits(max_turns=2, max_context=100_000, max_turn_tokens=1000, concurrency=4, step_seconds=1.0)
    environment = lambda: ensure_env(make("agentrl/Math-v0", tools=["python"]))  # noqa: E731
    engine = ScriptedEngine(renderer, lambda *_: call)
    context = RolloutContext(engine, renderer, environment, limits, ledger)

    async def consume() -> list[Group]:
        async with aclosing(Manager(context).run(requests(2, 2))) as stream:
            return [group async for group in stream]

    task = asyncio.ensure_future(consume())
    if way == "cancel":
        while len(engine.calls) < 4 or not busy():
            await asyncio.sleep(0.02)
        task.cancel()
    await asyncio.wait({task})
    assert task.cancelled() == (way == "cancel")
    assert set(ledger.reasons) == {StopReason.CANCELLED if way == "cancel" else StopReason.TIMEOUT}
    assert sum(ledger.reasons.values()) == 4
    async with asyncio.timeout(PATIENCE):
        while busy():
            await asyncio.sleep(0.02)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def busy() -> set[int]:
    """Processes of this one that compute; the sandbox keeps others, which wait for programs."""
    computing: set[int] = set()
    for pid in children():
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R":
                computing.add(pid)
    return computing
