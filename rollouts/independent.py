"""IndependentChains: each request is answered by `size` episodes that know nothing of one another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

from agentrl.account import BatchAccount
from agentrl.errors import ConfigError
from agentrl.rollout import GroupRequest, Rollout, RolloutContext
from agentrl.trajectory import Group

from .manager import Manager


class IndependentChains(Rollout):
    """G independent episodes of each task, the sampling of GRPO and its kin. Has no options."""

    def __init__(self, context: RolloutContext, **options: Any) -> None:
        """Raises `ConfigError` for any option, and for limits and policies that cannot be kept."""
        super().__init__(context)
        for key, value in options.items():
            raise ConfigError(f"rollout.strategy: independent has no option {key}={value!r}; it takes none")
        self._manager = Manager(context)

    def run(self, requests: Iterable[GroupRequest], *, wanted: int | None = None) -> AsyncGenerator[Group, None]:
        """See `Manager.run`; close the generator (`contextlib.aclosing`) to end it early."""
        return self._manager.run(requests, wanted=wanted)

    async def update(self, publish: Callable[[], Awaitable[str]], version: int) -> str:
        """See `Manager.update`."""
        return await self._manager.update(publish, version)

    def account(self) -> BatchAccount:
        """See `Manager.account`."""
        return self._manager.account()
