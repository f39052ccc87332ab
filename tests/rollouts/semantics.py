"""What the numbered tests of the manager's rules share: play in virtual time, look at what came out, leave nothing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ParamSpec

from agentrl.rollout import GroupRequest, RolloutContext
from agentrl.rollouts.boundary import _keepers
from agentrl.rollouts.manager import Manager
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.virtual_time import run_virtual

P = ParamSpec("P")


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
