"""What the numbered tests of the manager's rules share: play in virtual time, look at what came out, leave nothing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec

from agentrl.engines.base import Capabilities, Completion, Sampling
from agentrl.env import Step
from agentrl.rollout import GroupRequest, RolloutContext
from agentrl.rollouts.boundary import _keepers
from agentrl.rollouts.manager import Manager
from agentrl.throttle import tool_slot
from agentrl.trajectory import Group, StopReason, Switch, ToolCallRecord, Trajectory
from agentrl.virtual_time import run_virtual
from tests.rollouts.fakes import FakeEngine, WordEnv

P = ParamSpec("P")


class TimedEngine(FakeEngine):
    """Takes `seconds` for each completion, all at once; knows what runs, serves what is published."""

    def __init__(self, seconds: float = 1.0, **capabilities: Any) -> None:
        super().__init__()
        self.capabilities = Capabilities(**capabilities)
        self.seconds = seconds
        self.version = 3
        self.running = self.most = 0
        self.starts: list[tuple[float, str]] = []
        """When each request began, and its member: `g0/1`."""

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        version, began = self.version, asyncio.get_running_loop().time()
        self.starts.append((began, "/".join(str(session).split("/")[2:])))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
            completion = await super().generate(prompt_ids, sampling, session=session)
        finally:
            self.running -= 1
        switches = (Switch(0, self.version, f"hash {self.version}"),) if self.version != version else ()
        return replace(
            completion,
            policy_version=version,
            weights_hash=f"hash {version}",
            decode_seconds=self.seconds,
            switches=switches,
        )

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        assert not self.running or self.capabilities.publish_in_flight
        self.version = version
        return f"hash {version}"


class TimedEnv(WordEnv):
    """Plays `turns` turns whose tool takes `seconds`, and is worth what `reward_of` says of the seed."""

    turns = 2
    seconds = 0.0

    def turns_of(self, seed: int) -> int:
        self.seed = seed
        return self.turns

    def reward_of(self, seed: int) -> float:
        return 1.0

    async def astep(self, action: Any) -> Step:
        if self.seconds:
            async with tool_slot() as slot:
                began = asyncio.get_running_loop().time()
                await asyncio.sleep(self.seconds)
        step = await super().astep(action)
        if self.seconds:
            now = asyncio.get_running_loop().time()
            step.info["tool_calls"] = [ToolCallRecord("t", "", "", None, now - began, slot.waits.seconds())]
        return step._replace(reward=self.reward_of(self.seed) if step.terminated else 0.0)


def now() -> float:
    return asyncio.get_running_loop().time()


def in_virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test on the virtual clock: sleeps take no time, a deadlock is an error. It must leave no task behind."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            await test(*args, **kwargs)
            await left_nothing()

        run_virtual(whole())

    return run


async def left_nothing() -> None:
    """No task is left, and no abandoned call."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not _keepers


async def play(context: RolloutContext, wanted: Iterable[GroupRequest], **options: Any) -> list[Group]:
    """All groups, in the order in which they came."""
    return [group async for group in Manager(context, **options).run(wanted)]


def ended(groups: list[Group]) -> list[StopReason]:
    return [trajectory.stop_reason for group in groups for trajectory in group.trajectories]


def only(groups: list[Group]) -> Trajectory:
    (group,) = groups
    (trajectory,) = group.trajectories
    return trajectory
