"""Failure policies: what an aborted episode means for its group and for the run.

An aborted episode is always data: it is recorded with its stop reason and leaves every statistic. A policy decides
whether the run goes on, whether somebody plays in its place, and whether what is left of the group is worth yielding.
A replacement is a further member of the group with a seed of its own, so that no record stands for two plays.

Registered by name in `failure_policies`; write one's own as a subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from agentrl.errors import ConfigError
from agentrl.registry import Registry
from agentrl.trajectory import Group


class FailurePolicy(ABC):
    """Decides about failed episodes. Has no state: one object serves all groups."""

    ends_run: ClassVar[bool] = False
    """Whether the first failed episode ends the run."""

    @abstractmethod
    def replaces(self, failures: int, size: int) -> bool:
        """Whether the `failures`-th failed episode of a group of `size` gets a replacement."""

    def viable(self, group: Group) -> bool:
        """Whether the finished group is yielded; it is dropped (and, if groups are `wanted`, replaced) otherwise."""
        return True


class FailFast(FailurePolicy):
    """The first failed episode ends the run with its error: for debugging an environment."""

    ends_run = True

    def replaces(self, failures: int, size: int) -> bool:
        return False


class Retry(FailurePolicy):
    """Failed episodes are replaced, `times` for each place of the group; what then still lacks is missing."""

    def __init__(self, times: int = 1) -> None:
        """Raises `ConfigError`."""
        if times < 1:
            raise ConfigError(f"on_failure: retry has times={times!r}; it must be at least 1")
        self.times = times

    def replaces(self, failures: int, size: int) -> bool:
        return failures <= self.times * size


class MinimumGroup(FailurePolicy):
    """Failed episodes are missing; a group that keeps fewer than `members` judged ones is dropped."""

    def __init__(self, members: int = 0) -> None:
        """`members=0` yields every group, as empty as it may be. Raises `ConfigError`."""
        if members < 0:
            raise ConfigError(f"on_failure: minimum_group has members={members!r}; it must be 0 or more")
        self.members = members

    def replaces(self, failures: int, size: int) -> bool:
        return False

    def viable(self, group: Group) -> bool:
        return len(group.members) >= self.members


failure_policies: Registry[type[FailurePolicy]] = Registry("failure policy", "failure_policies")
"""Failure policies by name (entry-point group `agentrl.failure_policies`)."""
failure_policies.register("fail_fast", FailFast)
failure_policies.register("retry", Retry)
failure_policies.register("minimum_group", MinimumGroup)
