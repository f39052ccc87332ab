"""What the rollout manager itself costs: CPU milliseconds a turn, with an engine and an environment that cost nothing.

    python benchmarks/rollout_overhead.py --episodes 2000 --turns 4 --concurrency 64

The engine answers at once with the same tokens, the environment with one short message. What remains is the manager,
and the renderer's tokenising, which is shown apart.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from typing import Any

from agentrl.chat import ChatRenderer
from agentrl.engines.base import Completion, Engine, FinishReason, Sampling
from agentrl.env import AsyncEnv, Step, TaskSet
from agentrl.messages import assistant, user
from agentrl.models.tiny import build_tiny
from agentrl.rollout import GroupRequest, RolloutContext, RolloutLimits
from agentrl.rollouts.independent import IndependentChains
from agentrl.trajectory import Trajectory


class InstantEngine(Engine):
    """Gives the same completion every time."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.logprobs = [-1.0] * len(ids)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        return Completion(list(self.ids), list(self.logprobs), FinishReason.STOP)


class InstantEnv(AsyncEnv):
    """Ends after `turns` turns."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns

    def tasks(self, split: str) -> TaskSet:
        raise NotImplementedError

    async def areset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.left = self.turns
        return (user("What is 17 + 25 * 3?"),), {}

    async def astep(self, action: Any) -> Step:
        self.left -= 1
        return Step((user("92"),), 1.0, self.left == 0, False, {})


async def measure(rollout: IndependentChains, episodes: int, group: int) -> list[Trajectory]:
    requests = (GroupRequest(f"g{index}", "train:0", group, index) for index in range(episodes // group))
    return [trajectory async for each in rollout.run(requests) for trajectory in each.trajectories]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--group", type=int, default=8)
    arguments = parser.parse_args()
    renderer = ChatRenderer(build_tiny()[1])
    engine = InstantEngine(renderer.turn_ids(assistant("Let me think: 25 * 3 is 75, and 17 more are 92.")))
    limits = RolloutLimits(max_turns=arguments.turns, concurrency=arguments.concurrency)
    rollout = IndependentChains(RolloutContext(engine, renderer, lambda: InstantEnv(arguments.turns), limits))
    asyncio.run(measure(rollout, arguments.concurrency, 1))  # imports, caches
    began, cpu = time.perf_counter(), time.process_time()
    trajectories = asyncio.run(measure(rollout, arguments.episodes, arguments.group))
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    turns = sum(len(trajectory.turns) for trajectory in trajectories)
    tokenise = sum(turn.timings["tokenise"] for trajectory in trajectories for turn in trajectory.turns)
    print(f"{len(trajectories)} episodes, {turns} turns, {arguments.concurrency} at once: {seconds:.2f} s")
    print(f"CPU {1000 * cpu / turns:.3f} ms a turn, of which tokenising {1000 * tokenise / turns:.3f} ms (wall clock)")
    print(f"manager {1000 * (cpu - tokenise) / turns:.3f} ms a turn")


if __name__ == "__main__":
    main()
