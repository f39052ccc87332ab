"""Supervised warm start: the policy imitates the oracle's episodes for a few steps, before reinforcement learning.

Invariant: demonstrations are tokenised by the renderer that the rollouts use, and carry loss on the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from agentrl.assembly import Actors
from agentrl.config import WarmStartConfig
from agentrl.env import TaskSet
from agentrl.learner import Learner
from agentrl.oracle import oracle_trajectory
from agentrl.seeding import derive_seed, draw


async def warm_start(
    actors: Actors,
    learner: Learner,
    tasks: TaskSet,
    config: WarmStartConfig,
    seed: int,
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Run the supervised steps; `on_step` gets the number of each (from 1) and its metrics."""
    env = actors.make_env()
    optimiser = learner.supervised_optimiser(config.lr)
    try:
        for step in range(1, config.steps + 1):
            drawn = draw(config.episodes_per_step, (step - 1) * config.episodes_per_step, len(tasks), seed)
            episodes = [
                await oracle_trajectory(env, actors.renderer, tasks[index].id, derive_seed(seed, index))
                for index in drawn
            ]
            on_step(step, learner.supervised_step(episodes, optimiser))
    finally:
        await env.aclose()
