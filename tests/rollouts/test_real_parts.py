"""The manager over real parts: Arithmetic-v0, the chat renderer, and the transformers and the scripted engine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from agentrl.chat import ChatRenderer
from agentrl.engines.base import Completion, Engine, Sampling
from agentrl.engines.scripted import ScriptedEngine
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


async def play(parts: tuple[Engine, ChatRenderer], seed: int) -> list[Group]:
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


class Kept(ScriptedEngine):
    """A scripted engine that keeps what it answered, by session."""

    answered: dict[str | None, list[tuple[list[int], Completion]]]

    async def generate(self, prompt_ids: Any, sampling: Sampling, *, session: str | None = None) -> Completion:
        completion = await super().generate(prompt_ids, sampling, session=session)
        self.answered.setdefault(session, []).append((list(prompt_ids), completion))
        return completion


async def test_scripted_episodes_train_what_was_sampled_and_repeat(
    parts: tuple[TransformersEngine, ChatRenderer],
) -> None:
    call = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "%s"}}\n</tool_call>'
    table = {call % "60 + 64": 2.0, call % "60 +": 1.0, "The answer is 124.": 1.0}
    runs: list[list[list[str]]] = []
    for seed in range(2):
        pauses = random.Random(seed)
        engine = Kept(
            parts[1], lambda prompt, sampling: table, latency=lambda *_, pauses=pauses: pauses.random() * 0.01
        )
        engine.answered = {}
        groups = await play((engine, parts[1]), seed)
        runs.append([[content(trajectory) for trajectory in group.trajectories] for group in groups])
        for group in groups:
            for trajectory in group.trajectories:
                (session,) = (
                    name for name in engine.answered if str(name).endswith(f"/{group.group_id}/{trajectory.member}")
                )
                answers = engine.answered[session]
                (row,) = trajectory.rows()
                pairs = zip(row.ids, row.logprobs, row.turn_ids, strict=True)
                trained = [(token, logprob) for token, logprob, turn in pairs if turn]
                assert trained == [pair for _, each in answers for pair in zip(each.ids, each.logprobs, strict=True)]
                prompt, last = answers[-1]
                assert row.ids == prompt + last.ids
    assert runs[0] == runs[1]
    assert any(turn.tool_calls for group in groups for trajectory in group.trajectories for turn in trajectory.turns)
