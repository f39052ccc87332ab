"""The manager over real parts: a decoder behind the transformers engine in lockstep, chat renderer, Arithmetic-v0."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from agentrl.chat import ChatRenderer
from agentrl.engines.transformers import TransformersEngine
from agentrl.env import Env, Step, ensure_env, make
from agentrl.models.tiny import build_tiny
from agentrl.rollout import GroupRequest, RolloutContext, RolloutLimits
from agentrl.rollouts.independent import IndependentChains
from agentrl.trajectory import Group, StopReason
from tests.rollouts.fakes import content

REQUESTS = [GroupRequest(f"g{index}", f"train:{index}", 3, seed=index) for index in range(4)]


def slowed(seed: int) -> Callable[[], Env]:
    """Makes Arithmetic-v0 whose steps take random times."""
    pauses = random.Random(seed)

    def build() -> Env:
        env = ensure_env(make("agentrl/Arithmetic-v0"))
        step = env.astep

        async def astep(action: Any) -> Step:
            await asyncio.sleep(pauses.random() * 0.02)
            return await step(action)

        env.astep = astep  # type: ignore[method-assign]
        return env

    return build


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[TransformersEngine, ChatRenderer]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a model this small only waits for further threads
    model, tokenizer = build_tiny()
    env = ensure_env(make("agentrl/Arithmetic-v0"))
    renderer = ChatRenderer(tokenizer, env.tool_schemas(), tool_prompt="signature")
    yield TransformersEngine(model, stop_ids=renderer.stop_ids), renderer
    torch.set_num_threads(threads)


async def play(parts: tuple[TransformersEngine, ChatRenderer], seed: int) -> list[Group]:
    limits = RolloutLimits(max_turns=3, max_turn_tokens=24, concurrency=5)
    rollout = IndependentChains(RolloutContext(*parts, slowed(seed), limits))
    await parts[0].start()
    try:
        groups = [group async for group in rollout.run(REQUESTS)]
    finally:
        await parts[0].close()
    return sorted(groups, key=lambda group: group.group_id)


async def test_episodes_are_the_same_bit_for_bit_whatever_tools_take(
    parts: tuple[TransformersEngine, ChatRenderer],
) -> None:
    first, second = await play(parts, 0), await play(parts, 1)
    assert [[content(t) for t in group.trajectories] for group in first] == [
        [content(t) for t in group.trajectories] for group in second
    ]


async def test_records_of_real_episodes_are_whole(parts: tuple[TransformersEngine, ChatRenderer]) -> None:
    _, renderer = parts
    trajectories = [trajectory for group in await play(parts, 2) for trajectory in group.trajectories]
    assert len(trajectories) == 12
    assert {t.stop_reason for t in trajectories} <= {
        StopReason.TERMINATED,
        StopReason.MAX_TURNS,
        StopReason.INVALID_CALLS,
    }
    for trajectory in trajectories:
        assert trajectory.env_id == "agentrl/Arithmetic-v0"
        assert trajectory.info["id"] == trajectory.task_id
        assert "correct" in trajectory.metrics
        assert trajectory.context_ids(0) == renderer.opening(trajectory.opening)
        for turn in trajectory.turns:
            assert renderer.parse(turn.sampled_ids) == turn.message
            assert len(turn.logprobs) == len(turn.sampled_ids) > 0
            assert turn.weights_hash
